//! The calls that not every filter needs, on top of the C library: pieces of bodies, choices, limits, stores, other services.

const std = @import("std");
const calls = @import("sluice_calls.zig");
const Error = calls.Error;
const Text = calls.Text;
const Bytes = calls.Bytes;
const Pair = calls.Pair;
const Pairs = calls.Pairs;
const check = calls.check;
const needed = calls.needed;
const option = calls.option;
const unlessRefused = calls.unlessRefused;

/// The piece of a body, in `onRequestChunk`, `onResponseChunk` and `onResponseEvent`. It goes on as it is unless something else is said of it.
pub const chunk = struct {
    /// The whole piece, with what was kept back of the ones before it. It is the filter's to change.
    pub fn bytes() Error![]u8 {
        return @constCast((try unlessRefused(sluice_chunk())).slice());
    }
    /// Whether the body ends with it. Each body that comes whole has one such piece, and it may be empty.
    pub fn isLast() Error!bool {
        return unlessRefused(sluice_chunk_is_last());
    }
    /// Sends these bytes in its place; none drop it.
    pub fn replace(with: []const u8) Error!void {
        return check(sluice_chunk_replace(.of(with)));
    }
    /// Keeps its last bytes back: they come again in front of the next piece. A replacement stands for what is in front of them. Not for events.
    pub fn hold(tail: u64) Error!void {
        return check(sluice_chunk_hold(tail));
    }
    /// Ends the body after it: what the sender still sends is discarded.
    pub fn end() Error!void {
        return check(sluice_chunk_end());
    }
    /// Lets the rest of the body go on without further calls.
    pub fn passRest() Error!void {
        return check(sluice_chunk_pass_rest());
    }
};

/// The parts of an event, in `onResponseEvent`; `chunk` has it as bytes. They may have any character, zeros too.
pub const event = struct {
    pub fn name() Error!?Text {
        return part(try unlessRefused(sluice_event_name()));
    }
    pub fn id() Error!?Text {
        return option(sluice_event_id());
    }
    /// null in a comment, at the end of the body, and where it is not UTF-8. It is the filter's to change, and `setData` sends it then.
    pub fn data() Error!?[:0]u8 {
        return @constCast(part(try unlessRefused(sluice_event_data())) orelse return null);
    }
    /// Other data, and the rest of the event as it is.
    pub fn setData(value: []const u8) Error!void {
        return check(sluice_event_set_data(.of(value)));
    }
    /// Behind what the gateway returns is a zero, which is not part of it.
    fn part(got: Bytes) ?Text {
        return if (got.data) |at| at[0..got.size :0] else null;
    }
};

pub fn wantRequestChunks(types: []const [*:0]const u8) Error!void {
    return check(sluice_want_request_chunks_of(types.ptr, types.len));
}
pub fn wantResponseChunks(types: []const [*:0]const u8) Error!void {
    return check(sluice_want_response_chunks_of(types.ptr, types.len));
}
pub fn wantResponseEvents(types: []const [*:0]const u8) Error!void {
    return check(sluice_want_response_events_of(types.ptr, types.len));
}

/// The route; choices are for `selectUpstream`.
pub const route = struct {
    pub const Endpoint = extern struct {
        upstream: [*:0]const u8,
        address: [*:0]const u8,
        weight: u32,
        healthy: bool,
        /// Requests with it now.
        active: u32,
        /// To the first byte, an average; 0 when not known.
        latency_us: u64,
    };
    pub fn name() Error!Text {
        return needed(sluice_route_name());
    }
    pub fn param(of: Text) Error!?Text {
        return option(sluice_route_param(of));
    }
    /// The names of the upstreams that it lists.
    pub fn upstreams() Error![]const [*:0]const u8 {
        return (try unlessRefused(sluice_route_upstreams())).slice();
    }
    pub fn endpoints() Error![]const Endpoint {
        const got = try unlessRefused(sluice_route_endpoints());
        return if (got.items) |items| items[0..got.count] else &.{};
    }
    pub fn chooseUpstream(upstream: Text) Error!void {
        return check(sluice_route_choose_upstream(upstream));
    }
    /// The first of these `host:port` that accepts a connection.
    pub fn chooseEndpoints(addresses: []const [*:0]const u8) Error!void {
        return check(sluice_route_choose_endpoints(addresses.ptr, addresses.len));
    }
    pub fn hashKey(key: Text) Error!void {
        return check(sluice_route_hash_key(key));
    }
    pub fn noRetry() Error!void {
        return check(sluice_route_no_retry());
    }
    /// In `onComplete`: the exchange as JSON.
    pub fn summary() Error!Text {
        return needed(sluice_route_summary());
    }
};

