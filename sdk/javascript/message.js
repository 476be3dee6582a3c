// The exchange: request, response, route, and answers.
import * as hostRequest from "sluice:filter/request@0.1.1";
import * as hostResponse from "sluice:filter/response@0.1.1";
import * as hostRoute from "sluice:filter/route@0.1.1";

import { checked } from "./errors.js";
import { formatJson, parseJson } from "./json.js";
import { decode, encode } from "./utf8.js";

const of = (interface_, host, name, kebab) => checked(`${interface_}.${kebab}`, (...values) => host[name](...values));

/** The part that both messages have. */
function message(interface_, host) {
  const call = (name, kebab = name) => of(interface_, host, name, kebab);
  const bodyLength = call("bodyLength", "body-length");
  const bytes = call("body");
  const setBody = call("setBody", "set-body");
  return {
    header: call("header"),
    headerValues: call("headerValues", "header-values"),
    headerBytes: call("headerBytes", "header-bytes"),
    headers: call("headers"),
    setHeader: call("setHeader", "set-header"),
    setHeaderBytes: call("setHeaderBytes", "set-header-bytes"),
    appendHeader: call("appendHeader", "append-header"),
    removeHeader: call("removeHeader", "remove-header"),
    wantBody: call("wantBody", "want-body"),
    bytes: () => bytes(0, bodyLength()),
    text: () => decode(bytes(0, bodyLength())),
    json: () => parseJson(decode(bytes(0, bodyLength()))),
    setBody: (body) => setBody(typeof body === "string" ? encode(body) : body),
    setJson: (value) => setBody(encode(formatJson(value))),
  };
}

const route = (name, kebab = name) => of("route", hostRoute, name, kebab);
const summary = route("summary");
export const Route = {
  name: route("name"),
  param: route("param"),
  upstreams: route("upstreams"),
  endpoints: route("endpoints"),
  endpointLabel: route("endpointLabel", "endpoint-label"),
  endpointState: route("stateOfEndpoint", "state-of-endpoint"),
  failedAttempts: route("failedAttempts", "failed-attempts"),
  retries: route("retries"),
  chooseUpstream: route("chooseUpstream", "choose-upstream"),
  chooseEndpoints: route("chooseEndpoints", "choose-endpoints"),
  hashKey: route("hashKey", "hash-key"),
  noRetry: route("noRetry", "no-retry"),
  summary: () => parseJson(summary()),
};

const request = (name, kebab = name) => of("request", hostRequest, name, kebab);
const certificate = request("clientCertificate", "client-certificate");
export const Request = {
  ...message("request", hostRequest),
  method: request("method"),
  setMethod: request("setMethod", "set-method"),
  scheme: request("scheme"),
  authority: request("authority"),
  path: request("path"),
  setPath: request("setPath", "set-path"),
  query: request("query"),
  setQuery: request("setQuery", "set-query"),
  protocol: request("protocol"),
  clientAddress: request("clientAddress", "client-address"),
  clientCertificate() {
    const text = certificate();
    return text === undefined ? undefined : parseJson(text);
  },
  id: request("id"),
  route: Route,
};

const response = (name, kebab = name) => of("response", hostResponse, name, kebab);
export const Response = {
  ...message("response", hostResponse),
  origin: response("origin"),
  status: response("status"),
  setStatus: response("setStatus", "set-status"),
  setReason: response("setReason", "set-reason"),
  cacheStatus: response("cacheStatus", "cache-status"),
  trailer: response("trailer"),
  trailers: response("trailers"),
  setTrailer: response("setTrailer", "set-trailer"),
  removeTrailer: response("removeTrailer", "remove-trailer"),
  request: Request,
};

/** A problem document (RFC 9457). A hook that returns it, or throws it, answers with it. */
export class Problem {
  constructor(status, title, { detail, reason, headers, type, members } = {}) {
    Object.assign(this, { status, title, detail, reason, headers, type, members });
  }
  draft() {
    const { status, title, detail, reason, headers, type = "about:blank", members } = this;
    Response.setStatus(status);
    Response.setHeader("content-type", "application/problem+json");
    Response.setJson({ ...members, type, title, status, detail, request_id: Request.id() });
    if (reason !== undefined) Response.setReason(reason);
    for (const [name, value] of Object.entries(headers ?? {})) Response.setHeader(name, String(value));
  }
}
