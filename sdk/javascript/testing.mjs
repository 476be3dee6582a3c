// A double of the gateway for tests with `node --test`: it bundles a filter with interfaces of its own, and calls its hooks on values in memory.
// It grants everything, and knows what most filters need: messages, pieces and events, context, state, metrics, log, a key-value store, limits, and
// calls to services that the test answers.
import * as node from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import { bundled, double, entry } from "./build.mjs";
import { chunk, events, stream } from "./pieces.mjs";

let current;

/** An exchange in memory. Names of headers are lower-case. */
export class Exchange {
  constructor({ method = "GET", authority = "localhost", path = "/", headers = {}, body = "", route = "test", params = {}, services = {} } = {}) {
    this.request = { method, authority, path, headers: { ...headers }, body: bytes(body) };
    Object.assign(this, { route, params, consumer: undefined, context: {}, state: null, reason: undefined, counted: {}, lines: [], failure: undefined });
    this.response = { status: 200, headers: {}, body: bytes("") };
    this.kv = new Map();
    Object.assign(this, { services, taken: new Map(), now: 0 });
  }
}

const bytes = (body) => (typeof body === "string" ? new TextEncoder().encode(body) : body);

/** Loads the filter of a file with a config. Its hooks are called with an exchange and answer a verdict. */
export async function load(file, config) {
  const place = await mkdtemp(join(tmpdir(), "sluice-filter-"));
  try {
    globalThis.sluiceDouble = (name) => INTERFACES[name] ?? {};
    const outfile = join(place, "filter.mjs");
    const path = file instanceof URL ? fileURLToPath(file) : resolve(file);
    const source = `${entry(path, true)}export default all;`;
    await bundled(source, path, { outfile, plugins: [double()] });
    const { default: exports } = await import(pathToFileURL(outfile));
    exports.configure.configure(JSON.stringify(config));
    const hook = (name) => (exchange) => {
      current = exchange;
      return exports[name][name]();
    };
    const hooks = Object.fromEntries(Object.keys(exports).filter((name) => name !== "configure").map((name) => [name, hook(name)]));
    const chunks = (name) => (exchange, pieces) => stream(exchange, pieces.map(bytes), () => hooks[name](exchange));
    const ofEvents = (exchange, body) => {
      const isLines = !/text\/event-stream/.test(exchange.response.headers["content-type"] ?? "");
      return stream(exchange, events(body, isLines), () => hooks.onResponseEvent(exchange), true);
    };
    return { ...hooks, requestChunks: chunks("onRequestChunk"), responseChunks: chunks("onResponseChunk"), responseEvents: ofEvents };
  } finally {
    await rm(place, { recursive: true });
  }
}

const message = (which) => ({
  // `host` is never shown.
  header: (name) => (name.toLowerCase() === "host" ? null : current[which].headers[name.toLowerCase()] ?? null),
  headerValues: (name) => [current[which].headers[name.toLowerCase()]].filter((value) => value !== undefined),
  headers: () => Object.entries(current[which].headers).map(([name, value]) => ({ name, value })),
  setHeader: (name, value) => void (current[which].headers[name.toLowerCase()] = value),
  appendHeader: (name, value) => {
    const headers = current[which].headers;
    headers[name.toLowerCase()] = [headers[name.toLowerCase()], value].filter((each) => each !== undefined).join(", ");
  },
  removeHeader: (name) => void delete current[which].headers[name.toLowerCase()],
  wantBody: () => {},
  bodyLength: () => current[which].body.length,
  body: (offset, length) => current[which].body.slice(offset, offset + length),
  setBody: (body) => void (current[which].body = body),
});

/** As the gateway decides, on a clock that stands still. */
function take(limits, cost) {
  const left = ({ key, amount }) => amount - (current.taken.get(key) ?? 0);
  const passes = limits.every((limit) => left(limit) >= cost);
  return limits.map((limit) => {
    const allowed = left(limit) >= cost;
    if (passes) current.taken.set(limit.key, (current.taken.get(limit.key) ?? 0) + cost);
    return { allowed, remaining: Math.max(left(limit), 0), resetMs: limit.windowMs, retryAfterMs: allowed ? 0 : limit.windowMs };
  });
}

