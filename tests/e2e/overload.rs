//! Near a bound of the process, requests are refused: those of the least critical routes first, and never those of the admin listener.

use std::any::Any;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use sluice_harness::h2::{H2, full};
use sluice_harness::{Client, Gateway, Origin, Response, eventually};

use crate::support::{filter, setup, with_base};

const ROUTES: [&str; 3] = ["sheddable", "standard", "critical"];

/// A route for each criticality.
fn routes(upstream: &str, lines: &str) -> String {
    let route = |name: &&str| {
        let criticality = if *name == "standard" { "" } else { &format!("criticality = \"{name}\"\n") };
        format!("[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"{upstream}\"\n{criticality}{lines}\n")
    };
    ROUTES.iter().map(route).collect()
}

fn config(overload: &str, routes: &str) -> String {
    with_base(routes).replace("workers = 1", &format!("workers = 1\noverload = {{ {overload} }}"))
}

/// The statuses of the routes, in the order of their criticality.
fn statuses(client: &mut Client) -> [u16; 3] {
    ROUTES.map(|name| client.get(&format!("/{name}")).status)
}

fn resource(gateway: &Gateway, name: &str) -> Value {
    let status: Value = serde_json::from_str(&gateway.admin("/api/v1/status").text()).expect("JSON");
    let resources = status["overload"].as_array().expect("resources");
    resources.iter().find(|of| of["resource"] == name).expect("the resource").clone()
}

#[test]
fn connections_near_their_bound_shed_the_least_critical_routes_first() {
    let origin = Origin::named("o");
    // No connection is idle for long enough to be closed for that.
    let listener = "bind = \"127.0.0.1:0\"\ntimeouts = { header = \"1m\" }\n[admin]";
    let toml = config("max_connections = 10", &routes(&origin.url(), ""));
    let gateway = setup().start(&toml.replace("bind = \"127.0.0.1:0\"\n[admin]", listener));
    let mut client = gateway.client();
    assert_eq!(statuses(&mut client), [200; 3]);
    let step = || resource(&gateway, "connections")["step"].clone();
    let mut others: Vec<Client> = (0..7).map(|_| gateway.client()).collect();
    eventually("the first step", || step() == 1);
    let refused: Response = client.get("/sheddable");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(refused.header("connection"), Some("close"), "one connection less");
    client.expect_close();
    gateway.wait_access("why", |line| line["error"] == "overloaded" && line["route"] == "sheddable");
    gateway.wait_log("why", |line| {
        line["resource"] == "connections" && line["percent"] == 80 && line["refused"] == "those of sheddable routes"
    });
    others.extend((0..2).map(|_| gateway.client()));
    eventually("the second step", || step() == 2);
    let mut client = others.pop().expect("a client");
    assert_eq!([client.get("/standard").status, client.get("/critical").status], [200; 2]);
    others.extend((0..1).map(|_| gateway.client()));
    eventually("the last step", || step() == 3);
    let refused = gateway.client().try_request("GET", "/critical", &[], b"");
    assert!(refused.is_err(), "a new connection is closed: {refused:?}");
    assert_eq!([client.get("/standard").status, client.get("/critical").status], [200; 2], "open ones are served");
    assert_eq!(client.get("/sheddable").status, 503);
    assert_eq!(gateway.admin("/healthz").status, 200);
    assert!(gateway.metric("sluice_overload_shed_total", &[("resource", "connections")]) >= Some(2.0));
    // A few less than that are still within its hysteresis; only far below it ends.
    others.truncate(2);
    eventually("the end", || {
        gateway.client().try_request("GET", "/sheddable", &[], b"").is_ok_and(|response| response.status == 200)
    });
    gateway.wait_log("the end", |line| line["message"] == "no longer overloaded");
    assert_eq!(gateway.metric("sluice_overload_step", &[("resource", "connections")]), Some(0.0));
}

/// As many as it takes, over both versions.
#[test]
fn idle_connections_are_closed_before_requests_are_refused() {
    let origin = Origin::named("o");
    let listener = "bind = \"127.0.0.1:0\"\ntimeouts = { header = \"2s\", idle = \"1h\" }\n[admin]";
    let toml = config("max_connections = 10", &routes(&origin.url(), ""));
    let toml = toml.replace("bind = \"127.0.0.1:0\"\n[admin]", listener);
    let http1 = |gateway: &Gateway| -> Box<dyn Any> {
        let mut client = gateway.client();
        assert_eq!(client.get("/critical").status, 200);
        Box::new(client)
    };
    let http2 = |gateway: &Gateway| -> Box<dyn Any> {
        let mut client = H2::connect(gateway.address());
        assert_eq!(client.get("/critical").status, 200);
        Box::new(client)
    };
    for connect in [&http1 as &dyn Fn(&Gateway) -> Box<dyn Any>, &http2] {
        let gateway = setup().start(&toml);
        let _idle: Vec<_> = (0..9).map(|_| connect(&gateway)).collect();
        gateway.wait_log("the step", |line| {
            line["refused"].as_str().is_some_and(|refused| refused.contains("idle connections"))
        });
        eventually("room for others", || gateway.metric("sluice_connections_active", &[]) < Some(8.0));
        assert_eq!(gateway.get("/standard").status, 200);
    }
}