/// Limits of rates.
pub const limiter = struct {
    pub const Algorithm = enum(c_int) { token_bucket, leaky_bucket, fixed_window, sliding_window };
    pub const Limit = extern struct {
        /// At most 1,024 bytes.
        key: [*:0]const u8,
        algorithm: Algorithm = .token_bucket,
        amount: u64,
        window_ms: u64,
        burst: u64 = 0,
    };
    pub const Standing = extern struct { allowed: bool, remaining: u64, reset_ms: u64, retry_after_ms: u64 };

    /// Takes `cost` from every limit, or from none if one of them would not allow it; 0 only looks. One standing for each.
    pub fn take(limits: []const Limit, cost: u64) Error![]const Standing {
        const standings = sluice_limiter_take(limits.ptr, limits.len, cost) orelse return error.Refused;
        return standings[0..limits.len];
    }
};

/// Limits of requests at the same time.
pub const concurrency = struct {
    pub const PlaceLimit = extern struct { key: [*:0]const u8, amount: u32 };
    pub const Admission = struct {
        /// The first place limit whose places are all taken.
        full: ?usize,
        standings: []const limiter.Standing,
    };

    /// Takes a place of each, until the exchange has ended, and `cost` from each limit; or nothing.
    pub fn enter(places: []const PlaceLimit, limits: []const limiter.Limit, cost: u64) Error!Admission {
        var got: RawAdmission = undefined;
        try check(sluice_concurrency_enter(places.ptr, places.len, limits.ptr, limits.len, cost, &got));
        if (got.full >= 0) return .{ .full = @intCast(got.full), .standings = &.{} };
        return .{ .full = null, .standings = if (got.standings) |all| all[0..limits.len] else &.{} };
    }
};
const RawAdmission = extern struct { full: i32, standings: ?[*]const limiter.Standing };

/// A store that all workers share. `ttl_ms` 0: until it is deleted.
pub const kv = struct {
    pub const Reservation = union(enum) { found: []const u8, reserved, pending };

    pub fn get(space: Text, key: Text) Error!?[]const u8 {
        return some(sluice_kv_get(space, key));
    }
    pub fn set(space: Text, key: Text, value: []const u8, ttl_ms: u64) Error!void {
        return check(sluice_kv_set(space, key, .of(value), ttl_ms));
    }
    /// Whether there was one.
    pub fn delete(space: Text, key: Text) Error!bool {
        return unlessRefused(sluice_kv_delete(space, key));
    }
    /// Sets a value if the present one is what was expected (null: if there is none), and answers whether it did.
    pub fn compareAndSwap(space: Text, key: Text, expected: ?[]const u8, value: []const u8, ttl_ms: u64) Error!bool {
        const before: ?Bytes = if (expected) |bytes| .of(bytes) else null;
        return unlessRefused(sluice_kv_compare_and_swap(space, key, if (before) |*bytes| bytes else null, .of(value), ttl_ms));
    }
    /// The value, or a reservation so that one caller of many makes it.
    pub fn getOrReserve(space: Text, key: Text, ttl_ms: u64) Error!Reservation {
        var value: Bytes = undefined;
        return switch (try unlessRefused(sluice_kv_get_or_reserve(space, key, ttl_ms, &value))) {
            0 => .{ .found = value.slice() },
            1 => .reserved,
            else => .pending,
        };
    }
    /// Waits as long as another caller holds the reservation.
    pub fn wait(space: Text, key: Text, timeout_ms: u32) Error!?[]const u8 {
        return some(sluice_kv_wait(space, key, timeout_ms));
    }
    fn some(got: Bytes) Error!?[]const u8 {
        const bytes = try unlessRefused(got);
        return if (bytes.data == null) null else bytes.slice();
    }
};

