/** Filters for the Sluice gateway: the types as QuickJS gives and takes them. */

/** Nothing or "continue": go on. "respond": answer with the response as drafted. A problem: answer with that. */
export type Verdict = void | undefined | "continue" | "respond" | Problem;

/** A header field. */
export interface Field {
  name: string;
  value: string;
}

interface Message {
  /** The first value of a header. */
  header(name: string): string | undefined;
  headerValues(name: string): string[];
  /** All values of a header, as bytes: for what is not UTF-8. */
  headerBytes(name: string): Uint8Array[];
  headers(): Field[];
  setHeader(name: string, value: string): void;
  setHeaderBytes(name: string, value: Uint8Array): void;
  appendHeader(name: string, value: string): void;
  removeHeader(name: string): void;
  /** Asks for the body of this one message. */
  wantBody(maxBytes: number): void;
  /** The body, in a body hook. */
  bytes(): Uint8Array;
  /** The body as text; throws a URIError for what is not UTF-8. */
  text(): string;
  /**
   * The body as JSON; a SyntaxError for what is none, is nested deeper than 256, or has a number of more than 4,300 digits. Whole numbers beyond 2^53
   * are BigInt; `1.10` becomes 1.1, and members whose names are numbers come first.
   */
  json(): unknown;
  setBody(body: string | Uint8Array): void;
  setJson(value: unknown): void;
}

export interface Endpoint {
  upstream: string;
  /** `host:port`. */
  address: string;
  weight: number;
  healthy: boolean;
  active: number;
  latencyUs: number;
}
export interface EndpointState {
  /** Why it is not to be asked now; empty: nothing speaks against it. */
  out: string[];
  requests: number;
  ewmaUs: number;
}
export interface FailedAttempt {
  upstream: string;
  address: string;
  kind: string;
  reason: string;
  status?: number | null;
  sent: boolean;
}

export interface Route {
  name(): string;
  param(name: string): string | undefined;
  upstreams(): string[];
  /** In `selectUpstream` and later, as those below but for `summary`. */
  endpoints(): Endpoint[];
  endpointLabel(upstream: string, address: string, label: string): string | undefined;
  endpointState(upstream: string, address: string): EndpointState | undefined;
  failedAttempts(): FailedAttempt[];
  retries(): { attempt: number; left: number; budget?: number | null };
  chooseUpstream(name: string): void;
  chooseEndpoints(addresses: string[]): void;
  hashKey(key: string): void;
  noRetry(): void;
  /** The finished exchange, with the members of the access log: in `onComplete`. */
  summary(): Record<string, unknown>;
}

export interface Request extends Message {
  method(): string;
  setMethod(method: string): void;
  scheme(): string;
  /** The host that the client has asked for, in lower case, with the port if there was one. The header `host` is never shown. */
  authority(): string;
  /** The path without the query, before the route rewrites it. */
  path(): string;
  setPath(path: string): void;
  query(): string | undefined;
  setQuery(query: string | null): void;
  /** "HTTP/1.0", "HTTP/1.1" or "HTTP/2". */
  protocol(): string;
  clientAddress(): string;
  /** The verified certificate of the client: subject, issuer, sha256, dns_names and more. */
  clientCertificate(): Record<string, unknown> | undefined;
  id(): string;
  readonly route: Route;
}

/** In a request hook: the answer that "respond" sends. */
export interface Response extends Message {
  origin(): "upstream" | "filter" | "gateway";
  status(): number;
  setStatus(status: number): void;
  /** Why, for the operator: in the access log and a metric. */
  setReason(reason: string): void;
  /** What the cache of the route has done: "hit", "miss" and so on. */
  cacheStatus(): string | undefined;
  trailer(name: string): string | undefined;
  trailers(): Field[];
  setTrailer(name: string, value: string): void;
  removeTrailer(name: string): void;
  readonly request: Request;
}

/** A piece of a body that streams. It goes on as it is unless something else is said of it. */
interface Piece {
  /** Its length in bytes, with what was kept back of the ones before it. */
  length(): number;
  /** The whole piece. */
  bytes(): Uint8Array;
  /** Up to `length` bytes of it from `offset`. */
  read(offset: number, length: number): Uint8Array;
  /** Whether the body ends with it. Each body that comes whole has one such piece, and it may be empty. */
  isLast(): boolean;
  /** Sends this in its place. */
  replace(bytes: string | Uint8Array): void;
  /** Sends nothing in its place. */
  drop(): void;
  /** Ends the body after it: what the sender still sends is discarded. */
  end(): void;
  /** Lets the rest of the body go on without further calls of this hook. */
  passRest(): void;
  /** The request of the exchange. Its head has been sent: it can be read. */
  readonly request: Request;
  /** The response, in the hooks of the response. Its head has been sent: it can be read. */
  readonly response: Response;
}

