//! What the operator sees.

use serde_json::json;
use sluice_harness::origin::nobody;
use sluice_harness::{Certs, Gateway, Origin, Reply, eventually};

use crate::support::{BASE, gateway, probe, route, with_base};

#[test]
fn the_access_log_tells_the_exchange() {
    let origin = Origin::named("twelve bytes");
    let config = json!({"on-request": [{"do": "set-consumer", "value": "ann"}]});
    let toml = format!(
        "[upstreams.things]\nendpoints = [\"{}\"]\n{}{}",
        origin.url(),
        route("things", &["a"]),
        probe("a", config)
    );
    let gateway = gateway(&toml);
    gateway.request("POST", "/x?token=secret", &[("host", "shop.test")], b"four");
    let line = gateway.wait_access("the exchange", |l| l["path"] == "/x");
    for (member, value) in [
        ("request_id", json!(origin.last().header("x-request-id"))),
        ("client", json!("127.0.0.1")),
        ("method", json!("POST")),
        ("authority", json!("shop.test")),
        ("protocol", json!("HTTP/1.1")),
        ("status", json!(200)),
        ("route", json!("all")),
        ("upstream", json!("things")),
        ("endpoint", json!(origin.address().to_string())),
        ("bytes_in", json!(4)),
        ("bytes_out", json!(12)),
        ("consumer", json!("ann")),
        ("answered_by", json!("upstream")),
    ] {
        assert_eq!(line[member], value, "{member} in {line}");
    }
    assert!(!line.to_string().contains("secret"), "the query in {line}");
    assert!(line["time"].as_str().is_some_and(|t| t.ends_with('Z')), "{line}");
}

#[test]
fn an_aborted_exchange_is_logged_and_counted_once() {
    let origin = Origin::serve(|_| {
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome");
            conn.wait_for_close();
        })
    });
    let gateway = gateway(&route(&origin.url(), &[]));
    let mut client = gateway.client();
    client.send("GET /left HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    drop(client);
    let line = gateway.wait_access("the exchange", |l| l["path"] == "/left");
    assert_eq!(line["aborted"], true, "{line}");
    assert_eq!(gateway.access().iter().filter(|l| l["path"] == "/left").count(), 1);
}

#[test]
fn the_access_log_can_be_off_and_readable() {
    let off = Gateway::start(&with_base(
        "[telemetry]\naccess_log = \"off\"\n[routes.a]\nmatch = { path = \"/**\" }\nrespond = { status = 200 }\n",
    ));
    assert_eq!(off.get("/").status, 200);
    let console = Gateway::start(&with_base(
        "[telemetry]\naccess_log = \"console\"\n[routes.a]\nmatch = { path = \"/**\" }\nrespond = { status = 200 }\n",
    ));
    console.get("/seen");
    console.wait_access("a line for people", |l| l.as_str().is_some_and(|l| l.contains("/seen") && l.contains("200")));
    assert!(off.access().is_empty(), "{:?}", off.access());
}

#[test]
fn the_log_level() {
    let toml = |level: &str| {
        with_base(&format!(
            "[telemetry]\nlog_level = \"{level}\"\n{}",
            route("http://127.0.0.1:1", &["a"])
                + &probe("a", json!({"on-request": [{"do": "log", "value": "a word from the guest"}]}))
        ))
    };
    let usual = crate::support::setup().start(&toml("info"));
    usual.get("/");
    let line = usual.wait_log("the guest's line", |l| l.to_string().contains("a word from the guest"));
    assert!(line.to_string().contains("\"a\""), "the filter's name in {line}");
    // The line "listening" tells the harness the ports, so the quiet level comes by a reload.
    let from = usual.log().len();
    usual.write("gateway.toml", toml("warn"));
    usual.signal("HUP");
    eventually("the quiet level", || usual.metric("sluice_reloads_total", &[("result", "ok")]) == Some(1.0));
    usual.get("/");
    usual.get("/");
    usual.wait_access("the exchanges", |l| l["route"] == "all");
    assert!(!usual.log()[from..].iter().any(|l| l.to_string().contains("a word")), "{:?}", usual.log());
}

