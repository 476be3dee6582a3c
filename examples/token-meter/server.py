"""A language model that says the same each time. Argument: port (default 9100; 0: a free one).

POST /v1/chat/completions answers with events as OpenAI's API has them; the last one has the usage. POST /v1/messages does as Anthropic's."""
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ["All", " water", " finds", " its", " level", "."]


def openai():
    for word in WORDS:
        yield "", {"model": "small", "choices": [{"index": 0, "delta": {"content": word}}]}
    yield "", {"model": "small", "choices": [], "usage": {"prompt_tokens": 14, "completion_tokens": len(WORDS)}}


def anthropic():
    yield "message_start", {"type": "message_start", "message": {"model": "claude", "usage": {"input_tokens": 14, "output_tokens": 1}}}
    for word in WORDS:
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
    yield "message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": len(WORDS)}}


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for name, data in anthropic() if self.path == "/v1/messages" else openai():
            self.chunk(f"event: {name}\n" * bool(name) + f"data: {json.dumps(data)}\n\n")
        if self.path != "/v1/messages":
            self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def chunk(self, text):
        body = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9100), Model)
print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
