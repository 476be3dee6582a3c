#!/usr/bin/env python3
"""What compression costs: CPU time of a proxy for each MB of content, beside nginx at the same ratio, in one run.

  cargo build --release && benches/compare/compression.py     everything; some ten minutes
  benches/compare/compression.py --quick                      that it works: under a minute
  benches/compare/compression.py --sizes 10k,1m --encodings gzip
  benches/compare/compression.py --report DIR                 the page again, from DIR/results.json

It needs nginx (a peer, and the origin), wrk and openssl: apt-get install nginx wrk openssl. nginx is measured with Brotli, too, if it has the module:
apt-get install libnginx-mod-http-brotli-filter. Results go to target/compression: results.md and results.json. Exits with 1 if something could not be measured
or a request failed; a target that is missed is said in the table.
"""
import contextlib, gzip, json, pathlib, random, statistics, subprocess, sys

import lib, proxies

TARGET = 1.1
SIZES = {"1k": 1 << 10, "10k": 10 << 10, "100k": 100 << 10, "1m": 1 << 20}
LEVELS = {"gzip": range(1, 10), "br": range(1, 7), "zstd": (1, 2, 3, 4, 5, 6, 9)}
QUICK = {"gzip": (1, 4, 6), "br": (1, 4), "zstd": (1, 3)}

METHOD = """Load generator (wrk, one thread, {connections} connections), proxies and origin (nginx, one worker) run on one machine, on 127.0.0.1. The content is JSON of
invented orders, the same for all. Each proxy is started once for each encoding and level. All proxies of a size and encoding take turns, {rounds} times; a figure is the
median. **ms/MB** is the CPU time of the process (`/proc/PID/stat`) for a million bytes of content, the proxying included; **ratio** is content divided by what was sent.
**at nginx's ratio** is the CPU time of Sluice at that ratio, between its two nearest levels (or at its nearest one, if none compresses better), divided by nginx's; the target
is at most {target}. Sluice's levels do not adapt to the load here (`adaptive = false`)."""


def content(size):
    """JSON as an API has it: names that repeat, numbers and identifiers that do not."""
    draw = random.Random(1)
    words = [f"{draw.choice('bcdfgklmnprst')}{draw.choice('aeiou')}{draw.choice('bdlmnrst')}{draw.choice(['', 'er', 'ing', 'a', 'o'])}"
             for _ in range(400)]
    text = "["
    while len(text) < size:
        text += json.dumps({"id": f"{draw.getrandbits(64):016x}", "customer": {"name": " ".join(draw.sample(words, 2)).title(), "since": draw.randint(1990, 2026)},
                       "items": [{"sku": draw.randint(10000, 99999), "title": " ".join(draw.choices(words, k=5)), "price": round(draw.uniform(1, 500), 2)}
                                 for _ in range(draw.randint(1, 5))],
                       "note": " ".join(draw.choices(words, k=draw.randint(0, 40))), "paid": draw.random() < 0.8}) + ", "
    return text[:size].encode()


# ------------------------------------------------------------------------------------------------ the proxies
def sluice(place, port, workers, encoding, level):
    compression = "false" if encoding is None else (
        f'{{ encodings = ["{encoding}"], adaptive = false, min_size = 1, levels = {{ {encoding} = {level} }} }}')
    text = lib.settings(place, workers, port) + lib.route("all", "/**", []) + f"compression = {compression}\n"
    config = place.folder / f"sluice-{port}.toml"
    config.write_text(text)
    return [lib.sluice_binary(), "run", "--config", config]


def nginx(place, port, workers, encoding, level):
    if encoding == "br" and not brotli_modules():
        return None
    if encoding not in (None, "gzip", "br"):
        return None
    folder = place.folder / f"nginx-{port}"
    folder.mkdir(exist_ok=True)
    name = {"br": "brotli"}.get(encoding, "gzip")
    rules = "" if encoding is None else f"{name} on;\n{name}_comp_level {level};\n{name}_types *;\n{name}_min_length 1;\n"
    if encoding == "gzip":
        rules += "gzip_proxied any;\n"
    modules = "".join(f"load_module {module};\n" for module in brotli_modules()) if encoding == "br" else ""
    conf = modules + lib.nginx_head(folder, workers, 4096) + f"""upstream origin {{
  server 127.0.0.1:{place.origin_port};
  keepalive 128;
  keepalive_requests 1000000000;
}}
server {{
  listen 127.0.0.1:{port} backlog=4096;
  location / {{
    proxy_pass http://origin;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_buffer_size 16k;
    proxy_buffers 16 16k;
    proxy_max_temp_file_size 0;
{rules}  }}
}}
}}
"""
    return lib.nginx_command(folder, conf)


def brotli_modules():
    module = proxies.NginxLua().module("ngx_http_brotli_filter_module.so")
    return [module] if module.exists() else []


PEERS = {"Sluice": sluice, "nginx": nginx}


# ------------------------------------------------------------------------------------------------ measuring
@contextlib.contextmanager
def running(place, port, command, path):
    process = lib.Process(command, place.folder / f"{port}.log", place.env)
    try:
        lib.wait_for(process, port, path)
        yield process
    finally:
        process.stop()


def measure(place, port, process, path, size, encoding, seconds):
    """(CPU ms per MB, ratio) of one load."""
    accept = {"Accept-Encoding": encoding} if encoding else {}
    _, headers, body = lib.get(port, path, accept)
    if headers.get("content-encoding") != encoding:
        raise RuntimeError(f"{path} came as {headers.get('content-encoding')}, not {encoding}")
    command = lib.wrk(place, [(path, accept)], CONNECTIONS, 60, port=port)
    row = lib.under_load(place, command, lib.tree(process.pid), 0.3, seconds)
    if row["errors"]:
        raise RuntimeError(f"{row['errors']} requests failed")
    return row["cpu_us"] / 1000 / (size / 1e6), size / len(body)


