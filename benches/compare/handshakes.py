#!/usr/bin/env python3
"""Counts the TLS handshakes that Sluice, nginx and HAProxy make in a second of CPU time: full ones and resumed ones, of TLS 1.3 and 1.2.

  cargo build --release && benches/compare/handshakes.py      all that is installed; four minutes
  benches/compare/handshakes.py --quick                       that it works: under a minute
  benches/compare/handshakes.py --rounds 9 --seconds 4

It needs nginx and openssl, and compares with haproxy where it is there: apt-get install nginx haproxy openssl
Results go to target/handshakes: results.md and results.json. Exits with 1 if a handshake failed, or was not of the kind that was asked for.
"""
import json, socket, ssl, statistics, subprocess, sys, time

import lib

VERSIONS = {"1.3": ssl.TLSVersion.TLSv1_3, "1.2": ssl.TLSVersion.TLSv1_2}
KINDS = ("full", "resumed")
ASK = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"

METHOD = """Each connection is one handshake and one request, which the proxy answers itself with 204: without a response no ticket of TLS 1.3 reaches the client. The figure
is the number of connections divided by the CPU time (user and system) of all processes of the proxy, as the kernel counts it, so the speed of the clients does
not matter: {clients} processes of Python, on the same machine, by OpenSSL. Rounds alternate between the proxies; the figure is the median of {rounds} of {seconds:g} s.

The certificate has an ECDSA key (P-256), as most have today. OpenSSL before 3.5 has no post-quantum key exchange, so all agree on X25519 where that is so (here: {openssl}).
nginx and HAProxy run as packaged, with session tickets on (nginx: `ssl_session_cache` for the clients without). Sluice runs with everything on: tickets by a shared secret,
limits of handshakes (never reached), HSTS, metrics by version, suite, group, server name and kind."""


# ------------------------------------------------------------------------------------------------ the proxies
def sluice(place, folder, workers):
    config = folder / "gateway.toml"
    config.write_text(f"""[gateway]
workers = {workers}
cache_dir = "{place.folder}/cache"
[telemetry]
access_log = "off"
[admin]
bind = "127.0.0.1:0"
[listeners.bench]
bind = "127.0.0.1:{place.port}"
[listeners.bench.tls]
certificates = ["bench"]
session_tickets = {{ secrets = ["a secret that only loopback ever sees"], rotation = "1h" }}
handshakes = {{ max_pending_per_address = 10000, rate_per_address = 1000000, burst_per_address = 1000000 }}
hsts = {{ max_age = "365d" }}
[certificates.bench]
cert = "{place.cert}"
key = "{place.key}"
[routes.all]
match = {{ path = "/**" }}
respond = {{ status = 204 }}
""")
    return [lib.sluice_binary(), "run", "--config", config]


def nginx(place, folder, workers):
    conf = lib.nginx_head(folder, workers, 4096) + f"""server {{
  listen 127.0.0.1:{place.port} ssl backlog=4096 reuseport;
  ssl_certificate {place.cert};
  ssl_certificate_key {place.key};
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:all:10m;
  ssl_session_tickets on;
  add_header Strict-Transport-Security "max-age=31536000" always;
  location / {{ return 204; }}
}}
}}
"""
    return lib.nginx_command(folder, conf)


def haproxy(place, folder, workers):
    pem = folder / "both.pem"
    pem.write_text(place.cert.read_text() + place.key.read_text())
    conf = folder / "haproxy.cfg"
    conf.write_text(f"""global
  nbthread {workers}
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend clients
  bind 127.0.0.1:{place.port} backlog 4096 ssl crt {pem} ssl-min-ver TLSv1.2 alpn http/1.1
  http-after-response set-header Strict-Transport-Security "max-age=31536000"
  http-request return status 204
""")
    return ["haproxy", "-db", "-f", conf]


PROXIES = {"Sluice": (sluice, lambda: lib.version(lib.sluice_binary(), "--version")),
           "nginx": (nginx, lambda: lib.version("nginx", "-v")), "HAProxy": (haproxy, lambda: lib.version("haproxy", "-v"))}


