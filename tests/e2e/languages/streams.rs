//! Bodies that stream through a filter, and calls to services, in every language that has filters of these kinds in `examples/filters/`.

use serde_json::{Value, json};
use sluice_harness::{Client, Gateway, Origin, Reply};

use super::build::{Built, built};
use super::setup;
use crate::chunks::{chunk, driven};
use crate::support::with_base;

const TEXT: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The languages that have this filter.
fn with(filter: &str) -> impl Iterator<Item = &'static Built> {
    built().iter().filter(move |language| language.filters.iter().any(|(name, _)| *name == filter))
}

fn start(language: &Built, filter: &str, lines: &str, upstream: &Origin) -> Gateway {
    let name = format!("{}-{filter}", language.name);
    // An interpreter in a debug build, on a busy machine.
    let limits = "limits = { cpu = \"2s\", wall = \"20s\" }";
    setup(std::slice::from_ref(language)).start(&with_base(&format!(
        "[filters.{name}]\n{limits}\n{lines}\n[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{}\"\npipeline = [\"{name}\"]\n",
        upstream.url()
    )))
}

fn mask(language: &Built, upstream: &Origin) -> Gateway {
    start(language, "mask", "grants = { body = true }\nconfig = { word = \"secret\" }", upstream)
}

fn begin(gateway: &Gateway) -> Client {
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    client
}

/// Chunks until they have this text, or to the end of the body.
fn read_until(client: &mut Client, expected: Option<&str>) -> String {
    let mut text = String::new();
    while expected.is_none_or(|expected| !text.contains(expected)) {
        match client.read_chunk() {
            Some(bytes) => text.push_str(std::str::from_utf8(&bytes).expect("UTF-8")),
            None => break,
        }
    }
    text
}

#[test]
fn a_text_is_masked_while_it_streams_in_every_language() {
    for language in with("mask") {
        let (origin, writes) = driven(TEXT);
        let gateway = mask(language, &origin);
        let mut client = begin(&gateway);
        let send = |text: &str| writes.send(chunk(text)).expect("the origin");
        send("a secret, long before another sec");
        // The first piece leaves before the second has come, but for what may begin the word.
        let first = read_until(&mut client, Some("long before"));
        send("ret");
        send(" and the end: secre");
        writes.send(b"0\r\n\r\n".to_vec()).expect("the origin");
        let text = first + &read_until(&mut client, None);
        assert_eq!(text, "a ******, long before another ****** and the end: secre", "{}", language.name);
    }
}

#[test]
fn each_event_is_masked_when_it_comes_in_every_language() {
    for language in with("mask") {
        let (origin, writes) = driven(EVENTS);
        let gateway = mask(language, &origin);
        let mut client = begin(&gateway);
        for (parts, expected) in [
            (&["id: 7\ndata: a sec", "ret\n", "\n"][..], "id: 7\ndata: a ******\n\n"),
            (&[": alive\n\n"], ": alive\n\n"),
            (&["data: none\n\n"], "data: none\n\n"),
        ] {
            parts.iter().for_each(|part| writes.send(chunk(part)).expect("the origin"));
            assert_eq!(read_until(&mut client, Some("\n\n")), expected, "{}", language.name);
        }
        writes.send(b"0\r\n\r\n".to_vec()).expect("the origin");
        assert_eq!(client.read_chunk(), None, "{}", language.name);
    }
}

#[test]
fn the_body_of_a_request_is_masked_in_every_language() {
    for language in with("mask") {
        let origin = Origin::serve(|_| Reply::text(""));
        let gateway = mask(language, &origin);
        let mut client = gateway.client();
        let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
        client.send([head.as_bytes(), &chunk("this sec"), &chunk("ret is m\u{fc}d"), b"0\r\n\r\n"].concat());
        assert_eq!(client.read_response("POST").status, 200, "{}", language.name);
        assert_eq!(origin.last().text(), "this ****** is m\u{fc}d", "{}", language.name);
    }
}

#[test]
fn a_service_is_asked_within_a_limit_in_every_language() {
    for language in with("ask") {
        let name = language.name;
        let upstream = Origin::serve(|_| Reply::text(""));
        let service = Origin::serve(|request| {
            let sent: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            match request.target == "/of" && sent == json!({"caller": "ann"}) {
                true => Reply::json(&json!({"account": 7})),
                false => Reply::status(404),
            }
        });
        let lines =
            format!("grants = {{ http = [\"{0}\"] }}\nconfig = {{ url = \"{0}/of\", amount = 2 }}", service.url());
        let gateway = start(language, "ask", &lines, &upstream);
        let mut client = gateway.client();
        let mut ask = |caller: &str| client.request("GET", "/", &[("x-caller", caller)], b"");
        assert_eq!(ask("ann").status, 200, "{name}");
        assert_eq!(upstream.last().header("x-account"), Some("7"), "{name}");
        let asked = service.last();
        let sent = (asked.method.as_str(), asked.header("content-type"));
        assert_eq!(sent, ("POST", Some("application/json")), "{name}");
        assert_eq!(ask("bob").status, 403, "{name}: whom the service does not know");
        assert_eq!([ask("ann").status, ask("ann").status], [200, 429], "{name}");
        let refused = ask("ann");
        let seconds: u32 = refused.header("retry-after").and_then(|value| value.parse().ok()).expect("seconds");
        assert!((1..=1800).contains(&seconds), "{name}: {seconds}");
        assert_eq!(service.count(), 3, "{name}: who is over the limit is not asked for");
    }
}
