// The key-value store. Values are bytes, or texts when they are set.
import * as host from "sluice:filter/kv@0.1.1";

import { checked } from "./errors.js";
import { decode, encode } from "./utf8.js";

const bytes = (value) => (typeof value === "string" ? encode(value) : value);
const setValue = checked("kv.set", host.set);
const deleteKey = checked("kv.delete", host.delete);
const swap = checked("kv.compare-and-swap", host.compareAndSwap);
const reserve = checked("kv.get-or-reserve", host.getOrReserve);

export const get = checked("kv.get", host.get);
/** A value as text. */
export function getText(space, key) {
  const value = get(space, key);
  return value === undefined ? undefined : decode(Uint8Array.from(value));
}
export const set = (space, key, value, ttlMs = null) => setValue(space, key, bytes(value), ttlMs);
export { deleteKey as delete };
/** Sets a value if the present one is `expected` (undefined: if there is none), and answers whether it did. */
export const compareAndSwap = (space, key, expected, value, ttlMs = null) =>
  swap(space, key, expected === undefined || expected === null ? null : bytes(expected), bytes(value), ttlMs);
/** The value, as `{ value }`; or "reserved" for the one caller who should set it, and "pending" for others. */
export function getOrReserve(space, key, ttlMs) {
  const { tag, val } = reserve(space, key, ttlMs);
  return tag === "found" ? { value: Uint8Array.from(val) } : tag;
}
