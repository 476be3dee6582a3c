//! Certificates of clients at the listeners (mutual TLS).

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use serde_json::{Value, json};
use sluice_harness::certs::Leaf;
use sluice_harness::h2::{H2, full};
use sluice_harness::{Certs, Client, Gateway, Origin};

use crate::support::{probe, route, setup};

/// The serial number of Alice's certificate.
const SERIAL: [u8; 2] = [0x0a, 0x01];

/// The certificate of a caller.
fn alice(certs: &Certs) -> Leaf {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Acme");
    name.push(DnType::CommonName, "alice");
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&SERIAL));
    params.subject_alt_names = vec![
        SanType::URI("spiffe://acme/alice".try_into().expect("ASCII")),
        SanType::Rfc822Name("alice@acme.test".try_into().expect("ASCII")),
    ];
    certs.sign("alice", params, &KeyPair::generate().expect("a key"))
}

fn file(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

/// A listener with this line of `tls`, and a plain one beside it.
fn config(server: &Leaf, client_auth: &str, rest: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\nreload = false\n[admin]\nbind = \"127.0.0.1:0\"\n\
         [listeners.https]\nbind = \"127.0.0.1:0\"\n[listeners.https.tls]\ncertificates = [\"a\"]\n{client_auth}\n\
         [listeners.plain]\nbind = \"127.0.0.1:0\"\n\
         [certificates.a]\ncert = {}\nkey = {}\n{rest}",
        file(&server.cert),
        file(&server.key),
    )
}

fn required(certs: &Certs) -> String {
    format!("client_auth = {{ ca = {} }}", file(&certs.ca()))
}

/// The status of a request over TLS; none if the listener does not let the client in.
fn status(gateway: &Gateway, name: &str, config: &Arc<ClientConfig>) -> Option<u16> {
    let mut client = Client::connect_tls(gateway.address_of("https"), name, Arc::clone(config)).ok()?;
    client.try_request("GET", "/", &[("host", name)], b"").ok().map(|response| response.status)
}

#[test]
fn a_client_without_a_good_certificate_is_not_let_in() {
    let (certs, others) = (Certs::new(), Certs::new());
    let (server, origin) = (certs.leaf(&["localhost"]), Origin::named("o"));
    let gateway = Gateway::start(&config(&server, &required(&certs), &route(&origin.url(), &[])));
    let stranger = others.leaf(&["localhost"]);
    for versions in [&[&TLS12][..], &[&TLS13]] {
        assert_eq!(status(&gateway, "localhost", &certs.client_config(&[], versions)), None, "{versions:?}");
    }
    assert_eq!(status(&gateway, "localhost", &certs.client_config_showing(&stranger, &[])), None);
    assert_eq!(origin.count(), 0);
    assert_eq!(status(&gateway, "localhost", &certs.client_config_showing(&alice(&certs), &[])), Some(200));
    assert_eq!(gateway.metric("sluice_tls_failures_total", &[("listener", "https")]), Some(3.0));
}

#[test]
fn an_optional_certificate_may_be_missing_but_not_bad() {
    let (certs, others) = (Certs::new(), Certs::new());
    let (server, origin) = (certs.leaf(&["localhost"]), Origin::named("o"));
    let optional = format!("client_auth = {{ ca = {}, mode = \"optional\" }}", file(&certs.ca()));
    let gateway = Gateway::start(&config(&server, &optional, &route(&origin.url(), &[])));
    assert_eq!(status(&gateway, "localhost", &certs.client_config(&[], &[&TLS13])), Some(200));
    assert_eq!(status(&gateway, "localhost", &certs.client_config_showing(&alice(&certs), &[])), Some(200));
    let stranger = others.leaf(&["localhost"]);
    assert_eq!(status(&gateway, "localhost", &certs.client_config_showing(&stranger, &[])), None);
}

