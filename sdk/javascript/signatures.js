// The arguments of the interface's functions, by their names in wit/. QuickJS ends the instance where a value of another type is handed over, so
// calls are checked before.

const SIGNATURES = {
  "interest.request-body": "max-bytes:u64 types:texts",
  "interest.response-body": "max-bytes:u64 types:texts",
  "interest.request-chunks": "types:texts",
  "interest.response-chunks": "types:texts",
  "interest.response-events": "types:texts",
  "interest.hook": "name:text wanted:boolean",
  "request.set-method": "method:text",
  "request.set-path": "path:text",
  "request.set-query": "query:text?",
  "response.set-status": "status:u16",
  "response.set-reason": "reason:text",
  "response.trailer": "name:text",
  "response.set-trailer": "name:text value:text",
  "response.remove-trailer": "name:text",
  "route.param": "name:text",
  "route.endpoint-label": "upstream:text address:text label:text",
  "route.state-of-endpoint": "upstream:text address:text",
  "route.choose-upstream": "name:text",
  "route.choose-endpoints": "addresses:texts",
  "route.hash-key": "key:text",
  "chunk.read": "offset:u64 length:u64",
  "chunk.replace": "bytes:bytes",
  "chunk.hold": "tail:u64",
  "chunk.set-event-data": "data:text",
  "state.set": "value:bytes",
  "context.get": "key:text",
  "context.get-path": "key:text path:texts",
  "context.writer": "key:text",
  "context.set": "key:text",
  "context.set-consumer": "name:text",
  "consumers.authenticate": "kind:text credential:text",
  "consumers.recall-password": "username:text password:bytes",
  "consumers.vouch": "name:text method:text",
  "consumers.label": "name:text",
  "consumers.verify-token": "verifier:any token:bytes",
  "passwords.authenticate": "username:text password:bytes",
  "random.bytes": "length:u32",
  "kv.get": "space:text key:text",
  "kv.set": "space:text key:text value:bytes ttl:u64?",
  "kv.delete": "space:text key:text",
  "kv.compare-and-swap": "space:text key:text expected:bytes? value:bytes ttl:u64?",
  "kv.get-or-reserve": "space:text key:text ttl:u64",
  "kv-wait.wait": "space:text key:text timeout:u32",
  "secrets.get": "name:text",
  "metrics.count": "name:text labels:any delta:u64",
  "metrics.gauge": "name:text labels:any value:number",
  "metrics.observe": "name:text labels:any value:number",
  "http.send": "requests:any timeout:u32",
  "limiter.take": "limits:any cost:u64",
  "concurrency.enter": "places:any limits:any cost:u64",
  "crypto.hash": "algorithm:text data:bytes",
  "crypto.hmac": "algorithm:text key:bytes data:bytes",
  "crypto.equal": "a:bytes b:bytes",
  "crypto.verify": "set:any algorithm:text key-id:text? message:bytes signature:bytes",
  "crypto.sign": "set:any algorithm:text key-id:text? message:bytes",
  "crypto.verify-token": "verifier:any token:bytes",
  "cache.set-key-part": "name:text value:text",
  "cache.add-tag": "tag:text",
  "cache.set-freshness": "ttl:u64 stale-while-revalidate:u64? stale-if-error:u64?",
};
for (const message of ["request", "response"]) {
  for (const name of ["header", "header-values", "header-bytes", "remove-header"]) SIGNATURES[`${message}.${name}`] = "name:text";
  for (const name of ["set-header", "append-header"]) SIGNATURES[`${message}.${name}`] = "name:text value:text";
  SIGNATURES[`${message}.set-header-bytes`] = "name:text value:bytes";
  SIGNATURES[`${message}.want-body`] = "max-bytes:u64";
  SIGNATURES[`${message}.set-body`] = "body:bytes";
}

const whole = (most) => (value) => Number.isSafeInteger(value) && value >= 0 && value <= most;
const KINDS = {
  text: ["a text", (value) => typeof value === "string"],
  texts: ["a list of texts", (value) => Array.isArray(value) && value.every((item) => typeof item === "string")],
  bytes: ["a Uint8Array", (value) => value instanceof Uint8Array],
  boolean: ["true or false", (value) => typeof value === "boolean"],
  number: ["a number", (value) => typeof value === "number"],
  u16: ["a whole number from 0 to 65535", whole(0xffff)],
  u32: ["a whole number from 0 to 4294967295", whole(0xffffffff)],
  u64: ["a whole number from 0 to 2^53", whole(Number.MAX_SAFE_INTEGER)],
};

/** A check of the arguments of a function: it throws a TypeError that names the wrong one. */
export function argumentsOf(call) {
  const parameters = (SIGNATURES[call] ?? "").split(" ").map((parameter) => {
    const [name, kind] = parameter.split(":");
    const [expected, is] = KINDS[kind?.replace("?", "")] ?? [];
    return { name, expected, is, isOptional: kind?.endsWith("?") };
  });
  return (values) => {
    for (let at = 0; at < parameters.length; at++) {
      const { name, expected, is, isOptional } = parameters[at];
      const value = values[at];
      if (is === undefined || is(value) || (isOptional && (value === null || value === undefined))) continue;
      throw new TypeError(`${call}: ${name}: expected ${expected}, got ${shown(value)}`);
    }
  };
}

/** A value, shortly, for messages. */
export function shown(value) {
  if (value === null || value === undefined || typeof value === "boolean") return String(value);
  if (typeof value === "number" || typeof value === "bigint") return `the number ${value}`;
  if (typeof value === "string") return `the text ${JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value)}`;
  if (typeof value === "function") return "a function";
  return Array.isArray(value) ? "a list" : `an object (${value.constructor?.name ?? "Object"})`;
}
