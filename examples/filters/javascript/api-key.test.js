// `node --test`: without a gateway.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Exchange, load } from "sluice-filter/testing";

test("a known key says who the caller is, and others are refused", async () => {
  const filter = await load(new URL("api-key.js", import.meta.url), { keys: { k1: { name: "ann", account: 7 } } });
  const known = new Exchange({ headers: { "x-api-key": "k1" } });
  assert.equal(filter.onRequest(known), "continue");
  assert.equal(known.consumer, "ann");

  const unknown = new Exchange({ headers: { "x-api-key": "k2" } });
  assert.equal(filter.onRequest(unknown), "respond");
  assert.deepEqual([unknown.response.status, unknown.reason], [401, "key-unknown"]);
  assert.deepEqual(unknown.counted, { "refused reason=key-unknown": 1 });
});
