// Asks a service who the caller is, for a few requests of each caller.
import { check, ConfigError, http, limiter, Problem, utf8 } from "sluice-filter";

export default class Ask {
  constructor(config) {
    this.config = check(config, { url: "string", amount: "integer" });
    if (this.config.amount < 1) throw new ConfigError("amount", "expected at least 1");
  }

  onRequest(request) {
    const caller = request.header("x-caller") ?? "";
    if (utf8.encode(caller).length > 100) {
      return new Problem(403, "Forbidden", { detail: "the name of the caller is too long", reason: "unknown-caller" });
    }
    const [standing] = limiter.take([{ key: caller, amount: this.config.amount, windowMs: 3_600_000 }]);
    if (!standing.allowed) {
      const headers = { "retry-after": String(Math.ceil(standing.retryAfterMs / 1000)) };
      return new Problem(429, "Too Many Requests", { reason: "too-many", headers });
    }
    const answer = http.send({ url: this.config.url, json: { caller } }, 5_000);
    if (answer.status !== 200) return new Problem(403, "Forbidden", { reason: "unknown-caller" });
    const { account } = check(answer.json(), { account: "integer" });
    if (account < 0) throw new RangeError("the service names no account");
    request.setHeader("x-account", String(account));
  }
}
