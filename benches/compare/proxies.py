"""The proxies of the comparison: what each can do, and the configuration that makes it do the same job as the others.

The job: keep Host, append X-Forwarded-For, reuse connections to the origin, no access log, no compression. Modes: plain; tls
(TLS 1.3); h2 (HTTP/2 over TLS 1.3); filter (filter i copies the request's x-bench-in to x-filter-req-i and adds x-filter-resp-i: 1
to the response); auth (401 unless the token is good, 429 over `rate` requests per second and x-api-key, x-user is the token's
subject, authorization and x-remove-me don't reach the origin, the response gets x-gw and loses x-upstream-secret); key (401 unless
x-api-key is the right one, which doesn't reach the origin); acl (the same, and rules by plan, label and method); basic (401 unless name and password
are right, and no authorization reaches the origin); ip (403 for 10,000 prefixes); ask (a service has said once that the caller may pass);
limit (429 over `rate` requests per second and x-api-key: the state in memory, or in a redis-server that gateways share);
files (no origin: the proxy sends the files of a folder);
redact (JSON responses lose what a pointer leads to, and texts what looks like the number of a card);
hit (the response comes out of the cache of the proxy: in memory for Sluice and Varnish, in files that the kernel has in memory for nginx).
"""
import dataclasses, json, os, pathlib, re, shutil, subprocess

import lib

ALL = ("plain", "tls", "h2", "filter", "auth")
ACCESS = ("key", "acl", "basic", "ip", "ask", "limit")


def files(folder):
    """A folder of the files that the origin would answer with."""
    www = folder / "www"
    for path, size in (("1k", 1024), ("size/102400", 102400)):
        (www / path).parent.mkdir(parents=True, exist_ok=True)
        (www / path).write_bytes(b"x" * size)
    return www


@dataclasses.dataclass
class Job:
    mode: str
    filters: int
    rate: int
    workers: int
    port: int
    origin: int
    cert: pathlib.Path
    key: pathlib.Path
    folder: pathlib.Path
    redis: int  # where a redis-server listens, if there is one
    env: dict  # what only Sluice is asked for: variables of benches/peer/start.sh

    @property
    def tls(self):
        return self.mode in ("tls", "h2")


class Sluice:
    name, modes = "Sluice", ALL + ACCESS + ("files", "hit", "redact")
    absent = "not built: cargo build --release"
    target = lib.TARGET

    def __init__(self):
        self.binary = lib.sluice_binary()

    def version(self):
        return lib.version(self.binary, "--version")

    def command(self, job):
        env = dict(MODE=job.mode, FILTERS=str(job.filters), PORT=str(job.port), UP_PORT=str(job.origin), WORKERS=str(job.workers),
                   CERT=str(job.cert), KEY=str(job.key), JWT_SECRET=lib.SECRET, RATE=str(job.rate), RUN=str(job.folder),
                   CARGO_TARGET_DIR=str(self.target), CALLER=lib.USER, PASSWORD=lib.PASSWORD, API_KEY=lib.KEY, REDIS_PORT=str(job.redis), **job.env)
        if job.mode == "ip":
            (job.folder / "blocked.txt").write_text("\n".join(lib.PREFIXES) + "\n")
        if job.mode == "files":
            files(job.folder)
        return ["bash", lib.REPO / "benches/peer/start.sh"], env


class SluicePgo(Sluice):
    """Sluice built with a profile."""
    name = "Sluice-pgo"
    absent = "not built: benches/pgo.sh"
    target = lib.TARGET / "pgo"

    def __init__(self):
        self.binary = self.target / "release" / "sluice"

    def version(self):
        return super().version() if os.access(self.binary, os.X_OK) else None


class Nginx:
    name, modes = "nginx", ("plain", "tls", "h2", "filter", "key", "ip", "files", "hit")
    absent = "not installed: package nginx"

    def version(self):
        return lib.version("nginx", "-v")

    def main(self):
        """What stands before all blocks."""
        return ""

    def rules(self, job):
        """What stands before the server, and what in its location."""
        if job.mode == "key":
            return (f'map $http_x_api_key $who {{ default ""; "{lib.KEY}" {lib.USER}; }}\n',
                    'if ($who = "") { return 401; }\nproxy_set_header X-Api-Key "";\n')
        if job.mode == "ip":
            nets = "".join(f"{net} 1;\n" for net in lib.PREFIXES)
            return f"geo $blocked {{ default 0;\n{nets}}}\n", "if ($blocked) { return 403; }\n"
        if job.mode == "hit":
            return (f"proxy_cache_path {job.folder}/responses keys_zone=responses:16m max_size=256m;\n",
                    "proxy_cache responses;\nproxy_cache_valid 200 1h;\nproxy_cache_lock on;\n")
        return "", "".join(f"proxy_set_header x-filter-req-{i} $http_x_bench_in;\nadd_header x-filter-resp-{i} 1;\n"
                           for i in range(1, job.filters + 1))

    def command(self, job):
        if job.mode == "files":
            conf = self.main() + lib.nginx_head(job.folder, job.workers, 4096) + f"""sendfile on;
tcp_nopush on;
server {{
  listen 127.0.0.1:{job.port} backlog=4096;
  root {files(job.folder)};
}}
}}
"""
            return lib.nginx_command(job.folder, conf), {}
        listen = {"tls": "ssl", "h2": "ssl http2"}.get(job.mode, "")
        before, rules = self.rules(job)
        conf = self.main() + lib.nginx_head(job.folder, job.workers, 4096) + before + f"""upstream origin {{
  server 127.0.0.1:{job.origin};
  keepalive 128;
  keepalive_requests 1000000000;
}}
server {{
  listen 127.0.0.1:{job.port} {listen} backlog=4096;
  ssl_certificate {job.cert};
  ssl_certificate_key {job.key};
  ssl_protocols TLSv1.3;
  location / {{
    proxy_pass http://origin;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_buffer_size 16k;
    proxy_buffers 16 16k;
    proxy_max_temp_file_size 0;
{rules}  }}
}}
}}
"""
        return lib.nginx_command(job.folder, conf), {}


