// The callers that the operator knows.
import * as host from "sluice:filter/consumers@0.1.1";

import { checked } from "./errors.js";
import { encode } from "./utf8.js";

const recall = checked("consumers.recall-password", host.recallPassword);
const declareVerifier = checked("consumers.token-verifier", host.tokenVerifier);
const verifyToken = checked("consumers.verify-token", host.verifyToken);
const allLabels = checked("consumers.labels", host.labels);

export const authenticate = checked("consumers.authenticate", host.authenticate);
export const recallPassword = (username, password) => recall(username, typeof password === "string" ? encode(password) : password);
export const vouch = checked("consumers.vouch", host.vouch);
export const known = checked("consumers.known", host.known);
export const plan = checked("consumers.plan", host.plan);
export const label = checked("consumers.label", host.label);
export const labels = () => Object.fromEntries(allLabels().map(({ name, value }) => [name, value]));
export const method = checked("consumers.method", host.method);

/** Declares what tokens have to be that consumers sign with keys of their own, in the constructor of a filter. */
export function tokenVerifier(algorithms, { typ = null } = {}) {
  const id = declareVerifier({ algorithms, typ });
  return {
    verify(token) {
      const { tag, val } = verifyToken(id, typeof token === "string" ? encode(token) : token);
      return tag === "good" ? { consumer: val.consumer, payload: val.payload } : { refused: tag === "refused" ? val : tag };
    },
  };
}
