//! Calls what no example calls, and answers with what came of it, a line for each.

const std = @import("std");
const sluice = @import("sluice");

const Config = struct { url: [:0]const u8 };
var config: Config = undefined;

pub fn configure(given: Config) ?[:0]const u8 {
    config = given;
    return null;
}

var room: [4096]u8 = undefined;
var used: usize = 0;

fn line(comptime format: []const u8, values: anytype) void {
    used += (std.fmt.bufPrint(room[used..], format ++ "\n", values) catch unreachable).len;
}

/// A call that has been refused: the gateway's reason begins with the call and the kind.
fn failed(name: []const u8) void {
    const reason = sluice.lastError() orelse return;
    var parts = std.mem.splitSequence(u8, reason, ": ");
    _ = parts.next();
    line("{s} {s}", .{ name, parts.next().? });
    sluice.clearError();
}

pub fn onRequest() !sluice.Verdict {
    if (!std.mem.eql(u8, try sluice.request.path(), "/calls")) return .@"continue";
    used = 0;
    try limits();
    try stores();
    try services();

    const hash = try sluice.crypto.hash("sha-256", "abc");
    const code = try sluice.crypto.hmac("sha-512", "key", "abc");
    const same = .{ try sluice.crypto.equal(hash, hash), try sluice.crypto.equal(hash, code) };
    line("hash {x:0>2}{x:0>2} {d} {} {}", .{ hash[0], hash[1], code.len } ++ same);
    const plan = try sluice.consumers.plan();
    line("consumer {} {}", .{ try sluice.consumers.known(), plan != null });
    _ = sluice.consumers.vouch("ann", "test") catch failed("vouch");
    _ = sluice.consumers.authenticatePassword("ann", "x") catch failed("password");
    try sluice.context.setInteger("i", -7);
    try sluice.context.setBoolean("b", true);
    try sluice.context.setJson("j", "[1]");
    const found = .{ try sluice.context.integer("i"), try sluice.context.boolean("b"), try sluice.context.text("j") };
    line("context {?d} {?} {?s} {}", found ++ .{try sluice.context.integer("j") != null});
    try sluice.request.setQuery("a=b");
    line("query {s} {s}", .{ (try sluice.request.query()).?, try sluice.request.protocol() });
    sluice.chunk.hold(0) catch failed("piece");
    try heads();
    try sluice.response.setBody(room[0..used]);
    return .respond;
}

/// What is as expected has no line.
fn heads() !void {
    const authority = try sluice.request.authority();
    if (!std.mem.eql(u8, try sluice.request.scheme(), "http") or authority.len == 0) line("{s}", .{authority});
    try sluice.response.setHeader("x-a", "1");
    try sluice.response.appendHeader("x-a", "2");
    const values = try sluice.response.headerValues("x-a");
    if (values.len != 2 or !std.mem.eql(u8, std.mem.span(values[1]), "2")) line("values {d}", .{values.len});
    const writer = try sluice.context.writer("i") orelse "";
    if (!std.mem.eql(u8, writer, "calls")) line("writer {s}", .{writer});
    if ((try sluice.consumers.labels()).len != 0) line("labels", .{});
    const headers = try sluice.response.headers();
    if (headers.len != 2 or !std.mem.eql(u8, std.mem.span(headers[1].value), "2")) line("headers {d}", .{headers.len});
    if ((try sluice.request.headers()).len == 0 or try sluice.request.clientCertificate() != null) line("headers of the request", .{});
    try sluice.response.removeHeader("x-a");
    try sluice.metrics.gauge("g", &.{}, 1);
}

fn limits() !void {
    const both = [_]sluice.limiter.Limit{
        .{ .key = "a", .amount = 2, .window_ms = 3_600_000 },
        .{ .key = "b", .algorithm = .fixed_window, .amount = 10, .window_ms = 366 * 86_400_000 },
    };
    for ([_]u64{ 1, 5 }) |cost| {
        const got = try sluice.limiter.take(&both, cost);
        line("take {} {d}, {} {d}", .{ got[0].allowed, got[0].remaining, got[1].allowed, got[1].remaining });
    }
    _ = sluice.limiter.take(&.{.{ .key = "a", .amount = 0, .window_ms = 3_600_000 }}, 1) catch failed("take");
    for (0..2) |_| {
        const got = try sluice.concurrency.enter(&.{ .{ .key = "free", .amount = 9 }, .{ .key = "p", .amount = 1 } }, both[1..], 1);
        const full: i64 = if (got.full) |index| @intCast(index) else -1;
        line("enter {d} {d}", .{ full, got.standings.len });
    }
}

fn stores() !void {
    for (0..3) |i| {
        if (i == 2) try sluice.kv.set("s", "k", "v", 60_000);
        switch (try sluice.kv.getOrReserve("s", "k", 60_000)) {
            .found => |value| line("reserve 0 {s}", .{value}),
            .reserved => line("reserve 1 ", .{}),
            .pending => {
                line("reserve 2 ", .{});
                _ = sluice.kv.wait("s", "k", 1) catch failed("wait");
            },
        }
    }
    line("wait {s}", .{(try sluice.kv.wait("s", "k", 1)).?});
    const swapped = try sluice.kv.compareAndSwap("s", "k", "v", "w", 60_000);
    const again = try sluice.kv.compareAndSwap("s", "k", null, "x", 0);
    line("swap {} {} {s}", .{ swapped, again, (try sluice.kv.get("s", "k")).? });
}

fn services() !void {
    const answers = try sluice.http.send(3, .{
        .{ .url = config.url, .headers = &.{ .{ .name = "x-a", .value = "1" }, .{ .name = "x-b", .value = "2" } } },
        .{ .url = "http://192.0.2.1/" },
        .{ .method = "PUT", .url = config.url, .body = "body" },
    }, 5_000);
    for (answers) |answer| {
        if (answer.failure) |reason| {
            var parts = std.mem.splitSequence(u8, reason, ": ");
            _ = parts.next();
            line("http {s}", .{parts.next().?});
        }
        for (answer.headers) |field| {
            if (std.mem.eql(u8, std.mem.span(field.name), "x-seen")) line("http {d} {s} {s}", .{ answer.status, field.value, answer.body });
        }
    }
}

pub fn selectUpstream() !void {
    const upstreams = try sluice.route.upstreams();
    if (upstreams.len != 1 or !std.mem.eql(u8, std.mem.span(upstreams[0]), "two")) return error.Upstreams;
    const all = try sluice.route.endpoints();
    const last = all[all.len - 1];
    sluice.log(.info, sluice.format("endpoints {d} {s} {} {d}", .{ all.len, last.upstream, last.healthy, last.weight }));
    try sluice.route.chooseEndpoints(&.{last.address});
}

pub fn onResponseTrailers() !void {
    if (try sluice.response.origin() != .upstream) return error.Origin;
    if ((try sluice.response.trailers()).len != 1) return error.Trailers;
    const sum = try sluice.response.trailer("x-sum") orelse "";
    try sluice.response.setTrailer("x-sum", sluice.format("{s}!", .{sum}));
}

comptime {
    sluice.filter(@This());
}