/// The last stream of a GOAWAY, and its error.
fn goaway(read: &mut impl Read) -> (u32, u32) {
    loop {
        let mut head = [0; 9];
        read.read_exact(&mut head).expect("a frame");
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        read.read_exact(&mut payload).expect("a payload");
        if head[3] == 7 {
            let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            return (word(0), word(4));
        }
    }
}

/// A request on a connection that may have ended.
fn request(client: &mut H2, target: &str) -> Result<u16, hyper::Error> {
    let request = client.builder("GET", target).body(full("")).expect("a request");
    client.try_send(request).map(|answer| answer.status)
}

#[test]
fn clients_of_http2_get_a_goaway() {
    let origin = Origin::named("o");
    let listener = "bind = \"127.0.0.1:0\"\ntimeouts = { header = \"1m\" }\n[admin]";
    let toml = config("max_connections = 10", &routes(&origin.url(), ""));
    let gateway = setup().start(&toml.replace("bind = \"127.0.0.1:0\"\n[admin]", listener));
    let mut client = H2::connect(gateway.address());
    assert_eq!(client.get("/standard").status, 200);
    let mut others: Vec<Client> = (0..7).map(|_| gateway.client()).collect();
    eventually("the first step", || resource(&gateway, "connections")["step"] == 1);
    assert_eq!(client.get("/sheddable").status, 503);
    // The client is told that its connection gets no more requests, so that it opens another one.
    eventually("the end of the connection", || request(&mut client, "/standard").is_err());

    others.extend((0..3).map(|_| gateway.client()));
    eventually("the last step", || resource(&gateway, "connections")["step"] == 3);
    let mut refused = TcpStream::connect(gateway.address()).expect("a connection");
    refused.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    refused.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("written");
    assert_eq!(goaway(&mut refused), (0, 0));
    assert_eq!(refused.read(&mut [0]).expect("an orderly end"), 0);
    assert!(gateway.client().try_request("GET", "/critical", &[], b"").is_err(), "of HTTP/1.1 it is closed");
}

#[test]
fn memory_at_its_bound_gives_up_connections_of_http2() {
    let origin = Origin::named("o");
    let gateway = setup().start(&with_base(&routes(&origin.url(), "")));
    let mut client = H2::connect(gateway.address());
    assert_eq!(client.get("/critical").status, 200);
    gateway.reload(&config("max_memory = \"1MiB\"", &routes(&origin.url(), "")));
    eventually("overload", || resource(&gateway, "memory")["step"] == 3);
    assert_eq!(client.get("/critical").status, 503);
    eventually("the end of the connection", || request(&mut client, "/critical").is_err());
}

#[test]
fn memory_over_its_bound_refuses_all_but_the_admin_listener_until_a_reload_raises_it() {
    let origin = Origin::named("o");
    let gateway = setup().start(&with_base(&routes(&origin.url(), "")));
    let mut client = gateway.client();
    assert_eq!(statuses(&mut client), [200; 3]);
    gateway.reload(&config("max_memory = \"1MiB\"", &routes(&origin.url(), "")));
    eventually("overload", || statuses(&mut client) == [503; 3]);
    assert!(gateway.metric("sluice_overload_usage_ratio", &[("resource", "memory")]) > Some(1.0));
    assert_eq!(gateway.admin("/readyz").status, 200);
    gateway.reload(&config("max_memory = \"64GiB\"", &routes(&origin.url(), "")));
    eventually("the end", || statuses(&mut client) == [200; 3]);
}

#[test]
fn a_worker_whose_loop_is_late_sheds_requests() {
    let origin = Origin::named("o");
    let spin = filter(
        "spin",
        "probe",
        "limits = { cpu = \"5s\", wall = \"1m\" }",
        serde_json::json!({"on-request": [{"do": "spin", "ms": 40}]}),
    );
    let busy = format!(
        "[routes.busy]\nmatch = {{ path = \"/busy\" }}\nupstream = \"{}\"\npipeline = [\"spin\"]\ncriticality = \"critical\"\n",
        origin.url()
    );
    let rest = routes(&origin.url(), "") + &busy + &spin;
    let gateway = setup().start(&config("max_event_loop_delay = \"20ms\"", &rest));
    let mut client = gateway.client();
    assert_eq!(client.get("/sheddable").status, 200);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = gateway.client();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.get("/busy");
                }
            });
        }
        eventually("a late loop", || client.get("/sheddable").status == 503);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    gateway.wait_log("which worker", |line| line["resource"] == "event-loop" && line["worker"] == 0);
    eventually("the end", || client.get("/sheddable").status == 200);
    assert_eq!(resource(&gateway, "event-loop")["step"], 0);
}