class NginxLua(Nginx):
    """nginx that runs code, in LuaJIT. Without policies it is nginx, so that it has no figures of its own there."""
    name, modes, policies_only = "nginx-Lua", ("plain", "filter", "auth"), True
    absent = "not installed: packages libnginx-mod-http-lua and lua-cjson"

    def module(self, name):
        said = subprocess.run(["nginx", "-V"], capture_output=True, text=True).stderr
        folder = re.search(r"--modules-path=(\S+)", said)
        return pathlib.Path(folder[1] if folder else "/usr/lib/nginx/modules") / name

    def version(self):
        there = shutil.which("nginx") and self.module("ngx_http_lua_module.so").exists()
        return super().version() if there else None

    def main(self):
        return "".join(f"load_module {self.module(name)};\n" for name in ("ndk_http_module.so", "ngx_http_lua_module.so"))

    def rules(self, job):
        if job.mode == "plain":
            return "", ""
        begin = f"set_filters({job.filters})" if job.mode == "filter" else f"set_auth('{lib.SECRET}', {job.rate})"
        return (f"lua_package_path '{lib.REPO}/benches/peer/?.lua;/usr/share/lua/5.1/?.lua;;';\nlua_shared_dict limits 10m;\n"
                f"init_by_lua_block {{ require('policies').{begin} }}\n",
                f"access_by_lua_block {{ require('policies').{job.mode}_request() }}\n"
                f"header_filter_by_lua_block {{ require('policies').{job.mode}_response() }}\n")


class Varnish:
    name, modes, policies_only = "Varnish", ("hit",), False
    absent = "not installed: package varnish"

    def version(self):
        return lib.version("varnishd", "-V") if shutil.which("varnishd") else None

    def command(self, job):
        # It has no log of its own: nobody reads its memory for one.
        return ["varnishd", "-F", "-j", "none", "-n", job.folder / "varnish", "-a", f"127.0.0.1:{job.port}", "-b", f"127.0.0.1:{job.origin}",
                "-s", "malloc,256m", "-t", "3600", "-p", f"thread_pools={job.workers}", "-p", "listen_depth=4096"], {}


class Haproxy:
    name, modes = "HAProxy", ALL + ("key", "ip")
    absent = "not installed: package haproxy"

    def version(self):
        return lib.version("haproxy", "-v")

    def command(self, job):
        bind = ""
        if job.tls:
            pem = job.folder / "both.pem"
            pem.write_text(job.cert.read_text() + job.key.read_text())
            bind = f"ssl crt {pem} ssl-min-ver TLSv1.3 alpn {'h2,http/1.1' if job.mode == 'h2' else 'http/1.1'}"
        rules = []
        for i in range(1, job.filters + 1):
            rules += [f"http-request set-header x-filter-req-{i} %[req.hdr(x-bench-in)]",
                      f"http-response set-header x-filter-resp-{i} 1"]
        if job.mode == "auth":
            unless = "http-request deny deny_status 401 unless"
            rules = ["http-request set-var(txn.token) http_auth_bearer",
                     "http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')",
                     f"{unless} {{ var(txn.alg) -m str HS256 }}",
                     f'{unless} {{ var(txn.token),jwt_verify(txn.alg,"{lib.SECRET}") -m int 1 }}',
                     f"{unless} {{ var(txn.token),jwt_payload_query('$.iss') -m str bench }}",
                     "http-request set-var(txn.now) date()",
                     f"{unless} {{ var(txn.token),jwt_payload_query('$.exp','int'),sub(txn.now) -m int gt 0 }}",
                     "http-request track-sc0 req.hdr(x-api-key) table limits",
                     f"http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {job.rate} }}",
                     "http-request set-header x-user %[var(txn.token),jwt_payload_query('$.sub')]",
                     "http-request del-header authorization", "http-request del-header x-remove-me",
                     "http-response set-header x-gw 1", "http-response del-header x-upstream-secret"]
        if job.mode == "key":
            rules = [f"http-request deny deny_status 401 unless {{ req.hdr(x-api-key) -m str {lib.KEY} }}", "http-request del-header x-api-key"]
        if job.mode == "ip":
            (job.folder / "blocked.txt").write_text("\n".join(lib.PREFIXES) + "\n")
            rules = [f"http-request deny deny_status 403 if {{ src -f {job.folder}/blocked.txt }}"]
        rules = "".join(f"  {rule}\n" for rule in rules)
        conf = job.folder / "haproxy.cfg"
        conf.write_text(f"""global
  nbthread {job.workers}
  maxconn 4096
defaults
  mode http
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 300s
backend limits
  stick-table type string len 32 size 100k expire 60s store http_req_rate(1s)
frontend clients
  bind 127.0.0.1:{job.port} backlog 4096 {bind}
{rules}  default_backend origin
backend origin
  server one 127.0.0.1:{job.origin} pool-max-conn 256
""")
        return ["haproxy", "-db", "-f", conf], {}


