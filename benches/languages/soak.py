#!/usr/bin/env python3
"""Many requests through the API-key filter of each language, with the limits that a filter has by default.

    cargo test --locked -p sluice --test e2e languages::     # builds the filters, into target/languages
    benches/languages/soak.py                                # 1,000,000 requests a language; or --requests 20000, or some languages

wrk sends them over 32 connections, a third each with a good key, a wrong one and none. Each tenth is a line: requests, answers by status, failed
calls of the filter by kind, the largest memory of an instance, the memory of the gateway. A failed call ends the command with 1, and so does an answer
that is neither 200 nor 401; the lines of the gateway's log that say why are printed.
"""
import argparse, os, pathlib, shutil, socket, subprocess, sys, tempfile, time

from run import FILTERS, LANGUAGES, TARGET, components, metric, port

TENTHS = 10
CONNECTIONS = 32
SECONDS = 2  # of a run of wrk, which knows no number of requests
LOAD = """
local keys = {{ ["x-api-key"] = "k1" }, { ["x-api-key"] = "unknown" }, {}}
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() sent = 0; counts = {} end
function request() sent = sent + 1; return wrk.format("GET", "/", keys[sent % 3 + 1]) end
function response(status) counts[status] = (counts[status] or 0) + 1 end
function done(summary)
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("counts")) do io.write("status ", status, " ", count, "\\n") end
  end
  local errors = summary.errors
  io.write("status broken ", errors.connect + errors.read + errors.write + errors.timeout, "\\n")
end
"""


def load(address, requests, script):
    """Sends at least so many. Answers by status; `broken` counts those that never came."""
    counts = {}
    while sum(counts.values()) < requests:
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--timeout", "30s", "-s", script, f"http://{address}/"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for line in said.splitlines():
            if line.startswith("status "):
                _, status, count = line.split()
                counts[status] = counts.get(status, 0) + int(count)
        if not sum(counts.values()):
            sys.exit(said)
    return {status: count for status, count in counts.items() if count}


def start(sluice, folder, component, lines):
    """The gateway, its address, its port of metrics."""
    (folder / "plugins").mkdir()
    shutil.copy(component, folder / "plugins/soak.wasm")
    http_port, admin = port(), port()
    (folder / "gateway.toml").write_text(f"""
[gateway]
reload = false
[listeners.http]
bind = "127.0.0.1:{http_port}"
[admin]
bind = "127.0.0.1:{admin}"
[upstreams.echo]
builtin = "echo"
[filters.soak]
{lines}
[routes.all]
match = {{ path = "/**" }}
upstream = "echo"
pipeline = ["soak"]
""")
    with open(folder / "log", "wb") as log:
        gateway = subprocess.Popen([sluice, "run", "-c", folder / "gateway.toml"], stdout=subprocess.DEVNULL, stderr=log,
                                   env={**os.environ, "XDG_STATE_HOME": str(folder)})
    end = time.monotonic() + 600
    while True:
        try:
            socket.create_connection(("127.0.0.1", http_port)).close()
            return gateway, f"127.0.0.1:{http_port}", admin
        except OSError:
            if gateway.poll() is not None or time.monotonic() > end:
                gateway.kill()
                sys.exit((folder / "log").read_text()[-2000:])
            time.sleep(0.1)


def failures(admin):
    counted = metric(admin, "sluice_filter_failures_total", "soak").items()
    return {labels.split('kind="')[1].split('"')[0]: int(count) for labels, count in counted if count}


def resident(gateway):
    pages = int(pathlib.Path(f"/proc/{gateway.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def soak(language, component, arguments):
    """Whether all went well."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        script = folder / "load.lua"
        script.write_text(LOAD)
        gateway, address, admin = start(arguments.sluice, folder, component, FILTERS[arguments.filter][0] + "\n" + arguments.toml)
        good, total, begin = True, 0, time.monotonic()
        try:
            for tenth in range(1, TENTHS + 1):
                counts = load(address, arguments.requests // TENTHS, script)
                total += sum(counts.values())
                failed = failures(admin)
                good &= not failed and set(counts) <= {"200", "401"}
                instance = max(metric(admin, "sluice_filter_memory_peak_bytes", "soak").values(), default=0)
                shown = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
                print(f"| {language} | {total:,} | {time.monotonic() - begin:.0f} s | {shown} | {failed or 'none'} "
                      f"| {instance / (1 << 20):.1f} MiB | {resident(gateway) / (1 << 20):.1f} MiB |", flush=True)
        finally:
            gateway.terminate()
            gateway.wait()
        for line in (folder / "log").read_text().splitlines():
            if '"soak"' in line and any(level in line for level in ('"warn"', '"error"', "WARN", "ERROR")):
                print(line[:500], file=sys.stderr)
        return good


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--requests", type=int, default=1_000_000)
    options.add_argument("--sluice", default=TARGET / "release" / "sluice", help="the gateway")
    options.add_argument("--components", type=pathlib.Path, help="a folder with LANGUAGE/FILTER.wasm, in place of what the tests have built")
    options.add_argument("--filter", default="api-key", choices=FILTERS)
    options.add_argument("--toml", default="", help="lines for the filter's table, such as 'limits = { cpu = \"50ms\" }'")
    options.add_argument("languages", nargs="*", default=LANGUAGES)
    arguments = options.parse_args()
    print("| language | requests | after | answers | failed calls | memory of an instance | memory of the gateway |")
    print("|---|---|---|---|---|---|---|")
    good = True
    for language in arguments.languages:
        if arguments.components:
            file = arguments.components / language / f"{arguments.filter}.wasm"
        else:
            file = (components(language) or {}).get(arguments.filter)
        if file and file.exists():
            good &= soak(language, file, arguments)
        else:
            print(f"{language}: not built", file=sys.stderr)
    sys.exit(not good)


main()