#[test]
fn filters_see_who_the_client_is() {
    let certs = Certs::new();
    let (server, origin) = (certs.leaf(&["localhost"]), Origin::named("o"));
    let optional = format!("client_auth = {{ ca = {}, mode = \"optional\" }}", file(&certs.ca()));
    let asking = json!({"on-request": [{"do": "client-certificate", "to": "x-certificate"}]});
    let rest = route(&origin.url(), &["a"]) + &probe("a", asking);
    let gateway = setup().start(&config(&server, &optional, &rest));
    let leaf = alice(&certs);
    let mut h2 = H2::connect_tls(gateway.address_of("https"), "localhost", certs.client_config_showing(&leaf, &["h2"]));
    for _ in 0..2 {
        assert_eq!(h2.get("/").status, 200);
        let seen: Value =
            serde_json::from_str(origin.last().header("x-certificate").expect("the answer")).expect("JSON");
        assert_eq!((&seen["subject"], &seen["issuer"]), (&json!("CN=alice,O=Acme"), &json!("CN=a test authority")));
        assert_eq!((&seen["serial"], &seen["uris"]), (&json!("0a01"), &json!(["spiffe://acme/alice"])));
        assert_eq!((&seen["emails"], &seen["dns_names"]), (&json!(["alice@acme.test"]), &json!([])));
        let pem = std::fs::read_to_string(&leaf.cert).expect("a file").replace("\r\n", "\n");
        assert_eq!(seen["pem"].as_str().expect("text").trim_end(), pem.trim_end());
        assert!(seen["not_after"].as_i64() > seen["not_before"].as_i64());
    }
    assert_eq!(status(&gateway, "localhost", &certs.client_config(&[], &[&TLS13])), Some(200));
    let without = origin.last().header("x-certificate").map(str::to_owned);
    assert_eq!(Client::connect(gateway.address_of("plain")).get("/").status, 200);
    assert_eq!(origin.last().header("x-certificate").map(str::to_owned), without, "no certificate, no facts");
    assert!(without.is_none_or(|text| !text.contains("subject")));
}

#[test]
fn upstreams_get_the_certificate_where_asked_and_never_that_of_a_stranger() {
    let certs = Certs::new();
    let (server, origin) = (certs.leaf(&["localhost"]), Origin::named("o"));
    let forged = [("host", "localhost"), ("client-cert", ":Zm9yZ2Vk:"), ("client-cert-chain", ":Zm9yZ2Vk:")];
    let with = |more: &str| {
        let line = format!("client_auth = {{ ca = {}, mode = \"optional\"{more} }}", file(&certs.ca()));
        Gateway::start(&config(&server, &line, &route(&origin.url(), &[])))
    };
    let seen = |gateway: &Gateway, config: Arc<ClientConfig>| {
        let mut client = Client::connect_tls(gateway.address_of("https"), "localhost", config).expect("a handshake");
        assert_eq!(client.request("GET", "/", &forged, b"").status, 200);
        let seen = origin.last();
        assert_eq!(seen.header("client-cert-chain"), None);
        seen.header("client-cert").map(str::to_owned)
    };
    let leaf = alice(&certs);
    let (quiet, forwarding) = (with(""), with(", forward = true"));
    assert_eq!(seen(&quiet, certs.client_config_showing(&leaf, &[])), None);
    assert_eq!(seen(&forwarding, certs.client_config(&[], &[&TLS13])), None);
    let field = seen(&forwarding, certs.client_config_showing(&leaf, &[])).expect("a certificate");
    let pem = std::fs::read_to_string(&leaf.cert).expect("a file");
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    assert_eq!(field, format!(":{base64}:"));
    assert_eq!(Client::connect(forwarding.address_of("plain")).request("GET", "/", &forged, b"").status, 200);
    assert_eq!((origin.last().header("client-cert"), origin.last().header("client-cert-chain")), (None, None));
}

#[test]
fn a_revoked_certificate_is_refused_and_no_session_gets_past_a_list() {
    let certs = Certs::new();
    let (server, origin) = (certs.leaf(&["localhost"]), Origin::named("o"));
    let with = |revoked: &[&[u8]]| {
        let line = format!("client_auth = {{ ca = {}, crl = {} }}", file(&certs.ca()), file(&certs.revoke(revoked)));
        config(&server, &line, &route(&origin.url(), &[]))
    };
    let gateway = Gateway::start(&with(&[&[0x77]]));
    let known = certs.client_config_showing(&alice(&certs), &[]);
    assert_eq!(status(&gateway, "localhost", &known), Some(200));
    let mut again = Client::connect_tls(gateway.address_of("https"), "localhost", Arc::clone(&known)).expect("TLS");
    assert_eq!(again.get("/").status, 200);
    let kind = again.tls().and_then(|tls| tls.handshake_kind());
    assert_ne!(kind, Some(HandshakeKind::Resumed), "a resumed session does not look at lists, nor at their end");
    gateway.reload(&with(&[&[0x77], &SERIAL]));
    assert_eq!(status(&gateway, "localhost", &known), None);
}

