//! Filters for the Sluice gateway in Zig, on top of the C library beside this file.
//!
//! A filter is a file with any of `configure`, `onRequest`, `onRequestBody`, `selectUpstream`, `onRequestChunk`, `onResponse`, `onResponseBody`,
//! `onResponseChunk`, `onResponseEvent`, `onResponseTrailers` and `onComplete`, and `comptime { sluice.filter(@This()); }`. A call that is refused is `error.Refused`; the gateway's
//! reason goes to its log when the hook returns an error, and `lastError` has it. Memory from calls lives until the hook returns; the config lives
//! as long as the instance.

const std = @import("std");
const calls = @import("sluice_calls.zig");
const Text = calls.Text;
const Bytes = calls.Bytes;
const option = calls.option;
const check = calls.check;
const needed = calls.needed;
const unlessRefused = calls.unlessRefused;
const sluice_error = calls.sluice_error;
const ok = calls.ok;

pub const Verdict = enum(i32) { @"continue" = 0, respond = 1 };
pub const Error = calls.Error;
pub const Level = enum(c_int) { trace, debug, info, warn, err };
pub const Label = calls.Pair;
/// A header field.
pub const Field = calls.Pair;

const services = @import("sluice_services.zig");
pub const chunk = services.chunk;
pub const event = services.event;
pub const route = services.route;
pub const limiter = services.limiter;
pub const concurrency = services.concurrency;
pub const kv = services.kv;
pub const http = services.http;
pub const consumers = services.consumers;
pub const crypto = services.crypto;
pub const cache = services.cache;
pub const context = services.context;
pub const metrics = services.metrics;
pub const state = services.state;
pub const clock = services.clock;
pub const random = services.random;
pub const secret = services.secret;
/// Only in `configure`: asks for bodies of these media types piece by piece; none: all. Of events: `text/event-stream` and NDJSON.
pub const wantRequestChunks = services.wantRequestChunks;
pub const wantResponseChunks = services.wantResponseChunks;
pub const wantResponseEvents = services.wantResponseEvents;

/// A JSON value. Numbers keep their text.
pub const Json = extern struct {
    pub const Type = enum(c_int) { null, false, true, number, text, array, object };
    type: Type,
    name_pointer: ?[*]const u8,
    name_length: usize,
    text_pointer: ?[*]const u8,
    text_length: usize,
    first: ?*Json,
    next: ?*Json,

    /// null for what is not JSON in UTF-8.
    pub fn parse(bytes: []const u8) ?*Json {
        return sluice_json_parse(.of(bytes));
    }
    pub fn write(json: *const Json) []const u8 {
        return sluice_json_write(json).slice();
    }
    pub fn get(json: *const Json, member: Text) ?*Json {
        return sluice_json_get(json, member);
    }
    /// The name of a member of an object.
    pub fn name(json: *const Json) ?Text {
        return if (json.name_pointer) |at| at[0..json.name_length :0] else null;
    }
    pub fn text(json: *const Json) ?Text {
        return if (json.type == .text) json.text_pointer.?[0..json.text_length :0] else null;
    }
    /// A whole number that an i64 holds.
    pub fn integer(json: *const Json) ?i64 {
        var value: i64 = 0;
        return if (sluice_json_integer(json, &value)) value else null;
    }
    pub fn setText(json: *Json, value: Text) void {
        sluice_json_set_text(json, value);
        json.text_length = value.len;
    }
    /// The items of an array or the members of an object: `while (items.next()) |item|`.
    pub fn items(json: *const Json) Items {
        return .{ .at = json.first };
    }
    pub const Items = struct {
        at: ?*Json,
        pub fn next(self: *Items) ?*Json {
            const item = self.at orelse return null;
            self.at = item.next;
            return item;
        }
    };
};

/// A table of the config whose keys are the operator's.
pub fn Table(comptime Value: type) type {
    return struct {
        pub const Entry = struct { key: Text, value: Value };
        entries: []const Entry,

        pub fn get(table: @This(), key: []const u8) ?*const Value {
            for (table.entries) |*entry| if (std.mem.eql(u8, entry.key, key)) return &entry.value;
            return null;
        }
    };
}

