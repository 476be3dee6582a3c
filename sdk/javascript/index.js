// What filters use. Each service is a module of its own, so that a component imports what its filter uses and nothing more.
export { ConfigError, GatewayError } from "./errors.js";
export { check } from "./config.js";
export { parseJson, formatJson } from "./json.js";
export { Problem, Request, Response, Route } from "./message.js";
export * as context from "./context.js";
export * as log from "./log.js";
export * as metrics from "./metrics.js";
export * as kv from "./kv.js";
export * as state from "./state.js";
export * as secrets from "./secrets.js";
export * as clock from "./clock.js";
export * as random from "./random.js";
export * as consumers from "./consumers.js";
