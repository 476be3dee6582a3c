// Limits as the interface has them, for `limiter` and `concurrency`.
import { recordsOf } from "./signatures.js";

const ALGORITHMS = ["token-bucket", "leaky-bucket", "fixed-window", "sliding-window"];

export const limits = (of) =>
  recordsOf(of, ({ key, amount, windowMs, algorithm = "token-bucket", burst = 0 }) => {
    if (!ALGORITHMS.includes(algorithm)) throw new TypeError(`algorithm: expected one of ${ALGORITHMS.join(", ")}`);
    return { key, algorithm, amount, windowMs, burst };
  });

export const standings = (of) =>
  of.map(({ allowed, remaining, resetMs, retryAfterMs }) => {
    return { allowed, remaining: Number(remaining), resetMs: Number(resetMs), retryAfterMs: Number(retryAfterMs) };
  });