fn Message(comptime which: []const u8) type {
    const c = struct {
        const header = @extern(*const fn ([*:0]const u8) callconv(.c) ?[*:0]const u8, .{ .name = "sluice_" ++ which ++ "_header" });
        const Set = *const fn ([*:0]const u8, [*:0]const u8) callconv(.c) bool;
        const header_values = @extern(*const fn ([*:0]const u8) callconv(.c) calls.Texts, .{ .name = "sluice_" ++ which ++ "_header_values" });
        const headers = @extern(*const fn () callconv(.c) calls.Pairs, .{ .name = "sluice_" ++ which ++ "_headers" });
        const set_header = @extern(Set, .{ .name = "sluice_" ++ which ++ "_set_header" });
        const append_header = @extern(Set, .{ .name = "sluice_" ++ which ++ "_append_header" });
        const remove_header = @extern(*const fn ([*:0]const u8) callconv(.c) bool, .{ .name = "sluice_" ++ which ++ "_remove_header" });
        const want_body = @extern(*const fn (u64) callconv(.c) bool, .{ .name = "sluice_" ++ which ++ "_want_body" });
        const body = @extern(*const fn () callconv(.c) Bytes, .{ .name = "sluice_" ++ which ++ "_body" });
        const set_body = @extern(*const fn (Bytes) callconv(.c) bool, .{ .name = "sluice_" ++ which ++ "_set_body" });
    };
    return struct {
        /// The first value of a header.
        pub fn header(name: Text) Error!?Text {
            return option(c.header(name));
        }
        /// All values of a header, in their order.
        pub fn headerValues(name: Text) Error![]const [*:0]const u8 {
            return (try unlessRefused(c.header_values(name))).slice();
        }
        /// All that the filter may see.
        pub fn headers() Error![]const Field {
            return (try unlessRefused(c.headers())).slice();
        }
        pub fn setHeader(name: Text, value: Text) Error!void {
            return check(c.set_header(name, value));
        }
        pub fn appendHeader(name: Text, value: Text) Error!void {
            return check(c.append_header(name, value));
        }
        pub fn removeHeader(name: Text) Error!void {
            return check(c.remove_header(name));
        }
        pub fn wantBody(max_bytes: u64) Error!void {
            return check(c.want_body(max_bytes));
        }
        pub fn body() Error![]const u8 {
            return (try unlessRefused(c.body())).slice();
        }
        pub fn setBody(value: []const u8) Error!void {
            return check(c.set_body(.of(value)));
        }
    };
}

pub const request = struct {
    const message = Message("request");
    pub const header = message.header;
    pub const headerValues = message.headerValues;
    pub const headers = message.headers;
    pub const setHeader = message.setHeader;
    pub const appendHeader = message.appendHeader;
    pub const removeHeader = message.removeHeader;
    pub const wantBody = message.wantBody;
    pub const body = message.body;
    pub const setBody = message.setBody;
    pub fn method() Error!Text {
        return needed(sluice_request_method());
    }
    pub fn path() Error!Text {
        return needed(sluice_request_path());
    }
    pub fn query() Error!?Text {
        return option(sluice_request_query());
    }
    /// null removes it.
    pub fn setQuery(value: ?Text) Error!void {
        return check(sluice_request_set_query(if (value) |text| text.ptr else null));
    }
    /// `http` or `https`, as the client reached the gateway.
    pub fn scheme() Error!Text {
        return needed(sluice_request_scheme());
    }
    /// The `Host` or `:authority` that the client sent, lower-case, with the port if there was one.
    pub fn authority() Error!Text {
        return needed(sluice_request_authority());
    }
    pub fn clientAddress() Error!Text {
        return needed(sluice_request_client_address());
    }
    pub fn id() Error!Text {
        return needed(sluice_request_id());
    }
    pub fn protocol() Error!Text {
        return needed(sluice_request_protocol());
    }
    /// JSON about the certificate that the client has shown.
    pub fn clientCertificate() Error!?Text {
        return option(sluice_request_client_certificate());
    }
    pub fn setMethod(value: Text) Error!void {
        return check(sluice_request_set_method(value));
    }
    pub fn setPath(value: Text) Error!void {
        return check(sluice_request_set_path(value));
    }
};

