#!/usr/bin/env python3
"""What a filter costs in each language: size, first load, CPU time of a call with reused and with fresh instances, memory.

    cargo test --locked -p sluice --test e2e languages::     # builds the filters, into target/languages
    benches/languages/run.py                                 # or --quick

A gateway with one worker calls the three filters of examples/filters one at a time; its own counters have the CPU time of their calls. The load is
one client on one connection: this is a time of calls, not a rate. The table is Markdown, as docs/src/filters/languages.md has it.
"""
import argparse, http.client, http.server, os, pathlib, resource, shutil, socket, subprocess, sys, tempfile, threading, time

REPO = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or REPO / "target").resolve()
LANGUAGES = ["rust", "c", "zig", "go", "javascript", "typescript", "python"]
FILTERS = {
    "stamp": ('config = { header = "x-stamp", value = "edge" }', "on-request"),
    "api-key": ('grants = { read_headers = ["x-api-key"] }\nconfig = { keys = { k1 = { name = "ann", account = 7 } } }', "on-request"),
    "redact": ('grants = { body = true }\nconfig = { fields = ["password", "card"] }', "on-response-body"),
}
BATCHES = 20  # the best counts: what else the machine does only adds to the others
BODY = b'{"user":"ann","password":"made up","roles":["reader","writer"],"cards":[{"card":"4111111111111111","valid":true}],"city":"K\xc3\xb6ln","n":12345}'


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY))

    def log_message(self, *_):
        pass


def components(language):
    """The files of a language's filters, as the tests have left them."""
    if language == "rust":
        found = {name: TARGET / "plugins" / f"rust-{name}.wasm" for name in FILTERS}
    else:
        folders = sorted((TARGET / "languages").glob(f"{language}-????????????????"), key=lambda folder: folder.stat().st_mtime)
        found = {name: folders[-1] / f"{name}.wasm" for name in FILTERS} if folders else {}
    return found if found and all(file.exists() for file in found.values()) else None


def first_load(sluice, file):
    """CPU seconds of a load without compiled code, and seconds of one with it."""
    with tempfile.TemporaryDirectory() as cache:
        def load():
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            subprocess.run([sluice, "plugin", "inspect", file], env={**os.environ, "XDG_CACHE_HOME": cache}, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - start

        return load()[0], load()[1]


def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def metric(admin, name, filter_name):
    connection = http.client.HTTPConnection("127.0.0.1", admin)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return {line.split("}")[0]: float(line.split()[-1]) for line in lines if line.startswith(name + "{") and f'filter="{filter_name}"' in line}


def calls(sluice, cache, language, files, mode, requests, origin):
    """For each filter: µs of CPU of a call, and the largest memory of an instance in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "plugins").mkdir()
        http_port, admin = port(), port()
        toml = "[gateway]\nworkers = 1\nreload = false\n"
        toml += f'[listeners.http]\nbind = "127.0.0.1:{http_port}"\n[admin]\nbind = "127.0.0.1:{admin}"\n'
        for name, (lines, _) in FILTERS.items():
            shutil.copy(files[name], folder / "plugins" / f"x-{name}.wasm")
            # On a machine that is busy with other work, a call may take longer than it has by default.
            toml += f'[filters.x-{name}]\ninstances = {{ mode = "{mode}" }}\nlimits = {{ cpu = "100ms" }}\n{lines}\n'
            toml += f'[routes.{name}]\nmatch = {{ path = "/{name}" }}\nupstream = "http://127.0.0.1:{origin}"\npipeline = ["x-{name}"]\n'
        (folder / "gateway.toml").write_text(toml)
        with open(folder / "log", "wb") as log:
            gateway = subprocess.Popen([sluice, "run", "-c", folder / "gateway.toml"], stdout=subprocess.DEVNULL, stderr=log,
                                       env={**os.environ, "XDG_CACHE_HOME": str(cache), "XDG_STATE_HOME": str(folder)})
        try:
            end = time.monotonic() + 600
            while True:
                try:
                    socket.create_connection(("127.0.0.1", http_port)).close()
                    break
                except OSError:
                    if gateway.poll() is not None or time.monotonic() > end:
                        sys.exit((folder / "log").read_text()[-2000:])
                    time.sleep(0.1)
            out = {}
            for name, (_, hook) in FILTERS.items():
                connection = http.client.HTTPConnection("127.0.0.1", http_port)

                def ask(times):
                    for _ in range(times):
                        connection.request("GET", f"/{name}", headers={"x-api-key": "k1"})
                        answer = connection.getresponse()
                        answer.read()
                        assert answer.status == 200, (language, name, answer.status)

                def count(what):
                    return sum(value for labels, value in metric(admin, what, f"x-{name}").items() if f'hook="{hook}"' in labels)

                ask(requests // BATCHES)
                times = []
                for _ in range(BATCHES):
                    before = count("sluice_filter_cpu_seconds_total"), count("sluice_filter_calls_total")
                    ask(requests // BATCHES)
                    after = count("sluice_filter_cpu_seconds_total"), count("sluice_filter_calls_total")
                    times.append((after[0] - before[0]) / max(after[1] - before[1], 1) * 1e6)
                memory = max(metric(admin, "sluice_filter_memory_peak_bytes", f"x-{name}").values(), default=0)
                out[name] = min(times), memory
            return out
        finally:
            gateway.terminate()
            gateway.wait()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a tenth of the requests")
    options.add_argument("--sluice", default=TARGET / "release" / "sluice", help="the gateway")
    options.add_argument("languages", nargs="*", default=LANGUAGES)
    arguments = options.parse_args()
    requests = 500 if arguments.quick else 5000
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("| language | size | first load, CPU | later loads | µs a call, reused | µs a call, fresh | memory |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for language in arguments.languages:
            files = components(language)
            if not files:
                print(f"{language}: not built", file=sys.stderr)
                continue
            size = sum(file.stat().st_size for file in files.values()) / 3
            cold, warm = first_load(arguments.sluice, files["api-key"])
            reused, fresh = (calls(arguments.sluice, cache, language, files, mode, requests, server.server_port) for mode in ("reused", "fresh"))
            times = [" / ".join(f"{each[name][0]:.1f}" for name in FILTERS) for each in (reused, fresh)]
            memory = max(memory for _, memory in reused.values()) / (1 << 20)
            shown = f"{size / 1000:.0f} KB" if size < 1e6 else f"{size / 1e6:.1f} MB"
            print(f"| {language} | {shown} | {cold:.1f} s | {warm * 1000:.0f} ms | {times[0]} | {times[1]} | {memory:.1f} MiB |", flush=True)


if __name__ == "__main__":
    main()
