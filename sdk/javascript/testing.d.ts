/** A double of the gateway for tests with `node --test`. */

interface Message {
  headers: Record<string, string>;
  body: Uint8Array;
}

export class Exchange {
  constructor(of?: {
    method?: string;
    /** The host that the client has asked for. */
    authority?: string;
    path?: string;
    headers?: Record<string, string>;
    body?: string | Uint8Array;
    route?: string;
    params?: Record<string, string>;
    /** What answers calls of `http`, by origin: `"https://auth.example"` or `"upstream://users"`. */
    services?: Record<string, (request: Called) => { status?: number; headers?: Record<string, string>; body?: unknown }>;
  });
  request: Message & { method: string; authority: string; path: string };
  response: Message & { status: number };
  consumer?: string;
  context: Record<string, { tag: string; val: unknown }>;
  reason?: string;
  /** Counters, as `refused reason=key-missing`. */
  counted: Record<string, number>;
  lines: string[];
  /** The values of `kv`, by `space/key`. */
  kv: Map<string, Uint8Array>;
  /** The time of `clock` in milliseconds; it stands still. */
  now: number;
  /** Why the hook has failed: the gateway would drop its edits. */
  failure?: string;
}

/** A request that a filter sends. */
export interface Called {
  method: string;
  path: string;
  headers: Record<string, string>;
  body: Uint8Array;
}

type Hook = (exchange: Exchange) => "continue" | "respond" | undefined;

type Chunks = (exchange: Exchange, pieces: (string | Uint8Array)[]) => string[];

/** The hooks by their names, and bodies that stream: each answers what went on at each call, the last of which has the end of the body. */
export interface Loaded {
  onRequest: Hook;
  onRequestBody: Hook;
  selectUpstream: Hook;
  onResponse: Hook;
  onResponseBody: Hook;
  onResponseTrailers: Hook;
  onComplete: Hook;
  requestChunks: Chunks;
  responseChunks: Chunks;
  /** The events of a body, which the content type of the response divides: server-sent ones, or lines. */
  responseEvents: (exchange: Exchange, body: string | Uint8Array) => string[];
}

/** Loads the filter of a file with a config. */
export function load(file: string | URL, config: unknown): Promise<Loaded>;
