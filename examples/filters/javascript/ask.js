// Asks a service who the caller is, for a few requests of each caller.
import { check, http, limiter, Problem } from "sluice-filter";

export default class Ask {
  constructor(config) {
    this.config = check(config, { url: "string", amount: "integer" });
  }

  onRequest(request) {
    const caller = request.header("x-caller") ?? "";
    const [standing] = limiter.take([{ key: caller.slice(0, 100), amount: this.config.amount, windowMs: 3_600_000 }]);
    if (!standing.allowed) {
      const headers = { "retry-after": String(Math.ceil(standing.retryAfterMs / 1000)) };
      return new Problem(429, "Too Many Requests", { reason: "too-many", headers });
    }
    const answer = http.send({ url: this.config.url, json: { caller } }, 5_000);
    if (answer.status !== 200) return new Problem(403, "Forbidden", { reason: "unknown-caller" });
    const { account } = check(answer.json(), { account: "integer" });
    request.setHeader("x-account", String(account));
  }
}