/// Calls to other services: granted origins (`https://auth.example/check`), and granted upstreams (`upstream://users/profile`).
pub const http = struct {
    pub const Outgoing = struct { method: Text = "GET", url: Text, headers: []const Pair = &.{}, body: []const u8 = "" };
    pub const Incoming = struct {
        status: u16,
        headers: []const Pair,
        body: []const u8,
        /// What befell this request; the rest is then empty.
        failure: ?Text,
    };

    /// Sends them at the same time, at most 16, and waits for all. The answers are in the order of the requests.
    pub fn send(comptime count: usize, requests: [count]Outgoing, timeout_ms: u32) Error![count]Incoming {
        var out: [count]RawOutgoing = undefined;
        for (requests, &out) |from, *to| {
            to.* = .{ .method = from.method, .url = from.url, .headers = .{ .items = from.headers.ptr, .count = from.headers.len }, .body = .of(from.body) };
        }
        const got = sluice_http_send(&out, count, timeout_ms) orelse return error.Refused;
        var answers: [count]Incoming = undefined;
        for (got[0..count], &answers) |from, *to| {
            const failure: ?Text = if (from.failure == calls.ok) null else std.mem.span(from.failure_text orelse "http send");
            to.* = .{ .status = from.status, .headers = from.headers.slice(), .body = from.body.slice(), .failure = failure };
        }
        return answers;
    }
    /// Sends one request.
    pub fn sendOne(request: Outgoing, timeout_ms: u32) Error!Incoming {
        return (try send(1, .{request}, timeout_ms))[0];
    }
};
const RawOutgoing = extern struct { method: [*:0]const u8, url: [*:0]const u8, headers: Pairs, body: Bytes };
const RawIncoming = extern struct { status: u16, headers: Pairs, body: Bytes, failure: c_int, failure_text: ?[*:0]const u8 };

/// Consumers. Who authenticates becomes the caller, whose name is the answer; null for none.
pub const consumers = struct {
    pub fn authenticate(kind: Text, credential: Text) Error!?Text {
        return option(sluice_authenticate(kind, credential));
    }
    pub fn authenticatePassword(username: Text, password: []const u8) Error!?Text {
        return option(sluice_authenticate_password(username, .of(password)));
    }
    /// The same for what was verified before, without a wait.
    pub fn recallPassword(username: Text, password: []const u8) Error!?Text {
        return option(sluice_recall_password(username, .of(password)));
    }
    /// The filter itself has found out that the caller is this consumer.
    pub fn vouch(name: Text, how: Text) Error!bool {
        return unlessRefused(sluice_vouch(name, how));
    }
    pub fn known() Error!bool {
        return unlessRefused(sluice_consumer_known());
    }
    pub fn plan() Error!?Text {
        return option(sluice_consumer_plan());
    }
    pub fn label(name: Text) Error!?Text {
        return option(sluice_consumer_label(name));
    }
    pub fn labels() Error![]const Pair {
        return (try unlessRefused(sluice_consumer_labels())).slice();
    }
    pub fn method() Error!?Text {
        return option(sluice_consumer_method());
    }
};

/// Cryptography at native speed: `sha-1`, `sha-256`, `sha-384`, `sha-512`.
pub const crypto = struct {
    pub fn hash(algorithm: Text, data: []const u8) Error![]const u8 {
        return (try unlessRefused(sluice_hash(algorithm, .of(data)))).slice();
    }
    pub fn hmac(algorithm: Text, key: []const u8, data: []const u8) Error![]const u8 {
        return (try unlessRefused(sluice_hmac(algorithm, .of(key), .of(data)))).slice();
    }
    /// In constant time.
    pub fn equal(a: []const u8, b: []const u8) Error!bool {
        return unlessRefused(sluice_equal(.of(a), .of(b)));
    }
};

