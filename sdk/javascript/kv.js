// The key-value store. Values are bytes.
import * as host from "sluice:filter/kv@0.1.1";

import { checked } from "./errors.js";

const setValue = checked("kv.set", host.set);
export const get = checked("kv.get", host.get);
export const set = (space, key, value, ttlMs = null) => setValue(space, key, value, ttlMs);
const deleteKey = checked("kv.delete", host.delete);
export { deleteKey as delete };
