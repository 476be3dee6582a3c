#!/usr/bin/env python3
"""Measures Sluice beside nginx, HAProxy and Envoy, as their ordinary packages make them. Python 3 alone, on Linux.

  cargo build --release && benches/compare/run.py             all that is installed and built; up to 25 minutes
  cargo build --release --example bare-hyper                  one of the proxies, which is not built by the line above
  benches/compare/run.py --quick                              that it works: one short round; about three minutes
  benches/compare/run.py --scenarios plain,tls --proxies Sluice,nginx --rounds 5
  benches/compare/run.py --report DIR                         page and plots again, from DIR/results.json

It needs nginx (the origin too), wrk, h2load and openssl: apt-get install nginx wrk nghttp2-client openssl
Of the others, what is there: apt-get install haproxy varnish libnginx-mod-http-lua lua-cjson, and envoy; redis-server for limits that gateways share.
Results go to target/compare: results.md with the method, results.json, and plots. See benches/README.md.
"""
import contextlib, copy, dataclasses, http.client, itertools, json, os, pathlib, ssl, socket, subprocess, sys

import lib, proxies, report


@dataclasses.dataclass
class Scenario:
    title: str
    mode: str
    filters: int = 0
    path: str = "/1k"
    carries: str = ""   # what the requests have: "header" for filters, "token" for the mode auth, "caller" for who may call
    rate: int = 0       # requests per second, where it is fixed
    sluice: dict = dataclasses.field(default_factory=dict)  # what only Sluice is asked for

    @property
    def shares_state(self):
        return self.sluice.get("STATE", "memory") != "memory"

    def is_for(self, proxy):
        """Whether the proxy takes part: requests made for policies are for those that have them, with and without."""
        needed = {"header": "filter", "token": "auth", "caller": "key"}.get(self.carries, self.mode)
        policies = self.carries or not getattr(proxy, "policies_only", False)
        return {self.mode, needed} <= set(proxy.modes) and policies and (not self.sluice or isinstance(proxy, proxies.Sluice))


SCENARIOS = {
    "plain": Scenario("plain, 1 KiB", "plain"),
    "guarded": Scenario("plain, two endpoints, guarded", "plain", sluice={"GUARDED": "1"}),
    "large": Scenario("plain, 100 KiB", "plain", path="/size/102400"),
    "tls": Scenario("TLS 1.3, 1 KiB", "tls"),
    "h2": Scenario("HTTP/2 over TLS, 1 KiB", "h2"),
    "header": Scenario("plain, one more header", "plain", carries="header"),
    "filter1": Scenario("one header filter", "filter", 1, carries="header"),
    "filter5": Scenario("five header filters", "filter", 5, carries="header"),
    "fresh": Scenario("one filter, fresh instances", "filter", 1, carries="header", sluice={"INSTANCES": "fresh"}),
    "token": Scenario("plain, with a token", "plain", carries="token"),
    "auth": Scenario("JWT, rate limit, transform", "auth", carries="token"),
    "known": Scenario("the same, remembered tokens", "auth", carries="token", sluice={"REMEMBER_TOKENS": "1000"}),
    "caller": Scenario("plain, with a key and a password", "plain", carries="caller"),
    "one": Scenario("the same, one header filter", "filter", 1, carries="caller"),
    "key": Scenario("api-key", "key", carries="caller"),
    "acl": Scenario("api-key and acl", "acl", carries="caller"),
    "basic": Scenario("basic-auth, known password", "basic", carries="caller"),
    "ip": Scenario("ip-filter, 10,000 prefixes", "ip", carries="caller"),
    "ask": Scenario("forward-auth, kept answer", "ask", carries="caller"),
    **{f"{name}-fresh": Scenario(f"{title}, fresh", mode, filters, carries="caller", sluice={"INSTANCES": "fresh"})
       for name, title, mode, filters in (("one", "one header filter", "filter", 1), ("key", "api-key", "key", 0), ("acl", "api-key and acl", "acl", 0),
                                          ("basic", "basic-auth", "basic", 0), ("ip", "ip-filter", "ip", 0), ("ask", "forward-auth", "ask", 0))},
    **{name + kind: Scenario(f"rate-limit {title}{', fresh' if kind else ''}", "limit", carries="caller", sluice={"STATE": state, **instances})
       for kind, instances in (("", {}), ("-fresh", {"INSTANCES": "fresh"}))
       for name, title, state in (("limit", "in memory", "memory"), ("leased", "leased", "leased"), ("exact", "exact", "exact"))},
    "json": Scenario("plain, 1 KiB of JSON", "plain", path="/json"),
    "redact": Scenario("redact, 1 KiB of JSON", "redact", path="/json"),
    "file": Scenario("a file of 1 KiB", "files"),
    "bigfile": Scenario("a file of 100 KiB", "files", path="/size/102400"),
    "hit": Scenario("hit of the cache, 1 KiB", "hit"),
    "hit-large": Scenario("hit of the cache, 100 KiB", "hit", path="/size/102400"),
    "rate": Scenario("plain 1 KiB at 4,000 req/s", "plain", rate=4000),
}
GENEROUS = 10_000_000  # a limit that is never reached


