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
    headers: call("headers"),
    setHeader: call("setHeader", "set-header"),
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

export const Route = {
  name: of("route", hostRoute, "name", "name"),
  param: of("route", hostRoute, "param", "param"),
};

const request = (name, kebab = name) => of("request", hostRequest, name, kebab);
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
  clientAddress: request("clientAddress", "client-address"),
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
  trailer: response("trailer"),
  setTrailer: response("setTrailer", "set-trailer"),
  request: Request,
};

/** A problem document (RFC 9457). A hook that returns it, or throws it, answers with it. */
export class Problem {
  constructor(status, title, { detail, reason, headers } = {}) {
    Object.assign(this, { status, title, detail, reason, headers });
  }
  draft() {
    const { status, title, detail, reason, headers } = this;
    Response.setStatus(status);
    Response.setHeader("content-type", "application/problem+json");
    Response.setJson({ type: "about:blank", title, status, detail, request_id: Request.id() });
    if (reason !== undefined) Response.setReason(reason);
    for (const [name, value] of Object.entries(headers ?? {})) Response.setHeader(name, value);
  }
}
