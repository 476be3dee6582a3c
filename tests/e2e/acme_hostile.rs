//! What is asked of a gateway while it orders a certificate, and an authority that takes back what it has given.

use std::net::TcpListener;
use std::sync::{Arc, OnceLock};

use serde_json::json;
use sluice_harness::pebble::Options;
use sluice_harness::{Client, Origin, Pebble, Reply, eventually, wait};

use super::acme::{NAMES, Site, at, authority, orders, shown};

/// The error of a handshake.
fn refused(gateway: &sluice_harness::Gateway, name: &str, pebble: &Pebble, alpn: &[&str]) -> String {
    shown(gateway, name, &pebble.client_config(alpn)).expect_err("no certificate").to_string()
}

#[test]
fn a_token_that_is_pending_is_answered_for_its_host_only() {
    let site = Site::new();
    // What the authority asks gets no answer for now: the order is under way.
    let (path, answer) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::<String>::new()));
    let asks = Origin::serve({
        let (path, answer) = (path.clone(), answer.clone());
        move |request| {
            path.get_or_init(|| request.target.clone());
            Reply::text(answer.wait())
        }
    });
    let Some(pebble) = Pebble::start(Options { http: asks.address().port(), ..site.options() }) else { return };
    let gateway = site.start(&(at(&pebble) + "\nchallenges = [\"http-01\"]"), NAMES);
    let path = wait::eventually_some("the authority asks", || path.get().cloned());
    assert!(path.starts_with("/.well-known/acme-challenge/"), "{path}");
    let mut client = Client::connect(gateway.address_of("http"));
    let mut ask = |host: &str, path: &str| client.request("GET", path, &[("host", host)], b"");
    let answered = ask("site.test", &path);
    assert_eq!(answered.status, 200);
    for (host, path) in [
        ("foreign.test", &*path),
        ("sub.site.test", &*path),
        ("site.test", "/.well-known/acme-challenge/abc"),
        ("site.test", &format!("{path}x")),
        ("site.test", &format!("{path}/")),
    ] {
        assert_eq!(ask(host, path).status, 308, "the listener's redirect: {host}{path}");
    }
    // The order goes on, and then nobody is answered.
    answer.set(answered.text()).expect("once");
    eventually("it is issued", || orders(&gateway, "issued") == 1.0);
    assert_eq!(ask("site.test", &path).status, 308);
}

#[test]
fn a_handshake_that_is_pending_is_answered_for_its_name_and_protocol_only() {
    let site = Site::new();
    let asks = TcpListener::bind("127.0.0.1:0").expect("a port");
    let options = Options { tls: asks.local_addr().expect("an address").port(), ..site.options() };
    let Some(pebble) = Pebble::start(options) else { return };
    let gateway = site.start(&(at(&pebble) + "\nchallenges = [\"tls-alpn-01\"]"), NAMES);
    let (question, _) = asks.accept().expect("the authority asks");
    // Nobody trusts the certificate that answers, but it is shown.
    let answer = refused(&gateway, "site.test", &pebble, &["acme-tls/1"]);
    assert!(answer.contains("invalid peer certificate"), "{answer}");
    for (name, alpn) in [
        ("foreign.test", &["acme-tls/1"][..]),
        ("sub.site.test", &["acme-tls/1"]),
        ("site.test", &["acme-tls/1", "h2"]),
        ("site.test", &["h2", "acme-tls/1"]),
        ("site.test", &["h2"]),
        ("site.test", &[]),
    ] {
        // The alert of who has no certificate yet.
        let answer = refused(&gateway, name, &pebble, alpn);
        assert!(!answer.contains("invalid peer certificate"), "{name} {alpn:?}: {answer}");
    }
    drop(question);
}

#[test]
fn an_account_that_the_authority_takes_no_more_is_replaced_once() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    // As of a deactivated account (RFC 8555 §7.3.6), and of each that comes after it.
    let problem = json!({ "type": "urn:ietf:params:acme:error:unauthorized", "detail": "deactivated", "status": 403 });
    // By another name than the directory: a client keeps TLS sessions by name.
    let refuses = Origin::serve_tls(pebble.certs().leaf(&["localhost"]).server_config(&["http/1.1"]), move |_| {
        let headers = vec![("content-type".to_owned(), "application/problem+json".to_owned())];
        Reply::Full(403, headers, problem.to_string().into_bytes())
    });
    let directory = authority(pebble.certs(), {
        let mut document = pebble.directory_document();
        document["newOrder"] = format!("https://localhost:{}/order", refuses.address().port()).into();
        move |_| Reply::json(&document)
    });
    let acme = format!("directory = \"https://{}/dir\"\nca = \"{}\"", directory.address(), pebble.ca().display());
    let gateway = site.start(&acme, NAMES);
    eventually("it fails", || orders(&gateway, "refused") == 1.0);
    assert_eq!(orders(&gateway, "challenge"), 0.0);
    assert_eq!(refuses.count(), 2, "once more, with another account");
    assert_eq!(pebble.log().matches("accounts in memory").count(), 2, "{}", pebble.log());
}