/// In a request hook: the answer that `.respond` sends.
pub const response = struct {
    const message = Message("response");
    pub const header = message.header;
    pub const headerValues = message.headerValues;
    pub const headers = message.headers;
    pub const setHeader = message.setHeader;
    pub const appendHeader = message.appendHeader;
    pub const removeHeader = message.removeHeader;
    pub const wantBody = message.wantBody;
    pub const body = message.body;
    pub const setBody = message.setBody;
    pub fn status() Error!u16 {
        const got = sluice_response_status();
        return if (got == 0) error.Refused else got;
    }
    pub const Origin = enum(c_int) { upstream, filter, gateway };
    /// Who made it.
    pub fn origin() Error!Origin {
        return unlessRefused(sluice_response_origin());
    }
    /// In `onResponseTrailers`.
    pub fn trailer(name: Text) Error!?Text {
        return option(sluice_response_trailer(name));
    }
    pub fn trailers() Error![]const Field {
        return (try unlessRefused(sluice_response_trailers())).slice();
    }
    pub fn setTrailer(name: Text, value: Text) Error!void {
        return check(sluice_response_set_trailer(name, value));
    }
    pub fn removeTrailer(name: Text) Error!void {
        return check(sluice_response_remove_trailer(name));
    }
    /// For the operator: the access log and a metric have it.
    pub fn setReason(reason: Text) Error!void {
        return check(sluice_response_set_reason(reason));
    }
    pub fn setStatus(code: u16) Error!void {
        return check(sluice_response_set_status(code));
    }
};

/// Drafts a problem document (RFC 9457); the reason is for the operator.
pub fn problem(status: u16, title: Text, detail: Text, reason: ?Text) Error!Verdict {
    const verdict = sluice_problem(status, title, detail, if (reason) |text| text.ptr else null);
    return if (sluice_error() == ok) verdict else error.Refused;
}

pub fn log(level: Level, message: Text) void {
    sluice_log(level, message);
}

/// Only in `configure`: asks for bodies of these media types; none: all.
pub fn wantRequestBodies(max_bytes: u64, types: []const [*:0]const u8) Error!void {
    return check(sluice_want_request_bodies_of(max_bytes, types.ptr, types.len));
}
pub fn wantResponseBodies(max_bytes: u64, types: []const [*:0]const u8) Error!void {
    return check(sluice_want_response_bodies_of(max_bytes, types.ptr, types.len));
}

/// Only in `configure`: what this config needs to have been granted, as JSON.
pub fn needs(grants: Text) Error!void {
    return check(sluice_needs(grants));
}

/// Declares that this call has failed, for a reason of the filter's own: `return sluice.fail("…")`.
pub fn fail(reason: Text) Verdict {
    sluice_fail(reason);
    return .@"continue";
}

/// A text as `std.fmt` makes it, until the hook returns.
pub fn format(comptime template: []const u8, values: anytype) Text {
    const length = std.fmt.count(template, values);
    const room: [*]u8 = @ptrCast(sluice_alloc(length + 1));
    _ = std.fmt.bufPrint(room[0..length], template, values) catch unreachable;
    room[length] = 0;
    return room[0..length :0];
}

/// A number as text.
pub fn decimal(value: u64) Text {
    return std.mem.span(sluice_decimal(value));
}

/// The gateway's reason for the call that was refused in this hook.
pub fn lastError() ?Text {
    return if (sluice_error_text()) |text| std.mem.span(text) else null;
}
/// Goes on after an error that the filter has dealt with.
pub fn clearError() void {
    sluice_clear_error();
}

