//! What exchanges make the gateway keep is within `gateway.max_buffered_memory`, and what guests take is within a bound of its own.
//!
//! At full length: `SLUICE_TEST_BODIES=300 SLUICE_TEST_CONTEXTS=600 cargo test --locked --release --test stress memory -- --nocapture`.

use std::io::Write;
use std::net::TcpStream;

use serde_json::json;
use sluice_harness::load::scaled;
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{filter, route, setup, with_base};
use crate::{alone, tell};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 64 * MIB;
/// What a connection and its exchange take beside what is charged, with room: buffers, heads, and less than 16 KiB that filters keep.
const CONNECTION: u64 = 64 << 10;

/// A gateway with this budget, a route `/plain` without filters and others with them.
fn start(rest: &str, plain: &Origin) -> Gateway {
    let toml = with_base(&format!(
        "[telemetry]\naccess_log = \"off\"\n[routes.plain]\nmatch = {{ path = \"/plain\" }}\nupstream = \"{}\"\npipeline = []\n{rest}",
        plain.url()
    ));
    let most = "workers = 1\nmax_buffered_memory = \"64MiB\"\nmax_filtered_bodies = \"2MiB\"";
    setup().start(&toml.replace("workers = 1", most))
}

/// Sends so many requests, each on its own connection, and waits until each is answered or with the origin, which answers none. Memory must
/// have grown by less than the budget, what guests may have, and what a connection takes.
fn hold(gateway: &Gateway, origin: &Origin, request: &[u8], many: usize, guests: u64) {
    let before = gateway.resident();
    let clients: Vec<TcpStream> = (0..many)
        .map(|_| {
            let mut client = TcpStream::connect(gateway.address()).expect("a connection");
            // A refused request may be answered before all of it is sent.
            let _ = client.write_all(request);
            client
        })
        .collect();
    let answered = |labels: &[(&str, &str)]| gateway.metric("sluice_requests_total", labels).unwrap_or(0.0) as usize;
    eventually("each request is refused or held", || answered(&[("route", "all")]) + origin.count() >= many);
    assert_eq!(
        answered(&[("route", "all")]),
        answered(&[("route", "all"), ("code", "503")]),
        "refused by another error"
    );
    let (held, grown) = (origin.count(), gateway.peak_resident().saturating_sub(before));
    let charged = gateway.metric("sluice_buffered_bytes", &[]).expect("the gauge");
    tell(&format!("{many} exchanges: {held} held, {charged} bytes charged, {} MiB more of memory", grown / MIB));
    assert!(held > 0 && held < many, "{held} of {many} are held");
    assert_eq!(gateway.get("/plain").status, 200, "nothing else suffers");
    let bound = BUDGET + guests + many as u64 * CONNECTION;
    assert!(grown < bound, "grown by {grown} bytes, over {bound}");
    drop(clients);
    eventually("all is given back", || gateway.metric("sluice_buffered_bytes", &[]) == Some(0.0));
    assert_eq!(gateway.get("/plain").status, 200);
}

fn silent() -> Origin {
    Origin::serve(|_| Reply::script(|conn| conn.wait_for_close()))
}

#[test]
fn replaced_bodies_are_within_the_budget() {
    let _alone = alone();
    let (origin, plain) = (silent(), Origin::named("plain"));
    let rules = json!({"request": {"body": {"rename": {"/qty": "quantity"}, "set": {"/meta/by": "{client_address}"}}}});
    let gateway = start(
        &(route(&origin.url(), &["shape"]) + &filter("shape", "transform", "limits = { wall = \"20s\" }", rules)),
        &plain,
    );
    let items = vec![json!({"id": 1, "name": "a thing of some length", "cost": 2}); (1 << 20) / 55];
    let body = json!({"qty": 1, "items": items}).to_string();
    assert!((900_000..1 << 20).contains(&body.len()), "{}", body.len());
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // Two bodies of a MiB are in work at once, and four large instances are kept, of 32 MiB at most.
    hold(&gateway, &origin, (head + &body).as_bytes(), scaled("SLUICE_TEST_BODIES", 120), 6 * 32 * MIB);
}

#[test]
fn context_values_are_within_the_budget() {
    let _alone = alone();
    let (origin, plain) = (silent(), Origin::named("plain"));
    let config = json!({"on-request": [{"do": "fill-context", "values": 64, "bytes": 32_000}]});
    let gateway = start(
        &(route(&origin.url(), &["a"]) + &filter("a", "probe", "limits = { cpu = \"2s\", wall = \"20s\" }", config)),
        &plain,
    );
    hold(&gateway, &origin, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", scaled("SLUICE_TEST_CONTEXTS", 200), 4 * 32 * MIB);
}
