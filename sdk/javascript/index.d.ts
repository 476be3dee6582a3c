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
  headers(): Field[];
  setHeader(name: string, value: string): void;
  appendHeader(name: string, value: string): void;
  removeHeader(name: string): void;
  /** Asks for the body of this one message. */
  wantBody(maxBytes: number): void;
  /** The body, in a body hook. */
  bytes(): Uint8Array;
  /** The body as text; throws a URIError for what is not UTF-8. */
  text(): string;
  /** The body as JSON; whole numbers beyond 2^53 are BigInt. */
  json(): unknown;
  setBody(body: string | Uint8Array): void;
  setJson(value: unknown): void;
}

export interface Route {
  name(): string;
  param(name: string): string | undefined;
}

export interface Request extends Message {
  method(): string;
  setMethod(method: string): void;
  scheme(): string;
  authority(): string;
  path(): string;
  setPath(path: string): void;
  query(): string | undefined;
  setQuery(query: string | null): void;
  clientAddress(): string;
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
  trailer(name: string): string | undefined;
  setTrailer(name: string, value: string): void;
  readonly request: Request;
}

export const Request: Request;
export const Response: Response;
export const Route: Route;

/** What a filter can ask for in its constructor. */
export interface Setup {
  requestBody(maxBytes: number, types?: string[]): void;
  responseBody(maxBytes: number, types?: string[]): void;
  /** Turns a hook off or on again, by the name of its interface: "on-response". */
  hook(name: string, wanted: boolean): void;
  /** What this config needs to have been granted, shaped like the table `grants`. */
  needs(grants: object): void;
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
}

/** A problem document (RFC 9457). The reason is for the operator, not for the client. */
export class Problem {
  constructor(status: number, title: string, more?: { detail?: string; reason?: string; headers?: Record<string, string> });
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
export function check<const Shape>(config: unknown, shape: Shape): Checked<Shape>;

export function parseJson(text: string): unknown;
export function formatJson(value: unknown): string;

export namespace context {
  function get(key: string): unknown;
  function set(key: string, value: unknown): void;
  function consumer(): string | undefined;
  function setConsumer(name: string): void;
}
export namespace state {
  function get(): unknown;
  function set(value: unknown): void;
}
export namespace log {
  function debug(message: unknown): void;
  function info(message: unknown): void;
  function warn(message: unknown): void;
  function error(message: unknown): void;
}
type Labels = Record<string, string | number>;
export namespace metrics {
  function count(name: string, labels?: Labels, delta?: number): void;
  function gauge(name: string, value: number, labels?: Labels): void;
  function observe(name: string, value: number, labels?: Labels): void;
}
export namespace kv {
  function get(space: string, key: string): Uint8Array | undefined;
  function set(space: string, key: string, value: Uint8Array, ttlMs?: number): void;
}
export namespace secrets {
  function get(name: string): string;
}
export namespace clock {
  function now(): number;
  function monotonic(): number;
}
export namespace random {
  function bytes(length: number): Uint8Array;
}
export namespace consumers {
  function authenticate(kind: string, credential: string): string | undefined;
  function plan(): string | undefined;
  function label(name: string): string | undefined;
}
