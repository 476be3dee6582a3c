//! Admits callers with an API key of the config, and says who they are.

const sluice = @import("sluice");

const Key = struct { name: [:0]const u8, account: i64 };
const Config = struct { keys: sluice.Table(Key) };
var config: Config = undefined;

pub fn configure(given: Config) ?[:0]const u8 {
    config = given;
    return null;
}

pub fn onRequest() !sluice.Verdict {
    const given = try sluice.request.header("x-api-key") orelse return refuse("key-missing", "an API key is needed");
    const key = config.keys.get(given) orelse return refuse("key-unknown", "the API key is not valid");
    try sluice.context.setConsumer(key.name);
    try sluice.context.setInteger("api-key.account", key.account);
    return .@"continue";
}

fn refuse(reason: [:0]const u8, detail: [:0]const u8) !sluice.Verdict {
    try sluice.metrics.count("refused", &.{.{ .name = "reason", .value = reason }}, 1);
    const verdict = try sluice.problem(401, "Unauthorized", detail, reason);
    try sluice.response.setHeader("www-authenticate", "ApiKey");
    return verdict;
}

comptime {
    sluice.filter(@This());
}
