#!/usr/bin/env python3
"""What Sluice takes beside the CPU time of a request: to start, for idle connections, for a large configuration, in memory.

  cargo build --release && benches/compare/footprint.py       everything; three minutes
  benches/compare/footprint.py --quick                        that it works: under 20 seconds
  benches/compare/footprint.py --rows start,idle --starts 50
  benches/compare/footprint.py --report DIR                   the page again, from DIR/results.json

It needs nginx (the origin), wrk and openssl: apt-get install nginx wrk openssl
Results go to target/footprint: results.md with targets and method, and results.json. Exits with 1 if something could not be measured or a
request failed; a target that is missed is said in the table.
"""
import contextlib, http.client, json, pathlib, re, statistics, subprocess, sys, time

import lib, proxies, run

SHIPPED = ("acl", "api-key", "basic-auth", "cors", "forward-auth", "ip-filter", "jwt-auth", "mtls-auth", "rate-limit", "redact", "traffic-split", "transform")
# What all of them need to let a request pass that has nothing but a token.
GRANTS = {
    "api-key": "{ consumers = true }", "basic-auth": '{ consumers = true, read_headers = ["authorization"] }', "mtls-auth": "{ consumers = true }",
    "jwt-auth": '{ read_headers = ["authorization"] }', "forward-auth": '{ http = ["http://127.0.0.1:9"] }',
}
LARGE, SMALL = (1000, 50), (10, 3)  # routes and filters

METHOD = """Load generator (wrk, one thread), Sluice and origin (nginx, one worker) run on one machine, on 127.0.0.1. Memory is PSS; huge pages (the
machine's setting is above) are in it as a whole, however much of them is used.

- **Start**: from starting the process to the last byte of the first answer, asked for every millisecond; the median. The {plugins} shipped plugins
  are one filter each, and the request passes all of them. A start before the measured ones compiled the
  components, so that programs and files are in the page cache, too.
- **Idle connection**: {connections:,} connections are opened one after the other, with one request on each. When the process has used no CPU
  time for a second, its PSS is compared with that before (after 100 requests on connections that were closed), and divided by their number.
  Each connection then answers a second request. The kernel's memory for sockets is not in it: no process is charged for that.
- **Large configuration**: two gateways, one with {large}, one with {small}. Each route has one header filter,
  and all requests are for the same route, the last one. Both gateways run all the time, short loads alternate (and so does which is first);
  the figure is the median of the ratios of the pairs.
- **Memory under load**: at the end of a load of {seconds} s with 64 connections: the scenarios `plain` and `auth` of `run.py`."""


# ------------------------------------------------------------------------------------------------ start
def plugin_settings(place, workers):
    """The text of a gateway.toml with each shipped plugin on one route."""
    configs = {
        "acl": '{ rules = [{ effect = "allow" }] }',
        "api-key": "{ optional = true }",
        "basic-auth": "{ optional = true }",
        "cors": '{ origins = ["https://app.example.com"] }',
        # Nobody listens there, and that is known at once.
        "forward-auth": '{ url = "http://127.0.0.1:9/", on_unavailable = "open" }',
        "ip-filter": '{ deny = ["192.0.2.0/24"] }',
        "jwt-auth": f'{{ secret = "{lib.SECRET}", algorithms = ["HS256"], issuer = "bench" }}',
        "mtls-auth": "{ optional = true }",
        "rate-limit": '{ limits = [{ key = "ip", amount = 1000000, window = "1s" }] }',
        "redact": '{ rules = [{ detect = "card" }, { pointers = ["/**/password"] }] }',
        "traffic-split": '{ split = [{ upstream = "origin", weight = 1 }] }',
        "transform": '{ response = { headers = { set = { x-gw = "1" } } } }',
    }
    text = lib.settings(place, workers)
    for name in SHIPPED:
        grants = f"grants = {GRANTS[name]}\n" if name in GRANTS else ""
        text += f'[filters.{name}]\n{grants}config = {configs[name]}\n'
    return text + lib.route("all", "/**", SHIPPED)


