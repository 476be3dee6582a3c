//! Sets a request header to a value of the config.

const sluice = @import("sluice");

const Config = struct { header: [:0]const u8, value: [:0]const u8 };
var config: Config = undefined;

pub fn configure(given: Config) ?[:0]const u8 {
    config = given;
    return null;
}

pub fn onRequest() !sluice.Verdict {
    try sluice.request.setHeader(config.header, config.value);
    return .@"continue";
}

comptime {
    sluice.filter(@This());
}