class Envoy:
    name, modes = "Envoy", ALL
    absent = "not installed: envoy on the PATH, or --envoy FILE"
    types = "type.googleapis.com/envoy.extensions."

    def __init__(self, binary=None):
        self.binary = binary or shutil.which("envoy")

    def version(self):
        return self.binary and lib.version(self.binary, "--version")

    def typed(self, name, type_name, **config):
        return {"name": name, "typed_config": {"@type": self.types + type_name, **config}}

    def mutation(self, name, request, response):
        return self.typed(name, "filters.http.header_mutation.v3.HeaderMutation",
                          mutations={"request_mutations": request, "response_mutations": response})

    def filters(self, job):
        def put(key, value):
            return {"append": {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
        for i in range(1, job.filters + 1):
            yield self.mutation(f"f{i}", [put(f"x-filter-req-{i}", "%REQ(x-bench-in)%")], [put(f"x-filter-resp-{i}", "1")])
        if job.mode != "auth":
            return
        keys = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "kid": "k1", "k": lib.b64(lib.SECRET.encode())}]})
        yield self.typed("jwt", "filters.http.jwt_authn.v3.JwtAuthentication", providers={"bench": {
            "issuer": "bench", "local_jwks": {"inline_string": keys}, "forward": False,
            "claim_to_headers": [{"header_name": "x-user", "claim_name": "sub"}]}},
            rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}])
        always = {"default_value": {"numerator": 100}}

        def bucket(amount):
            return {"max_tokens": amount, "tokens_per_fill": amount, "fill_interval": "1s"}
        # A descriptor without a value has a bucket for each value that comes, as many as max_dynamic_descriptors.
        yield self.typed("limit", "filters.http.local_ratelimit.v3.LocalRateLimit", stat_prefix="limit", filter_enabled=always,
                         filter_enforced=always, token_bucket=bucket(100_000_000), max_dynamic_descriptors=4096,
                         descriptors=[{"entries": [{"key": "key"}], "token_bucket": bucket(job.rate)}])
        yield self.mutation("shape", [{"remove": "x-remove-me"}], [put("x-gw", "1"), {"remove": "x-upstream-secret"}])

    def command(self, job):
        def at(port):
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        route = {"cluster": "origin", "timeout": "0s"}
        if job.mode == "auth":
            route["rate_limits"] = [{"actions": [{"request_headers": {"header_name": "x-api-key", "descriptor_key": "key"}}]}]
        router = self.typed("router", "filters.http.router.v3.Router", suppress_envoy_headers=True)
        manager = self.typed(
            "http", "filters.network.http_connection_manager.v3.HttpConnectionManager", stat_prefix="in", use_remote_address=True,
            generate_request_id=False, http_filters=[*self.filters(job), router], route_config={"virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]})
        chain = {"filters": [manager]}
        if job.tls:
            chain["transport_socket"] = self.typed(
                "tls", "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context={
                    "alpn_protocols": ["h2", "http/1.1"] if job.mode == "h2" else ["http/1.1"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [{"certificate_chain": {"filename": str(job.cert)}, "private_key": {"filename": str(job.key)}}]})
        endpoint = {"endpoint": {"address": at(job.origin)}}
        conf = job.folder / "envoy.json"
        conf.write_text(json.dumps({"static_resources": {
            "listeners": [{"name": "clients", "address": at(job.port), "filter_chains": [chain]}],
            "clusters": [{"name": "origin", "type": "STATIC", "load_assignment": {
                "cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]}}]}}))
        return [self.binary, "-c", conf, "--concurrency", job.workers, "--disable-hot-restart", "--log-level", "warn"], {}


class Hyper:
    """The least that a proxy on hyper takes (benches/peer/bare_hyper.rs): a floor, not a product."""
    name, modes = "hyper", ("plain", "tls", "h2")
    absent = "not built: cargo build --release --example bare-hyper"

    def __init__(self):
        self.binary = lib.TARGET / "release" / "examples" / "bare-hyper"

    def version(self):
        locked = re.search(r'name = "hyper"\nversion = "(.*)"', (lib.REPO / "Cargo.lock").read_text())
        return locked[1] if locked and os.access(self.binary, os.X_OK) else None

    def command(self, job):
        files = [job.cert, job.key] if job.tls else []
        return [self.binary, job.mode, job.port, job.origin, job.workers, *files], {}