#[test]
fn a_session_that_began_without_a_certificate_does_not_get_past_one_that_is_required() {
    let certs = Certs::new();
    let (server, origin) = (certs.leaf(&["localhost"]), Origin::named("o"));
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let gateway = Gateway::start(&config(&server, "", &route(&origin.url(), &[])));
        let known = certs.client_config(&[], versions);
        for _ in 0..2 {
            assert_eq!(status(&gateway, "localhost", &known), Some(200));
        }
        gateway.reload(&config(&server, &required(&certs), &route(&origin.url(), &[])));
        assert_eq!(status(&gateway, "localhost", &known), None, "{versions:?}");
    }
}

#[test]
fn a_host_with_another_policy_than_the_server_name_is_misdirected() {
    let certs = Certs::new();
    let server = certs.leaf(&["open.test", "partners.test", "*.partners.test"]);
    let origin = Origin::named("o");
    let line =
        format!("client_auth = {{ ca = {}, hosts = [\"partners.test\", \"*.partners.test\"] }}", file(&certs.ca()));
    let gateway = Gateway::start(&config(&server, &line, &route(&origin.url(), &[])));
    let (stranger, known) = (certs.client_config(&[], &[&TLS13]), certs.client_config_showing(&alice(&certs), &[]));
    assert_eq!(status(&gateway, "open.test", &stranger), Some(200));
    assert_eq!(status(&gateway, "partners.test", &stranger), None);
    assert_eq!(status(&gateway, "partners.test", &known), Some(200));
    assert_eq!(origin.count(), 2);
    let mut client = Client::connect_tls(gateway.address_of("https"), "open.test", Arc::clone(&stranger)).expect("TLS");
    for host in ["partners.test", "PARTNERS.test.:443", "a.b.partners.test"] {
        assert_eq!(client.request("GET", "/", &[("host", host)], b"").status, 421, "{host}");
    }
    assert_eq!(client.request("GET", "/", &[("host", "open.test")], b"").status, 200, "the connection goes on");
    let mut client = Client::connect_tls(gateway.address_of("https"), "partners.test", known).expect("TLS");
    assert_eq!(client.request("GET", "/", &[("host", "open.test")], b"").status, 421);
    assert_eq!(client.request("GET", "/", &[("host", "partners.test")], b"").status, 200);

    let h2 = certs.client_config(&["h2"], &[&TLS13]);
    let mut h2 = H2::connect_tls(gateway.address_of("https"), "open.test", h2);
    for (authority, expected) in [("partners.test", 421), ("open.test", 200)] {
        let request = http::Request::get(format!("https://{authority}/")).body(full("")).expect("a request");
        assert_eq!(h2.send(request).status, expected, "{authority}");
    }
    let line = gateway.wait_access("the refusal", |line| line["status"] == 421);
    assert_eq!((&line["error"], &line["error_side"]), (&json!("misdirected-request"), &json!("client")));
    // The plain listener has no policies.
    let plain = Client::connect(gateway.address_of("plain")).request("GET", "/", &[("host", "partners.test")], b"");
    assert_eq!(plain.status, 200);
}

#[test]
fn a_client_certificate_finds_its_consumer() {
    let certs = Certs::new();
    let (server, origin, alice) = (certs.leaf(&["localhost"]), Origin::named("o"), alice(&certs));
    let rest = route(&origin.url(), &["certificate"])
        + "[filters.certificate]\nplugin = \"mtls-auth\"\ngrants = { consumers = true }\n\
           [consumers.acme]\ncertificates = [\"uri:spiffe://acme/alice\"]\n";
    let optional = format!("client_auth = {{ ca = {}, mode = \"optional\" }}", file(&certs.ca()));
    let gateway = Gateway::start(&config(&server, &optional, &rest));
    let shown = |leaf: &Leaf| status(&gateway, "localhost", &certs.client_config_showing(leaf, &[]));
    assert_eq!(shown(&alice), Some(200));
    gateway.wait_access("the consumer", |line| line["consumer"] == "acme");
    assert_eq!(shown(&certs.leaf(&["other"])), Some(401));
    gateway.wait_access("nobody's", |line| line["reason"] == "certificate-unknown");
    assert_eq!(status(&gateway, "localhost", &certs.client_config(&[], &[&TLS13])), Some(401));
    gateway.wait_access("none", |line| line["reason"] == "certificate-missing");
}
