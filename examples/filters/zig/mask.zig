//! Hides a word in texts and in server-sent events while they stream.

const std = @import("std");
const sluice = @import("sluice");

const Config = struct { word: [:0]const u8 };
var word: [:0]const u8 = undefined;

pub fn configure(given: Config) !?[:0]const u8 {
    word = given.word;
    if (word.len == 0) return "word: expected a word";
    try sluice.wantRequestChunks(&.{"text/plain"});
    try sluice.wantResponseChunks(&.{"text/plain"});
    try sluice.wantResponseEvents(&.{"text/event-stream"});
    return null;
}

pub const onRequestChunk = onChunk;
pub const onResponseChunk = onChunk;

/// The network may have split the word: what may be its beginning is kept back until the next piece comes.
fn onChunk() !void {
    const piece = try sluice.chunk.bytes();
    const rest = piece.len - hide(piece);
    const tail = if (try sluice.chunk.isLast()) 0 else @min(rest, word.len - 1);
    try sluice.chunk.hold(tail);
    try sluice.chunk.replace(piece[0 .. piece.len - tail]);
}

/// Data that is not UTF-8 is no data to the gateway: then the word is hidden wherever it is in the event.
pub fn onResponseEvent() !void {
    if (try sluice.event.data()) |data| {
        if (hide(data) > 0) try sluice.event.setData(data);
    } else {
        const bytes = try sluice.chunk.bytes();
        if (hide(bytes) > 0) try sluice.chunk.replace(bytes);
    }
}

/// Masks the word wherever it is, and answers where the last one ends.
fn hide(text: []u8) usize {
    var end: usize = 0;
    while (std.mem.indexOfPos(u8, text, end, word)) |at| {
        end = at + word.len;
        @memset(text[at..end], '*');
    }
    return end;
}

comptime {
    sluice.filter(@This());
}
