"""An authentication service with sessions in memory. Argument: port (default 4180; 0: a free one).

GET /decide: whether the request that X-Forwarded-* describe may pass: 204 with X-Auth-User, or the way to the login.
POST /login: user and password, which have to be the same here; answers the session, also as a cookie.
GET /asked: how often it was asked for a decision."""
import secrets
import sys
import threading
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote

LONGEST_FORM = 4096

sessions = {}
asked = 0
counting = threading.Lock()


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body="", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def user(self):
        try:
            cookie = SimpleCookie(self.headers.get("cookie", "")).get("session")
        except CookieError:
            return None
        return sessions.get(cookie.value) if cookie else None

    def decide(self):
        global asked
        with counting:
            asked += 1
        user = self.user()
        if user:
            return self.answer(204, x_auth_user=user)
        if "text/html" not in self.headers.get("accept", ""):
            return self.answer(401, "log in first\n", content_type="text/plain")
        back = quote(self.headers.get("x-forwarded-uri", "/"))
        self.answer(302, location=f"/login?back={back}")

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/decide":
            self.decide()
        elif path == "/login":
            form = "<form method=post><input name=user><input name=password type=password><button>Log in</button></form>\n"
            self.answer(200, form, content_type="text/html")
        elif path == "/asked":
            self.answer(200, f"asked {asked} times\n", content_type="text/plain")
        else:
            self.answer(404)

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > LONGEST_FORM:
            self.close_connection = True
            return self.answer(400)
        form = parse_qs(self.rfile.read(int(length)).decode("ascii", "replace"))
        user, password = form.get("user", [""])[0], form.get("password", [""])[0]
        if not user.isalnum() or not secrets.compare_digest(user, password):
            return self.answer(403, "wrong\n", content_type="text/plain")
        session = secrets.token_urlsafe(16)
        sessions[session] = user
        cookie = f"session={session}; Path=/; HttpOnly; SameSite=Lax"
        self.answer(200, f"{session}\n", content_type="text/plain", set_cookie=cookie)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 4180), Service)
print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