/// What the cache of the route should know.
pub const cache = struct {
    pub fn setKeyPart(name: Text, value: Text) Error!void {
        return check(sluice_cache_set_key_part(name, value));
    }
    pub fn addTag(tag: Text) Error!void {
        return check(sluice_cache_add_tag(tag));
    }
    pub fn noStore() Error!void {
        return check(sluice_cache_no_store());
    }
    pub fn status() Error!?Text {
        return option(sluice_cache_status());
    }
};

/// Facts for the filters after this one.
pub const context = struct {
    pub fn consumer() Error!?Text {
        return option(sluice_context_consumer());
    }
    pub fn setConsumer(name: Text) Error!void {
        return check(sluice_context_set_consumer(name));
    }
    /// A text, or JSON as a text; null for what is neither.
    pub fn text(key: Text) Error!?Text {
        return option(sluice_context_text(key));
    }
    /// null for what is not of this kind.
    pub fn integer(key: Text) Error!?i64 {
        var value: i64 = 0;
        return if (try unlessRefused(sluice_context_integer(key, &value))) value else null;
    }
    pub fn boolean(key: Text) Error!?bool {
        var value = false;
        return if (try unlessRefused(sluice_context_boolean(key, &value))) value else null;
    }
    /// The name of the filter that has set it.
    pub fn writer(key: Text) Error!?Text {
        return option(sluice_context_writer(key));
    }
    pub fn setBoolean(key: Text, value: bool) Error!void {
        return check(sluice_context_set_boolean(key, value));
    }
    pub fn setJson(key: Text, value: Text) Error!void {
        return check(sluice_context_set_json(key, value));
    }
    pub fn setText(key: Text, value: Text) Error!void {
        return check(sluice_context_set_text(key, value));
    }
    pub fn setInteger(key: Text, value: i64) Error!void {
        return check(sluice_context_set_integer(key, value));
    }
};

/// The filter's own metrics.
pub const metrics = struct {
    pub fn count(name: Text, labels: []const Pair, delta: u64) Error!void {
        return check(sluice_count(name, labels.ptr, labels.len, delta));
    }
    pub fn gauge(name: Text, labels: []const Pair, value: f64) Error!void {
        return check(sluice_gauge(name, labels.ptr, labels.len, value));
    }
    pub fn observe(name: Text, labels: []const Pair, value: f64) Error!void {
        return check(sluice_observe(name, labels.ptr, labels.len, value));
    }
};

/// What this filter keeps from one hook of the exchange to the next, at most 64 KiB.
pub const state = struct {
    pub fn get() Error!?[]const u8 {
        var value: Bytes = undefined;
        return if (try unlessRefused(sluice_state_get(&value))) value.slice() else null;
    }
    pub fn set(value: []const u8) Error!void {
        return check(sluice_state_set(.of(value)));
    }
};

pub const clock = struct {
    /// Microseconds since 1970.
    pub fn nowUs() u64 {
        return sluice_now_us();
    }
    /// Nanoseconds of a clock that never goes back.
    pub fn monotonicNs() u64 {
        return sluice_monotonic_ns();
    }
};

/// Random bytes, fit for secrets.
pub fn random(length: u32) Error![]const u8 {
    return (try unlessRefused(sluice_random(length))).slice();
}

/// A secret that was granted.
pub fn secret(name: Text) Error!Text {
    return needed(sluice_secret(name));
}

