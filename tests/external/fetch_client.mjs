// Node's fetch against httpbin behind the gateway. Argument: URL.
import assert from 'node:assert/strict';

const url = process.argv[2];
const get = (path, init) => fetch(url + path, init);

let r = await get('/gzip');
assert.equal((await r.json()).gzipped, true);
r = await get('/brotli');
assert.equal((await r.json()).brotli, true);
r = await get('/post', { method: 'POST', body: JSON.stringify({ x: 1 }), headers: { 'content-type': 'application/json' } });
assert.deepEqual((await r.json()).json, { x: 1 });
r = await get('/redirect/2');
assert.equal(r.status, 200);
assert.equal(r.redirected, true);
r = await get('/redirect/1', { redirect: 'manual' });
assert.equal(r.status, 302);
r = await get('/stream/5');
assert.equal((await r.text()).trim().split('\n').length, 5);
r = await get('/drip?numbytes=5&duration=1&delay=0');
assert.equal((await r.arrayBuffer()).byteLength, 5);
const stream = new ReadableStream({
  start(controller) {
    for (let n = 0; n < 20; n++) controller.enqueue(new TextEncoder().encode(`${n},`));
    controller.close();
  },
});
r = await get('/post', { method: 'POST', body: stream, duplex: 'half' });
assert.equal((await r.json()).data.split(',').length, 21);
const results = await Promise.all(Array.from({ length: 30 }, (_, n) => get(`/get?n=${n}`).then((r) => r.json())));
results.forEach((result, n) => assert.equal(result.args.n, String(n)));
console.log('fine');
