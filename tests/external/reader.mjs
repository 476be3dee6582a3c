// An origin that says what it has read, on a free port, which it prints. Node's parser is llhttp, strict unless told otherwise.
// Takes commands on standard input and answers each with a line:
//   seen -> the requests that were read to their end since the last time, and the errors of the parser, as JSON
import { createServer, METHODS } from 'node:http';
import { createInterface } from 'node:readline';

let requests = [];
let errors = [];

function read(request, response) {
  const body = [];
  request.on('error', () => {});
  request.on('data', part => body.push(part));
  request.on('end', () => {
    if (!request.complete) return;
    requests.push({
      method: request.method,
      target: request.url,
      body: Buffer.concat(body).toString('latin1'),
      fields: request.rawHeaders,
      trailers: request.rawTrailers,
    });
    response.writeHead(200, { 'x-reader': 'llhttp', 'content-length': 0 });
    response.end();
  });
}

const server = createServer({ insecureHTTPParser: false, maxHeaderSize: 65536, keepAliveTimeout: 3600e3 }, read);
server.on('checkExpectation', read);
server.on('clientError', (error, socket) => {
  // A sender that breaks off is no malformed request.
  if (error.code !== 'ECONNRESET' && error.code !== 'HPE_INVALID_EOF_STATE') {
    errors.push(`${error.code}: ${error.reason}: ${JSON.stringify(error.rawPacket?.toString('latin1'))}`);
  }
  if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n');
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'seen') {
    console.log(JSON.stringify({ requests, errors }));
    requests = [];
    errors = [];
  } else if (line === 'methods') {
    console.log(JSON.stringify(METHODS));
  }
}
process.exit(0);
