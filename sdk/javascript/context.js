// Facts that filters hand on within the exchange.
import * as host from "sluice:filter/context@0.1.1";

import { checked } from "./errors.js";
import { formatJson, parseJson } from "./json.js";

const getValue = checked("context.get", host.get);
const getPart = checked("context.get-path", host.getPath);
const setValue = checked("context.set", host.set);

/** A string, number, boolean, list of strings, or what the JSON of another value is; undefined for none. */
export const get = (key) => unwrap(key, getValue(key));

/** A part of a JSON value, by the names of the members from the outside in. */
export const getPath = (key, path) => unwrap(key, getPart(key, path));

function unwrap(key, value) {
  if (value === undefined) return undefined;
  if (value.tag === "json") return parseJson(value.val);
  if (value.tag === "integer" && !Number.isSafeInteger(Number(value.val))) {
    throw new RangeError(`context.get: \`${key}\` is beyond 2^53, which a number of JavaScript does not hold`);
  }
  return value.tag === "integer" ? Number(value.val) : value.val;
}

export function set(key, value) {
  setValue(key, wrap(value));
}

function wrap(value) {
  if (typeof value === "string") return { tag: "text", val: value };
  if (typeof value === "boolean") return { tag: "boolean", val: value };
  if (Number.isSafeInteger(value)) return { tag: "integer", val: value };
  if (typeof value === "number") return { tag: "float", val: value };
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) return { tag: "texts", val: value };
  return { tag: "json", val: formatJson(value) };
}

/** The name of the filter that has set a key. */
export const writer = checked("context.writer", host.writer);
export const consumer = checked("context.consumer", host.consumer);
export const setConsumer = checked("context.set-consumer", host.setConsumer);