/** The answer of a service of the exchange; without one, the origin was not granted. */
function answer({ method, url, headers, body }) {
  const { origin, pathname, search } = new URL(url);
  const service = current.services[origin === "null" ? url.split("/").slice(0, 3).join("/") : origin];
  if (service === undefined) return { tag: "err", val: { tag: "not-granted", val: url } };
  const fields = Object.fromEntries(headers.map(({ name, value }) => [name, value]));
  const { status = 200, headers: answered = {}, body: content = "" } = service({ method, path: pathname + search, headers: fields, body });
  const list = Object.entries(answered).map(([name, value]) => ({ name, value }));
  return { tag: "ok", val: { status, headers: list, body: bytes(typeof content === "string" || content instanceof Uint8Array ? content : JSON.stringify(content)) } };
}

const nothing = () => {};
const INTERFACES = {
  interest: {
    requestBody: nothing,
    responseBody: nothing,
    requestChunks: nothing,
    responseChunks: nothing,
    responseEvents: nothing,
    hook: nothing,
    needs: nothing,
  },
  chunk: chunk(() => current),
  request: {
    ...message("request"),
    method: () => current.request.method,
    setMethod: (method) => void (current.request.method = method),
    path: () => current.request.path,
    setPath: (path) => void (current.request.path = path),
    query: () => null,
    scheme: () => "http",
    authority: () => current.request.authority,
    clientAddress: () => "127.0.0.1",
    id: () => "test",
  },
  response: {
    ...message("response"),
    status: () => current.response.status,
    setStatus: (status) => void (current.response.status = status),
    setReason: (reason) => void (current.reason = reason),
    origin: () => "upstream",
  },
  route: { name: () => current.route, param: (name) => current.params[name] ?? null },
  context: {
    get: (key) => current.context[key] ?? null,
    getPath(key, path) {
      const value = current.context[key];
      const part = value?.tag === "json" ? path.reduce((of, name) => of?.[name], JSON.parse(value.val)) : undefined;
      return part === undefined ? null : typeof part === "string" ? { tag: "text", val: part } : { tag: "json", val: JSON.stringify(part) };
    },
    set: (key, value) => void (current.context[key] = value),
    writer: (key) => (key in current.context ? "test" : null),
    consumer: () => current.consumer ?? null,
    setConsumer: (name) => void (current.consumer = name),
  },
  state: { get: () => current.state, set: (value) => void (current.state = value) },
  log: { log: (level, line) => void current.lines.push(`${level}: ${line}`), fail: (reason) => void (current.failure = reason) },
  metrics: {
    count: (name, labels, delta) => {
      const key = [name, ...labels.map(({ name, value }) => `${name}=${value}`)].join(" ");
      current.counted[key] = (current.counted[key] ?? 0) + delta;
    },
    gauge: nothing,
    observe: nothing,
  },
  kv: {
    get: (space, key) => current.kv.get(`${space}/${key}`) ?? null,
    set: (space, key, value) => void current.kv.set(`${space}/${key}`, value),
    delete: (space, key) => current.kv.delete(`${space}/${key}`),
    compareAndSwap(space, key, expected, value) {
      const present = current.kv.get(`${space}/${key}`);
      const same = expected === null ? present === undefined : present !== undefined && Buffer.compare(expected, present) === 0;
      if (same) current.kv.set(`${space}/${key}`, value);
      return same;
    },
    getOrReserve(space, key) {
      const val = current.kv.get(`${space}/${key}`);
      return val === undefined ? { tag: "reserved" } : { tag: "found", val };
    },
  },
  "kv-wait": { wait: (space, key) => current.kv.get(`${space}/${key}`) ?? null },
  limiter: { take },
  concurrency: {
    enter(places, limits, cost) {
      const of = places.map(({ key, amount }) => ({ key: `place ${key}`, amount, windowMs: 0 }));
      const full = take(of, 0).findIndex(({ remaining }) => remaining < 1);
      if (full !== -1) return { full, standings: [] };
      const standings = take(limits, cost);
      if (standings.every(({ allowed }) => allowed)) take(of, 1);
      return { full: null, standings };
    },
  },
  http: { send: (requests) => requests.map(answer) },
  clock: { nowUs: () => BigInt(current.now) * 1000n, monotonicNs: () => BigInt(current.now) * 1_000_000n },
  random: { bytes: (length) => node.randomBytes(length) },
  crypto: {
    hash: (algorithm, data) => node.createHash(algorithm.replace("-", "")).update(data).digest(),
    hmac: (algorithm, key, data) => node.createHmac(algorithm.replace("-", ""), key).update(data).digest(),
    equal: (a, b) => Buffer.compare(a, b) === 0,
  },
};