const Name = [*:0]const u8;
const Names = [*]const [*:0]const u8;
extern fn sluice_chunk() Bytes;
extern fn sluice_chunk_is_last() bool;
extern fn sluice_chunk_replace(Bytes) bool;
extern fn sluice_chunk_hold(u64) bool;
extern fn sluice_chunk_end() bool;
extern fn sluice_chunk_pass_rest() bool;
extern fn sluice_event_name() Bytes;
extern fn sluice_event_id() ?Name;
extern fn sluice_event_data() Bytes;
extern fn sluice_event_set_data(Bytes) bool;
extern fn sluice_want_request_chunks_of(Names, usize) bool;
extern fn sluice_want_response_chunks_of(Names, usize) bool;
extern fn sluice_want_response_events_of(Names, usize) bool;
extern fn sluice_route_name() ?Name;
extern fn sluice_route_param(Name) ?Name;
extern fn sluice_route_upstreams() calls.Texts;
extern fn sluice_route_endpoints() extern struct { items: ?[*]const route.Endpoint, count: usize };
extern fn sluice_route_choose_upstream(Name) bool;
extern fn sluice_route_choose_endpoints(Names, usize) bool;
extern fn sluice_route_hash_key(Name) bool;
extern fn sluice_route_no_retry() bool;
extern fn sluice_route_summary() ?Name;
extern fn sluice_limiter_take([*]const limiter.Limit, usize, u64) ?[*]const limiter.Standing;
extern fn sluice_concurrency_enter([*]const concurrency.PlaceLimit, usize, [*]const limiter.Limit, usize, u64, *RawAdmission) bool;
extern fn sluice_kv_get(Name, Name) Bytes;
extern fn sluice_kv_set(Name, Name, Bytes, u64) bool;
extern fn sluice_kv_delete(Name, Name) bool;
extern fn sluice_kv_compare_and_swap(Name, Name, ?*const Bytes, Bytes, u64) bool;
extern fn sluice_kv_get_or_reserve(Name, Name, u64, *Bytes) c_int;
extern fn sluice_kv_wait(Name, Name, u32) Bytes;
extern fn sluice_http_send([*]const RawOutgoing, usize, u32) ?[*]const RawIncoming;
extern fn sluice_authenticate(Name, Name) ?Name;
extern fn sluice_authenticate_password(Name, Bytes) ?Name;
extern fn sluice_recall_password(Name, Bytes) ?Name;
extern fn sluice_vouch(Name, Name) bool;
extern fn sluice_consumer_known() bool;
extern fn sluice_consumer_plan() ?Name;
extern fn sluice_consumer_label(Name) ?Name;
extern fn sluice_consumer_labels() Pairs;
extern fn sluice_consumer_method() ?Name;
extern fn sluice_hash(Name, Bytes) Bytes;
extern fn sluice_hmac(Name, Bytes, Bytes) Bytes;
extern fn sluice_equal(Bytes, Bytes) bool;
extern fn sluice_cache_set_key_part(Name, Name) bool;
extern fn sluice_cache_add_tag(Name) bool;
extern fn sluice_cache_no_store() bool;
extern fn sluice_cache_status() ?Name;
extern fn sluice_context_consumer() ?Name;
extern fn sluice_context_set_consumer(Name) bool;
extern fn sluice_context_text(Name) ?Name;
extern fn sluice_context_integer(Name, *i64) bool;
extern fn sluice_context_boolean(Name, *bool) bool;
extern fn sluice_context_writer(Name) ?Name;
extern fn sluice_context_set_boolean(Name, bool) bool;
extern fn sluice_context_set_json(Name, Name) bool;
extern fn sluice_context_set_text(Name, Name) bool;
extern fn sluice_context_set_integer(Name, i64) bool;
extern fn sluice_count(Name, [*]const Pair, usize, u64) bool;
extern fn sluice_gauge(Name, [*]const Pair, usize, f64) bool;
extern fn sluice_observe(Name, [*]const Pair, usize, f64) bool;
extern fn sluice_state_get(*Bytes) bool;
extern fn sluice_state_set(Bytes) bool;
extern fn sluice_now_us() u64;
extern fn sluice_monotonic_ns() u64;
extern fn sluice_random(u32) Bytes;
extern fn sluice_secret(Name) ?Name;
