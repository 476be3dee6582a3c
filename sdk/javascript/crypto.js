// Cryptography at native speed.
import * as host from "sluice:filter/crypto@0.1.1";

import { checked } from "./errors.js";
import { encode } from "./utf8.js";

const bytes = (data) => (typeof data === "string" ? encode(data) : data);
const of = (name, f) => checked(`crypto.${name}`, f);
const hashData = of("hash", host.hash);
const hmacData = of("hmac", host.hmac);
const equalData = of("equal", host.equal);
const declareKeys = of("key-set", host.keySet);
const verifyData = of("verify", host.verify);
const signData = of("sign", host.sign);
const declareVerifier = of("token-verifier", host.tokenVerifier);
const verifyToken = of("verify-token", host.verifyToken);
const verifyBearer = of("verify-bearer", host.verifyBearer);

/** With "sha-1", "sha-256", "sha-384" or "sha-512". */
export const hash = (algorithm, data) => Uint8Array.from(hashData(algorithm, bytes(data)));
export const hmac = (algorithm, key, data) => Uint8Array.from(hmacData(algorithm, bytes(key), bytes(data)));
/** Compares in constant time. */
export const equal = (a, b) => equalData(bytes(a), bytes(b));
export const hex = (data) => Array.from(data, (byte) => (byte + 256).toString(16).slice(1)).join("");

/** Declares a set of keys, in the constructor of a filter. */
export function keySet(source) {
  const id = declareKeys(JSON.stringify(source));
  return {
    id,
    verify: (algorithm, message, signature, keyId = null) => verifyData(id, algorithm, keyId, bytes(message), signature),
    sign: (algorithm, message, keyId = null) => Uint8Array.from(signData(id, algorithm, keyId, bytes(message))),
  };
}

/** Declares which tokens are good, in the constructor of a filter. */
export function tokenVerifier(keys, algorithms, { typ = null, remember = 0 } = {}) {
  const id = declareVerifier({ keySet: keys.id, algorithms, typ, remember });
  const answer = ({ tag, val }) => (tag === "payload" ? { payload: val } : { refused: val ?? tag });
  return { verify: (token) => answer(verifyToken(id, bytes(token))), verifyBearer: () => answer(verifyBearer(id)) };
}
