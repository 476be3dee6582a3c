// The package for JavaScript, beside what its examples test: `node --test`, where `sluice-filter` and its tools are found.
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Exchange, load } from "sluice-filter/testing";

/** A filter with this method. */
async function filter(method) {
  const place = await mkdtemp(join(tmpdir(), "sluice-test-"));
  try {
    const source = `import { check, concurrency, formatJson, http, limiter, parseJson, Problem } from "sluice-filter";\nexport default class Tried { constructor(config) { this.config = config; }\n${method}\n}\n`;
    await writeFile(join(place, "tried.js"), source);
    return await load(join(place, "tried.js"), {});
  } finally {
    await rm(place, { recursive: true });
  }
}

async function failure(method) {
  const exchange = new Exchange();
  (await filter(method)).onRequest(exchange);
  return exchange.failure;
}

test("a wrong type names the argument", async () => {
  const said = await failure(`onRequest(request) { request.setHeader("x-a", 5); }`);
  assert.match(said, /^TypeError: request.set-header: value: expected a text, got the number 5/);
  assert.match(await failure(`onRequest(request) { request.wantBody(-1); }`), /expected a whole number from 0/);
});

test("a wrong type in a record names the member", async () => {
  for (const [call, said] of [
    [`http.send({ url: undefined }, 100)`, /^TypeError: http.send: requests\[0\].url: expected a text, got undefined/],
    [`http.send({ url: "http://a", body: 5 }, 100)`, /requests\[0\].body: expected a Uint8Array, got the number 5/],
    [`http.sendAll([{ url: "http://a" }, { url: "http://a", method: 1 }], 100)`, /requests\[1\].method: expected a text/],
    [`http.sendAll({}, 100)`, /requests: expected a list, got an object/],
    [`http.sendAll([null], 100)`, /requests\[0\]: expected an object, got null/],
    [`limiter.take([{ key: undefined, amount: 1, windowMs: 1 }])`, /^TypeError: limiter.take: limits\[0\].key: expected a text/],
    [`limiter.take([{ key: "a", amount: 1.5, windowMs: 1 }])`, /limits\[0\].amount: expected a whole number/],
    [`limiter.take([{ key: "a", amount: 1, windowMs: "1" }])`, /limits\[0\].windowMs: expected a whole number/],
    [`concurrency.enter([{ key: "a", amount: 2 ** 32 }])`, /concurrency.enter: places\[0\].amount: expected a whole number from 0 to 4294967295/],
    [`concurrency.enter(["a"])`, /places\[0\]: expected an object, got the text "a"/],
    [`concurrency.enter({})`, /places: expected a list, got an object/],
    [`concurrency.enter([], [{ key: 1, amount: 1, windowMs: 1 }])`, /concurrency.enter: limits\[0\].key: expected a text/],
  ]) {
    assert.match((await failure(`onRequest() { ${call}; }`)) ?? "nothing", said, call);
  }
});

test("a half of a surrogate pair becomes U+FFFD", async () => {
  const exchange = new Exchange({ body: JSON.stringify({ a: "\ud800b", c: "\u{1f600}\udc00" }) });
  const method = `onRequest(request) {
    const { a, c } = request.json();
    request.setHeader("x-a", a);
    limiter.take([{ key: c, amount: 1, windowMs: 1 }]);
    throw new Error(a);
  }`;
  (await filter(method)).onRequest(exchange);
  assert.equal(exchange.request.headers["x-a"], "\ufffdb");
  assert.deepEqual([...exchange.taken.keys()], ["\u{1f600}\ufffd"]);
  assert.match(exchange.failure, /^Error: \ufffdb/);
});

test("a hook returns a verdict and nothing else", async () => {
  assert.match(await failure(`onRequest() { return 42; }`), /onRequest returned the number 42: expected nothing, "continue"/);
  assert.match(await failure(`onRequest() { return "respnd"; }`), /returned the text "respnd"/);
  assert.equal(await failure(`onRequest() { return null; }`), undefined);
});

test("a kind that check does not know is an error of the filter", async () => {
  assert.match(await failure(`onRequest() { check({ a: 1 }, { a: "strng" }); }`), /no kind is called "strng"/);
});

test("what is nested too deep is refused", async () => {
  const deep = (n) => failure(`onRequest() { parseJson("[".repeat(${n}) + "]".repeat(${n})); }`);
  assert.equal(await deep(256), undefined);
  assert.match(await deep(257), /SyntaxError: JSON that is nested deeper than 256/);
  assert.equal(await failure(`onRequest() { parseJson('"' + "[".repeat(500) + '"'); }`), undefined);
});

/** What parseJson and formatJson make of a document. */
async function rewritten(document) {
  const exchange = new Exchange({ body: document });
  (await filter(`onRequest(request) { request.setBody(formatJson(request.json())); }`)).onRequest(exchange);
  return exchange.failure ?? new TextDecoder().decode(exchange.request.body);
}

test("large whole numbers stay as they are, and fractions are numbers", async () => {
  for (const document of [
    '{"x":0.30000000000000004}',
    "[12345678901234567890,-12345678901234567890,9007199254740991,9007199254740993]",
    '{"n":12345678901234567890,"f":-0.1234567890123456}',
  ]) {
    assert.equal(await rewritten(document), document);
  }
  for (const none of ["[01234567890123456789]", "{12345678901234567890:1}", '["12345678901234567890', `[${"1".repeat(5000)}]`]) {
    assert.match(await rewritten(none), /^SyntaxError/, none);
  }
});

test("no text is taken for a number", async () => {
  for (const document of [
    '["\\u00001234567890123456",12345678901234567890]',
    '["\\u0000\\u00001234567890123456","\\u0000",12345678901234567890]',
    '["a\\"\\u00001234567890123456","\\\\u00001234567890123456",12345678901234567890]',
    '{"\\u00001234567890123456":"\\u00005","n":12345678901234567890}',
    '["\\u00001234567890123456"]',
  ]) {
    assert.equal(await rewritten(document), document);
  }
});

test("a text without an end takes no longer than others", async () => {
  assert.match(await failure(`onRequest() { parseJson("[".repeat(300) + '"' + "a".repeat(100_000)); }`), /SyntaxError/);
  assert.match(await failure(`onRequest() { parseJson('1234567890123456 "' + "a".repeat(100_000)); }`), /SyntaxError/);
});

test("a problem has a type and members, and headers may be numbers", async () => {
  const exchange = new Exchange();
  const more = `{ type: "urn:late", members: { limit: 3 }, headers: { "retry-after": 4 } }`;
  (await filter(`onRequest() { return new Problem(429, "Too Many Requests", ${more}); }`)).onRequest(exchange);
  const { type, limit } = JSON.parse(new TextDecoder().decode(exchange.response.body));
  assert.deepEqual([type, limit, exchange.response.headers["retry-after"]], ["urn:late", 3, "4"]);
});
