"""httpx against httpbin behind the gateway: methods, codings, streams, redirects, cookies. Arguments: URL, CA file or -, 1 or 2."""
import sys

import httpx

url, ca, version = sys.argv[1:4]
verify = ca if ca != "-" else True
client = httpx.Client(base_url=url, http1=version == "1", http2=version == "2", verify=verify, timeout=30, trust_env=False)


def same(got, wanted, what):
    assert got == wanted, f"{what}: {got!r}, wanted {wanted!r}"


for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    r = client.request(method, f"/{method.lower()}", params={"a": "b c"}, json=None if method == "GET" else {"x": 1})
    same(r.status_code, 200, method)
    same(r.http_version, "HTTP/2" if version == "2" else "HTTP/1.1", "version")
    same(r.json()["args"], {"a": "b c"}, "query")
    if method != "GET":
        same(r.json()["json"], {"x": 1}, "body")

for coding in ("gzip", "deflate", "brotli"):
    r = client.get(f"/{coding}", headers={"accept-encoding": "gzip, deflate"})
    same(r.status_code, 200, coding)
    if coding != "brotli":  # httpx has no decoder for it here; the bytes must still be what httpbin sent
        assert r.json()[{"gzip": "gzipped", "deflate": "deflated"}[coding]], coding

with client.stream("GET", "/stream/20") as r:
    same(len([line for line in r.iter_lines() if line]), 20, "lines of a stream")
with client.stream("GET", "/stream-bytes/100000?chunk_size=1000&seed=1") as r:
    same(sum(len(part) for part in r.iter_bytes()), 100000, "bytes of a stream")
same(len(client.get("/bytes/50000?seed=1").content), 50000, "bytes")

r = client.get("/redirect-to", params={"url": "/get", "status_code": 307})
same((r.status_code, r.headers["location"]), (307, "/get"), "redirect")
r = client.get("/redirect/3", follow_redirects=True)
same((r.status_code, len(r.history)), (200, 3), "redirects")

client.get("/cookies/set", params={"k1": "v1"})
client.get("/cookies/set", params={"k2": "v2"})
same(client.get("/cookies").json()["cookies"], {"k1": "v1", "k2": "v2"}, "cookies")

for status in (204, 304, 404, 418, 503):
    same(client.get(f"/status/{status}").status_code, status, "status")
same(client.head("/get").status_code, 200, "HEAD")
same(client.options("/get").status_code, 200, "OPTIONS")
same(client.get("/basic-auth/u/p", auth=("u", "p")).status_code, 200, "authorization")
same(client.get("/response-headers", params={"X-One": "1"}).headers["x-one"], "1", "response header")
same(client.get("/range/100", headers={"range": "bytes=10-19"}).status_code, 206, "range")
r = client.post("/post", files={"f": ("name.txt", b"x" * 200000)})
same(len(r.json()["files"]["f"]), 200000, "multipart")


def parts():
    for n in range(50):
        yield b"%d," % n


same(client.post("/post", content=parts()).json()["data"], "".join(f"{n}," for n in range(50)), "chunked upload")
print("fine")
