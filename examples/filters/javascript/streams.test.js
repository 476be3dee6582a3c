// `node --test`: bodies that stream, and calls to services.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Exchange, load } from "sluice-filter/testing";

test("a word is masked wherever it is split", async () => {
  const filter = await load(new URL("mask.js", import.meta.url), { word: "sécret" });
  const bytes = new TextEncoder().encode("sésécret, sécre");
  for (let at = 0; at <= bytes.length; at++) {
    const sent = filter.responseChunks(new Exchange(), [bytes.slice(0, at), bytes.slice(at)]);
    assert.equal(sent.join(""), "sé*******, sécre");
  }
});

test("events get other data and keep the rest", async () => {
  const filter = await load(new URL("mask.js", import.meta.url), { word: "secret" });
  const exchange = new Exchange();
  exchange.response.headers["content-type"] = "text/event-stream";
  const sent = filter.responseEvents(exchange, "id: 7\ndata: a secret\n\n: alive\n\n");
  assert.deepEqual(sent, ["id: 7\ndata: a ******\n\n", ": alive\n\n", ""]);
  const latin1 = Buffer.from("data: \xffsecret\n\ndata: end\n\n", "latin1");
  assert.deepEqual(filter.responseEvents(exchange, latin1), ["", "data: end\n\n", ""], "what is not UTF-8 goes no further");
});

test("a service says who the caller is, until there were too many requests", async () => {
  const filter = await load(new URL("ask.js", import.meta.url), { url: "https://who.internal/ask", amount: 1 });
  const services = {
    "https://who.internal": ({ method, path, body }) => {
      assert.deepEqual([method, path, JSON.parse(new TextDecoder().decode(body))], ["POST", "/ask", { caller: "ann" }]);
      return { body: { account: 7 } };
    },
  };
  const exchange = new Exchange({ headers: { "x-caller": "ann" }, services });
  assert.equal(filter.onRequest(exchange), "continue");
  assert.equal(exchange.request.headers["x-account"], "7");
  assert.equal(filter.onRequest(exchange), "respond");
  assert.deepEqual([exchange.response.status, exchange.response.headers["retry-after"]], [429, "3600"]);
});

test("a long name of a caller is refused, and an answer without an account is an error", async () => {
  const filter = await load(new URL("ask.js", import.meta.url), { url: "https://who.internal/ask", amount: 9 });
  const long = new Exchange({ headers: { "x-caller": "é".repeat(51) } });
  assert.equal(filter.onRequest(long), "respond");
  assert.deepEqual([long.response.status, long.reason], [403, "unknown-caller"]);
  for (const body of [{}, { account: -1 }, { account: "7" }]) {
    const exchange = new Exchange({ headers: { "x-caller": "é".repeat(50) }, services: { "https://who.internal": () => ({ body }) } });
    filter.onRequest(exchange);
    assert.match(exchange.failure ?? "", /account/);
  }
});
