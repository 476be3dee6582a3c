// Secrets that were granted.
import * as host from "sluice:filter/secrets@0.1.1";

import { checked } from "./errors.js";

export const get = checked("secrets.get", host.get);
