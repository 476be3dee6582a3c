// A WebSocket over HTTP/2 by Node's own client (RFC 8441): node h2_websocket_client.mjs http://127.0.0.1:port /path
import http2 from "node:http2";
import crypto from "node:crypto";

const [origin, path] = process.argv.slice(2);
const session = http2.connect(origin);
session.on("error", fail);
setTimeout(() => fail(new Error("nothing came")), 20000).unref();

function fail(error) {
  console.error(error);
  process.exit(1);
}

// RFC 6455 §5.2: a client masks what it sends.
function frame(opcode, payload) {
  const mask = crypto.randomBytes(4);
  const length = payload.length < 126 ? [0x80 | payload.length] : [0x80 | 126, payload.length >> 8, payload.length & 255];
  const masked = payload.map((byte, i) => byte ^ mask[i % 4]);
  return Buffer.concat([Buffer.from([0x80 | opcode, ...length]), mask, masked]);
}

// The frames of a server have no mask; these are short.
function* frames(bytes) {
  while (bytes.length >= 2) {
    const short = bytes[1] & 127;
    const [head, length] = short < 126 ? [2, short] : [4, bytes.readUInt16BE(2)];
    if (bytes.length < head + length) return;
    yield [bytes[0] & 15, bytes.subarray(head, head + length)];
    bytes = bytes.subarray(head + length);
  }
}

session.on("remoteSettings", (settings) => {
  if (!settings.enableConnectProtocol) fail(new Error("no SETTINGS_ENABLE_CONNECT_PROTOCOL"));
  const stream = session.request({
    ":method": "CONNECT",
    ":protocol": "websocket",
    ":path": path,
    ":authority": new URL(origin).host,
    ":scheme": "http",
    "sec-websocket-version": "13",
    origin: "http://localhost",
  });
  const text = Buffer.from("over HTTP/2 ".repeat(30));
  let received = Buffer.alloc(0);
  stream.on("error", fail);
  stream.on("response", (headers) => {
    if (headers[":status"] !== 200) fail(new Error(`status ${headers[":status"]}`));
    stream.write(frame(1, text));
  });
  stream.on("data", (data) => {
    received = Buffer.concat([received, data]);
    for (const [opcode, payload] of frames(received)) {
      if (opcode === 1) {
        if (!payload.equals(text)) fail(new Error("another text"));
        stream.write(frame(8, Buffer.from([3, 232])));
        received = Buffer.alloc(0);
      }
      if (opcode === 8) {
        console.log("fine");
        stream.end();
        session.close();
      }
    }
  });
});
