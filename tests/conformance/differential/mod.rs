//! What the gateway forwards, readers of another lineage must read as the same requests, one for one, and nothing of what it
//! refuses: llhttp (Node) and nginx, as origins that tell what they have read. The requests come out of a fixed seed.

mod generate;
mod naive;
mod readers;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sluice::http::path::normalise_path;
use sluice_harness::Gateway;
use sluice_harness::tools::need;

use self::generate::Random;
use self::naive::{End, Message};
use self::readers::{Llhttp, Nginx, Reader, Seen};
use crate::support::{gateway, shown, wrong_with};

const SEED: u64 = 0x5eed_0003;
const REQUESTS: usize = 4000;
/// However slow the machine is.
const LIMIT: Duration = Duration::from_secs(10);
/// Fewer would show nothing.
const AT_LEAST: usize = 300;

/// Behind every request: a request with a lost end swallows some of these, and is then seen for what it is.
const BEHIND: &[u8] = b"GET /behind HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[test]
fn llhttp_reads_the_same() {
    let Some([node]) = need(["plain-node"]) else { return };
    compare(&mut Llhttp::start(&node));
}

#[test]
fn nginx_reads_the_same() {
    let Some([nginx]) = need(["nginx"]) else { return };
    compare(&mut Nginx::start(&nginx));
}

#[track_caller]
fn compare(reader: &mut dyn Reader) {
    let gateway = gateway(&format!("http://127.0.0.1:{}", reader.port()));
    let mut random = Random::new(SEED);
    let end = Instant::now() + LIMIT;
    let mut outcomes = BTreeMap::<String, usize>::new();
    let mut sent = 0;
    while sent < REQUESTS && (sent < AT_LEAST || Instant::now() < end) {
        let request = generate::request(&mut random);
        if let Err(what) = converse(&gateway, reader, &request, &mut outcomes) {
            panic!("request {sent}: {what}\n{}", request.escape_ascii());
        }
        sent += 1;
    }
    // Both kinds have to be there, or the requests are of no use.
    for outcome in ["forwarded", "400", "501"] {
        assert!(outcomes.get(outcome).is_some_and(|n| *n > sent / 200), "{outcomes:?}");
    }
}

/// Sends one request with others behind it, reads all answers, and compares what has arrived with what was answered.
fn converse(
    gateway: &Gateway,
    reader: &mut dyn Reader,
    request: &[u8],
    outcomes: &mut BTreeMap<String, usize>,
) -> Result<(), String> {
    let bytes = [request, &BEHIND.repeat(80)].concat();
    let (meant, end) = naive::messages(&bytes);
    let mut client = gateway.client();
    let _ = client.try_send(&bytes);
    let mut arrived = Vec::new();
    for n in 0.. {
        let message = meant.get(n);
        // What has no end can't be answered. That it is not, needs no patience.
        let patience = if message.is_none() && end == End::More { 30 } else { 30_000 };
        client.writer().set_read_timeout(Some(Duration::from_millis(patience))).map_err(|e| e.to_string())?;
        let response = match client.try_read_response(message.map_or("GET", |m| &m.method)) {
            Ok(response) => response,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && patience == 30 => break,
            Err(error) => return Err(format!("answer {n}: {error}")),
        };
        if response.header("x-reader").is_some() {
            let message = message.ok_or(format!("answer {n} is from the origin, but there is no such request"))?;
            arrived.push(message.clone());
            *outcomes.entry("forwarded".into()).or_default() += 1;
        } else if response.header("content-type") == Some("application/problem+json") {
            if ![400, 414, 431, 501, 505].contains(&response.status) {
                return Err(format!("answer {n}: {response:?}"));
            }
            *outcomes.entry(response.status.to_string()).or_default() += 1;
            let rest = client.read_to_close();
            if message.is_some_and(|m| m.method == "HEAD") {
                // Has a body where the gateway could not read the method.
                break;
            }
            wrong_with(&response, response.status).map_or(Ok(()), Err)?;
            if !rest.is_empty() {
                return Err(format!("more than a refusal: {}", shown(&rest)));
            }
            break;
        } else if message.is_none_or(|m| reader.takes(m)) {
            return Err(format!("answer {n}: the origin could not read it: {response:?}"));
        }
    }
    let seen = reader.seen(arrived.len())?;
    if seen.len() != arrived.len() {
        return Err(format!("{} requests were answered, and these have arrived: {seen:?}", arrived.len()));
    }
    for (seen, message) in seen.iter().zip(&arrived) {
        same(seen, message).map_err(|what| format!("{what}\n  sent: {message:?}\n  read: {seen:?}"))?;
    }
    Ok(())
}

fn same(seen: &Seen, message: &Message) -> Result<(), &'static str> {
    if seen.method != message.method {
        return Err("another method");
    }
    if seen.target != forwarded(&message.target) {
        return Err("another target");
    }
    if seen.body != String::from_utf8_lossy(&message.body) {
        return Err("another body");
    }
    let Some(fields) = &seen.fields else { return Ok(()) };
    let named = |name: &str| message.fields.iter().any(|(n, _)| n == name);
    let own = |name: &str, value: &str| match name {
        // RFC 9110 §10.1.4
        "connection" => value == "te",
        "x-request-id" | "traceparent" | "cdn-loop" | "content-length" | "transfer-encoding" | "host" => true,
        _ => name.starts_with("x-forwarded-"),
    };
    if fields.iter().any(|(name, value)| !own(name, value) && (!named(name) || name == "connection")) {
        return Err("a field that nobody has sent");
    }
    let values = |fields: &[(String, String)]| {
        fields.iter().filter(|(n, _)| n == "x-t").map(|(_, v)| v.clone()).collect::<Vec<_>>()
    };
    let listed = message.fields.iter().any(|(n, v)| n == "connection" && v.split(',').any(|o| o.trim() == "x-t"));
    if values(fields) != if listed { Vec::new() } else { values(&message.fields) } {
        return Err("other values of a field");
    }
    Ok(())
}

/// The target as it is passed on: in origin form, with a path of one form.
fn forwarded(target: &str) -> String {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            rest.find(['/', '?']).map_or("/", |at| rest.split_at(at).1)
        }
        _ => target,
    };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let path = normalise_path(if path.is_empty() { "/" } else { path }).map_or_else(|e| e.to_string(), Into::into);
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}