#[test]
fn metrics_by_route_upstream_and_filter() {
    let origin = Origin::named("o");
    let config = json!({"on-request": [{"do": "trap", "if-header": "x-trap"}]});
    let toml = format!(
        "[upstreams.things]\nendpoints = [\"{}\"]\n{}{}",
        origin.url(),
        route("things", &["a"]),
        probe("a", config)
    );
    let gateway = gateway(&toml);
    for _ in 0..3 {
        gateway.get("/");
    }
    gateway.request("GET", "/", &[("x-trap", "1")], b"");
    eventually("the requests in the metrics", || {
        gateway.metric("sluice_requests_total", &[("route", "all")]) == Some(4.0)
    });
    assert_eq!(gateway.metric("sluice_requests_total", &[("route", "all"), ("code", "200")]), Some(3.0));
    assert_eq!(gateway.metric("sluice_request_duration_seconds_count", &[("route", "all")]), Some(4.0));
    assert_eq!(gateway.metric("sluice_upstream_requests_total", &[("upstream", "things")]), Some(3.0));
    assert_eq!(gateway.metric("sluice_filter_calls_total", &[("filter", "a"), ("hook", "on-request")]), Some(4.0));
    assert_eq!(gateway.metric("sluice_filter_failures_total", &[("filter", "a"), ("kind", "trap")]), Some(1.0));
    assert!(gateway.metric("sluice_filter_seconds_total", &[("filter", "a")]).is_some_and(|s| s > 0.0));
    assert_eq!(gateway.metric("sluice_errors_total", &[("side", "filter")]), Some(1.0));
    assert!(gateway.admin("/metrics").header("content-type").is_some_and(|t| t.starts_with("text/plain")));
}

#[test]
fn health_and_readiness() {
    let origin = Origin::scripted();
    let mut gateway = Gateway::start(&format!("{BASE}{}", route(&origin.url(), &[])));
    assert_eq!(gateway.admin("/healthz").status, 200);
    assert_eq!(gateway.admin("/readyz").status, 200);
    assert_eq!(gateway.admin("/nothing").status, 404);
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut conn = origin.accept();
    conn.read_head();
    gateway.signal("TERM");
    eventually("the gateway to say that it is going", || gateway.admin("/readyz").status == 503);
    assert_eq!(gateway.admin("/healthz").status, 200);
    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.read_response("GET").status, 200);
    gateway.wait_end();
}

#[test]
fn the_admin_pages_are_not_on_the_listeners() {
    let gateway = gateway("[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200 }\n");
    for target in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(gateway.get(target).status, 404);
    }
}

/// HS256 of a made-up secret: issuer `tests`, subject `ann`. The first one ended in 1970.
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJ0ZXN0cyIsInN1YiI6ImFubiIsImV4cCI6MX0.ra7RZV93hclkY8hpzOHjUgceJW99Crv6gdRrrsHU5fU";
const GOOD: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJ0ZXN0cyIsInN1YiI6ImFubiJ9.tqRiNyqAmFiddcK7_RWhybkQWAvr1LlzHYHnWgyquTY";
const SECRET: &str = "a made-up secret of more than 32 bytes";

