"""What the comparison measured, as a page and plots: results.md and *.svg from results.json."""
import json, statistics

import svg

NOT_THE_SAME = """- Sluice runs each filter and policy as a WebAssembly component in a sandbox. nginx, HAProxy and Envoy do the same with their own
  directives, compiled into them.
- Sluice counts metrics and makes or takes over a request id by default, and does here. HAProxy and Envoy count too, nginx does not; none
  of the three makes request ids here.
- Timeouts and limits are those of each by default, with these exceptions: Envoy's timeout for a whole request (15 s) is off; HAProxy has
  no default timeouts and gets 5 s to connect and 60 s of silence; nginx keeps idle connections 300 s, as many requests as come on each,
  and has 16 buffers of 16 KiB, so that no response goes to a file.
- nginx has no check of tokens in its free edition, so it has no figure there. nginx-Lua is nginx with its module for LuaJIT, where
  policies are code of benches/peer/policies.lua: no sandbox, and one state for all. It has figures with policies, and for the same requests
  without them.
- Sluice-pgo is Sluice, built with a profile of this comparison's requests (benches/pgo.sh). The others are as their packages were built.
- hyper is the least that a proxy on hyper can do (benches/peer/bare_hyper.rs): no routes, limits, timeouts, metrics. It has no policies.
- The key of `api-key` is in Sluice the SHA-256 of a consumer's, which then has a name, a plan and labels; in nginx (`map`) and HAProxy it is a text.
  Prefixes are a `geo` of nginx and a file of HAProxy. What `acl`, `basic-auth` with known passwords and `forward-auth` with kept answers do has no counterpart there.
- In Sluice alone: a fresh instance of the filter for each exchange, and tokens that are remembered once they were verified.
- The limit of requests is a token bucket for each key in Sluice, nginx-Lua and Envoy, and a sliding rate in HAProxy's stick table, which has no
  buckets. It never refuses during the measurement; before, a small limit is proved to refuse one key and not another.
- Tokens are verified anew each time everywhere, but where they are remembered; 256 of them take turns, with as many keys."""

METHOD = """One machine runs load generator (wrk or h2load, one thread), proxy and origin (nginx with one worker), on 127.0.0.1. The proxies
take turns; requests made for policies are measured with and without them one right after the other, and every other round goes backwards.
{start}, then measures it while the generator runs; connections are made before the measurement begins. Figures are medians over the rounds.

**CPU µs per request** is the main figure: user and system time of the proxy's whole process tree over the requests that the origin
counted meanwhile. The kernel's work for loopback packets counts for the side that sends. Requests per second say how the three programs
compete for the cores. wrk's latencies are of a closed loop that keeps all connections busy, so compare latency only at the fixed
rate; there it counts from when a request was sent. PSS is memory right at the end of the measurement, pages shared by processes counted
once. `other` is the CPU, in cores, that anything else on the machine used: near 0 on a quiet one. TLS is 1.3 with
AES-128-GCM and an ECDSA P-256 certificate everywhere."""


START = {False: "Each cell starts the proxy, verifies that it does the job, warms it up",
         True: "All proxies run all the time, idle but for their turns. Each cell verifies that the proxy does the job, warms it up"}


BUILT = {"Sluice": "built by `cargo build --release`", "Sluice-pgo": "built by `benches/pgo.sh`"}


def medians(rows):
    """{(scenario, proxy): {figure: median}}, with the least and most CPU and the sum of errors."""
    cells = {}
    for row in rows:
        cells.setdefault((row["scenario"], row["proxy"]), []).append(row)
    found = {}
    for key, cell in cells.items():
        found[key] = {k: statistics.median(r[k] for r in cell) for k, v in cell[0].items() if isinstance(v, (int, float))}
        costs = [r["cpu_us"] for r in cell]
        found[key].update(errors=sum(r["errors"] for r in cell), least=min(costs), most=max(costs), rounds=len(cell))
    return found


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|",
            *("| " + " | ".join(row) + " |" for row in rows), ""]


def cell(med, key, figure, form="{:.1f}"):
    return form.format(med[key][figure]) if key in med else "–"


# Of each target: title, how it is measured (`of` gives a figure of a scenario and proxy), how it is written, what it may be at most,
# what would be better. Differences are between two costs of Sluice.
def ratio(title, scenario, proxy, most, aim, figure="cpu_us"):
    return title, lambda of: of(scenario, "Sluice", figure) / of(scenario, proxy, figure), f"{{:.2f}}× {proxy}", most, aim


