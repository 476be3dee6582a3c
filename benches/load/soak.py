#!/usr/bin/env python3
"""A soak: Sluice at 70 % of what it can do, for long, with a new configuration every minute. Python 3 alone, on Linux.

  cargo build --release && benches/load/soak.py               30 minutes
  benches/load/soak.py --minutes 120 --share 0.5
  benches/load/soak.py --quick                                that it works: under a minute

Each request has a token that is verified, a limit that it counts for, and headers that are changed (mode `auth` of
benches/peer/start.sh). Each interval (a minute) begins a new load and rewrites gateway.toml half-way, which must show in the
responses; between two intervals the load rests while its log is read.

It exits with 1 if a request failed, a configuration did not arrive, fewer than 98 % of the requests that were due were answered, memory in
the last third is more than 10 % or 4 MiB above that in the second, p99 there is more than twice as high, or the CPU time of a request
more than 1.2 times. A quick run judges only the first two: it is too short for the others. A full one takes two minutes more than its load.

It needs nginx (the origin), h2load and openssl: apt-get install nginx nghttp2-client openssl
Results go to target/soak: results.md, results.json, soak.svg (memory) and latency.svg.
"""
import http.client, json, os, pathlib, re, statistics, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "compare"))
import lib, svg

GENERATORS, CONNECTIONS = 4, 16  # each generator has a token and a key of its own, and so many connections
WORDS = {True: "fine", False: "NOT FINE", None: "not judged"}


def start(place, workers):
    folder = place.folder / "sluice"
    folder.mkdir(exist_ok=True)
    env = dict(place.env, MODE="auth", FILTERS="0", PORT=str(place.port), UP_PORT=str(place.origin_port), WORKERS=str(workers),
               CERT=str(place.cert), KEY=str(place.key), JWT_SECRET=lib.SECRET, RATE="10000000", RUN=str(folder))
    process = lib.Process(["bash", lib.REPO / "benches/peer/start.sh"], place.folder / "sluice.log", env)
    try:
        lib.wait_for(process, place.port)
    except BaseException:
        process.stop()
        raise
    return process, folder / "gateway.toml"


def credentials(number):
    return {"Authorization": f"Bearer {lib.token(f'user{number}')}", "X-Api-Key": f"key{number}", "X-Remove-Me": "1"}


def load(place, seconds, rate=None):
    """Starts the generators; a rate is for all of them together."""
    return [lib.Process(lib.h2load(place, "/1k", CONNECTIONS, seconds, rate=rate and rate / GENERATORS, headers=credentials(i),
                                   log=f"h2load.{i}"), place.folder / f"generator.{i}", place.env) for i in range(GENERATORS)]


def collect(place, generators, patience):
    """Waits for the generators: (latencies in ms, ascending; failed requests)."""
    latencies, failed = [], 0
    end = time.time() + patience
    for i, generator in enumerate(generators):
        generator.popen.wait(max(end - time.time(), 1))
        log = place.folder / f"h2load.{i}"
        some, bad = lib.read_log(log)
        log.unlink()
        totals = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", generator.said())
        if generator.popen.returncode or not totals:
            raise RuntimeError(f"h2load failed: {generator.said()}")
        latencies += some
        failed += max(bad, sum(int(x) for x in totals.groups()))
    return sorted(latencies), failed


def reload(place, file, version):
    """Writes another configuration in place of the file, and waits until responses show it: seconds, or None after 20."""
    text = re.sub(r'x-gw = "[^"]*"', f'x-gw = "{version}"', file.read_text())
    draft = file.with_suffix(".new")
    draft.write_text(text)
    begin = time.time()
    os.replace(draft, file)
    while time.time() - begin < 20:
        try:
            status, headers, _ = lib.get(place.port, "/1k", credentials(0))
        except (OSError, http.client.HTTPException):
            return None
        if status == 200 and headers.get("x-gw") == str(version):
            return time.time() - begin
        time.sleep(0.1)
    return None