class Refused(Exception):
    """A proxy does not do the job."""


def expect(condition, what):
    if not condition:
        raise Refused(what)


def verify(job):
    """Refused unless the proxy does what its mode asks for."""
    good = {"authorization": "Bearer " + lib.token(), "x-api-key": "k0"} if job.mode == "auth" else {}
    good = lib.CALLER if job.mode in proxies.ACCESS else good
    for path, size in (("/1k", 1024), ("/size/102400", 102400)):
        status, _, body = lib.get(job.port, path, good, job.tls)
        expect(status == 200 and len(body) == size, f"{path} has status {status} and {len(body)} bytes")
    if job.mode == "files":
        status, headers, _ = lib.get(job.port, "/1k", {"Range": "bytes=0-9"})
        expect(status == 206 and headers.get("content-range") == "bytes 0-9/1024", f"a range has status {status}")
        return
    status, headers, body = lib.get(job.port, "/echo", {**lib.IN, **good, "x-remove-me": "1"}, job.tls)
    expect(status == 200, f"/echo has status {status}")
    seen = json.loads(body)
    # Envoy names its own address there when the client is on loopback.
    expect(seen["xff"], "no X-Forwarded-For reaches the origin")
    expect(seen["host"] == f"127.0.0.1:{job.port}", f"Host at the origin is {seen['host']!r}")
    if job.tls:
        verify_tls(job)
    for i in range(1, job.filters + 1):
        expect(seen[f"f{i}"] == "hello", f"x-filter-req-{i} does not reach the origin")
        expect(headers.get(f"x-filter-resp-{i}") == "1", f"x-filter-resp-{i} is not in the response")
    if job.mode == "redact":
        _, _, body = lib.get(job.port, "/json")
        expect(all(person["password"] == "[redacted]" for person in json.loads(body)), "a password reaches the client")
    if job.mode == "hit":
        first, second = (lib.get(job.port, "/echo?hit", {"x-remove-me": word}, job.tls)[2] for word in ("one", "two"))
        expect(first == second, "the second response does not come out of the cache")
    verify_access(job, seen)
    if job.mode == "auth":
        expect(seen["user"] == "alice", f"x-user at the origin is {seen['user']!r}")
        expect(not seen["authorization"] and not seen["remove"], "authorization or x-remove-me reaches the origin")
        expect(headers.get("x-gw") == "1" and "x-upstream-secret" not in headers, f"the response has {headers}")
        bad = {"no token": None, "a forged token": lib.token(secret="another" + lib.SECRET), "an expired token": lib.token(expires=-3600),
               "a token of another issuer": lib.token(issuer="other"), "garbage": "a.b.c"}
        for what, token in bad.items():
            status, _, _ = lib.get(job.port, "/1k", {"x-api-key": "k0", **({"authorization": "Bearer " + token} if token else {})})
            expect(status == 401, f"{what} has status {status}")


def verify_access(job, seen):
    """Who may not call is refused, and no credential goes further than it has to."""
    if job.mode in ("key", "acl"):
        expect(not seen["key"], "x-api-key reaches the origin")
        strangers = [{}, {"X-Api-Key": lib.KEY + "x"}]
    elif job.mode == "basic":
        expect(not seen["authorization"], "authorization reaches the origin")
        strangers = [{}, {"Authorization": "Basic " + lib.b64(b"acme:no")}]
    else:
        strangers = []
    for headers in strangers:
        status, _, _ = lib.get(job.port, "/1k", headers)
        expect(status == 401, f"with {headers} the status is {status}")
    if job.mode == "ip":
        status, _, _ = lib.get(job.port, "/1k", lib.CALLER, source="127.0.0.2")
        expect(status == 403, f"from 127.0.0.2 the status is {status}")


def verify_tls(job):
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2"] if job.mode == "h2" else ["http/1.1"])
    with socket.create_connection(("127.0.0.1", job.port), 5) as raw, context.wrap_socket(raw, server_hostname="localhost") as s:
        protocol = s.selected_alpn_protocol()
        expect(s.version() == "TLSv1.3", f"TLS is {s.version()}")
        expect(protocol == "h2" or job.mode == "tls" and protocol in ("http/1.1", None), f"the protocol is {protocol}")