#[test]
fn log_and_metrics_tell_causes_apart() {
    let origin = Origin::named("o");
    let dead = nobody();
    let toml = format!(
        "[upstreams.pair]\nendpoints = [\"http://{dead}\", \"{}\"]\n\
         [routes.tokens]\nmatch = {{ path = \"/tokens/*\" }}\nupstream = \"pair\"\npipeline = [\"auth\"]\n\
         [routes.limits]\nmatch = {{ path = \"/limits/*\" }}\nupstream = \"pair\"\npipeline = [\"limits\"]\n\
         [routes.bodies]\nmatch = {{ path = \"/bodies/*\" }}\nupstream = \"pair\"\npipeline = [\"wide\", \"narrow\"]\n\
         [routes.retried]\nmatch = {{ path = \"/retried/*\" }}\nupstream = \"pair\"\n\
         [filters.auth]\nplugin = \"jwt-auth\"\ngrants = {{ read_headers = [\"authorization\"] }}\n\
         [filters.auth.config]\nsecret = \"{SECRET}\"\nissuer = \"tests\"\nrequired_claims = []\n\
         [filters.limits]\nplugin = \"rate-limit\"\n[filters.limits.config]\nlimits = [\n\
         {{ name = \"all\", algorithm = \"fixed-window\", amount = 5, window = \"366d\" }},\n\
         {{ name = \"tight\", key = \"header:x-tenant\", algorithm = \"fixed-window\", amount = 1, window = \"1d\" }},\n]\n{}{}",
        origin.url(),
        probe("wide", json!({"body-limit": 100, "on-request-body": [{"do": "body-length", "to": "x-wide"}]})),
        probe("narrow", json!({"body-limit": 10, "on-request-body": [{"do": "body-length", "to": "x-narrow"}]})),
    );
    let gateway = gateway(&toml);
    let line = |path: &str| gateway.wait_access(path, |l| l["path"] == path);
    let counted = |filter: &str, reason: &str| {
        gateway.metric("sluice_response_reasons_total", &[("filter", filter), ("reason", reason)])
    };

    let forged = GOOD.replace(".tqRi", ".xqRi");
    for (case, token, reason) in [
        ("expired", EXPIRED, "token-expired"),
        ("forged", &forged, "bad-signature"),
        ("garbage", "a.b", "not-a-token"),
        ("none", "", "token-missing"),
    ] {
        let path = format!("/tokens/{case}");
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        assert_eq!(gateway.request("GET", &path, if token.is_empty() { &[] } else { &headers }, b"").status, 401);
        let line = line(&path);
        assert_eq!((&line["reason"], &line["answered_by"]), (&json!(reason), &json!("filter:auth")), "{line}");
        assert_eq!(counted("auth", reason), Some(1.0), "{reason}");
    }

    for case in 0..7 {
        let tenant = [("x-tenant", "a")];
        gateway.request("GET", &format!("/limits/{case}"), if case < 2 { &tenant } else { &[] }, b"");
    }
    for (case, reason) in [("1", "over-limit:tight"), ("6", "over-limit:all")] {
        let line = line(&format!("/limits/{case}"));
        assert_eq!((&line["reason"], &line["status"]), (&json!(reason), &json!(429)), "{line}");
        assert!(counted("limits", reason).is_some_and(|count| count >= 1.0), "{reason}");
    }

    assert_eq!(gateway.request("POST", "/bodies/50", &[], &[b'x'; 50]).status, 413);
    assert_eq!(gateway.request("POST", "/bodies/200", &[], &[b'x'; 200]).status, 413);
    for (case, filter) in [("50", "narrow"), ("200", "wide")] {
        let line = line(&format!("/bodies/{case}"));
        assert_eq!((&line["error"], &line["error_filter"]), (&json!("body-too-large"), &json!(filter)), "{line}");
    }

    // Both endpoints are tried within two requests, wherever the turn begins.
    for case in 0..2 {
        assert_eq!(gateway.get(&format!("/retried/{case}")).status, 200);
    }
    let line = gateway.wait_access("the retried request", |l| !l["failed_attempts"].is_null());
    let failed = &line["failed_attempts"][0];
    assert_eq!(
        (&failed["upstream"], &failed["endpoint"], &failed["outcome"]),
        (&json!("pair"), &json!(dead.to_string()), &json!("connect")),
        "{line}"
    );
    assert!(failed["reason"].as_str().is_some_and(|reason| reason.contains("refused")), "{line}");
    assert_eq!((&line["endpoint"], &line["attempts"]), (&json!(origin.address().to_string()), &json!(2)), "{line}");
    let dead = dead.to_string();
    let endpoint = [("upstream", "pair"), ("endpoint", dead.as_str())];
    assert_eq!(gateway.metric("sluice_endpoint_healthy", &endpoint), Some(0.0));
    assert!(gateway.metric("sluice_upstream_attempt_failures_total", &endpoint).is_some_and(|count| count >= 1.0));
    gateway.wait_log("the dead endpoint", |l| l["level"] == "WARN" && l["endpoint"] == dead.as_str());
}

