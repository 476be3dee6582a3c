// Waits for what another caller makes for `kv`.
import * as host from "sluice:filter/kv-wait@0.1.1";

import { checked } from "./errors.js";

/** Waits as long as somebody holds the reservation of a key, at most so many milliseconds: the value, or undefined. */
export const wait = checked("kv-wait.wait", host.wait);