def interval(place, process, file, number, args, rate, began, samples):
    """One interval of load with a reload half-way; memory goes to `samples`."""
    origin, own, busy = lib.tree(place.origin.pid), [process.pid], lib.machine_cpu()
    before = lib.cpu(own), lib.cpu(origin)
    generators = load(place, args.interval, rate)
    begin = time.time()
    took, reloaded = None, False
    try:
        next_sample = begin
        while time.time() - begin < args.interval:
            if time.time() >= next_sample:
                rss, pss = lib.memory([process.pid])
                samples.append(dict(second=round(time.time() - began, 1), rss_mib=rss, pss_mib=pss))
                next_sample += args.sample
            if not reloaded and time.time() - begin >= args.interval / 2:
                took, reloaded = reload(place, file, number + 1), True
            if process.ended():
                raise RuntimeError("Sluice ended: " + process.said())
            time.sleep(0.1)
        spent, files = lib.cpu([g.pid for g in generators]), len(os.listdir(f"/proc/{process.pid}/fd"))
        used = lib.cpu(own) - before[0]
        others = lib.machine_cpu() - busy - used - (lib.cpu(origin) - before[1]) - spent
        took_all = time.time() - begin
        latencies, failed = collect(place, generators, 30)
    finally:
        for generator in generators:
            generator.stop()
    return dict(interval=number, second=round(time.time() - began, 1), requests=len(latencies), failed=failed, reload_s=took,
                cpu_us=used * 1e6 / max(len(latencies), 1), other_cores=others / took_all, files=files,
                p50_ms=lib.percentile(latencies, 0.5), p99_ms=lib.percentile(latencies, 0.99), max_ms=latencies[-1] if latencies else 0)


