// What the cache of the route should know beside the messages.
import * as host from "sluice:filter/cache@0.1.1";

import { checked } from "./errors.js";

const freshness = checked("cache.set-freshness", host.setFreshness);

export const setKeyPart = checked("cache.set-key-part", host.setKeyPart);
export const addTag = checked("cache.add-tag", host.addTag);
export const setFreshness = (ttlMs, { staleWhileRevalidateMs = null, staleIfErrorMs = null } = {}) =>
  freshness(ttlMs, staleWhileRevalidateMs, staleIfErrorMs);
export const noStore = checked("cache.no-store", host.noStore);
