#!/usr/bin/env python3
"""How Sluice's cost of a request grows with connections, filters, routes, bodies and headers. Python 3 alone, on Linux.

  cargo build --release && benches/compare/curves.py          everything; about ten minutes
  benches/compare/curves.py --quick                           that it works: a few points of half a second each
  benches/compare/curves.py --curves filters,routes --rounds 5
  benches/compare/curves.py --report DIR                      page and plots again, from DIR/results.json

It needs nginx (the origin), wrk and openssl: apt-get install nginx wrk openssl
Results go to target/curves: results.md with the method, results.json, and a plot of each curve. Exits with 1 if a request failed.
"""
import dataclasses, http.client, json, math, pathlib, statistics, subprocess, sys, time

import lib, svg

KIB, MIB = 1024, 1024 * 1024
PATIENCE = 20  # seconds, until all connections are made
BIG = MIB  # bodies from here on are counted by their bytes: few of them end within a measurement


@dataclasses.dataclass
class Curve:
    title: str
    axis: str
    points: list
    log_x: bool = True
    log_y: bool = False
    unit: str = "one"  # what is added, in the column that says what each more costs
    size: int = 1      # how much of the point's number is one such unit


CURVES = {
    "connections": Curve("Connections, all busy", "connections", [1, 10, 100, 1000, 10000]),
    "filters": Curve("Header filters on the route", "filters", [0, 1, 5, 10, 20], log_x=False),
    "routes": Curve("Routes configured", "routes", [1, 10, 100, 1000, 10000]),
    "bodies": Curve("Size of the response's body", "bytes", [0, KIB, 100 * KIB, 10 * MIB, 100 * MIB], log_y=True,
                    unit="KiB", size=KIB),
    "headers": Curve("Headers of the request", "headers", [5, 20, 50, 100], log_x=False),
}

METHOD = """Load generator (wrk, one thread), Sluice and origin (nginx, one worker) run on one machine, on 127.0.0.1. The figure is user and
system CPU time of Sluice's process over the requests that the origin counted meanwhile, connections made before; the median of the rounds.
Bodies of 1 MiB and more are counted by their bytes. 64 connections, but for the curves of connections, and 8 for bodies. For the first
curve, as many idle connections to the origin are kept as clients have (`pool.max_idle`). Responses have 1 KiB, but for bodies. With many routes,
requests for 64 of them, spread over all, take turns. The headers of a request include Host. Metrics, request ids, timeouts and limits are on,
with their defaults, except the limit of connections (30,000 here).

*each more*: what was added since the line before, over how much more there was. *exponent*: the logarithm of the growth of the
cost over that of the number; 1 is growth in proportion, 0 is none. *connects*: new connections to the origin per request."""


def configuration(place, curve, point, workers):
    """The text of gateway.toml for a point of a curve."""
    filters, routes = (point if curve == "filters" else 0), (point if curve == "routes" else 1)
    pool = f"pool = {{ max_idle = {point} }}\n" if curve == "connections" else ""
    text = lib.settings(place, workers, pool=pool) + (lib.header_filters(filters) if filters else "")
    for i in range(routes):
        text += lib.route(f"r{i}", f"/service-{i}/**" if curve == "routes" else "/**", [f"f{n}" for n in range(1, filters + 1)])
    return text


def requests(curve, point):
    """The (path, headers) that the load takes turns with."""
    if curve == "filters":
        return [("/1k", lib.IN)]
    if curve == "routes":
        return [(f"/service-{i * point // min(point, 64)}/1k", {}) for i in range(min(point, 64))]
    if curve == "bodies":
        return [(f"/size/{point}", {})]
    if curve == "headers":
        return [("/1k", {f"x-header-{i}": f"the value of header {i}" for i in range(1, point)})]
    return [("/1k", {})]


