//! Asks a service who the caller is, for a few requests of each caller.

const sluice = @import("sluice");

const Config = struct { url: [:0]const u8, amount: u32 };
var config: Config = undefined;

pub fn configure(given: Config) ?[:0]const u8 {
    config = given;
    return if (config.amount == 0) "amount: expected at least 1" else null;
}

pub fn onRequest() !sluice.Verdict {
    const caller = try sluice.request.header("x-caller") orelse "";
    if (caller.len > 100) return sluice.problem(403, "Forbidden", "the name of the caller is too long", "unknown-caller");

    const limit = sluice.limiter.Limit{ .key = caller, .amount = config.amount, .window_ms = 3_600_000 };
    const standing = (try sluice.limiter.take(&.{limit}, 1))[0];
    if (!standing.allowed) {
        const verdict = try sluice.problem(429, "Too Many Requests", "the service may be asked later", "too-many");
        try sluice.response.setHeader("retry-after", sluice.decimal((standing.retry_after_ms + 999) / 1000));
        return verdict;
    }

    const asked = sluice.Json.parse("{\"caller\":\"\"}").?;
    asked.get("caller").?.setText(caller);
    const answer = try sluice.http.sendOne(.{
        .method = "POST",
        .url = config.url,
        .headers = &.{.{ .name = "content-type", .value = "application/json" }},
        .body = asked.write(),
    }, 500);
    if (answer.failure) |reason| return sluice.fail(reason);
    if (answer.status != 200) return sluice.problem(403, "Forbidden", "the caller is not known", "unknown-caller");

    const known = sluice.Json.parse(answer.body) orelse return error.NotJson;
    const account = (known.get("account") orelse return error.NoAccount).integer() orelse return error.NoAccount;
    if (account < 0) return error.NoAccount;
    try sluice.request.setHeader("x-account", sluice.decimal(@intCast(account)));
    return .@"continue";
}

comptime {
    sluice.filter(@This());
}
