#!/usr/bin/env bash
# Starts the release binary as benches/peer/start.sh does, in each of its modes, and asks it for one answer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
run=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2> /dev/null || true; rm -rf "$run"' EXIT
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

export UP_PORT; UP_PORT=$(free)
python3 - "$UP_PORT" > /dev/null 2>&1 <<'PY' &
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = str(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
PY
pids+=($!)
for _ in $(seq 300); do
  curl -s --noproxy '*' -o /dev/null "http://127.0.0.1:$UP_PORT/" && break
  sleep 0.1
done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$run/key.pem" -out "$run/cert.pem" 2> /dev/null
export CERT=$run/cert.pem KEY=$run/key.pem JWT_SECRET=a-made-up-secret-of-thirty-two-bytes RATE=1000 WORKERS=1

for mode in plain tls h2 filter filter5 auth; do
  export MODE=$mode FILTERS=${mode#filter} RUN=$run/$mode PORT; PORT=$(free)
  case $mode in filter5) ;; *) FILTERS=1 ;; esac
  mkdir "$RUN"
  benches/peer/start.sh > "$RUN/log" 2>&1 &
  pid=$!
  pids+=("$pid")
  scheme=http wanted=200
  case $mode in tls | h2) scheme=https ;; auth) wanted=401 ;; esac
  got=
  for _ in $(seq 300); do
    got=$(curl -sk --noproxy '*' -o "$RUN/body" -D "$RUN/head" -w '%{http_code}' -H 'x-bench-in: hello' "$scheme://127.0.0.1:$PORT/1k" || true)
    [ "$got" != 000 ] && break
    sleep 0.1
  done
  if [ "$got" != "$wanted" ]; then
    echo "$mode: $got instead of $wanted" >&2
    cat "$RUN/log" >&2
    exit 1
  fi
  case $mode in
    filter) grep -qi "x-filter-resp-1: 1" "$RUN/head" ;;
    filter5) grep -qi "x-filter-resp-5: 1" "$RUN/head" && grep -qi "x-filter-req-5" "$RUN/body" ;;
  esac
  kill -TERM "$pid"
  wait "$pid"
  echo "ok $mode"
done