/** At most 16 KiB, as the sender has sent them. */
export interface Chunk extends Piece {
  /** Keeps its last bytes back: they come again in front of the next piece. With `replace`, the replacement stands for what is in front of them. */
  hold(tail: number): void;
}

/** A server-sent event or a line of NDJSON, always whole. */
export interface Event extends Piece {
  /** The value of its last `event` field. */
  name(): string | undefined;
  /** The value of its last `id` field. */
  id(): string | undefined;
  /** Its data, or the line; undefined for a comment, for the end of the body, and where it is not UTF-8. */
  data(): string | undefined;
  /** Gives it other data and leaves the rest of it as it is. */
  setData(data: string): void;
}

export const Request: Request;
export const Response: Response;
export const Route: Route;

/** What a filter can ask for in its constructor. */
export interface Setup {
  /**
   * Asks for request bodies of these media types (none: all), up to so many bytes, for `onRequestBody`. Types are `application/json`, `text/*` or
   * `application/*+json`. It is called for no empty body.
   */
  requestBody(maxBytes: number, types?: string[]): void;
  /** The same for responses, for `onResponseBody`. */
  responseBody(maxBytes: number, types?: string[]): void;
  /** Asks for request bodies of these media types (none: all) piece by piece, in `onRequestChunk`. */
  requestChunks(types?: string[]): void;
  /** The same for responses, in `onResponseChunk`. */
  responseChunks(types?: string[]): void;
  /** Asks for responses event by event, in `onResponseEvent`: none for `text/event-stream` and NDJSON. */
  responseEvents(types?: string[]): void;
  /** Turns a hook that the class has off or on again. */
  hook(name: keyof Filter, wanted: boolean): void;
  /** What this config needs to have been granted, shaped like the table `grants`: the gateway warns of what is missing. */
  needs(grants: Grants): void;
}

/** As the table `grants` of gateway.toml; the members of `secrets` are names, with anything as their values. */
export interface Grants {
  read_headers?: string[];
  write_headers?: string[];
  body?: boolean;
  http?: string[];
  upstreams?: string[];
  kv?: string[];
  kv_quota?: string;
  secrets?: Record<string, unknown>;
  consumers?: boolean;
  authentication?: boolean;
}

/** What a filter says of itself, for `sluice plugin inspect`, `docs` and `check`: `static readonly describe: Description = { … }`. */
export interface Description {
  name?: string;
  version?: string;
  description?: string;
  /** A JSON Schema of the config. */
  config?: object;
  grants?: Grants;
  /** Markdown. */
  docs?: string;
  /** Whether it says who the caller is: the gateway warns where it fails open. */
  authenticates?: boolean;
}

/** The hooks. A filter is a class with a constructor of a config and a Setup, and some of these methods. */
export interface Filter {
  onRequest?(request: Request): Verdict;
  onRequestBody?(request: Request): Verdict;
  selectUpstream?(route: Route): void;
  onResponse?(response: Response): Verdict;
  onResponseBody?(response: Response): Verdict;
  onResponseTrailers?(response: Response): void;
  onComplete?(request: Request): void;
  onRequestChunk?(chunk: Chunk): void;
  onResponseChunk?(chunk: Chunk): void;
  onResponseEvent?(event: Event): void;
}

/** A problem document (RFC 9457). The reason is for the operator, not for the client. */
export class Problem {
  constructor(
    status: number,
    title: string,
    more?: {
      detail?: string;
      reason?: string;
      headers?: Record<string, string | number>;
      /** A URI that names the kind of problem; "about:blank" by default. */
      type?: string;
      /** Further members of the document. */
      members?: Record<string, unknown>;
    },
  );
  readonly status: number;
  readonly title: string;
  readonly detail?: string;
  readonly reason?: string;
}

export type ErrorKind = "wrong-hook" | "not-granted" | "invalid" | "too-large" | "unavailable" | "timeout" | "other";

/** A call that the gateway has refused. Nothing has changed. */
export class GatewayError extends Error {
  readonly call: string;
  readonly kind: ErrorKind;
  /** The gateway's reason; the limit for "too-large". */
  readonly reason?: string | number;
}

/** Refuses a config, by the path of the value. */
export class ConfigError extends Error {
  constructor(key: string, message: string);
}

