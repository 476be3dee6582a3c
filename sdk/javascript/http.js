// Calls to other services.
import * as host from "sluice:filter/http@0.1.1";

import { checked, GatewayError } from "./errors.js";
import { formatJson, parseJson } from "./json.js";
import { recordsOf } from "./signatures.js";
import { decode, encode } from "./utf8.js";

const sendRequests = checked("http.send", host.send);

/** Sends the requests at the same time and waits for all: a response, or the GatewayError of the request, in the place of each. */
export function sendAll(requests, timeoutMs) {
  return sendRequests(recordsOf(requests, outgoing), timeoutMs).map(({ tag, val }) => (tag === "ok" ? incoming(val) : new GatewayError("http.send", val)));
}

/** Sends one request and waits for its response. */
export function send(request, timeoutMs) {
  const [answer] = sendAll([request], timeoutMs);
  if (answer instanceof GatewayError) throw answer;
  return answer;
}

function outgoing({ method, url, headers = {}, body, json }) {
  const fields = Object.entries(headers).flatMap(([name, values]) => [values].flat().map((value) => ({ name: name.toLowerCase(), value: String(value) })));
  if (json !== undefined) {
    body = formatJson(json);
    if (!fields.some(({ name }) => name === "content-type")) fields.push({ name: "content-type", value: "application/json" });
  }
  const bytes = body === undefined ? new Uint8Array() : typeof body === "string" ? encode(body) : body;
  return { method: method ?? (body === undefined ? "GET" : "POST"), url, headers: fields, body: bytes };
}

function incoming({ status, headers, body }) {
  const bytes = Uint8Array.from(body);
  return {
    status,
    headers,
    header: (name) => headers.find((field) => field.name === name.toLowerCase())?.value,
    bytes: () => bytes,
    text: () => decode(bytes),
    json: () => parseJson(decode(bytes)),
  };
}
