//! What the operator sees.

use serde_json::json;
use sluice_harness::{Gateway, Origin, Reply, eventually};

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
