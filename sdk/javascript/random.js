// Random bytes; `Math.random` repeats itself in a component.
import * as host from "sluice:filter/random@0.1.1";

import { checked } from "./errors.js";

const some = checked("random.bytes", host.bytes);
export const bytes = (length) => Uint8Array.from(some(length));