def more(title, scenario, base, most, aim, each=1):
    return title, lambda of: (of(scenario, "Sluice") - of(base, "Sluice")) / each, "{:+.1f} µs", most, aim


def multiple(title, scenario, base, most, kind=""):
    """What a policy adds, as a multiple of what one header filter adds to the same requests."""
    def measure(of):
        return (of(scenario + kind, "Sluice") - of(base + kind if base == "key" else base, "Sluice")) / (of("one" + kind, "Sluice") - of("caller", "Sluice"))
    return title, measure, "{:.2f}× a header filter", most, None


def of_added(title, scenario, other, base, most):
    """What a policy adds, as a multiple of what another adds to the same requests."""
    def measure(of):
        return (of(scenario, "Sluice") - of(base, "Sluice")) / (of(other, "Sluice") - of(base, "Sluice"))
    return title, measure, "{:.2f}× in memory", most, None


def memory(title, scenario, most, aim):
    return title, lambda of: of(scenario, "Sluice", "pss_mib"), "{:.0f} MiB", most, aim


TARGETS = [
    ratio("plain, 1 KiB", "plain", "nginx", 1.1, 0.9),
    ("two endpoints with health checks, outlier detection, circuit breaker, peak EWMA, retries", lambda of: of("guarded", "Sluice") / of("plain", "Sluice"),
     "{:.2f}× plain", 1.06, None),
    ("a hit of the cache, 1 KiB", lambda of: of("hit", "Sluice") / of("plain", "Sluice"), "{:.2f}× proxying it", 0.6, None),
    ratio("a hit of the cache, 1 KiB", "hit", "nginx", 1.0, None),
    ratio("a hit of the cache, 1 KiB", "hit", "Varnish", 1.0, None),
    ratio("a hit of the cache, 100 KiB", "hit-large", "nginx", 1.15, None),
    ratio("plain, 100 KiB", "large", "nginx", 1.15, 1.0),
    ratio("TLS", "tls", "HAProxy", 1.1, 0.9),
    ratio("HTTP/2 over TLS", "h2", "nginx", 1.2, None),
    ratio("HTTP/2 over TLS", "h2", "HAProxy", None, 1.0),
    ratio("HTTP/2 over TLS", "h2", "hyper", None, None),
    more("one header filter", "filter1", "header", 1.5, 1.0),
    more("each of five header filters", "filter5", "header", 1.2, 0.8, each=5),
    more("one header filter, fresh instances", "fresh", "header", 12, 8),
    more("JWT, rate limit, transform", "auth", "token", 9, 6),
    more("the same, remembered tokens", "known", "token", None, None),
    ratio("JWT, rate limit, transform", "auth", "HAProxy", 1.0, None),
    ratio("JWT, rate limit, transform", "auth", "nginx-Lua", 1.0, None),
    *(multiple(title + (", fresh instances" if kind else ""), scenario, base, None if kind else most, kind)
      for kind in ("", "-fresh") for title, scenario, base, most in (
          ("api-key", "key", "caller", 1.6), ("acl, behind api-key", "acl", "key", 1.4), ("basic-auth, known password", "basic", "caller", 1.8),
          ("ip-filter, 10,000 prefixes", "ip", "caller", 1.3), ("forward-auth, kept answer", "ask", "caller", None),
          ("rate-limit in memory", "limit", "caller", None), ("rate-limit leased", "leased", "caller", None), ("rate-limit exact", "exact", "caller", None))),
    more("redact, 1 KiB of JSON", "redact", "json", None, None),
    of_added("rate-limit leased", "leased", "limit", "caller", 1.1),
    ratio("p50 at a fixed rate", "rate", "nginx", 1.0, None, "p50_ms"),
    ratio("p99 at a fixed rate", "rate", "nginx", 1.0, None, "p99_ms"),
    memory("memory under load, plain", "plain", 25, 15),
    memory("memory under load, JWT, rate limit, transform", "auth", 45, 30),
]


