// Limits of requests at the same time.
import * as host from "sluice:filter/concurrency@0.1.1";

import { checked } from "./errors.js";
import { limits, standings } from "./limits.js";
import { recordsOf } from "./signatures.js";

const enterPlaces = checked("concurrency.enter", host.enter);

/** Takes a place of each for this exchange, and `cost` from each limit as `limiter.take` does; or nothing. The gateway gives the places back. */
export function enter(places, of = [], cost = 1) {
  const admission = enterPlaces(recordsOf(places, ({ key, amount }) => ({ key, amount })), limits(of), cost);
  return { full: admission.full ?? undefined, standings: standings(admission.standings) };
}