def verify(place, curve, point):
    """What the load will ask for is answered, and by as many filters as there should be."""
    for path, headers in requests(curve, point):
        if curve == "bodies" and point >= BIG:
            continue
        status, answer, body = lib.get(place.port, path, headers)
        size = point if curve == "bodies" else 1024
        if status != 200 or len(body) != size:
            raise RuntimeError(f"{path} has status {status} and {len(body)} bytes")
        added = sum(name.startswith("x-filter-resp-") for name in answer)
        if added != (point if curve == "filters" else 0):
            raise RuntimeError(f"{added} filters added a header")


def settle(port, connections, quick):
    """Waits until all connections are there (those that find the queue full try again after 1, 3 and 7 s) and had some requests."""
    end = time.time() + PATIENCE
    while (now := lib.established(port)) < connections:
        if time.time() > end:
            raise RuntimeError(f"only {now:,} of {connections:,} connections were made in {PATIENCE} s")
        time.sleep(0.1)
    time.sleep((0.3 if quick else 0.8) + connections / 4000)


def measure(place, curve, point, args):
    with lib.Gateway(place, configuration(place, curve, point, args.workers)) as gateway:
        verify(place, curve, point)
        connections = point if curve == "connections" else 8 if curve == "bodies" else 64
        command = lib.wrk(place, requests(curve, point), connections, math.ceil(PATIENCE + args.seconds + 10))
        row = lib.under_load(place, command, [gateway.process.pid], lambda: settle(place.port, connections, args.quick), args.seconds)
    if curve == "bodies" and point >= BIG:
        row["requests"] = row["bytes"] / point
        row["cpu_us"] = row["cpu_all"] * 1e6 / row["requests"]
        row["rps"] = row["requests"] / row["load_s"]
    return dict(curve=curve, point=point, **row)


def compile_filter(place, args, lock):
    """Fills the cache, so that no measured process compiles something while it is measured."""
    with lock, lib.Gateway(place, configuration(place, "filters", 1, args.workers)):
        pass


def label(curve, point):
    if curve == "bodies":
        return f"{point // MIB} MiB" if point >= MIB else f"{point // KIB} KiB" if point else "0"
    return f"{point:,}"


def summary(rows, curve):
    """[(point, {figure: median})], in ascending order."""
    found = []
    for point in sorted({r["point"] for r in rows if r["curve"] == curve}):
        mine = [r for r in rows if r["curve"] == curve and r["point"] == point]
        figures = {k: statistics.median(r[k] for r in mine) for k in ("cpu_us", "rps", "pss_mib", "p99_ms", "connects")}
        costs = [r["cpu_us"] for r in mine]
        found.append((point, dict(figures, least=min(costs), most=max(costs), errors=sum(r["errors"] for r in mine))))
    return found


