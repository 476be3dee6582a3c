// Atomic decisions of rate limits, shared by all workers.
import * as host from "sluice:filter/limiter@0.1.1";

import { checked } from "./errors.js";
import { limits, standings } from "./limits.js";

const takeCost = checked("limiter.take", host.take);

/** Takes `cost` from every limit, or from none if one of them would not allow it: how each limit stands after that, in their order. */
export const take = (of, cost = 1) => standings(takeCost(limits(of), cost));
