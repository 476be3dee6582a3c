// The pieces of a body that streams: what the hooks of pieces are given, and what they say of them.
import * as host from "sluice:filter/chunk@0.1.1";

import { checked } from "./errors.js";
import { Request, Response } from "./message.js";
import { encode } from "./utf8.js";

const of = (name, kebab = name) => checked(`chunk.${kebab}`, (...values) => host[name](...values));
const length = of("length");
const read = of("read");
const replace = of("replace");

const piece = {
  length,
  read,
  bytes: () => read(0, length()),
  isLast: of("isLast", "is-last"),
  replace: (bytes) => replace(typeof bytes === "string" ? encode(bytes) : bytes),
  drop: () => replace(new Uint8Array()),
  end: of("end"),
  passRest: of("passRest", "pass-rest"),
  request: Request,
  response: Response,
};

/** A piece of a body, for `onRequestChunk` and `onResponseChunk`. */
export const Chunk = { ...piece, hold: of("hold") };

/** A server-sent event or a line of NDJSON, for `onResponseEvent`. */
export const Event = {
  ...piece,
  name: of("eventName", "event-name"),
  id: of("eventId", "event-id"),
  data: of("eventData", "event-data"),
  setData: of("setEventData", "set-event-data"),
};