def start(place, args, lock):
    text, headers = plugin_settings(place, args.workers), {"authorization": "Bearer " + lib.token()}
    times = []
    with lock:
        for number in range(args.starts + 1):
            with lib.Gateway(place, text, headers=headers, pause=0.001) as gateway:
                status, answer, _ = gateway.answer
                if status != 200 or "x-gw" not in answer:
                    raise RuntimeError(f"the first answer has status {status} and {answer}")
            if number:  # the first one compiled
                times.append(gateway.start_ms)
    yield row(f"start to first answer, compiled components cached, {len(SHIPPED)} plugins", statistics.median(times), 150, 50, "ms",
              f"{args.starts} starts: {min(times):.0f} to {max(times):.0f}")


# ------------------------------------------------------------------------------------------------ idle connections
def pss_when_idle(pids, seconds):
    """PSS in KiB, once the processes used no CPU time for so long."""
    for _ in range(30):
        before = lib.cpu(pids)
        time.sleep(seconds)
        if lib.cpu(pids) == before:
            return lib.memory(pids)[1] * 1024
    raise RuntimeError("the gateway is not idle without requests")


def idle(place, args, lock):
    quiet = 0.3 if args.quick else 1
    for tls, target, aim in ((False, 10, 5), (True, None, None)):
        text = lib.settings(place, args.workers, tls=tls) + lib.route("all", "/**", [])
        with lock, lib.Gateway(place, text, tls=tls) as gateway:
            pids, clients = [gateway.process.pid], []
            for _ in range(100):
                lib.get(place.port, tls=tls)
            try:
                before = pss_when_idle(pids, quiet)
                for _ in range(args.connections):
                    clients.append(lib.connection(place.port, tls))
                    lib.ask(clients[-1])
                after = pss_when_idle(pids, quiet)
                for client in clients:
                    client.auto_open = False  # a connection that was closed meanwhile is an error
                    if lib.ask(client)[0] != 200:
                        raise RuntimeError("an idle connection does not answer")
            finally:
                for client in clients:
                    client.close()
        yield row(f"idle keep-alive connection, {'TLS 1.3' if tls else 'plain'} HTTP/1.1", (after - before) / args.connections, target, aim, "KiB",
                  f"PSS {before / 1024:.1f} MiB without, {after / 1024:.1f} MiB with {args.connections:,}; without the kernel's sockets")


# ------------------------------------------------------------------------------------------------ a large configuration
def large(place, args, lock):
    gateways = []
    for (routes, filters), port in ((LARGE, place.port), (SMALL, place.other_port)):
        text = lib.settings(place, args.workers, port) + lib.header_filters(filters)
        for i in range(routes - 1):
            text += lib.route(f"r{i}", f"/service-{i}/**", [f"f{i % filters + 1}"])
        gateways.append(lib.Gateway(place, text + lib.route("wanted", "/wanted/**", ["f1"]), port))

    def load(gateway):
        command = lib.wrk(place, [("/wanted/1k", lib.IN)], 64, 1 if args.quick else 2, port=gateway.port)
        measured = lib.under_load(place, command, [gateway.process.pid], 0.4, 0.5 if args.quick else 1.5)
        if measured["errors"]:
            raise RuntimeError(f"{measured['errors']} requests failed")
        return measured

    pairs, others = [], []
    with contextlib.ExitStack() as stack:
        with lock:
            for gateway in gateways:
                stack.enter_context(gateway)
                status, answer, _ = lib.get(gateway.port, "/wanted/1k", lib.IN)
                if status != 200 or "x-filter-resp-1" not in answer:
                    raise RuntimeError(f"/wanted/1k has status {status} and {answer}")
                load(gateway)
        for number in range(args.rounds):
            order = gateways if number % 2 else gateways[::-1]
            with lock:
                measured = {gateway.port: load(gateway) for gateway in order}
            pairs.append([measured[gateway.port]["cpu_us"] for gateway in gateways])
            others += [each["other_cores"] for each in measured.values()]
    ratios = sorted((big / little - 1) * 100 for big, little in pairs)
    costs = [statistics.median(side) for side in zip(*pairs)]
    yield row("more CPU per request with {:,} routes and {} filters than with {} and {}".format(*LARGE, *SMALL), statistics.median(ratios), 5, None, "%",
              f"{costs[0]:.1f} and {costs[1]:.1f} µs; half of {len(ratios)} pairs from {lib.percentile(ratios, 0.25):+.1f} to "
              f"{lib.percentile(ratios, 0.75):+.1f} %; other programs used {abs(statistics.median(others)):.1f} cores")


