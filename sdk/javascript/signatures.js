// The arguments of the interface's functions, by their names in wit/. QuickJS ends the instance where a value of another type is handed over, so
// calls are checked before.

const SIGNATURES = {
  "interest.request-body": "max-bytes:u64 types:texts",
  "interest.response-body": "max-bytes:u64 types:texts",
  "interest.request-chunks": "types:texts",
  "interest.response-chunks": "types:texts",
  "interest.response-events": "types:texts",
  "interest.hook": "name:text wanted:boolean",
  "interest.needs": "grants:text",
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
  "consumers.token-verifier": "rules:consumer-token-rules",
  "consumers.verify-token": "verifier:u32 token:bytes",
  "passwords.authenticate": "username:text password:bytes",
  "random.bytes": "length:u32",
  "kv.get": "space:text key:text",
  "kv.set": "space:text key:text value:bytes ttl:u64?",
  "kv.delete": "space:text key:text",
  "kv.compare-and-swap": "space:text key:text expected:bytes? value:bytes ttl:u64?",
  "kv.get-or-reserve": "space:text key:text ttl:u64",
  "kv-wait.wait": "space:text key:text timeout:u32",
  "secrets.get": "name:text",
  "metrics.count": "name:text labels:fields delta:u64",
  "metrics.gauge": "name:text labels:fields value:number",
  "metrics.observe": "name:text labels:fields value:number",
  "http.send": "requests:requests timeout:u32",
  "limiter.take": "limits:limits cost:u64",
  "concurrency.enter": "places:places limits:limits cost:u64",
  "crypto.hash": "algorithm:text data:bytes",
  "crypto.hmac": "algorithm:text key:bytes data:bytes",
  "crypto.equal": "a:bytes b:bytes",
  "crypto.key-set": "source:text",
  "crypto.verify": "set:u32 algorithm:text key-id:text? message:bytes signature:bytes",
  "crypto.sign": "set:u32 algorithm:text key-id:text? message:bytes",
  "crypto.token-verifier": "rules:token-rules",
  "crypto.verify-token": "verifier:u32 token:bytes",
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

// A kind finds what is wrong with a value: where in it, what was expected there, and what is there.
const plain = (expected, is) => (value) => (is(value) ? undefined : { at: "", expected, value });
const whole = (expected, most) => plain(`a whole number from 0 to ${expected}`, (value) => Number.isSafeInteger(value) && value >= 0 && value <= most);

const listOf = (find) => (value) => {
  if (!Array.isArray(value)) return { at: "", expected: "a list", value };
  for (let at = 0; at < value.length; at++) {
    const wrong = find(value[at]);
    if (wrong !== undefined) return { ...wrong, at: `[${at}]${wrong.at}` };
  }
};
const record = (text) => {
  const members = parametersOf(text);
  return (value) => {
    if (typeof value !== "object" || value === null) return { at: "", expected: "an object", value };
    for (const { name, find } of members) {
      const wrong = find(value[name]);
      if (wrong !== undefined) return { ...wrong, at: `.${name}${wrong.at}` };
    }
  };
};

const KINDS = {
  text: plain("a text", (value) => typeof value === "string"),
  texts: plain("a list of texts", (value) => Array.isArray(value) && value.every((item) => typeof item === "string")),
  bytes: plain("a Uint8Array", (value) => value instanceof Uint8Array),
  boolean: plain("true or false", (value) => typeof value === "boolean"),
  number: plain("a number", (value) => typeof value === "number"),
  u16: whole("65535", 0xffff),
  u32: whole("4294967295", 0xffffffff),
  u64: whole("2^53", Number.MAX_SAFE_INTEGER),
};
// Records have their members by the names in JavaScript.
KINDS.fields = listOf(record("name:text value:text"));
KINDS.requests = listOf(record("method:text url:text headers:fields body:bytes"));
KINDS.limits = listOf(record("key:text amount:u64 windowMs:u64 burst:u64"));
KINDS.places = listOf(record("key:text amount:u32"));
KINDS["consumer-token-rules"] = record("algorithms:texts typ:text?");
KINDS["token-rules"] = record("keySet:u32 algorithms:texts typ:text? remember:u32");

function parametersOf(text) {
  return text.split(" ").map((parameter) => {
    const [, name, kind, optional] = /^(.+):(.+?)(\??)$/.exec(parameter);
    const find = KINDS[kind];
    return { name, find: optional === "" ? find : (value) => (value === null || value === undefined ? undefined : find(value)) };
  });
}

/** A check of the arguments of a function: it throws a TypeError that names the wrong one. */
export function argumentsOf(call) {
  const parameters = SIGNATURES[call] === undefined ? [] : parametersOf(SIGNATURES[call]);
  return (values) => {
    for (let at = 0; at < parameters.length; at++) {
      const { name, find } = parameters[at];
      const wrong = find(values[at]);
      if (wrong !== undefined) throw new TypeError(`${call}: ${name}${wrong.at}: expected ${wrong.expected}, got ${shown(wrong.value)}`);
    }
  };
}

/** A list of records by this function, which makes those of the interface; anything else stays as it is, for the check of the call. */
export function recordsOf(list, made) {
  return Array.isArray(list) ? list.map((item) => (typeof item === "object" && item !== null ? made(item) : item)) : list;
}

/** A value, shortly, for messages. */
export function shown(value) {
  if (value === null || value === undefined || typeof value === "boolean") return String(value);
  if (typeof value === "number" || typeof value === "bigint") return `the number ${value}`;
  if (typeof value === "string") return `the text ${JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value)}`;
  if (typeof value === "function") return "a function";
  return Array.isArray(value) ? "a list" : `an object (${value.constructor?.name ?? "Object"})`;
}