/// Exports the functions of a filter. `configure` is given the type of its one parameter, read from the config and checked; it may return
/// a message that refuses it, `path: message`.
pub fn filter(comptime F: type) void {
    if (@hasDecl(F, "configure")) {
        const run = struct {
            const Answer = extern struct { refused: u8, message: ?[*:0]const u8, length: usize };
            var answer: Answer = undefined;
            fn configure(json: *const Json) callconv(.c) ?[*:0]const u8 {
                const Config = @typeInfo(@TypeOf(F.configure)).@"fn".param_types[0].?;
                const config = read(Config, "", json) catch return refusal;
                const got = F.configure(config);
                const message: ?Text = if (@typeInfo(@TypeOf(got)) == .error_union) got catch null else got;
                return if (message) |text| text.ptr else null;
            }
            fn exported(text: [*]const u8, length: usize) callconv(.c) *const Answer {
                _ = sluice_run_configure(&configure, text, length, &answer);
                return &answer;
            }
        };
        @export(&run.exported, .{ .name = symbol("configure") });
    }
    verdictHook(F, "onRequest", "on-request");
    verdictHook(F, "onRequestBody", "on-request-body");
    voidHook(F, "selectUpstream", "select-upstream");
    voidHook(F, "onRequestChunk", "on-request-chunk");
    verdictHook(F, "onResponse", "on-response");
    verdictHook(F, "onResponseBody", "on-response-body");
    voidHook(F, "onResponseChunk", "on-response-chunk");
    voidHook(F, "onResponseEvent", "on-response-event");
    voidHook(F, "onResponseTrailers", "on-response-trailers");
    voidHook(F, "onComplete", "on-complete");
}

fn symbol(comptime hook: []const u8) []const u8 {
    return "sluice:filter/" ++ hook ++ "@0.1.1#" ++ hook;
}

fn verdictHook(comptime F: type, comptime name: []const u8, comptime hook: []const u8) void {
    if (!@hasDecl(F, name)) return;
    const run = struct {
        fn call() callconv(.c) Verdict {
            return @field(F, name)() catch |failure| {
                failed(failure);
                return .@"continue";
            };
        }
        fn exported() callconv(.c) Verdict {
            return sluice_run(&call);
        }
    };
    @export(&run.exported, .{ .name = symbol(hook) });
}

fn voidHook(comptime F: type, comptime name: []const u8, comptime hook: []const u8) void {
    if (!@hasDecl(F, name)) return;
    const run = struct {
        fn call() callconv(.c) void {
            @field(F, name)() catch |failure| failed(failure);
        }
        fn exported() callconv(.c) void {
            sluice_run_void(&call);
        }
    };
    @export(&run.exported, .{ .name = symbol(hook) });
}

/// The reason of a refused call is told by the library.
fn failed(failure: anyerror) void {
    if (sluice_error() == ok) sluice_fail(@errorName(failure));
}

var refusal: ?[*:0]const u8 = null;

fn wrong(path: Text, expected: Text) error{Wrong} {
    refusal = sluice_refuse(path, expected);
    return error.Wrong;
}

/// Reads a value of the config.
fn read(comptime T: type, path: Text, json: *const Json) error{Wrong}!T {
    switch (@typeInfo(T)) {
        .bool => return switch (json.type) {
            .true => true,
            .false => false,
            else => wrong(path, "expected true or false"),
        },
        .int => {
            var value: i64 = 0;
            if (!sluice_json_integer(json, &value)) return wrong(path, "expected a whole number");
            return std.math.cast(T, value) orelse wrong(path, "the number is out of range");
        },
        .optional => |optional| return try read(optional.child, path, json),
        .pointer => |pointer| {
            if (T == Text) return json.text() orelse wrong(path, "expected a text");
            if (json.type != .array) return wrong(path, "expected a list");
            const items = roomFor(pointer.child, json);
            var each = json.items();
            for (items) |*item| item.* = try read(pointer.child, path, each.next().?);
            return items;
        },
        .@"struct" => |info| {
            if (json.type != .object) return wrong(path, "expected a table");
            if (@hasDecl(T, "Entry")) {
                const entries = roomFor(T.Entry, json);
                const Value = @TypeOf(entries[0].value);
                var each = json.items();
                for (entries) |*entry| {
                    const member = each.next().?;
                    const key = member.name().?;
                    entry.* = .{ .key = key, .value = try read(Value, join(path, key), member) };
                }
                return .{ .entries = entries };
            }
            var out: T = undefined;
            inline for (info.field_names, info.field_types, info.field_attrs) |name, Kind, attributes| {
                if (json.get(name)) |member| {
                    @field(out, name) = try read(Kind, join(path, name), member);
                } else if (attributes.defaultValue(Kind)) |default| {
                    @field(out, name) = default;
                } else return wrong(join(path, name), "is needed");
            }
            var each = json.items();
            while (each.next()) |member| {
                var known = false;
                inline for (info.field_names) |name| known = known or std.mem.eql(u8, name, member.name().?);
                if (!known) return wrong(join(path, member.name().?), "unknown key");
            }
            return out;
        },
        else => @compileError("a config can't have a " ++ @typeName(T)),
    }
}