# ------------------------------------------------------------------------------------------------ memory under load
def memory(place, args, lock):
    with lock, run.Running(place, proxies.Sluice(), "auth", args.workers):
        pass  # compiles the plugins
    for scenario, target, aim in (("plain", 25, 15), ("auth", 45, 30)):
        with lock:
            measured = run.measure(place, proxies.Sluice(), scenario, args)
        if measured["errors"]:
            raise RuntimeError(f"{measured['errors']} requests failed")
        yield row(f"memory under load, {run.SCENARIOS[scenario].title}", measured["pss_mib"], target, aim, "MiB",
                  f"at {measured['rps']:,.0f} requests a second")


# ------------------------------------------------------------------------------------------------ page and program
ROWS = {"start": start, "idle": idle, "large": large, "memory": memory}


def row(what, value, target, aim, unit, seen):
    return dict(what=what, value=value, target=target, aim=aim, unit=unit, seen=seen)


def table(rows):
    lines = ["| what | at most | aim | measured | | seen |", "|---|---:|---:|---:|---|---|"]
    for each in rows:
        target, aim = ("–" if limit is None else f"{limit} {each['unit']}" for limit in (each["target"], each.get("aim")))
        verdict = "" if each["target"] is None else "met" if each["value"] <= each["target"] else "**missed**"
        lines.append(f"| {each['what']} | {target} | {aim} | {each['value']:.1f} {each['unit']} | {verdict} | {each['seen']} |")
    return lines


def write(data, folder):
    (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    out = ["# What Sluice takes", "", " · ".join(f"{k}: {v}" for k, v in {**data["machine"], **data["settings"]}.items()), "",
           *table(data["rows"]), "", data["method"], ""]
    if data["left_out"]:
        out += ["## Left out", "", *(f"- {why}" for why in data["left_out"]), ""]
    (folder / "results.md").write_text("\n".join(out))


def arguments():
    parser = lib.parser(__doc__, "footprint")
    parser.add_argument("--rows", default=",".join(ROWS), help="some of: %(default)s")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--connections", type=int, default=5000, help="idle ones")
    parser.add_argument("--rounds", type=int, default=16, help="pairs of loads, for the large configuration")
    parser.add_argument("--quick", action="store_true", help="few of everything")
    parser.add_argument("--report", type=pathlib.Path, help="measure nothing; write the page of this folder again")
    args = parser.parse_args()
    args.seconds = 5
    if args.quick:
        args.starts, args.connections, args.rounds, args.seconds = 2, 200, 1, 1
    return args


def huge_pages():
    """The setting of the machine: `madvise` is on for programs that ask for it, as an allocator may."""
    try:
        return re.search(r"\[(\w+)\]", pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text())[1]
    except OSError:
        return "none"


def main():
    args = arguments()
    if args.report:
        return write(json.loads((args.report / "results.json").read_text()), args.report)
    lib.need("nginx", "wrk", "openssl")
    wanted = args.rows.split(",")
    if unknown := [name for name in wanted if name not in ROWS]:
        sys.exit(f"unknown rows: {', '.join(unknown)}")
    binary, lock = lib.sluice_binary(), lib.Lock(args.lock)
    args.out.mkdir(parents=True, exist_ok=True)
    args.connections = min(args.connections, lib.raise_files(20000) - 500, 25000)
    settings = {"sluice": lib.version(binary, "--version"), "workers": args.workers, "huge pages": huge_pages()}
    data = dict(machine=lib.machine(), settings=settings, rows=[], left_out=[],
                method=METHOD.format(plugins=len(SHIPPED), connections=args.connections, seconds=args.seconds,
                                     large="{:,} routes and {} filters".format(*LARGE), small="{} and {}".format(*SMALL)))
    with lib.Place(args.port) as place:
        for name in wanted:
            try:
                for measured in ROWS[name](place, args, lock):
                    data["rows"].append(measured)
                    print(table([measured])[-1], flush=True)
            except (run.Refused, RuntimeError, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
                data["left_out"].append(f"{name}: {' '.join(str(error).split())}")
                print(f"left out: {data['left_out'][-1]}", flush=True)
            write(data, args.out)
    print(f"results: {args.out / 'results.md'}")
    return 1 if data["left_out"] else 0


if __name__ == "__main__":
    sys.exit(main())
