//! What the calls of sluice.zig have in common. Not for filters.

const std = @import("std");

pub const Error = error{Refused};
pub const Text = [:0]const u8;
/// A name and a value, as the C library has them.
pub const Pair = extern struct { name: [*:0]const u8, value: [*:0]const u8 };
pub const Pairs = extern struct {
    items: ?[*]const Pair,
    count: usize,

    pub fn slice(pairs: Pairs) []const Pair {
        return if (pairs.items) |items| items[0..pairs.count] else &.{};
    }
};
pub const Texts = extern struct {
    items: ?[*]const [*:0]const u8,
    count: usize,

    pub fn slice(texts: Texts) []const [*:0]const u8 {
        return if (texts.items) |items| items[0..texts.count] else &.{};
    }
};
pub const Bytes = extern struct {
    data: ?[*]const u8,
    size: usize,

    pub fn of(value: []const u8) Bytes {
        return .{ .data = value.ptr, .size = value.len };
    }
    pub fn slice(bytes: Bytes) []const u8 {
        return if (bytes.data) |data| data[0..bytes.size] else "";
    }
};

/// A text that may be absent.
pub fn option(text: ?[*:0]const u8) Error!?Text {
    if (text) |at| return std.mem.span(at);
    return if (sluice_error() == ok) null else error.Refused;
}

/// A text that a call that went well has.
pub fn needed(text: ?[*:0]const u8) Error!Text {
    return std.mem.span(text orelse return error.Refused);
}

pub fn check(good: bool) Error!void {
    if (!good) return error.Refused;
}

/// What a call has answered, unless it was refused.
pub fn unlessRefused(value: anytype) Error!@TypeOf(value) {
    return if (sluice_error() == ok) value else error.Refused;
}

pub const ok: c_int = -1;
pub extern fn sluice_error() c_int;
