"""What the measuring scripts share: processes and their cost, the lock, the origin, the load, and requests that check an answer.

Everything happens on 127.0.0.1. The main figure is the CPU time (user and system) of a proxy's process tree, divided by
the requests that the origin counted in the same window: connections are set up before the window begins.
"""
import argparse, base64, fcntl, getpass, hashlib, hmac, http.client, json, os, pathlib, platform, re, resource, shutil, signal, socket
import ssl, subprocess, sys, tempfile, time

REPO = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or REPO / "target").resolve()
TICK = os.sysconf("SC_CLK_TCK")
SECRET = "a-made-up-secret-that-only-loopback-sees"
TOKENS = 256  # how many tokens and keys the load takes turns with
IN = {"x-bench-in": "hello"}
USER, PASSWORD, KEY = "acme", "made up for loopback", "a-made-up-key-that-only-loopback-sees"
CALLER = {**IN, "X-Api-Key": KEY, "Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
PREFIXES = [f"10.{net // 256}.{net % 256}.0/25" for net in range(9999)] + ["127.0.0.2/32"]  # the last one is who has to be refused


# ------------------------------------------------------------------------------------------------ processes
class Process:
    """A program in a session of its own, so that it ends with all its children and nothing else does."""

    def __init__(self, command, log, env=None):
        self.log = pathlib.Path(log)
        with open(log, "wb") as out:
            self.popen = subprocess.Popen([str(word) for word in command], env=env, stdout=out, stderr=subprocess.STDOUT,
                                          stdin=subprocess.DEVNULL, start_new_session=True)
        self.pid = self.popen.pid

    def ended(self):
        return self.popen.poll() is not None

    def said(self):
        return self.log.read_text(errors="replace")[-1500:].strip()

    def stop(self):
        for sig in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, sig)
            except ProcessLookupError:
                pass
            try:
                self.popen.wait(4)
            except subprocess.TimeoutExpired:
                pass


def tree(root):
    """The process ids of a process and its descendants."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu(pids):
    """Seconds of CPU time, user and system, that these processes have used; exact to a tick (10 ms) each."""
    total = 0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def memory(pids):
    """MiB in use: RSS, and PSS (a page that several processes share counts once)."""
    rss = pss = 0
    for pid in pids:
        try:
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        rss += int(re.search(r"^Rss:\s+(\d+)", text, re.M)[1])
        pss += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])
    return rss / 1024, pss / 1024


def machine_cpu():
    """Seconds that all cores together were busy since the machine started."""
    fields = [int(x) for x in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK


def established(port):
    """How many connections clients have to a local port."""
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if (words := line.split())[3] == "01" and words[1].endswith(f":{port:04X}"))


def raise_files(wanted):
    """Raises the limit of open files (children inherit it) and returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in ((max(wanted, soft), max(wanted, hard)), (min(wanted, hard), hard)):
        if soft < limit[0]:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
                break
            except (ValueError, OSError):
                continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Lock:
    """An flock(1) lock, held while something is measured and let go in between, so that others get their turn."""

    def __init__(self, path, patience=3600):
        self.file = open(path, "a") if path else None
        self.patience = patience

    def __enter__(self):
        end = time.time() + self.patience
        while self.file:
            try:
                return fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.time() > end:
                    sys.exit(f"{self.file.name} was locked for {self.patience} s")
                time.sleep(0.2)

    def __exit__(self, *_):
        if self.file:
            fcntl.flock(self.file, fcntl.LOCK_UN)
            time.sleep(0.5)


# ------------------------------------------------------------------------------------------------ requests and tokens
def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(sub="alice", expires=86400, secret=SECRET, issuer="bench"):
    """An HS256 token as the mode `auth` wants it, unless told otherwise."""
    now = int(time.time())
    parts = {"alg": "HS256", "typ": "JWT", "kid": "k1"}, {"iss": issuer, "sub": sub, "iat": now, "exp": now + expires}
    signed = ".".join(b64(json.dumps(part).encode()) for part in parts)
    return signed + "." + b64(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())


CONTEXT = ssl._create_unverified_context()


def connection(port, tls=False, source=None):
    """A connection that is made with its first request, from another address of this machine if one is given."""
    source = (source, 0) if source else None
    if tls:
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=CONTEXT, source_address=source)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=source)


def ask(client, path="/1k", headers=None):
    """(status, headers in lower case, body) of one request on this connection."""
    client.putrequest("GET", path, skip_accept_encoding=True)  # nothing but Host and what was asked for
    for name, value in (headers or {}).items():
        client.putheader(name, value)
    client.endheaders()
    answer = client.getresponse()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def get(port, path="/1k", headers=None, tls=False, source=None):
    """(status, headers in lower case, body) of one request on a connection of its own."""
    client = connection(port, tls, source)
    try:
        return ask(client, path, headers)
    finally:
        client.close()