type Scalar = { string: string; number: number; integer: number; boolean: boolean };
type Checked<S> = S extends `${infer K extends keyof Scalar}?`
  ? Scalar[K] | undefined
  : S extends keyof Scalar
    ? Scalar[S]
    : S extends readonly [infer Item]
      ? Checked<Item>[]
      : S extends { "*": infer Value }
        ? Record<string, Checked<Value>>
        : { -readonly [Key in keyof S]: Checked<S[Key]> };
/** Checks a config against a shape: `check(config, { header: "string", fields: ["string"], keys: { "*": { account: "integer" } }, realm: "string?" })`. */
export function check<const S extends Shape>(config: unknown, shape: S): Checked<S>;
export type Shape = keyof Scalar | `${keyof Scalar}?` | readonly [Shape] | { readonly [member: string]: Shape };

export function parseJson(text: string): unknown;
export function formatJson(value: unknown): string;

/** Facts that filters hand on within the exchange. */
export namespace context {
  /** A string, number, boolean, list of strings, or what the JSON of another value is. */
  function get(key: string): unknown;
  /** A part of a JSON value, by the names of the members: `getPath("auth.claims", ["realm_access", "roles"])`. */
  function getPath(key: string, path: string[]): unknown;
  function set(key: string, value: unknown): void;
  /** The name of the filter that has set a key. */
  function writer(key: string): string | undefined;
  function consumer(): string | undefined;
  function setConsumer(name: string): void;
}
/** What this filter keeps from one hook of the exchange to the next: anything that JSON can say, up to 64 KiB. */
export namespace state {
  function get(): unknown;
  function set(value: unknown): void;
}
/** Texts are written as they are, errors with their stack, and other values as JSON. */
export namespace log {
  function debug(message: unknown): void;
  function info(message: unknown): void;
  function warn(message: unknown): void;
  function error(message: unknown): void;
}
type Labels = Record<string, string | number>;
/** The gateway shows them as `sluice_filter_NAME`, with a label `filter`; in cases they have the bare name. */
export namespace metrics {
  /** Adds to a counter, 1 by default. */
  function count(name: string, labels?: Labels, delta?: number): void;
  function gauge(name: string, value: number, labels?: Labels): void;
  function observe(name: string, value: number, labels?: Labels): void;
}
export namespace kv {
  function get(space: string, key: string): Uint8Array | undefined;
  function getText(space: string, key: string): string | undefined;
  /** Sets a value, for so many milliseconds or until it is deleted. */
  function set(space: string, key: string, value: string | Uint8Array, ttlMs?: number): void;
  /** Answers whether there was one. */
  function delete_(space: string, key: string): boolean;
  export { delete_ as delete };
  /** Sets a value if the present one is `expected` (undefined: if there is none), and answers whether it did. */
  function compareAndSwap(space: string, key: string, expected: string | Uint8Array | undefined, value: string | Uint8Array, ttlMs?: number): boolean;
  /** The value; or "reserved" for the one caller who should set it, and "pending" for others: see `kvWait`. */
  function getOrReserve(space: string, key: string, ttlMs: number): { value: Uint8Array } | "reserved" | "pending";
}
/** A filter that uses this, `http` or `passwords` may wait, and is called on a fiber. */
export namespace kvWait {
  /** Waits as long as somebody holds the reservation of a key, at most so many milliseconds. */
  function wait(space: string, key: string, timeoutMs: number): Uint8Array | undefined;
}
export namespace secrets {
  /** Throws a GatewayError for one that was not granted (`grants.secrets`). */
  function get(name: string): string;
}
export namespace clock {
  /** Milliseconds since 1970. */
  function now(): number;
  /** Milliseconds, with a fraction, of a clock that never goes back. */
  function monotonic(): number;
}
export namespace random {
  /** Up to 64 KiB, fit for secrets. */
  function bytes(length: number): Uint8Array;
}
export namespace consumers {
  function authenticate(kind: string, credential: string): string | undefined;
  /** As `passwords.authenticate`, without a wait: only what was verified before is known. */
  function recallPassword(username: string, password: string | Uint8Array): string | undefined;
  /** Makes the consumer of this name the caller, because the filter has found out that it is, by this method. */
  function vouch(name: string, method: string): boolean;
  function known(): boolean;
  function plan(): string | undefined;
  function label(name: string): string | undefined;
  function labels(): Record<string, string>;
  function method(): string | undefined;
  /** Declares what tokens have to be that consumers sign with keys of their own, in the constructor of a filter. */
  function tokenVerifier(algorithms: string[], more?: { typ?: string }): {
    /** The consumer, which `vouch` can make the caller, and the payload; or why not: "unknown-issuer", "wrong-audience", "bad-signature" and so on. */
    verify(token: string | Uint8Array): { consumer: string; payload: string; refused?: undefined } | { refused: string; consumer?: undefined; payload?: undefined };
  };
}
export namespace passwords {
  /** Makes the consumer with this user name and password the caller, and answers its name; undefined for a wrong one. */
  function authenticate(username: string, password: string | Uint8Array): string | undefined;
}

