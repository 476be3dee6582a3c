// Time; `Date` and `performance` are frozen in a component.
import * as host from "sluice:filter/clock@0.1.1";

/** Milliseconds since 1970. */
export const now = () => Math.floor(Number(host.nowUs()) / 1000);
/** Milliseconds of a clock that never goes back. */
export const monotonic = () => Number(host.monotonicNs()) / 1e6;
