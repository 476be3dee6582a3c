// The filter's own metrics.
import * as host from "sluice:filter/metrics@0.1.1";

import { checked } from "./errors.js";

const list = (labels) => Object.entries(labels).map(([name, value]) => ({ name, value: String(value) }));
const of = (call, f) => {
  const checkedCall = checked(call, f);
  return (name, value, labels = {}) => checkedCall(name, list(labels), value);
};
const add = of("metrics.count", host.count);

/** Adds to a counter: `count("refused", { reason: "key-missing" })`. */
export const count = (name, labels = {}, delta = 1) => add(name, delta, labels);
export const gauge = of("metrics.gauge", host.gauge);
export const observe = of("metrics.observe", host.observe);
