// Errors as JavaScript has them, with the gateway's reason in their message.

/** A call that the gateway has refused. Nothing has changed. */
export class GatewayError extends Error {
  constructor(call, { tag, val }) {
    const why = val === undefined || val === null ? "" : tag === "too-large" ? `: the limit is ${val}` : `: ${val}`;
    super(`${call}: ${tag.replaceAll("-", " ")}${why}`);
    this.name = "GatewayError";
    this.call = call;
    this.kind = tag;
    this.reason = val ?? undefined;
  }
}

/** Refuses a config. The key is the path of the value: `limits[1].window`. */
export class ConfigError extends Error {
  constructor(key, message) {
    super(`${key}: ${message}`);
    this.name = "ConfigError";
  }
}

/** Makes a function of the interface throw a GatewayError. QuickJS throws an object with the error as its payload. */
export function checked(call, f) {
  return (...values) => {
    try {
      return f(...values) ?? undefined;
    } catch (thrown) {
      const error = thrown?.payload ?? thrown;
      throw typeof error?.tag === "string" ? new GatewayError(call, error) : thrown;
    }
  };
}

/** What the gateway's log gets of anything that was thrown. */
export function describe(thrown) {
  if (thrown instanceof GatewayError || thrown instanceof ConfigError) return thrown.message;
  if (thrown instanceof Error) return `${thrown.name}: ${thrown.message}\n${thrown.stack ?? ""}`.trimEnd();
  try {
    return typeof thrown === "string" ? thrown : JSON.stringify(thrown) ?? String(thrown);
  } catch {
    return String(thrown);
  }
}