def verify_limit(job):
    """With a small limit: one key is refused after a while, another one is not. Redis keeps what the scenario before has taken, so the keys are new."""
    good, new = {"authorization": "Bearer " + lib.token()}, os.urandom(4).hex()
    seen = [lib.get(job.port, "/1k", {**good, "x-api-key": f"one-{new}"})[0] for _ in range(30)]
    other = lib.get(job.port, "/1k", {**good, "x-api-key": f"two-{new}"})[0]
    expect(seen[0] == 200 and 429 in seen and other == 200, f"30 requests of a key at 5/s have status {seen}, another key {other}")


class Running:
    """A proxy at work, for the time of a `with`."""

    def __init__(self, place, proxy, scenario, workers, rate=GENEROUS, folder=None):
        wanted = SCENARIOS[scenario]
        # The same folder each time, so that Sluice finds the components that it compiled before.
        folder = place.folder / (folder or proxy.name)
        folder.mkdir(exist_ok=True)
        self.job = proxies.Job(wanted.mode, wanted.filters, rate, workers, place.port, place.origin_port, place.cert, place.key, folder,
                               place.redis.port if place.redis else 0, wanted.sluice)
        self.place, self.proxy = place, proxy

    def __enter__(self):
        if not lib.free(self.place.port):
            raise RuntimeError(f"port {self.place.port} is still in use")
        command, env = self.proxy.command(self.job)
        self.process = lib.Process(command, self.job.folder / "log", {**self.place.env, **env})
        try:
            lib.wait_for(self.process, self.place.port, tls=self.job.tls)
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(self, *_):
        self.process.stop()


def load_command(place, name, seconds):
    scenario = SCENARIOS[name]
    if scenario.rate:
        return lib.h2load(place, scenario.path, 50, seconds, rate=scenario.rate)
    if scenario.mode == "h2":
        return lib.h2load(place, scenario.path, 16, seconds, tls=True, streams=4)
    requests = [(scenario.path, lib.IN if scenario.carries == "header" else {})]
    if scenario.carries == "caller":
        requests = [(scenario.path, lib.CALLER)]
    if scenario.carries == "token":
        requests = [(scenario.path, {"Authorization": f"Bearer {lib.token(f'user{i}')}", "X-Api-Key": f"key{i}", "X-Remove-Me": "1"})
                    for i in range(lib.TOKENS)]
    return lib.wrk(place, requests, 64, seconds, tls=scenario.mode == "tls")


def check(place, chosen, scenarios, args, lock):
    """Each proxy in each of its modes, once: what does not do the job is left out. Returns the cells to measure, and why others are not."""
    cells, left_out, verdicts = set(), [], {}
    for name in scenarios:
        scenario = SCENARIOS[name]
        for proxy in (p for p in chosen if scenario.is_for(p)):
            job = proxy.name, scenario.mode, scenario.filters, *scenario.sluice.items()
            if job not in verdicts:
                verdicts[job] = trial(place, proxy, name, args, lock)
            if verdicts[job]:
                left_out.append(f"{proxy.name}, {scenario.title}: {verdicts[job]}")
                print(f"left out: {left_out[-1]}", flush=True)
            else:
                cells.add((name, proxy.name))
    return cells, left_out


def trial(place, proxy, scenario, args, lock):
    """None, or why this proxy can't be measured."""
    if SCENARIOS[scenario].shares_state and not place.redis:
        return "not installed: redis-server"
    try:
        with lock, Running(place, proxy, scenario, args.workers) as running:
            verify(running.job)
        if SCENARIOS[scenario].mode in ("auth", "limit"):
            with lock, Running(place, proxy, scenario, args.workers, rate=5) as running:
                verify_limit(running.job)
    except (Refused, RuntimeError, OSError, ValueError, http.client.HTTPException) as error:
        return " ".join(str(error).split())
    return None


def measure(place, proxy, scenario, args):
    with Running(place, proxy, scenario, args.workers) as running:
        return under_load(running, scenario, args)


def under_load(running, scenario, args):
    verify(running.job)
    pids = lib.tree(running.process.pid)
    redis = running.place.redis if SCENARIOS[scenario].shares_state else None
    row = lib.under_load(running.place, load_command(running.place, scenario, args.seconds + 1), pids, 0.8, args.seconds, redis)
    if running.job.mode in ("files", "hit"):  # the origin has seen none: the generator counts
        row.update(requests=row["total"], rps=row["total"] / row["load_s"], cpu_us=row["cpu_all"] * 1e6 / max(row["total"], 1))
    return row


class Together:
    """Proxies that all run all the time, one for each job, on ports of their own."""

    def __init__(self, place, args):
        self.place, self.args, self.running, self.stack = place, args, {}, contextlib.ExitStack()

    def measure(self, place, proxy, scenario, args):
        wanted = SCENARIOS[scenario]
        job = proxy.name, wanted.mode, wanted.filters, *wanted.sluice.items()
        if job not in self.running:
            here = copy.copy(self.place)
            here.port = self.place.port + 10 + len(self.running)
            running = Running(here, proxy, scenario, self.args.workers, folder=f"together-{here.port}")
            self.running[job] = self.stack.enter_context(running)
        return under_load(self.running[job], scenario, args)