# ------------------------------------------------------------------------------------------------ the clients
def client(port, version, kind, seconds):
    """Makes connections one after the other; prints how many, and how many of them were not what they should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = VERSIONS[version]

    def connect(session):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, \
                context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
            tls.sendall(ASK)
            answer = b""
            while more := tls.recv(4096):
                answer += more
            return answer.startswith(b"HTTP/1.1 204"), tls.session_reused, tls.session
    session = connect(None)[2] if kind == "resumed" else None
    print("ready", flush=True)
    sys.stdin.readline()
    made, wrong, end = 0, 0, time.time() + seconds
    while time.time() < end:
        good, reused, new = connect(session)
        made, wrong = made + 1, wrong + (not good or reused != (kind == "resumed"))
        session = new if kind == "resumed" else None
    print(made, wrong, flush=True)


def measure(place, pids, version, kind, clients, seconds):
    command = [sys.executable, __file__, "--client", str(place.port), version, kind, str(seconds)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(clients)]
    try:
        for each in running:
            if each.stdout.readline().strip() != "ready":
                raise RuntimeError(f"a client can't connect by TLS {version}")
        before = lib.cpu(pids)
        for each in running:
            each.stdin.write("go\n")
            each.stdin.flush()
        counts = [[int(word) for word in each.stdout.readline().split()] for each in running]
        used = lib.cpu(pids) - before
    finally:
        for each in running:
            each.kill()
            each.wait()
    made, wrong = (sum(column) for column in zip(*counts))
    if wrong:
        raise RuntimeError(f"{wrong} of {made} connections by TLS {version} were not {kind}, or had no answer")
    return made / max(used, 1 / lib.TICK), made


# ------------------------------------------------------------------------------------------------ the page
def page(results, args):
    names = list(results["versions"])
    lines = ["# TLS handshakes for each second of CPU time", "",
             ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "; "
             + ", ".join(str(value) for value in results["machine"].values()) + ".", "",
             "| handshake | " + " | ".join(names) + " | Sluice to the best other |", "|---|" + "---|" * (len(names) + 1)]
    for row, of in results["rows"].items():
        medians = {name: statistics.median(values) for name, values in of.items()}
        others = [value for name, value in medians.items() if name != "Sluice"]
        ratio = f"{medians['Sluice'] / max(others):.2f}" if others and "Sluice" in medians else ""
        cells = [f"{medians[name]:,.0f} ({min(of[name]):,.0f} to {max(of[name]):,.0f})" for name in names]
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {ratio} |")
    said = METHOD.format(clients=args.clients, rounds=args.rounds, seconds=args.seconds, openssl=ssl.OPENSSL_VERSION)
    return "\n".join([*lines, "", "The target for full handshakes is twice the others'.", "", said, ""])


def main():
    if sys.argv[1:2] == ["--client"]:
        port, version, kind, seconds = sys.argv[2:]
        return client(int(port), version, kind, float(seconds))
    parser = lib.parser(__doc__, "handshakes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=4, help="client processes")
    parser.add_argument("--quick", action="store_true", help="one short round")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 1.0
    lib.need("nginx", "openssl")
    found = {name: version for name, (_, asked) in PROXIES.items() if (version := asked())}
    results = {"versions": found, "machine": lib.machine(), "rows": {}}
    lock = lib.Lock(args.lock)
    with lib.Place(args.port) as place:
        for _ in range(args.rounds):
            for name in found:
                folder = place.folder / name
                folder.mkdir(exist_ok=True)
                process = lib.Process(PROXIES[name][0](place, folder, args.workers), folder / "log", place.env)
                try:
                    lib.wait_for(process, place.port, tls=True)
                    pids = lib.tree(process.pid)
                    for version in VERSIONS:
                        for kind in KINDS:
                            with lock:
                                rate, made = measure(place, pids, version, kind, args.clients, args.seconds)
                            results["rows"].setdefault(f"TLS {version}, {kind}", {}).setdefault(name, []).append(rate)
                            print(f"{name:8} TLS {version} {kind:8} {rate:8,.0f} for each CPU second, {made} in all", flush=True)
                finally:
                    process.stop()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.out / "results.md").write_text(page(results, args))
    print(f"\n{page(results, args)}\n{args.out}/results.md")


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(str(error))