def write(data, folder):
    """Page and plots, and the rows that they are made of."""
    (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    machine, settings = data["machine"], data["settings"]
    out = ["# What a request costs as things grow", "", " · ".join(f"{k}: {v}" for k, v in {**machine, **settings}.items()), "", METHOD, ""]
    note = f"{machine['CPU']}, {machine['cores']} cores, Linux {machine['kernel']}, {machine['date']}, rounds: {settings['rounds']}"
    for name, curve in CURVES.items():
        points = summary(data["rows"], name)
        if not points:
            continue
        per = name == "bodies"
        out += [f"## {curve.title}", "", f"| {curve.axis if not per else 'body'} | CPU µs/req | least | most | each more, µs per {curve.unit} | "
                f"exponent |{' µs per KiB |' if per else ''} req/s | p99 ms | PSS MiB | connects | errors |", "|---:" * (12 if per else 11) + "|"]
        before = None
        for point, m in points:
            more = exponent = "–"
            if before:
                more = f"{(m['cpu_us'] - before[1]) / (point - before[0]) * curve.size:.4f}"
                if before[0]:
                    exponent = f"{math.log(m['cpu_us'] / before[1]) / math.log(point / before[0]):.2f}"
            before = point, m["cpu_us"]
            kib = f" {m['cpu_us'] / (point / KIB):.3f} |" if per and point else " – |" if per else ""
            out.append(f"| {label(name, point)} | {m['cpu_us']:.1f} | {m['least']:.1f} | {m['most']:.1f} | {more} | {exponent} |{kib} "
                       f"{m['rps']:.0f} | {m['p99_ms']:.2f} | {m['pss_mib']:.1f} | {m['connects']:.3f} | {m['errors']} |")
        out.append("")
        line = {"CPU per request": [(x, m["cpu_us"]) for x, m in points]}
        (folder / f"{name}.svg").write_text(svg.lines(f"CPU time of a request: {curve.title.lower()}", note, curve.axis, "CPU µs per request",
                                                      line, log_x=curve.log_x, log_y=curve.log_y))
        if per and len(points) > 1:
            line = {"CPU per KiB": [(x, m["cpu_us"] / (x / KIB)) for x, m in points if x]}
            (folder / "bodies-per-kib.svg").write_text(svg.lines("CPU time of a KiB of a response's body", note, "bytes of the whole body",
                                                                 "CPU µs per KiB", line, log_x=True, log_y=True))
    if data["left_out"]:
        out += ["## Left out", "", *(f"- {why}" for why in data["left_out"]), ""]
    (folder / "results.md").write_text("\n".join(out))


def arguments():
    parser = lib.parser(__doc__, "curves")
    parser.add_argument("--curves", default=",".join(CURVES), help="some of: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="how long each measurement is")
    parser.add_argument("--quick", action="store_true", help="one round of half a second, two points of each curve")
    parser.add_argument("--report", type=pathlib.Path, help="measure nothing; write page and plots of this folder again")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 0.5
    return args


def main():
    args = arguments()
    if args.report:
        return write(json.loads((args.report / "results.json").read_text()), args.report)
    lib.need("nginx", "wrk", "openssl")
    curves = args.curves.split(",")
    if unknown := [c for c in curves if c not in CURVES]:
        sys.exit(f"unknown curves: {', '.join(unknown)}")
    binary, lock = lib.sluice_binary(), lib.Lock(args.lock)
    args.out.mkdir(parents=True, exist_ok=True)
    files = lib.raise_files(40000)
    left_out, rows, failed = [], [], False
    cells = [(c, p) for c in curves for p in (CURVES[c].points[1:4:2] if args.quick else CURVES[c].points)]
    for at, (curve, point) in enumerate(cells):
        possible = (files - 200) // 2  # Sluice has a socket to each client, and as many to the origin
        if curve == "connections" and point > possible:
            left_out.append(f"{point:,} connections, {possible:,} in their place: only {files:,} files may be open (ulimit -n)")
            cells[at] = curve, possible
            print(f"left out: {left_out[-1]}", flush=True)
    cells = list(dict.fromkeys(cells))
    data = dict(machine=lib.machine(), settings=dict(sluice=lib.version(binary, "--version"), rounds=args.rounds, seconds=args.seconds,
                                                     workers=args.workers), left_out=left_out, rows=rows)
    with lib.Place(args.port, sizes=CURVES["bodies"].points) as place:
        if "filters" in curves:
            compile_filter(place, args, lock)
        for number in range(1, args.rounds + 1):
            for curve, point in cells:
                try:
                    with lock:
                        row = measure(place, curve, point, args)
                except (RuntimeError, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
                    left_out.append(f"{curve} {label(curve, point)}, round {number}: {' '.join(str(error).split())}")
                    print(f"left out: {left_out[-1]}", flush=True)
                    failed = True
                    continue
                rows.append(dict(row, round=number))
                failed |= row["errors"] > 0
                print(f"{number} {curve:12} {label(curve, point):>8} {row['cpu_us']:10.1f} µs/req {row['rps']:8.0f} req/s  "
                      f"p99 {row['p99_ms']:.2f} ms  {row['errors']} errors  {row['pss_mib']:.0f} MiB  other {row['other_cores']:.2f}", flush=True)
            write(data, args.out)
    print(f"results: {args.out / 'results.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