def arguments():
    parser = lib.parser(__doc__, "compare")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="some of: %(default)s")
    parser.add_argument("--proxies", default="Sluice,Sluice-pgo,nginx,nginx-Lua,Varnish,HAProxy,Envoy,hyper", help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="how long each measurement is")
    parser.add_argument("--envoy", help="the envoy program, if it is not on the PATH")
    parser.add_argument("--together", action="store_true", help="start no proxy anew: all run all the time, and take turns")
    parser.add_argument("--quick", action="store_true", help="one round of a second each")
    parser.add_argument("--report", type=pathlib.Path, help="measure nothing; write page and plots of this folder again")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 1
    return args


def turns(chosen, cells, scenarios, number):
    """The order of a round. What a difference or a ratio is made of stands together, and every other round goes backwards: a machine
    whose speed changes slowly changes it for both."""
    order = []
    for _, group in itertools.groupby(scenarios, lambda name: SCENARIOS[name].carries or name):
        group = list(group)
        order += [(scenario, proxy) for proxy in chosen for scenario in group if (scenario, proxy.name) in cells]
    return order if number % 2 else order[::-1]


def rounds(place, chosen, cells, how, data, args, lock):
    """Measures each cell once in each round, and writes the report after each, so that an interrupted run leaves something."""
    for number in range(1, args.rounds + 1):
        for scenario, proxy in turns(chosen, cells, data["scenarios"], number):
            try:
                with lock:
                    row = how(place, proxy, scenario, args)
            except (Refused, RuntimeError, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
                data["left_out"].append(f"{proxy.name}, {SCENARIOS[scenario].title}, round {number}: {' '.join(str(error).split())}")
                print(f"left out: {data['left_out'][-1]}", flush=True)
                continue
            data["rows"].append(dict(scenario=scenario, proxy=proxy.name, round=number, **row))
            print(f"{number} {scenario:8} {proxy.name:10} {row['cpu_us']:7.1f} µs/req {row['rps']:8.0f} req/s  p50 {row['p50_ms']:.2f} "
                  f"p99 {row['p99_ms']:.2f} ms  {row['errors']} errors  {row['pss_mib']:.0f} MiB  other {row['other_cores']:.2f}",
                  flush=True)
        report.write(data, args.out)


def main():
    args = arguments()
    if args.report:
        return report.write(json.loads((args.report / "results.json").read_text()), args.report)
    lib.need("nginx", "wrk", "h2load", "openssl")
    scenarios = args.scenarios.split(",")
    if unknown := [s for s in scenarios if s not in SCENARIOS]:
        sys.exit(f"unknown scenarios: {', '.join(unknown)}")
    every = [proxies.Sluice(), proxies.SluicePgo(), proxies.Nginx(), proxies.NginxLua(), proxies.Varnish(), proxies.Haproxy(),
             proxies.Envoy(args.envoy and os.path.abspath(args.envoy)), proxies.Hyper()]
    names = args.proxies.split(",")
    if unknown := set(names) - {p.name for p in every}:
        sys.exit(f"unknown proxies: {', '.join(sorted(unknown))}")
    wanted = [p for p in every if p.name in names]
    versions = {p.name: p.version() for p in wanted}
    chosen = [p for p in wanted if versions[p.name]]
    left_out = [f"{p.name}: {p.absent}" for p in wanted if not versions[p.name]]
    absent = len(left_out)
    for why in left_out:
        print(f"left out: {why}", flush=True)
    lock = lib.Lock(args.lock)
    lib.raise_files(20000)
    args.out.mkdir(parents=True, exist_ok=True)
    with lib.Place(args.port, redis=True) as place:
        cells, refused = check(place, chosen, scenarios, args, lock)
        tools = {"wrk": lib.version("wrk", "-v"), "h2load": lib.version("h2load", "--version")}
        data = dict(machine=lib.machine(), versions={n: v for n, v in {**versions, **tools}.items() if v},
                    settings=dict(rounds=args.rounds, seconds=args.seconds, workers=args.workers, together=args.together),
                    scenarios={s: SCENARIOS[s].title for s in scenarios}, left_out=left_out + refused, rows=[])
        together = Together(place, args)
        with together.stack:
            rounds(place, chosen, cells, together.measure if args.together else measure, data, args, lock)
    print(f"results: {args.out / 'results.md'}")
    if args.quick:  # does it work?
        failed = any(row["errors"] for row in data["rows"]) or len(data["left_out"]) > absent
        return 1 if failed or not data["rows"] else 0
    return 0 if data["rows"] else 1


if __name__ == "__main__":
    sys.exit(main())
