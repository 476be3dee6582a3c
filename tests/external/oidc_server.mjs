// An OpenID provider (oidc-provider) on a free port, which it prints. The client `app` gets tokens by its credentials, and the client `gateway` asks about
// them. Takes commands on standard input, a line each, and answers each with a line:
//   jwt AUDIENCE     -> a signed access token (RFC 9068) for this audience
//   opaque           -> an access token that says nothing itself
//   revoke TOKEN     -> revokes an opaque token (RFC 7009)
//   asked            -> how many tokens were asked about until now (RFC 7662)
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

// What it says about its settings would be taken for an answer.
console.info = console.warn = console.error;

const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const port = server.address().port;
const issuer = `http://127.0.0.1:${port}`;

const client = (client_id, client_secret) => ({
  client_id,
  client_secret,
  redirect_uris: [],
  response_types: [],
  grant_types: ['client_credentials'],
});

const provider = new Provider(issuer, {
  clients: [client('app', 'secret of the app'), client('gateway', 'secret of the gateway')],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (context, resource) => ({
        scope: 'read write',
        audience: resource,
        accessTokenTTL: 600,
        accessTokenFormat: resource.endsWith('/opaque') ? 'opaque' : 'jwt',
      }),
    },
  },
});

let asked = 0;
server.on('request', (request, response) => {
  if (request.url.startsWith('/token/introspection')) {
    asked += 1;
  }
  provider.callback()(request, response);
});

async function post(path, form) {
  const authorization = `Basic ${btoa('app:secret+of+the+app')}`;
  const response = await fetch(`${issuer}${path}`, {
    method: 'POST',
    headers: { authorization },
    body: new URLSearchParams(form),
  });
  const text = await response.text();
  if (!response.ok) {
    throw new Error(`${path}: ${response.status} ${text}`);
  }
  return text;
}

async function token(resource) {
  const text = await post('/token', { grant_type: 'client_credentials', scope: 'read', resource });
  return JSON.parse(text).access_token;
}

console.log(port);
for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ');
  if (command === 'jwt') {
    console.log(await token(argument));
  } else if (command === 'opaque') {
    console.log(await token('https://api.test/opaque'));
  } else if (command === 'revoke') {
    await post('/token/revocation', { token: argument });
    console.log('revoked');
  } else if (command === 'asked') {
    console.log(asked);
  }
}
process.exit(0);