fn roomFor(comptime T: type, json: *const Json) []T {
    var count: usize = 0;
    var each = json.items();
    while (each.next()) |_| count += 1;
    const bytes: [*]T = @ptrCast(@alignCast(sluice_alloc(@sizeOf(T) * count)));
    return bytes[0..count];
}

fn join(path: Text, name: Text) Text {
    return if (path.len == 0) name else std.mem.span(sluice_concat(path, ".", name.ptr, @as(?[*:0]const u8, null)));
}

extern fn sluice_error_text() ?[*:0]const u8;
extern fn sluice_clear_error() void;
extern fn sluice_decimal(u64) [*:0]const u8;
extern fn sluice_fail([*:0]const u8) void;
extern fn sluice_alloc(usize) *anyopaque;
extern fn sluice_concat([*:0]const u8, ...) [*:0]const u8;
extern fn sluice_json_parse(Bytes) ?*Json;
extern fn sluice_json_write(*const Json) Bytes;
extern fn sluice_json_get(?*const Json, [*:0]const u8) ?*Json;
extern fn sluice_json_integer(?*const Json, *i64) bool;
extern fn sluice_json_set_text(*Json, [*:0]const u8) void;
extern fn sluice_refuse([*:0]const u8, [*:0]const u8) [*:0]const u8;
extern fn sluice_needs([*:0]const u8) bool;
extern fn sluice_want_request_bodies_of(u64, [*]const [*:0]const u8, usize) bool;
extern fn sluice_want_response_bodies_of(u64, [*]const [*:0]const u8, usize) bool;
extern fn sluice_request_method() ?[*:0]const u8;
extern fn sluice_request_path() ?[*:0]const u8;
extern fn sluice_request_query() ?[*:0]const u8;
extern fn sluice_request_set_query(?[*:0]const u8) bool;
extern fn sluice_request_scheme() ?[*:0]const u8;
extern fn sluice_request_authority() ?[*:0]const u8;
extern fn sluice_request_client_certificate() ?[*:0]const u8;
extern fn sluice_request_client_address() ?[*:0]const u8;
extern fn sluice_request_protocol() ?[*:0]const u8;
extern fn sluice_request_id() ?[*:0]const u8;
extern fn sluice_request_set_method([*:0]const u8) bool;
extern fn sluice_request_set_path([*:0]const u8) bool;
extern fn sluice_response_trailer([*:0]const u8) ?[*:0]const u8;
extern fn sluice_response_origin() response.Origin;
extern fn sluice_response_trailers() calls.Pairs;
extern fn sluice_response_set_trailer([*:0]const u8, [*:0]const u8) bool;
extern fn sluice_response_remove_trailer([*:0]const u8) bool;
extern fn sluice_response_set_reason([*:0]const u8) bool;
extern fn sluice_response_status() u16;
extern fn sluice_response_set_status(u16) bool;
extern fn sluice_problem(u16, [*:0]const u8, [*:0]const u8, ?[*:0]const u8) Verdict;
extern fn sluice_log(Level, [*:0]const u8) void;
extern fn sluice_run_configure(*const fn (*const Json) callconv(.c) ?[*:0]const u8, [*]const u8, usize, *anyopaque) ?[*:0]const u8;
extern fn sluice_run(*const fn () callconv(.c) Verdict) Verdict;
extern fn sluice_run_void(*const fn () callconv(.c) void) void;
