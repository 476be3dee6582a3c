//! Each limit refuses with its own answer, and what is under it passes.

use sluice_harness::h2::{H2, full};
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{filter, probe, route, setup, with_base};

fn listener(lines: &str, upstream: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\n[listeners.http]\nbind = \"127.0.0.1:0\"\n{lines}\n[admin]\nbind = \"127.0.0.1:0\"\n{}",
        route(upstream, &[])
    )
}

#[test]
fn head_size() {
    let origin = Origin::named("o");
    let gateway = Gateway::start(&listener("limits = { head = \"8KiB\" }", &origin.url()));
    let pad = "x".repeat(6000);
    assert_eq!(gateway.request("GET", "/", &[("x-pad", &pad)], b"").status, 200);
    let pad = "x".repeat(9000);
    let mut client = gateway.client();
    let response = client.request("GET", "/", &[("x-pad", &pad)], b"");
    assert_eq!(response.status, 431);
    assert_eq!(origin.count(), 1);
}

#[test]
fn header_count() {
    let origin = Origin::named("o");
    let gateway = Gateway::start(&listener("limits = { headers = 20 }", &origin.url()));
    let headers: Vec<(&str, &str)> = vec![("x-many", "1"); 15];
    assert_eq!(gateway.request("GET", "/", &headers, b"").status, 200);
    let headers: Vec<(&str, &str)> = vec![("x-many", "1"); 25];
    assert_eq!(gateway.request("GET", "/", &headers, b"").status, 431);
}

#[test]
fn body_size_by_length_and_by_count() {
    let origin = Origin::named("o");
    let gateway = Gateway::start(&with_base(&format!("{}limits = {{ body = \"1KiB\" }}\n", route(&origin.url(), &[]))));
    assert_eq!(gateway.request("POST", "/", &[], &[b'x'; 1024]).status, 200);
    assert_eq!(gateway.request("POST", "/", &[], &[b'x'; 1025]).status, 413);
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        let _ = client.try_send(sluice_harness::wire::chunk(&[b'x'; 512]));
    }
    let _ = client.try_send("0\r\n\r\n");
    assert_eq!(client.read_response("POST").status, 413);
    assert_eq!(origin.count(), 1);
}

#[test]
fn connections_of_a_listener_and_of_all() {
    let origin = Origin::named("o");
    for toml in [
        listener("max_connections = 3", &origin.url()),
        listener("", &origin.url()).replace("workers = 1", "workers = 1\nmax_connections = 3"),
    ] {
        let gateway = Gateway::start(&toml);
        let mut clients: Vec<_> = (0..3).map(|_| gateway.client()).collect();
        for client in &mut clients {
            assert_eq!(client.get("/").status, 200);
        }
        let mut extra = gateway.client();
        let refused = extra.try_request("GET", "/", &[], b"");
        assert!(refused.as_ref().map_or(true, |r| r.status == 503), "{refused:?}");
        drop(clients);
        eventually("room for a connection", || {
            gateway.client().try_request("GET", "/", &[], b"").is_ok_and(|r| r.status == 200)
        });
    }
}

#[test]
fn streams_of_a_connection() {
    let origin = Origin::serve(|_| {
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        })
    });
    let gateway = Gateway::start(&listener("limits = { streams = 2 }", &origin.url()));
    let mut h2 = H2::connect(gateway.address());
    // With the first answer the client has the limit from SETTINGS, and keeps to it: all pass, two at a time.
    assert_eq!(h2.get("/").status, 200);
    let requests = (0..20).map(|_| h2.builder("GET", "/").body(full("")).expect("a request")).collect();
    for answer in h2.send_all(requests) {
        assert_eq!(answer.expect("an answer").status, 200);
    }
    assert!(origin.connections() >= 1);
}

#[test]
fn buffered_memory_of_all_exchanges() {
    let origin = Origin::named("o");
    let toml = with_base(&route(&origin.url(), &["body"]))
        + &probe("body", serde_json::json!({"on-request-body": [], "body-limit": 900_000}));
    let toml = toml.replace("workers = 1", "workers = 1\nmax_buffered_memory = \"256KiB\"");
    let gateway = setup().start(&toml);
    assert_eq!(gateway.request("POST", "/", &[], &vec![b'x'; 100_000]).status, 200);
    let refused = gateway.request("POST", "/", &[], &vec![b'x'; 700_000]);
    assert!([413, 503].contains(&refused.status), "{refused:?}");
    assert_eq!(gateway.request("POST", "/", &[], &vec![b'x'; 100_000]).status, 200, "what was buffered is free again");
}

/// With the defaults, and rules as in the README of the plugin.
#[test]
fn a_body_of_the_largest_size_is_transformed_in_its_time() {
    let item = r#"{"id":12345,"name":"a thing","tags":["a","b"],"cost":1.25}"#;
    let items = |bytes: usize| format!("[{item}{}]", format!(",{item}").repeat(bytes / (item.len() + 1) - 1));
    let rest = r#"{"qty":1,"items":}"#.len();
    let mut body = format!(r#"{{"qty":1,"items":{}}}"#, items((1 << 20) - rest - 2));
    body.push_str(&" ".repeat((1 << 20) - body.len()));
    let answered: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let origin = Origin::serve(move |_| Reply::json(&answered));
    let rules = serde_json::json!({
        "request": {"body": {"rename": {"/qty": "quantity"}, "set": {"/meta/by": "{client_address}"}}},
        "response": {"body": {"remove": ["/items/*/cost"]}},
    });
    let toml = with_base(&(route(&origin.url(), &["shape"]) + &filter("shape", "transform", "", rules)));
    let gateway = setup().start(&toml);
    let answer = gateway.request("POST", "/", &[("content-type", "application/json")], body.as_bytes());
    assert_eq!(answer.status, 200, "{:?}", gateway.log());
    let sent: serde_json::Value = serde_json::from_str(&origin.last().text()).expect("JSON");
    assert_eq!((&sent["quantity"], &sent["meta"]["by"]), (&1.into(), &"127.0.0.1".into()));
    let answer = answer.json();
    assert!(answer["items"][1000]["cost"].is_null() && answer["items"][1000]["id"] == 12345);
    body.push(' ');
    let refused = gateway.request("POST", "/", &[("content-type", "application/json")], body.as_bytes());
    assert_eq!(refused.status, 413);
}

#[test]
fn bodies_take_turns_in_filters() {
    let origin = Origin::named("o");
    let config = serde_json::json!({"on-request-body": [{"do": "spin", "ms": 30}]});
    let lines = "limits = { cpu = \"2s\", wall = \"30s\" }";
    let toml = with_base(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config)));
    let gateway = setup().start(&toml.replace("workers = 1", "workers = 1\nmax_filtered_bodies = \"4KiB\""));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(gateway.request("POST", "/", &[], &[b'x'; 4000]).status, 200));
        }
    });
    // Each call is suspended at each tick, so without turns all would have an instance.
    assert_eq!(gateway.metric("sluice_filter_instances_started_total", &[("filter", "a")]), Some(1.0));
}

#[test]
fn the_defaults_are_on() {
    let origin = Origin::named("o");
    let gateway = Gateway::before(&origin.url());
    let headers: Vec<(&str, &str)> = vec![("x-many", "1"); 150];
    assert_eq!(gateway.request("GET", "/", &headers, b"").status, 431);
    let pad = "x".repeat(40_000);
    assert_eq!(gateway.request("GET", "/", &[("x-pad", &pad)], b"").status, 431);
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 11000000\r\n\r\n");
    assert_eq!(client.read_response("POST").status, 413);
}
