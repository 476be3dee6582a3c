// The callers that the operator knows.
import * as host from "sluice:filter/consumers@0.1.1";

import { checked } from "./errors.js";

export const authenticate = checked("consumers.authenticate", host.authenticate);
export const plan = checked("consumers.plan", host.plan);
export const label = checked("consumers.label", host.label);