def third(rows, which):
    return rows[len(rows) * which // 3:len(rows) * (which + 1) // 3]


def judge(data, quick):
    """(what it looked at and saw, whether that is fine, or None if nobody asked) of each criterion."""
    intervals, samples = data["intervals"], data["samples"]
    failed, missing = sum(i["failed"] for i in intervals), sum(i["reload_s"] is None for i in intervals)
    found = [(f"failed requests: {failed} of {sum(i['requests'] for i in intervals):,}", failed == 0),
             (f"configurations that did not arrive: {missing} of {len(intervals)}", missing == 0)]
    if len(intervals) < 3:
        return found
    wanted = data["settings"]["requests per second"] * data["seconds"] * len(intervals)
    part = sum(i["requests"] for i in intervals) / wanted
    found.append((f"answered of the requests that were due: {part:.1%}", None if quick else part >= 0.98))
    before, after = (statistics.median(s["pss_mib"] for s in third(samples, n)) for n in (1, 2))
    fine = after <= before * 1.1 and after <= before + 4
    found.append((f"memory (PSS), medians of the second and last third: {before:.1f} and {after:.1f} MiB", None if quick else fine))
    before, after = (statistics.median(i["p99_ms"] for i in third(intervals, n)) for n in (1, 2))
    found.append((f"p99, medians of the second and last third: {before:.2f} and {after:.2f} ms", None if quick else after <= 2 * before))
    before, after = (statistics.median(i["cpu_us"] for i in third(intervals, n)) for n in (1, 2))
    fine = after <= 1.2 * before
    found.append((f"CPU per request, medians of the second and last third: {before:.1f} and {after:.1f} µs", None if quick else fine))
    return found


def write(data, quick, folder):
    (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    machine = data["machine"]
    out = ["# Soak", "", " · ".join(f"{k}: {v}" for k, v in {**machine, **data["settings"]}.items()), "",
           *(f"- {WORDS[fine]}: {what}" for what, fine in judge(data, quick)), "",
           "*other*: CPU, in cores, that anything but Sluice, generators and origin used: near 0 on a quiet machine.", "",
           "| minutes | requests | failed | p50 ms | p99 ms | most ms | CPU µs/req | reload s | RSS MiB | PSS MiB | open files | other |",
           "|---:" * 12 + "|"]
    for i in data["intervals"]:
        last = [s for s in data["samples"] if s["second"] <= i["second"]][-1]
        took = "never" if i["reload_s"] is None else f"{i['reload_s']:.1f}"
        out.append(f"| {i['second'] / 60:.1f} | {i['requests']} | {i['failed']} | {i['p50_ms']:.2f} | {i['p99_ms']:.2f} | "
                   f"{i['max_ms']:.1f} | {i['cpu_us']:.1f} | {took} | {last['rss_mib']:.1f} | {last['pss_mib']:.1f} | {i['files']} | "
                   f"{i['other_cores']:.2f} |")
    (folder / "results.md").write_text("\n".join(out) + "\n")
    note = f"{machine['CPU']}, {machine['cores']} cores, {machine['date']}, {data['settings']['requests per second']} requests per second"
    for name, title, axis, rows, figures in (
            ("soak", "Soak: memory", "MiB", data["samples"], (("RSS", "rss_mib"), ("PSS", "pss_mib"))),
            ("latency", "Soak: latency in each interval", "ms", data["intervals"], (("p99", "p99_ms"), ("p50", "p50_ms")))):
        series = {label: [(r["second"] / 60, r[key]) for r in rows] for label, key in figures}
        (folder / f"{name}.svg").write_text(svg.lines(title, note, "minutes", axis, series, labels=False))


def arguments():
    parser = lib.parser(__doc__, "soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--share", type=float, default=0.7, help="of the throughput that it measures first")
    parser.add_argument("--quick", action="store_true", help="six intervals of five seconds")
    args = parser.parse_args()
    args.calibrate, args.interval, args.sample, args.count = 10, 60, 10, max(round(args.minutes), 1)
    if args.quick:
        args.calibrate, args.interval, args.sample, args.count = 3, 5, 1, 6
    return args


def main():
    args = arguments()
    lib.need("nginx", "h2load", "openssl")
    binary = lib.sluice_binary()
    args.out.mkdir(parents=True, exist_ok=True)
    lib.raise_files(20000)
    with lib.Lock(args.lock), lib.Place(args.port) as place:
        start(place, args.workers)[0].stop()  # fills the cache of compiled filters: the second process starts as one that was restarted
        process, file = start(place, args.workers)
        try:
            status, headers, _ = lib.get(place.port, "/1k", credentials(0))
            if status != 200 or headers.get("x-gw") != "1" or lib.get(place.port)[0] != 401:
                sys.exit(f"the gateway does not do its job: status {status}, headers {headers}")
            generators = load(place, args.calibrate)
            try:
                latencies, failed = collect(place, generators, args.calibrate + 30)
                most = len(latencies) / args.calibrate
            finally:
                for generator in generators:
                    generator.stop()
            if failed:
                sys.exit(f"{failed} requests failed before the soak began")
            rate = most * args.share
            print(f"{most:.0f} requests per second at most, {rate:.0f} from now on", flush=True)
            data = dict(machine=lib.machine(), seconds=args.interval, intervals=[], samples=[], settings={
                "sluice": lib.version(binary, "--version"), "workers": args.workers, "most requests per second": round(most),
                "requests per second": round(rate), "interval": f"{args.interval} s"})
            began = time.time()
            for number in range(1, args.count + 1):
                row = interval(place, process, file, number, args, rate, began, data["samples"])
                data["intervals"].append(row)
                took = "never" if row["reload_s"] is None else f"{row['reload_s']:.1f} s"
                print(f"{row['second'] / 60:6.1f} min {row['requests']:8} requests {row['failed']} failed  p50 {row['p50_ms']:.2f} "
                      f"p99 {row['p99_ms']:.2f} ms  {row['cpu_us']:.1f} µs/req  reload {took}  {data['samples'][-1]['pss_mib']:.1f} MiB  "
                      f"other {row['other_cores']:.2f}", flush=True)
                write(data, args.quick, args.out)
        finally:
            process.stop()
    verdict = judge(data, args.quick)
    for what, fine in verdict:
        print(f"{WORDS[fine]}: {what}")
    return 1 if any(fine is False for _, fine in verdict) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"the soak ended early: {error}")
