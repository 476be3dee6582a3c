// An OAuth 2 server with one key on a free port, which it prints. Takes commands on standard input, a line each, and answers
// each with a line:
//   token   -> a token signed with the key of now
//   rotate  -> starts anew with another key at the same port, and forgets the old one
import { createInterface } from 'node:readline';
import { OAuth2Server } from 'oauth2-mock-server';

let server;
let port = 0;

async function start() {
  server = new OAuth2Server();
  await server.issuer.keys.generate('RS256');
  await server.start(port, '127.0.0.1');
  port = server.address().port;
  server.issuer.url = `http://127.0.0.1:${port}`;
}

function claims(header, payload) {
  payload.sub = 'ann';
  payload.aud = 'orders';
}

await start();
console.log(port);
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'token') {
    console.log(await server.issuer.buildToken({ scopesOrTransform: claims }));
  } else if (line === 'rotate') {
    await server.stop();
    await start();
    console.log('rotated');
  }
}
process.exit(0);