#[test]
fn a_reason_in_a_response_hook_belongs_to_the_filter_that_answers() {
    let origin = Origin::named("o");
    let veil = json!({"on-response": [{"do": "respond", "status": 404, "body": "", "reason": "veiled"}]});
    let look = json!({"on-response": [{"do": "set-header", "name": "x-seen", "value": "1"}]});
    let gateway = gateway(&(route(&origin.url(), &["look", "veil"]) + &probe("look", look) + &probe("veil", veil)));
    let response = gateway.get("/");
    assert_eq!((response.status, response.header("x-seen")), (404, Some("1")));
    assert!(!response.text().contains("veiled") && !format!("{response:?}").contains("veiled"), "{response:?}");
    let line = gateway.wait_access("the exchange", |l| l["path"] == "/");
    assert_eq!((&line["answered_by"], &line["reason"]), (&json!("filter:veil"), &json!("veiled")), "{line}");
    assert_eq!(gateway.metric("sluice_response_reasons_total", &[("filter", "veil")]), Some(1.0));
}

#[test]
fn the_end_of_certificates_is_a_metric_and_a_warning() {
    let certs = Certs::new();
    let (good, expired) = (certs.leaf(&["good.test"]), certs.expired_leaf(&["old.test"]));
    let (cert, key) = (expired.cert.display(), expired.key.display());
    let gateway = gateway(&format!(
        "[listeners.https]\nbind = \"127.0.0.1:0\"\ntls = {{ certificates = [\"good\", \"old\"] }}\n\
         [certificates.good]\ncert = \"{}\"\nkey = \"{}\"\n[certificates.old]\ncert = \"{cert}\"\nkey = \"{key}\"\n\
         [upstreams.orders]\nendpoints = [\"https://127.0.0.1:1\"]\ntls = {{ cert = \"{cert}\", key = \"{key}\" }}\n{}",
        good.cert.display(),
        good.key.display(),
        route("orders", &[]),
    ));
    let expiry = |name: &str| gateway.metric("sluice_certificate_expiry_timestamp_seconds", &[("certificate", name)]);
    for name in ["old", "upstreams.orders.tls.cert"] {
        assert_eq!(expiry(name), Some(1_609_372_800.0), "{name}");
        gateway.wait_log(name, |l| {
            l["level"] == "WARN"
                && l["message"].as_str().is_some_and(|m| m.starts_with(&format!("certificate `{name}` has expired")))
        });
    }
    assert!(expiry("good").is_some_and(|end| end > 2e9));
    assert!(!gateway.log().iter().any(|l| l["level"] == "WARN" && l.to_string().contains("`good`")));
}

#[test]
fn each_address_of_an_upstream_has_its_metrics() {
    let origin = Origin::serve(|r| if r.target == "/ill" { Reply::status(500) } else { Reply::text("fine") });
    let (toml, address) = (route(&origin.url(), &[]), origin.address().to_string());
    let gateway = gateway(&toml);
    let labels = [("endpoint", address.as_str()), ("address", address.as_str())];
    assert_eq!(gateway.metric("sluice_endpoint_healthy", &labels), Some(1.0), "before the first request");
    for target in ["/", "/", "/ill"] {
        gateway.get(target);
    }
    for (code, count) in [("2xx", 2.0), ("5xx", 1.0)] {
        let labels = [&labels[..], &[("code", code)]].concat();
        assert_eq!(gateway.metric("sluice_endpoint_responses_total", &labels), Some(count), "{code}");
    }
    assert!(gateway.metric("sluice_endpoint_latency_seconds", &labels).is_some_and(|seconds| seconds > 0.0));
    eventually("no request to be under way", || {
        gateway.metric("sluice_endpoint_active_requests", &labels) == Some(0.0)
    });
    gateway.reload(&with_base(&(toml + "timeouts = { idle = \"7s\" }\n")));
    let labels = [&labels[..], &[("code", "2xx")]].concat();
    assert_eq!(gateway.metric("sluice_endpoint_responses_total", &labels), Some(2.0), "after a reload");
}

#[test]
fn dropped_lines_of_a_filter_are_counted() {
    let origin = Origin::named("o");
    let lines: Vec<_> = (0..60).map(|_| json!({"do": "log", "value": "again and again"})).collect();
    let gateway = gateway(&(route(&origin.url(), &["loud"]) + &probe("loud", json!({"on-request": lines}))));
    let dropped = || gateway.metric("sluice_filter_log_lines_dropped_total", &[("filter", "loud")]);
    assert_eq!(dropped(), Some(0.0));
    eventually("more lines within a second than a filter may write", || {
        (0..4).for_each(|_| drop(gateway.get("/")));
        dropped().is_some_and(|count| count > 0.0)
    });
}