def targets(data, med, build):
    """The rows of the table of targets for a build of Sluice: what is measured of the medians, and the least and most that the same is
    within one round."""
    rounds = {}
    for row in data["rows"]:
        rounds.setdefault(row["round"], {})[row["scenario"], row["proxy"]] = row
    found = []
    for title, measure, form, most, aim in TARGETS:
        def seen(cells):
            try:
                return measure(lambda scenario, proxy, figure="cpu_us": cells[scenario, build if proxy == "Sluice" else proxy][figure])
            except (KeyError, ZeroDivisionError):
                return None
        value = seen(med)
        if value is None:
            continue
        each = [one for one in map(seen, rounds.values()) if one is not None]
        bare = form.split("}")[0] + "}"
        verdict = "" if most is None else "met" if value <= most else "**missed**"
        found.append([title, *("–" if limit is None else form.format(limit) for limit in (most, aim)), form.format(value),
                      f"{bare.format(min(each))} to {bare.format(max(each))}" if each else "–", verdict])
    return found


def noise(rows):
    other = statistics.median(row["other_cores"] for row in rows) if rows else 0
    if other < 0.15:
        return []
    return [f"**Something else used {other:.2f} cores during these measurements: latencies and requests per second are of no use.**", ""]


def markdown(data, med, scenarios, proxies):
    out = ["# Sluice beside other proxies", "", " · ".join(f"{k}: {v}" for k, v in data["machine"].items()), "",
           *(f"- {name}: {version}" for name, version in data["versions"].items()), "",
           " · ".join(f"{k}: {v}" for k, v in data["settings"].items()), "", *noise(data["rows"]), "## CPU µs per request", ""]
    cost = [s for s in scenarios if s != "rate"]
    titles = {s: data["scenarios"][s] for s in scenarios}
    out += table(["proxy", *(titles[s] for s in cost)], [[p, *(cell(med, (s, p), "cpu_us") for s in cost)] for p in proxies])
    for build in ("Sluice", "Sluice-pgo"):
        if rows := targets(data, med, build):
            out += [f"## Targets, {BUILT[build]}", "", "Of the medians; *in one round*: the least and the most of what the figures of each "
                    "round say. Those of start, idle connections and large configurations are measured by `footprint.py`.", ""]
            out += table(["scenario", "at most", "aim", "measured", "in one round", ""], rows)
    if "Sluice" in proxies and len(proxies) > 1:
        def multiple(s, p):
            both = (s, "Sluice") in med and (s, p) in med
            return f"{med[s, 'Sluice']['cpu_us'] / med[s, p]['cpu_us']:.2f}" if both else "–"
        out += ["## What Sluice takes, as a multiple of what another takes", ""]
        out += table(["Sluice to", *(titles[s] for s in cost)],
                     [[p, *(multiple(s, p) for s in cost)] for p in proxies if p != "Sluice"])
    added = []
    for base, with_it, each, what in (("header", "filter1", 1, "one header filter"), ("header", "filter5", 5, "each of five header filters"),
                                      ("header", "fresh", 1, "one header filter, fresh instances"),
                                      ("token", "auth", 1, "JWT, rate limit and transform"),
                                      ("token", "known", 1, "the same, remembered tokens"),
                                      ("json", "redact", 1, "redact, 1 KiB of JSON"),
                                      ("caller", "one", 1, "one header filter, requests with a key and a password"), ("caller", "key", 1, "api-key"),
                                      ("key", "acl", 1, "acl behind it"), ("caller", "basic", 1, "basic-auth, known password"),
                                      ("caller", "ip", 1, "ip-filter, 10,000 prefixes"), ("caller", "ask", 1, "forward-auth, kept answer"),
                                      ("caller", "one-fresh", 1, "one header filter, fresh instances, the same requests"),
                                      ("caller", "key-fresh", 1, "api-key, fresh instances"), ("key-fresh", "acl-fresh", 1, "acl behind it, fresh instances"),
                                      ("caller", "basic-fresh", 1, "basic-auth, fresh instances"), ("caller", "ip-fresh", 1, "ip-filter, fresh instances"),
                                      ("caller", "ask-fresh", 1, "forward-auth, fresh instances"),
                                      ("caller", "limit", 1, "rate-limit in memory"), ("caller", "leased", 1, "rate-limit leased"),
                                      ("caller", "exact", 1, "rate-limit exact"), ("caller", "limit-fresh", 1, "rate-limit in memory, fresh instances"),
                                      ("caller", "leased-fresh", 1, "rate-limit leased, fresh instances"),
                                      ("caller", "exact-fresh", 1, "rate-limit exact, fresh instances")):
        for p in proxies:
            if (base, p) in med and (with_it, p) in med:
                a, b = med[base, p]["cpu_us"], med[with_it, p]["cpu_us"]
                added.append([what, p, f"{a:.1f}", f"{b:.1f}", f"{(b - a) / each:+.1f}"])
    if added:
        out += ["## What policies add", "", "CPU µs per request of the same proxy and the same requests, without and with them.", ""]
        out += table(["what", "proxy", "without", "with", "added by each"], added)
    stored = [key for s in scenarios for p in proxies if "redis_us" in med.get(key := (s, p), {})]
    if stored:
        out += ["## What a store of limits takes", "", "CPU of redis-server for each request of a client, and calls that the gateways make to it.", ""]
        out += table(["what", "proxy", "gateway, CPU µs/req", "redis-server, CPU µs/req", "round trips a request"],
                     [[titles[key[0]], key[1], cell(med, key, "cpu_us"), cell(med, key, "redis_us"), cell(med, key, "round_trips", "{:.3f}")]
                      for key in stored])
    if "rate" in scenarios:
        out += ["## Latency at a fixed rate", "", titles["rate"] + ".", ""]
        out += table(["proxy", "p50 ms", "p99 ms", "req/s", "CPU µs/req", "errors"],
                     [[p, *(cell(med, ("rate", p), f, form) for f, form in (
                         ("p50_ms", "{:.2f}"), ("p99_ms", "{:.2f}"), ("rps", "{:.0f}"), ("cpu_us", "{:.1f}"), ("errors", "{:.0f}")))]
                      for p in proxies if ("rate", p) in med])
    out += ["## All figures", ""]
    for s in cost:
        out += [f"### {titles[s]}", ""]
        figures = (("cpu_us", "{:.1f}"), ("least", "{:.1f}"), ("most", "{:.1f}"), ("rps", "{:.0f}"), ("p50_ms", "{:.2f}"),
                   ("p99_ms", "{:.2f}"), ("errors", "{:.0f}"), ("pss_mib", "{:.0f}"), ("cores", "{:.2f}"), ("other_cores", "{:.2f}"))
        out += table(["proxy", "CPU µs/req", "least", "most", "req/s", "p50 ms", "p99 ms", "errors", "PSS MiB", "cores", "other"],
                     [[p, *(cell(med, (s, p), f, form) for f, form in figures)] for p in proxies if (s, p) in med])
    out += ["## Method", "", METHOD.format(start=START[data["settings"].get("together", False)]), "", "## What is not the same", "", NOT_THE_SAME]
    if data["left_out"]:
        out += ["", "## Left out", "", *(f"- {why}" for why in data["left_out"])]
    return "\n".join(out) + "\n"


