//! Deadlines of clients bound their requests where the route says so, and upstreams are told how much time is left.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use serde_json::json;
use sluice_harness::h2::{self, H2, H2Origin, full};
use sluice_harness::{Gateway, Origin, Reply};

use crate::support::{gateway as gateway_of, route};

/// A body that never ends.
struct Endless(Option<Bytes>);

impl Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }
}

/// An origin of gRPC that says in its answer which `grpc-timeout` it got. Some paths never answer, or end no stream.
fn origin() -> H2Origin {
    H2Origin::serve(None, |request: Request<Incoming>| async move {
        let timeout = request
            .headers()
            .get("grpc-timeout")
            .map_or("none".to_owned(), |value| value.to_str().expect("text").to_owned());
        let response =
            http::Response::builder().header("content-type", "application/grpc").header("x-timeout", timeout);
        if request.uri().path() == "/silent" {
            std::future::pending::<()>().await;
        }
        if request.uri().path() == "/stream" {
            return response.body(Endless(Some("first".into())).boxed()).expect("a response");
        }
        response.header("grpc-status", "0").body(full("")).expect("a response")
    })
}

fn before(origin: &H2Origin, lines: &str) -> Gateway {
    gateway_of(&format!(
        "[upstreams.grpc]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n{}{lines}\n",
        origin.address(),
        route("grpc", &[])
    ))
}

fn call(client: &mut H2, path: &str, timeout: Option<&str>) -> h2::Answer {
    let mut request = client.builder("POST", path).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    client.send(request.body(full("")).expect("a request"))
}

fn millis(answer: &h2::Answer) -> u64 {
    let text = answer.header("x-timeout").unwrap_or_default();
    text.strip_suffix('m').and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("milliseconds in {text}"))
}

#[test]
fn a_grpc_deadline_is_honoured_and_passed_on() {
    let origin = origin();
    let plain = before(&origin, "");
    assert_eq!(call(&mut H2::connect(plain.address()), "/", Some("7S")).header("x-timeout"), Some("7S"), "as it is");

    let gateway = before(&origin, "deadline = { grpc = true }\ntimeouts = { request = \"20s\" }");
    let mut client = H2::connect(gateway.address());
    let of_client = millis(&call(&mut client, "/", Some("7S")));
    assert!((4_000..=7_000).contains(&of_client), "{of_client}");
    let of_stream = millis(&call(&mut client, "/", Some("1H")));
    assert!((3_500_000..=3_600_000).contains(&of_stream), "the time for the head is not that of the call: {of_stream}");
    for without in [None, Some("nonsense")] {
        assert_eq!(call(&mut client, "/", without).header("x-timeout"), Some("none"), "{without:?}");
    }
    let bounded = before(&origin, "deadline = { grpc = true }\ntimeouts = { max_stream_duration = \"20s\" }");
    for longer in [None, Some("1H")] {
        let of_exchange = millis(&call(&mut H2::connect(bounded.address()), "/", longer));
        assert!((15_000..=20_000).contains(&of_exchange), "{of_exchange} for {longer:?}");
    }
    let start = Instant::now();
    let late = call(&mut client, "/silent", Some("300m"));
    assert_eq!((late.status, late.header("grpc-status")), (200, Some("4")), "{late:?}");
    assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
    let line = gateway.wait_access("the late call", |line| line["path"] == "/silent");
    assert_eq!((&line["error"], &line["error_side"]), (&json!("deadline-exceeded"), &json!("client")), "{line}");
    let never = call(&mut client, "/", Some("0m"));
    assert_eq!(never.header("grpc-status"), Some("4"), "{never:?}");
}

#[test]
fn a_stream_ends_with_the_deadline_of_its_call() {
    let origin = origin();
    let gateway = before(&origin, "deadline = { grpc = true }");
    let start = Instant::now();
    let answer = call(&mut H2::connect(gateway.address()), "/stream", Some("400m"));
    let trailers = answer.trailers.as_ref().expect("trailers");
    assert_eq!((answer.text().as_str(), trailers["grpc-status"].to_str().ok()), ("first", Some("4")), "{answer:?}");
    assert!((Duration::from_millis(350)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(gateway.wait_access("the call", |line| line["path"] == "/stream")["grpc_status"], 4);

    // A deadline for the head alone does not take its place.
    let both = before(&origin, "deadline = { grpc = true, header = \"x-time\", trust_header = true }");
    let mut client = H2::connect(both.address());
    let request = client.builder("POST", "/stream").header("content-type", "application/grpc").header("te", "trailers");
    let request = request.header("grpc-timeout", "2000m").header("x-time", "1900");
    let answer = client.send(request.body(full("")).expect("a request"));
    assert_eq!(answer.trailers.as_ref().expect("trailers")["grpc-status"].to_str().ok(), Some("4"), "{answer:?}");
}

#[test]
fn an_upstream_is_told_how_long_it_may_take() {
    let origin = Origin::serve(|request| match request.target.as_str() {
        "/silent" => Reply::script(|conn| conn.wait_for_close()),
        _ => Reply::text("ok"),
    });
    let config = |deadline: &str, more: &str| {
        format!("{}deadline = {deadline}\ntimeouts = {{ request = \"20s\" }}\n{more}", route(&origin.url(), &[]))
    };
    let told = || origin.last().header("x-request-timeout-ms").and_then(|text| text.parse::<u64>().ok());
    let own = [("x-request-timeout-ms", "5000")];
    let within = |told: Option<u64>, most: u64| told.is_some_and(|told| told <= most && told + 4_000 >= most);

    let gateway = gateway_of(&config(r#"{ header = "x-request-timeout-ms" }"#, ""));
    gateway.request("GET", "/", &own, b"");
    assert!(within(told(), 20_000), "a stranger's is replaced: {:?}", told());

    let trusting = r#"{ header = "x-request-timeout-ms", trust_header = true }"#;
    let gateway = gateway_of(&config(trusting, ""));
    gateway.request("GET", "/", &own, b"");
    assert!(within(told(), 5_000), "{:?}", told());
    gateway.get("/");
    assert!(within(told(), 20_000), "{:?}", told());
    let start = Instant::now();
    assert_eq!(gateway.request("GET", "/silent", &[("x-request-timeout-ms", "300")], b"").status, 504);
    assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());

    let gateway = gateway_of(&config(trusting, "retry = { per_try_timeout = \"2s\" }\n"));
    gateway.get("/");
    assert!(told().is_some_and(|told| (500..=2_000).contains(&told)), "that of the attempt: {:?}", told());
}
