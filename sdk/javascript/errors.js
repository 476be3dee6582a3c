// Errors as JavaScript has them, with the gateway's reason in their message.
import { argumentsOf } from "./signatures.js";
import { sendable, wellFormed } from "./text.js";

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

/** Makes a function of the interface throw a GatewayError, and a TypeError for wrong arguments. QuickJS throws an object with the error as its payload. */
export function checked(call, f) {
  const check = argumentsOf(call);
  return (...values) => {
    check(values);
    try {
      return f(...values.map(sendable)) ?? undefined;
    } catch (thrown) {
      const error = thrown?.payload ?? thrown;
      throw typeof error?.tag === "string" ? new GatewayError(call, error) : thrown;
    }
  };
}

/** What the gateway's log gets of anything that was thrown. */
export const describe = (thrown) => wellFormed(described(thrown));

function described(thrown) {
  // Of an interface that the filter has imported by itself.
  const { tag, val } = thrown?.payload ?? {};
  if (typeof tag === "string") return `${tag.replaceAll("-", " ")}${val === undefined || val === null ? "" : `: ${val}`}`;
  if (thrown instanceof ConfigError) return thrown.message;
  if (thrown instanceof GatewayError) {
    const [place] = /\(.*?\)/.exec(placed(thrown.stack ?? "")) ?? [""];
    return `${thrown.message} ${place}`.trimEnd();
  }
  if (thrown instanceof Error) return `${thrown.name}: ${thrown.message}\n${placed(thrown.stack ?? "")}`.trimEnd();
  try {
    return typeof thrown === "string" ? thrown : JSON.stringify(thrown) ?? String(thrown);
  } catch {
    return String(thrown);
  }
}

/** A stack with the places in the filter's own files; those in this package are left out. The build has put the table there. */
function placed(stack) {
  const places = globalThis.sluicePlaces;
  if (places === undefined) return stack;
  const lines = stack.split("\n").map((line) => {
    const at = Number(/user\.js:(\d+)/.exec(line)?.[1]);
    const run = places.find(([first, , , count]) => at >= first && at < first + count);
    return run && line.replace(/[^\s(]*user\.js:\d+(:\d+)?/, `${run[1]}:${run[2] + at - run[0]}`);
  });
  return lines.filter(Boolean).join("\n");
}