def write(data, folder):
    """Writes everything that follows from the rows."""
    med = medians(data["rows"])
    scenarios = [s for s in data["scenarios"] if any(key[0] == s for key in med)]
    proxies = [p for p in data["versions"] if any(key[1] == p for key in med)]
    (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(data, med, scenarios, proxies))
    note = "{CPU}, {cores} cores, Linux {kernel}, {date}".format(**data["machine"]) + ", rounds: {rounds}".format(**data["settings"])

    def groups(figure, chosen):
        return [(data["scenarios"][s], {p: med[s, p][figure] for p in proxies if (s, p) in med}) for s in scenarios if chosen(s)]
    plots = {"cpu": ("CPU time per request (less is better)", "CPU µs per request", groups("cpu_us", lambda s: s != "rate")),
             "throughput": ("Throughput, generator and origin on the same cores", "requests per second",
                            groups("rps", lambda s: s != "rate")),
             "memory": ("Memory under load (less is better)", "PSS, MiB", groups("pss_mib", lambda s: s in ("plain", "auth")))}
    if "rate" in scenarios:
        plots["latency"] = ("Latency at a fixed rate (less is better)", "milliseconds", [
            (f"{name}, {data['scenarios']['rate']}", {p: med["rate", p][figure] for p in proxies if ("rate", p) in med})
            for name, figure in (("p50", "p50_ms"), ("p99", "p99_ms"))])
    for name, (title, unit, rows) in plots.items():
        if rows:
            (folder / f"{name}.svg").write_text(svg.bars(title, note, unit, rows, proxies))
