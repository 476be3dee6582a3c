// The gateway's log.
import { log } from "sluice:filter/log@0.1.1";

import { describe } from "./errors.js";

const line = (level) => (message) => log(level, describe(message));

export const debug = line("debug");
export const info = line("info");
export const warn = line("warn");
export const error = line("error");