#[test]
fn the_access_log_tells_trace_and_user_agent_and_tls() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let gateway = Gateway::start(&format!(
        "[listeners.https]\nbind = \"127.0.0.1:0\"\ntls = {{ certificates = [\"c\"] }}\n[certificates.c]\ncert = \"{}\"\nkey = \"{}\"\n\
         [routes.one]\nmatch = {{ path = \"/one\" }}\nrespond = {{ status = 200 }}\n",
        leaf.cert.display(),
        leaf.key.display(),
    ));
    let config = certs.client_config(&[], &[&rustls::version::TLS12]);
    let mut client = sluice_harness::Client::connect_tls(gateway.address(), "localhost", config).expect("a connection");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    for target in ["/one", "/two"] {
        client.request("GET", target, &[("user-agent", "a browser/1.0"), ("traceparent", &parent)], b"");
        let line = gateway.wait_access(target, |l| l["path"] == target);
        for (member, value) in [("trace_id", trace), ("user_agent", "a browser/1.0"), ("tls_version", "TLSv1.2")] {
            assert_eq!(line[member], value, "{member} in {line}");
        }
    }
    client.request("GET", "/one", &[], b"");
    let line = gateway.wait_access("a trace of the gateway's own", |l| l["user_agent"].is_null());
    assert!(line["trace_id"].as_str().is_some_and(|id| id.len() == 32 && id != trace), "{line}");
}

#[test]
fn key_sets_have_metrics() {
    // RFC 8037 appendix A.2
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let keys = Origin::serve(move |r| match r.target.as_str() {
        "/keys" => Reply::json(&json!({"keys": [key]})),
        _ => Reply::status(500),
    });
    let filter = |name: &str| {
        format!(
            "[filters.{name}]\nplugin = \"jwt-auth\"\ngrants = {{ read_headers = [\"authorization\"], http = [\"{url}\"] }}\n\
             config = {{ jwks_url = \"{url}/{name}\", audience = \"a\" }}\n",
            url = keys.url()
        )
    };
    let gateway = gateway(&(route("http://127.0.0.1:1", &["keys", "lost"]) + &filter("keys") + &filter("lost")));
    let of = |name: &str, path: &str, more: &[(&str, &str)]| {
        let url = format!("{}/{path}", keys.url());
        gateway.metric(name, &[&[("url", url.as_str())], more].concat())
    };
    // A start waits for the first keys, but not for ever.
    eventually("the first fetch", || of("sluice_key_set_keys", "keys", &[]) == Some(1.0));
    assert_eq!(of("sluice_key_set_fetches_total", "keys", &[("result", "ok")]), Some(1.0));
    assert!(of("sluice_key_set_age_seconds", "keys", &[]).is_some_and(|age| age < 60.0));
    assert_eq!(of("sluice_key_set_keys", "lost", &[]), Some(0.0));
    eventually("the failed fetch", || {
        of("sluice_key_set_fetches_total", "lost", &[("result", "failed")]).is_some_and(|count| count >= 1.0)
    });
    assert_eq!(of("sluice_key_set_age_seconds", "lost", &[]), None);
}

#[test]
fn the_metrics_of_a_filter_end_with_it() {
    let origin = Origin::named("o");
    let counting =
        |name: &str| probe(name, json!({"on-request": [{"do": "count", "name": "seen_total", "to": "x-count"}]}));
    let gateway = gateway(&(route(&origin.url(), &["a", "b"]) + &counting("a") + &counting("b")));
    let seen =
        |gateway: &Gateway| ["a", "b"].map(|filter| gateway.metric("sluice_filter_seen_total", &[("filter", filter)]));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(seen(&gateway), [Some(1.0); 2]);
    gateway.reload(&with_base(&(route(&origin.url(), &["b"]) + &counting("b"))));
    assert_eq!(seen(&gateway), [None, Some(1.0)]);
}