def free(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


def wait_for(process, port, path="/1k", headers=None, tls=False, seconds=60, pause=0.05):
    """Waits until something answers, and returns that; a RuntimeError with the end of the log when nothing does."""
    end = time.time() + seconds
    while time.time() < end and not process.ended():
        try:
            return get(port, path, headers, tls)
        except (OSError, http.client.HTTPException):
            time.sleep(pause)
    raise RuntimeError("does not answer: " + (process.said() or "it said nothing"))


# ------------------------------------------------------------------------------------------------ the place and its origin
def document(size):
    """A JSON document of about this many bytes: a list of people, with a password each."""
    person = {"name": "Ada Lovelace", "password": "made up", "address": {"city": "London", "code": 12345}, "roles": ["reader", "writer"]}
    return json.dumps([person] * (size // len(json.dumps(person))))


def nginx_head(folder, workers, connections):
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    temporary = "".join(f"{what}_temp_path {folder}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""{user}worker_processes {workers};
daemon off;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections {connections}; }}
http {{
{temporary}access_log off;
server_tokens off;
keepalive_requests 1000000000;
keepalive_timeout 300s;
"""


def nginx_command(folder, conf):
    (folder / "nginx.conf").write_text(conf)
    return ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]


class Place:
    """A scratch folder with a certificate and tokens, and the origin: nginx with one worker, which counts its requests."""

    def __init__(self, port=19580, sizes=(), redis=False):
        self.port, self.origin_port, self.other_port, self.origin, self.redis = port, port + 1, port + 2, None, None
        for p in (port, port + 1, port + 2):
            if not free(p):
                sys.exit(f"port {p} is in use: choose others with --port")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        # A clean end when a terminal or CI gives up, so that nothing is left running.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
        try:
            self.cert, self.key = self.folder / "cert.pem", self.folder / "key.pem"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                            "-days", "30", "-subj", "/CN=localhost", "-keyout", self.key, "-out", self.cert],
                           check=True, capture_output=True)
            (self.folder / "client.cnf").write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n"
                                                    "MinProtocol = TLSv1.3\nCiphersuites = TLS_AES_128_GCM_SHA256\n")
            (self.folder / "load.lua").write_text(WRK_SCRIPT)
            self.env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
            self.start_origin(sizes)
            self.redis = Redis(self) if redis and shutil.which("redis-server") else None
        except BaseException:
            self.close()
            raise

    def start_origin(self, sizes):
        folder = self.folder / "origin"
        (folder / "www").mkdir(parents=True)
        for size in {102400, *sizes}:
            with open(folder / "www" / str(size), "wb") as out:
                out.truncate(size)
        (folder / "www" / "document").write_text(document(1024))
        seen = dict(xff="x_forwarded_for", host="host", user="x_user", authorization="authorization", remove="x_remove_me", key="x_api_key",
                    **{f"f{i}": f"x_filter_req_{i}" for i in range(1, 21)})
        echo = ",".join(f'"{k}":"$http_{v}"' for k, v in seen.items())
        conf = nginx_head(folder, 1, 32768) + f"""sendfile on;
tcp_nopush on;
open_file_cache max=64;
default_type text/plain;
add_header x-upstream-secret 1;
server {{
  listen 127.0.0.1:{self.origin_port} backlog=4096;
  listen 127.0.0.2:{self.origin_port} backlog=4096;
  location / {{ return 200 "{'a' * 1024}"; }}
  location /size/ {{ alias {folder}/www/; }}
  location = /json {{ default_type application/json; alias {folder}/www/document; }}
  location = /echo {{ return 200 '{{{echo}}}'; }}
  location = /origin-status {{ stub_status; }}
}}
}}
"""
        self.origin = Process(nginx_command(folder, conf), self.folder / "origin.log", self.env)
        wait_for(self.origin, self.origin_port)
        self.status = http.client.HTTPConnection("127.0.0.1", self.origin_port, timeout=10)

    def origin_counts(self):
        """How many connections and requests the origin has had; asking is one of the latter."""
        self.status.request("GET", "/origin-status")
        accepted, _, requests = (int(x) for x in self.status.getresponse().read().split(b"\n")[2].split())
        return accepted, requests

    def close(self):
        if self.origin:
            self.origin.stop()
        if self.redis:
            self.redis.process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Redis:
    """A redis-server that keeps nothing on disk, in a place."""

    def __init__(self, place):
        self.port = place.other_port
        folder = place.folder / "redis"
        folder.mkdir()
        command = ["redis-server", "--bind", "127.0.0.1", "--port", self.port, "--save", "", "--appendonly", "no", "--dir", folder]
        self.process = Process(command, folder / "log", place.env)
        end = time.time() + 20
        while free(self.port):
            if self.process.ended() or time.time() > end:
                raise RuntimeError("redis-server does not listen: " + self.process.said())
            time.sleep(0.05)

    def commands(self):
        """How many calls it has had from clients. A script is one, and what it does itself none."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as s, s.makefile("rwb") as stream:
            stream.write(b"INFO commandstats\r\n")
            stream.flush()
            text = stream.read(int(stream.readline()[1:])).decode()
        return sum(int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", text) if name.startswith("eval"))

    def sample(self):
        return cpu([self.process.pid]), self.commands()


# ------------------------------------------------------------------------------------------------ the gateway
def settings(place, workers, port=None, tls=False, pool=""):
    """The text of a gateway.toml that has all but plugins, filters and routes. `pool`: what the upstream's table has more."""
    text = f"""[gateway]
workers = {workers}
cache_dir = "{place.folder}/cache"
max_connections = 30000
[telemetry]
access_log = "off"
[admin]
bind = "127.0.0.1:0"
[listeners.bench]
bind = "127.0.0.1:{port or place.port}"
max_connections = 30000
"""
    if tls:
        text += f"""tls = {{ certificates = ["bench"], min_version = "1.3" }}
protocols = ["http/1.1"]
[certificates.bench]
cert = "{place.cert}"
key = "{place.key}"
"""
    return text + f'[upstreams.origin]\nendpoints = ["http://127.0.0.1:{place.origin_port}"]\n{pool}'


def header_filters(count):
    """The text of filters f1, f2 …: each copies x-bench-in to a header of its own, and adds one to the response."""
    text = f'[plugins.rust-header]\nfile = "{TARGET}/plugins/rust-header.wasm"\n'
    for i in range(1, count + 1):
        text += (f'[filters.f{i}]\nplugin = "rust-header"\nconfig = {{ copy_from = "x-bench-in", copy_to = "x-filter-req-{i}", '
                 f'response_header = "x-filter-resp-{i}", response_value = "1" }}\n')
    return text


def route(name, path, pipeline):
    filters = ", ".join(f'"{each}"' for each in pipeline)
    return f'[routes.{name}]\nmatch = {{ path = "{path}" }}\nupstream = "origin"\npipeline = [{filters}]\n'


class Gateway:
    """Sluice with the text of a gateway.toml, for the time of a `with`. `waiting`: more for `wait_for`."""

    def __init__(self, place, text, port=None, **waiting):
        self.place, self.port, self.waiting = place, port or place.port, waiting
        config = place.folder / f"gateway-{self.port}.toml"
        config.write_text(text)
        self.command = [sluice_binary(), "run", "--config", config]

    def __enter__(self):
        if not free(self.port):
            raise RuntimeError(f"port {self.port} is still in use")
        began = time.perf_counter()
        self.process = Process(self.command, self.place.folder / f"sluice-{self.port}.log", self.place.env)
        try:
            self.answer = wait_for(self.process, self.port, **self.waiting)
        except BaseException:
            self.process.stop()
            raise
        self.start_ms = (time.perf_counter() - began) * 1000
        return self

    def __exit__(self, *_):
        self.process.stop()


# ------------------------------------------------------------------------------------------------ load
# Takes a file of requests, one per line: the path, then headers, with tabs between. They take turns.
WRK_SCRIPT = """local requests, at = {}, 0
function init(args)
  for line in io.lines(args[1]) do
    local path, headers = line:match("^[^\\t]+"), {}
    for name, value in line:gmatch("\\t([^:\\t]+): ([^\\t]*)") do headers[name] = value end
    requests[#requests + 1] = wrk.format("GET", path, headers)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(s, latency)
  local e = s.errors
  print(string.format("RESULT %d %d %d %d %d %d", s.requests, s.bytes, s.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


def wrk(place, requests, connections, seconds, tls=False, port=None):
    """A command that keeps this many connections busy. `requests`: (path, headers) that take turns."""
    lines = ["\t".join([path, *(f"{k}: {v}" for k, v in headers.items())]) for path, headers in requests]
    (place.folder / "requests").write_text("\n".join(lines) + "\n")
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", place.folder / "load.lua",
            f"http{'s' * tls}://127.0.0.1:{port or place.port}", "--", place.folder / "requests"]


def h2load(place, path, connections, seconds, tls=False, streams=1, rate=None, headers=None, log="h2load.log"):
    """HTTP/2 over TLS, or HTTP/1.1 without; at a rate (requests per second in all) if there is one."""
    command = ["h2load", "-t1", f"-c{connections}", f"-D{seconds}", f"-m{streams}", f"--log-file={place.folder / log}"]
    command += [] if tls else ["--h1"]
    command += [f"--rps={rate / connections:g}"] if rate else []
    command += [word for k, v in (headers or {}).items() for word in ("-H", f"{k}: {v}")]
    return command + [f"http{'s' * tls}://127.0.0.1:{place.port}{path}"]


def percentile(values, part):
    return values[min(len(values) - 1, int(len(values) * part))] if values else 0.0


def read_log(path, begin=0.0, end=float("inf")):
    """(latencies in ms, ascending; failed requests) of h2load's log, of requests that began between two times."""
    latencies, failed = [], 0
    with open(path) as lines:
        for line in lines:
            start, status, took = (int(x) for x in line.split("\t")[:3])
            if begin <= start / 1e6 < end:
                latencies.append(took / 1000)
                failed += status != 200
    return sorted(latencies), failed


def under_load(place, command, pids, skip, seconds, redis=None):
    """Runs the generator and measures for `seconds`, after `skip` seconds of it (or once it returns): a dict with what was seen, also of
    the redis-server where one is given."""
    log = place.folder / "h2load.log"
    log.unlink(missing_ok=True)
    env = dict(place.env, OPENSSL_CONF=str(place.folder / "client.cnf"))
    load = Process(command, place.folder / "load.out", env)
    origin = tree(place.origin.pid)

    def sample():
        return time.time(), cpu(pids), *place.origin_counts(), cpu(origin), cpu([load.pid]), machine_cpu()
    try:
        all_before = cpu(pids)
        skip() if callable(skip) else time.sleep(skip)
        stored = redis.sample() if redis else ()
        a = sample()
        time.sleep(seconds)
        b = sample()
        stored = [y - x for x, y in zip(stored, redis.sample() if redis else ())]
        _, pss = memory(pids)
        if command[0] == "wrk" and not load.ended():
            load.popen.send_signal(signal.SIGINT)  # ends now, as at the end of its time
        load.popen.wait(seconds + 30)
    finally:
        load.stop()
    if load.popen.returncode:
        raise RuntimeError(f"{command[0]} failed: {load.said()}")
    took, used, connected, count, of_origin, of_load, busy = (y - x for x, y in zip(a, b))
    count -= 1
    row = dict(requests=count, seconds=took, rps=count / took, cpu_us=used * 1e6 / max(count, 1), cores=used / took, pss_mib=pss,
               connects=connected / max(count, 1), other_cores=(busy - used - of_origin - of_load - sum(stored[:1])) / took)
    if redis:
        row.update(redis_us=stored[0] * 1e6 / max(count, 1), round_trips=stored[1] / max(count, 1))
    if command[0] == "wrk":
        total, size, length, errors, p50, p99 = (int(x) for x in re.search(r"RESULT (.*)", load.said())[1].split())
        row.update(total=total, errors=errors, p50_ms=p50 / 1000, p99_ms=p99 / 1000, bytes=size, load_s=length / 1e6, cpu_all=cpu(pids) - all_before)
    else:
        latencies, failed = read_log(log, a[0], b[0])
        refused = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", load.said())
        row.update(errors=max(failed, sum(int(x) for x in refused.groups())), p50_ms=percentile(latencies, 0.5),
                   p99_ms=percentile(latencies, 0.99))
    return row


# ------------------------------------------------------------------------------------------------ the machine
def version(*command):
    """What a program says of its version, or None if it isn't there."""
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Some say their own path first, which may have another's version in it.
    said = (out.stdout + out.stderr).replace(str(command[0]), "")
    found = re.search(r"\d+\.\d+[\w.+~-]*", said)
    return found[0] if found else "unknown"


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.*)", info, re.M)
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])
    try:
        system = re.search(r'^PRETTY_NAME="?([^"\n]*)', pathlib.Path("/etc/os-release").read_text(), re.M)[1]
    except (OSError, TypeError):
        system = "Linux"
    return {"CPU": model[1].strip() if model else platform.machine(), "cores": os.cpu_count(),
            "memory": f"{memory_kib / 2**20:.0f} GiB", "kernel": platform.release(), "system": system,
            "date": time.strftime("%Y-%m-%d")}


def parser(doc, folder):
    """The arguments that all scripts have; results go to that folder of the target directory."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=pathlib.Path, default=TARGET / folder, help="folder of the results")
    made.add_argument("--workers", type=int, default=2, help="threads or processes of each proxy")
    made.add_argument("--port", type=int, default=19580, help="this one and the next two are used")
    made.add_argument("--lock", help="a file to flock(1) while something is measured")
    return made


def need(*programs):
    """Ends the script with what to install when one of the programs is missing."""
    packages = {"h2load": "nghttp2-client"}
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}. On Debian and Ubuntu: apt-get install "
                 + " ".join(packages.get(p, p) for p in missing))


def sluice_binary():
    binary = TARGET / "release" / "sluice"
    if not os.access(binary, os.X_OK):
        sys.exit(f"no release binary at {binary}: run cargo build --release first")
    return binary