CONNECTIONS = 16


def run(options):
    lib.need("nginx", "wrk", "openssl")
    results = []
    if "br" in options.encodings and not brotli_modules():
        print("without nginx's Brotli: libnginx-mod-http-brotli-filter is not installed", flush=True)
    with lib.Place(options.port) as place:
        for size in options.sizes:
            (place.folder / "origin" / "www" / size).write_bytes(content(SIZES[size]))
            if size == options.sizes[0]:
                pure = gzip.compress(content(SIZES["100k"]), 6)
                print(f"the content: {SIZES['100k'] / len(pure):.2f} times as long as gzip makes it (zlib, level 6)", flush=True)
        for size in options.sizes:
            for encoding in (None, *options.encodings):
                levels = (0,) if encoding is None else options.levels[encoding]
                figures, path = {}, f"/size/{size}"
                for _ in range(options.rounds):
                    for peer, level in ((peer, level) for level in levels for peer in PEERS):
                        command = PEERS[peer](place, options.port + 4, options.workers, encoding, level)
                        if command is None:
                            continue
                        with lib.Lock(options.lock), running(place, options.port + 4, command, path) as process:
                            figure = measure(place, options.port + 4, process, path, SIZES[size], encoding, options.seconds)
                        figures.setdefault((peer, level), []).append(figure)
                for (peer, level), rounds in figures.items():
                    row = dict(size=size, encoding=encoding, peer=peer, level=level, ratio=rounds[0][1],
                               ms_per_mb=statistics.median(ms for ms, _ in rounds), rounds=[ms for ms, _ in rounds])
                    results.append(row)
                    print(f"{size:>5} {encoding or '-':>5} {peer:>7} {level:>2}: {row['ms_per_mb']:7.2f} ms/MB, ratio {row['ratio']:.2f}", flush=True)
    return dict(machine=lib.machine(), versions={"Sluice": lib.version(lib.sluice_binary(), "--version"), "nginx": lib.version("nginx", "-v")},
                rounds=options.rounds, results=results)


# ------------------------------------------------------------------------------------------------ the page
def at_ratio(rows, ratio):
    """CPU time at a ratio, between the nearest levels of these rows."""
    rows = sorted(rows, key=lambda row: row["ratio"])
    better = [row for row in rows if row["ratio"] >= ratio]
    if not better:
        return rows[-1]["ms_per_mb"] if rows else None
    # The cheapest level that is good enough, and one below it to go between.
    upper = min(better, key=lambda row: row["ms_per_mb"])
    lower = [row for row in rows if row["ratio"] < ratio and row["ms_per_mb"] < upper["ms_per_mb"]]
    if not lower:
        return upper["ms_per_mb"]
    lower = lower[-1]
    part = (ratio - lower["ratio"]) / (upper["ratio"] - lower["ratio"])
    return lower["ms_per_mb"] + part * (upper["ms_per_mb"] - lower["ms_per_mb"])


def page(data):
    text = "# Compression\n\n" + ", ".join(f"{k}: {v}" for k, v in {**data["machine"], **data["versions"]}.items()) + "\n\n"
    text += METHOD.format(connections=CONNECTIONS, rounds=data["rounds"], target=TARGET) + "\n"
    results = data["results"]
    for size in dict.fromkeys(row["size"] for row in results):
        text += f"\n## {size}\n\n| encoding | level | nginx: ms/MB | ratio | Sluice: ms/MB | ratio | at nginx's ratio |\n|---|---:|---:|---:|---:|---:|---:|\n"
        for encoding in dict.fromkeys(row["encoding"] for row in results if row["size"] == size):
            of = {(row["peer"], row["level"]): row for row in results if (row["size"], row["encoding"]) == (size, encoding)}
            ours = [row for (peer, _), row in of.items() if peer == "Sluice"]
            for level in dict.fromkeys(level for _, level in of):
                cells = []
                for peer in ("nginx", "Sluice"):
                    row = of.get((peer, level))
                    cells += [f"{row['ms_per_mb']:.2f}", f"{row['ratio']:.2f}"] if row else ["–", "–"]
                theirs, cell = of.get(("nginx", level)), "–"
                if theirs and encoding:
                    factor = at_ratio(ours, theirs["ratio"]) / theirs["ms_per_mb"]
                    cell = f"{factor:.2f}" + (" (missed)" if factor > TARGET else "")
                text += f"| {encoding or 'none'} | {level or '–'} | {' | '.join(cells)} | {cell} |\n"
    return text


def main():
    made = lib.parser(__doc__, "compression")
    made.add_argument("--sizes", default="10k,100k,1m", help=f"of {', '.join(SIZES)}")
    made.add_argument("--encodings", default="gzip,br,zstd")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--seconds", type=float, default=1.5)
    made.add_argument("--quick", action="store_true", help="a check that it works")
    made.add_argument("--report", type=pathlib.Path, help="makes the page again, from this folder")
    options = made.parse_args()
    if options.report:
        data = json.loads((options.report / "results.json").read_text())
        (options.report / "results.md").write_text(page(data))
        return
    options.levels = LEVELS
    if options.quick:
        options.levels, options.rounds, options.seconds, options.sizes = QUICK, 1, 0.5, "100k"
    options.sizes, options.encodings = options.sizes.split(","), options.encodings.split(",")
    data = run(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(data, indent=1))
    (options.out / "results.md").write_text(page(data))
    print(page(data))
    print(f"{options.out}/results.md")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
