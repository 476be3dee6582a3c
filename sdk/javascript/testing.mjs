// A double of the gateway for tests with `node --test`: it bundles a filter with interfaces of its own, and calls its hooks on values in memory.
// It grants everything, and knows what filters of one hook need: messages, context, state, metrics, log and a key-value store.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import { bundled, double } from "./build.mjs";

let current;

/** An exchange in memory. Names of headers are lower-case. */
export class Exchange {
  constructor({ method = "GET", path = "/", headers = {}, body = "", route = "test", params = {} } = {}) {
    this.request = { method, path, headers: { ...headers }, body: bytes(body) };
    Object.assign(this, { route, params, consumer: undefined, context: {}, state: null, reason: undefined, counted: {}, lines: [], failure: undefined });
    this.response = { status: 200, headers: {}, body: bytes("") };
    this.kv = new Map();
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
    const source = `import Filter from ${JSON.stringify(path)};\nimport { component } from "sluice-filter/entry";\nexport default component(Filter);`;
    await bundled(source, path, { outfile, plugins: [double()] });
    const { default: exports } = await import(pathToFileURL(outfile));
    exports.configure.configure(JSON.stringify(config));
    const hook = (name) => (exchange) => {
      current = exchange;
      return exports[name][name]();
    };
    return Object.fromEntries(Object.keys(exports).filter((name) => name !== "configure").map((name) => [name, hook(name)]));
  } finally {
    await rm(place, { recursive: true });
  }
}

const message = (which) => ({
  header: (name) => current[which].headers[name.toLowerCase()] ?? null,
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

const nothing = () => {};
const INTERFACES = {
  interest: { requestBody: nothing, responseBody: nothing, hook: nothing, needs: nothing },
  request: {
    ...message("request"),
    method: () => current.request.method,
    setMethod: (method) => void (current.request.method = method),
    path: () => current.request.path,
    setPath: (path) => void (current.request.path = path),
    query: () => null,
    scheme: () => "http",
    authority: () => "localhost",
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
    set: (key, value) => void (current.context[key] = value),
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
  },
};
