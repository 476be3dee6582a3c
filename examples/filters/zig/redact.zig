//! Hides members of JSON response bodies, by their names.

const std = @import("std");
const sluice = @import("sluice");

const Config = struct { fields: []const [:0]const u8 };
var config: Config = undefined;

pub fn configure(given: Config) !?[:0]const u8 {
    config = given;
    try sluice.wantResponseBodies(1 << 20, &.{"application/json"});
    return null;
}

pub fn onResponseBody() !sluice.Verdict {
    const body = sluice.Json.parse(try sluice.response.body()) orelse
        return sluice.problem(502, "Bad Gateway", "the upstream's answer is not JSON", "not-json");
    redact(body);
    try sluice.response.setBody(body.write());
    return .@"continue";
}

fn redact(value: *sluice.Json) void {
    var members = value.items();
    while (members.next()) |member| {
        if (isHidden(member.name())) member.setText("[redacted]") else redact(member);
    }
}

fn isHidden(name: ?[]const u8) bool {
    for (config.fields) |field| if (std.mem.eql(u8, field, name orelse return false)) return true;
    return false;
}

comptime {
    sluice.filter(@This());
}
