/** A double of the gateway for tests with `node --test`. */

interface Message {
  headers: Record<string, string>;
  body: Uint8Array;
}

export class Exchange {
  constructor(of?: {
    method?: string;
    path?: string;
    headers?: Record<string, string>;
    body?: string | Uint8Array;
    route?: string;
    params?: Record<string, string>;
  });
  request: Message & { method: string; path: string };
  response: Message & { status: number };
  consumer?: string;
  context: Record<string, { tag: string; val: unknown }>;
  reason?: string;
  /** Counters, as `refused reason=key-missing`. */
  counted: Record<string, number>;
  lines: string[];
  /** Why the hook has failed: the gateway would drop its edits. */
  failure?: string;
}

type Hook = (exchange: Exchange) => "continue" | "respond" | undefined;

/** Loads the filter of a file with a config. */
export function load(file: string | URL, config: unknown): Promise<Record<string, Hook>>;
