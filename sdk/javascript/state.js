// What this filter keeps from one hook of the exchange to the next.
import * as host from "sluice:filter/state@0.1.1";

import { checked } from "./errors.js";
import { decode, encode } from "./utf8.js";

const getBytes = checked("state.get", host.get);
const setBytes = checked("state.set", host.set);

/** The value that was set; undefined for none. */
export function get() {
  const bytes = getBytes();
  return bytes && JSON.parse(decode(Uint8Array.from(bytes)));
}
/** Keeps anything that JSON can say, up to 64 KiB. */
export const set = (value) => setBytes(encode(JSON.stringify(value)));