/** Calls to origins (`https://auth.example/check`, `grants.http`) and upstreams (`upstream://users/profile`, `grants.upstreams`). */
export namespace http {
  interface Outgoing {
    /** "GET", or "POST" for one with a body. */
    method?: string;
    url: string;
    headers?: Record<string, string | string[]>;
    body?: string | Uint8Array;
    /** A body as JSON. */
    json?: unknown;
  }
  interface Incoming {
    readonly status: number;
    readonly headers: Field[];
    header(name: string): string | undefined;
    bytes(): Uint8Array;
    text(): string;
    json(): unknown;
  }
  /** Sends a request and waits for its response, at most so many milliseconds. Throws a GatewayError where there is none. */
  function send(request: Outgoing, timeoutMs: number): Incoming;
  /** Sends up to 16 requests at the same time and waits for all: the response of each, or its GatewayError. */
  function sendAll(requests: Outgoing[], timeoutMs: number): (Incoming | GatewayError)[];
}

/** One limit of a rate. Limits with the same key, algorithm, amount and window share a counter. */
export interface Limit {
  /** At most 1,024 bytes. */
  key: string;
  /** How much is allowed in each window. */
  amount: number;
  windowMs: number;
  /** "token-bucket" by default. */
  algorithm?: "token-bucket" | "leaky-bucket" | "fixed-window" | "sliding-window";
  burst?: number;
}
/** How one limit stands after the decision. */
export interface Standing {
  allowed: boolean;
  remaining: number;
  resetMs: number;
  retryAfterMs: number;
}
export namespace limiter {
  /** Takes `cost` (1) from every limit, or from none if one of them would not allow it. */
  function take(limits: Limit[], cost?: number): Standing[];
}
export namespace concurrency {
  /** Takes a place of each for this exchange, and `cost` from each limit; or nothing: `full` is then the index of the first that is full. */
  function enter(places: { key: string; amount: number }[], limits?: Limit[], cost?: number): { full?: number; standings: Standing[] };
}

export namespace crypto {
  type Hash = "sha-1" | "sha-256" | "sha-384" | "sha-512";
  type Data = string | Uint8Array;
  function hash(algorithm: Hash, data: Data): Uint8Array;
  function hmac(algorithm: Hash, key: Data, data: Data): Uint8Array;
  /** Compares in constant time. */
  function equal(a: Data, b: Data): boolean;
  function hex(data: Uint8Array): string;
  interface KeySet {
    /** Algorithms are those of RFC 7518 §3.1 and RFC 8037. */
    verify(algorithm: string, message: Data, signature: Uint8Array, keyId?: string): "valid" | "invalid" | "unknown-key";
    sign(algorithm: string, message: Data, keyId?: string): Uint8Array;
  }
  /** Declares keys, in the constructor of a filter: `{ jwks_url }`, `{ issuer }`, `{ jwks }`, `{ pem }` or `{ secret, alg }`, as `key-set` in wit/. */
  function keySet(source: object): KeySet;
  /** The payload as text, or why the token is not good: "bad-signature", "wrong-algorithm" and so on; of `verifyBearer` also "missing" and "repeated". */
  type Token = { payload: string; refused?: undefined } | { refused: string; payload?: undefined };
  interface TokenVerifier {
    verify(token: Data): Token;
    /** The token of the request's `authorization`. */
    verifyBearer(): Token;
  }
  /** Declares which tokens are good, in the constructor of a filter. Time, issuer and audience are yours to check. */
  function tokenVerifier(keys: KeySet, algorithms: string[], more?: { typ?: string; remember?: number }): TokenVerifier;
}

/** What the cache of the route should know. */
export namespace cache {
  /** Requests with another value have other stored responses. */
  function setKeyPart(name: string, value: string): void;
  function addTag(tag: string): void;
  function setFreshness(ttlMs: number, stale?: { staleWhileRevalidateMs?: number; staleIfErrorMs?: number }): void;
  function noStore(): void;
}

/** Texts and bytes: QuickJS has no TextEncoder. */
export namespace utf8 {
  /** Throws a URIError for what is not UTF-8. */
  function decode(bytes: Uint8Array): string;
  function encode(text: string): Uint8Array;
}
