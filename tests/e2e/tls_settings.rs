//! What a listener agrees on in a handshake, what it lets one address have, what it says of HTTPS, and what is counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, NamedGroup, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};
use sluice_harness::certs::Leaf;
use sluice_harness::h2::H2;
use sluice_harness::{Certs, Client, Gateway, Origin, Reply, eventually};

use crate::support::route;

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
const RESPOND: &str = "[routes.all]\nmatch = { path = \"/ok\" }\nrespond = { status = 200, body = \"ok\" }\n";

fn toml(leaf: &Leaf, tls: &str, rest: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\nreload = false\n[admin]\nbind = \"127.0.0.1:0\"\n[listeners.https]\nbind = \"127.0.0.1:0\"\n\
         [listeners.https.tls]\ncertificates = [\"main\"]\n{tls}\n[certificates.main]\ncert = \"{}\"\nkey = \"{}\"\n{rest}",
        leaf.cert.display(),
        leaf.key.display()
    )
}

/// What a client of these versions agrees on.
fn agreed(
    gateway: &Gateway,
    certs: &Certs,
    versions: &[&'static SupportedProtocolVersion],
) -> Option<(ProtocolVersion, CipherSuite)> {
    agreed_with(gateway, certs.client_config(&["http/1.1"], versions))
}

fn agreed_with(gateway: &Gateway, config: Arc<ClientConfig>) -> Option<(ProtocolVersion, CipherSuite)> {
    let client = Client::connect_tls(gateway.address_of("https"), "localhost", config).ok()?;
    let tls = client.tls()?;
    Some((tls.protocol_version()?, tls.negotiated_cipher_suite()?.suite()))
}

/// One handshake has failed for this reason. The client may know it before it is counted.
fn failed_once(gateway: &Gateway, reason: &str) {
    eventually("the failure to be counted", || {
        gateway.metric("sluice_tls_failures_total", &[("reason", reason)]) == Some(1.0)
    });
}

#[test]
fn versions_and_cipher_suites_are_those_of_the_listener_in_its_order() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let gateway = |tls: &str| Gateway::start(&toml(&leaf, tls, RESPOND));
    let old = gateway("max_version = \"1.2\"");
    assert_eq!(agreed(&old, &certs, BOTH).map(|agreed| agreed.0), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(agreed(&old, &certs, &[&TLS13]), None);
    failed_once(&old, "no-version");
    let chosen = gateway(
        "cipher_suites = [\"TLS_CHACHA20_POLY1305_SHA256\", \"TLS_AES_128_GCM_SHA256\", \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]",
    );
    assert_eq!(
        agreed(&chosen, &certs, BOTH),
        Some((ProtocolVersion::TLSv1_3, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)),
        "the first of the listener's, not of the client's"
    );
    assert_eq!(
        agreed(&chosen, &certs, &[&TLS12]),
        Some((ProtocolVersion::TLSv1_2, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256))
    );
    let rsa = gateway("max_version = \"1.2\"\ncipher_suites = [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]");
    assert_eq!(agreed(&rsa, &certs, BOTH), None, "the certificate has a key for ECDSA");
    failed_once(&rsa, "no-cipher-suite");
}

/// AES-128 before AES-256, and ChaCha20 for those who want it most: they have no instructions for AES.
#[test]
fn without_a_list_the_suite_is_the_fastest_that_the_client_is_fit_for() {
    let certs = Certs::new();
    let gateway = Gateway::start(&toml(&certs.leaf(&["localhost"]), "", RESPOND));
    let suite = |offered: &[SupportedCipherSuite]| {
        agreed_with(&gateway, certs.client_config_preferring(offered)).map(|(_, suite)| suite)
    };
    use rustls::crypto::aws_lc_rs::cipher_suite::*;
    let (big, small, chacha) = (TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256);
    assert_eq!(suite(&[big, chacha, small]), Some(small.suite()));
    assert_eq!(suite(&[big, chacha]), Some(big.suite()));
    assert_eq!(suite(&[chacha, big, small]), Some(chacha.suite()));
    let (big, small, chacha) = (
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    );
    assert_eq!(suite(&[big, small, chacha]), Some(small.suite()));
    assert_eq!(suite(&[chacha, big, small]), Some(chacha.suite()));
}

#[test]
fn groups_of_the_key_exchange_are_those_of_the_listener() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let gateway = Gateway::start(&toml(&leaf, "key_exchange_groups = [\"secp256r1\", \"X25519MLKEM768\"]", RESPOND));
    let group = |config| {
        let client = Client::connect_tls(gateway.address_of("https"), "localhost", config).ok()?;
        client.tls()?.negotiated_key_exchange_group().map(|group| group.name())
    };
    // A client that has sent no key of it is asked for one, which takes another round trip.
    assert_eq!(group(certs.client_config_with(&[X25519, SECP256R1])), Some(NamedGroup::secp256r1));
    assert_eq!(group(certs.client_config_with(&[X25519MLKEM768, X25519])), Some(NamedGroup::X25519MLKEM768));
    assert_eq!(group(certs.client_config_with(&[X25519])), None);
    failed_once(&gateway, "no-group");
    let handshakes = |group| gateway.metric("sluice_tls_handshakes_total", &[("group", group)]);
    assert_eq!((handshakes("secp256r1"), handshakes("X25519MLKEM768")), (Some(1.0), Some(1.0)));
}

#[test]
fn names_that_are_none_and_sets_that_leave_a_version_without_are_errors_at_their_place() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    for (tls, expected) in [
        ("cipher_suites = [\"RC4-MD5\"]", "cipher_suites[0]: expected "),
        ("key_exchange_groups = [\"x448\"]", "key_exchange_groups[0]: expected "),
        ("cipher_suites = [\"TLS_AES_128_GCM_SHA256\"]", "none of them is for TLS 1.2"),
        (
            "max_version = \"1.2\"\ncipher_suites = [\"TLS_AES_128_GCM_SHA256\", \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]",
            "there is one for TLS 1.3, which is not spoken",
        ),
        ("key_exchange_groups = [\"X25519MLKEM768\"]", "TLS 1.2 has none of them"),
        ("min_version = \"1.3\"\nmax_version = \"1.2\"", "`min_version` is above `max_version`"),
        ("hsts = { max_age = \"1d\", preload = true }", "`preload` needs `include_subdomains = true`"),
        ("hsts = [{ max_age = \"1d\" }, { max_age = \"2d\" }]", "only one can be without `hosts`"),
    ] {
        let refused = Gateway::setup().refused(&toml(&leaf, tls, RESPOND)).stderr;
        assert!(refused.contains(expected) && refused.contains("gateway.toml:"), "{tls}: {refused}");
    }
}

#[test]
fn handshakes_are_counted_by_what_was_agreed_and_by_names_of_certificates_only() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost", "*.wild.test"]);
    let gateway = Gateway::start(&toml(&leaf, "", RESPOND));
    let connect = |name: &str, versions: &[&'static SupportedProtocolVersion]| {
        let config = certs.client_config(&["http/1.1"], versions);
        for _ in 0..2 {
            let client = Client::connect_tls(gateway.address_of("https"), name, config.clone());
            let _ = client.and_then(|mut client| client.try_request("GET", "/ok", &[], b""));
        }
    };
    connect("localhost", &[&TLS13]);
    connect("a.wild.test", &[&TLS12]);
    connect("b.wild.test", &[&TLS13]);
    connect("nobody.knows", &[&TLS13]);
    let of = |labels: &[(&str, &str)]| gateway.metric("sluice_tls_handshakes_total", labels).unwrap_or_default();
    assert_eq!(of(&[("version", "TLSv1.3"), ("resumed", "false"), ("group", "X25519MLKEM768")]), 2.0);
    assert_eq!(of(&[("version", "TLSv1.3"), ("resumed", "true"), ("cipher_suite", "TLS_AES_128_GCM_SHA256")]), 2.0);
    assert_eq!(of(&[("version", "TLSv1.2"), ("resumed", "false")]), 1.0);
    assert_eq!(of(&[("version", "TLSv1.2"), ("resumed", "true"), ("group", "")]), 1.0);
    let name = |name| gateway.metric("sluice_tls_server_names_total", &[("server_name", name)]);
    assert_eq!((name("localhost"), name("*.wild.test"), name("nobody.knows")), (Some(2.0), Some(4.0), None));
    // The client does not take the certificate, which is for other names.
    eventually("the refusals", || {
        gateway.metric("sluice_tls_failures_total", &[("reason", "certificate-refused")]) == Some(2.0)
    });
}

#[test]
fn one_address_has_so_many_handshakes_at_a_time() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let gateway = Gateway::start(&toml(&leaf, "handshakes = { max_pending_per_address = 2 }", RESPOND));
    let connects = || agreed(&gateway, &certs, BOTH).is_some();
    assert!(connects());
    let silent: Vec<TcpStream> =
        (0..2).map(|_| TcpStream::connect(gateway.address_of("https")).expect("a connection")).collect();
    eventually("both to be under way", || !connects());
    let refused = gateway.metric("sluice_tls_handshakes_refused_total", &[("reason", "pending")]);
    assert!(refused >= Some(1.0), "{refused:?}");
    drop(silent);
    eventually("their places to be free", connects);
}

#[test]
fn one_address_begins_so_many_handshakes_in_a_second_and_a_proxy_header_says_whose_they_are() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let limits = "handshakes = { rate_per_address = 1, burst_per_address = 3 }";
    let gateway = Gateway::start(&toml(&leaf, limits, RESPOND));
    // A burst of three, and one more for each second that a busy machine takes.
    let fits = |let_in: usize, begun: Instant, burst: usize| let_in <= burst + begun.elapsed().as_secs() as usize + 1;
    let begun = Instant::now();
    let let_in = (0..10).filter(|_| agreed(&gateway, &certs, BOTH).is_some()).count();
    assert!(let_in >= 3 && fits(let_in, begun, 3), "{let_in} in {:?}", begun.elapsed());
    let refused = gateway.metric("sluice_tls_handshakes_refused_total", &[("reason", "rate")]);
    assert_eq!(refused.unwrap_or_default(), (10 - let_in) as f64);

    let behind = format!("{limits}\n[listeners.https.proxy_protocol]\ntrusted = [\"127.0.0.1\"]");
    let gateway = Gateway::start(&toml(&leaf, &behind, RESPOND));
    // Whether a client with this address gets an answer of TLS to its hello.
    let is_let_in = |source: &str| {
        let mut socket = TcpStream::connect(gateway.address_of("https")).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let family = if source.contains(':') { "TCP6" } else { "TCP4" };
        let target = if source.contains(':') { "2001:db8::f" } else { "198.51.100.1" };
        let _ = write!(socket, "PROXY {family} {source} {target} 4711 443\r\n");
        let config = certs.client_config(&[], BOTH);
        let name = "localhost".try_into().expect("a name");
        let mut tls = rustls::ClientConnection::new(config, name).expect("a client");
        let sent = tls.write_tls(&mut socket).is_ok();
        sent && socket.read(&mut [0]).is_ok_and(|read| read > 0)
    };
    let begun = Instant::now();
    for source in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        let let_in = (0..8).filter(|_| is_let_in(source)).count();
        assert!(let_in >= 3 && fits(let_in, begun, 3), "{source}: {let_in}");
    }
    let begun = Instant::now();
    let let_in = (0..8).filter(|_| is_let_in("2001:db8::2")).count();
    assert!(fits(let_in, begun, 0), "the same /64: {let_in}");
    assert!(is_let_in("2001:db8:0:1::1"), "another /64");
}

#[test]
fn hosts_say_of_https_what_the_listener_says_also_in_the_gateways_own_answers() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::serve(|_| Reply::text("from upstream").with("strict-transport-security", "max-age=1"));
    let hsts = "hsts = [{ max_age = \"365d\", include_subdomains = true, preload = true }, { hosts = [\"*.short.test\"], max_age = \"1h\" }, \
                { hosts = [\"left.test\"], max_age = \"off\" }]";
    let rest = format!(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\n{}[routes.off]\nmatch = {{ path = \"/gone\" }}\nupstream = \"http://127.0.0.1:1\"\n\
         [routes.moved]\nmatch = {{ path = \"/moved\" }}\nredirect = {{ path = \"/\" }}\n",
        route(&origin.url(), &[])
    );
    let gateway = Gateway::start(&toml(&leaf, hsts, &rest));
    let mut client =
        Client::connect_tls(gateway.address_of("https"), "localhost", certs.client_config(&["http/1.1"], BOTH))
            .expect("TLS");
    let long = "max-age=31536000; includeSubDomains; preload";
    for (host, path, status, expected) in [
        ("localhost", "/", 200, long),
        ("a.short.test", "/", 200, "max-age=3600"),
        ("left.test:8443", "/", 200, "max-age=0"),
        ("localhost", "/gone", 502, long),
        ("localhost", "/moved", 302, long),
        // Of a request that can't be read, the server name of the handshake stands for the host.
        ("a.short.test", "/..%2f", 400, long),
    ] {
        let response = client.request("GET", path, &[("host", host)], b"");
        assert_eq!(response.status, status, "{host}{path}");
        assert_eq!(response.head.all("strict-transport-security"), [expected], "{host}{path}");
        if status == 400 {
            client =
                Client::connect_tls(gateway.address_of("https"), "localhost", certs.client_config(&["http/1.1"], BOTH))
                    .expect("TLS");
        }
    }
    client.send("nonsense\r\n\r\n");
    let response = client.read_response("GET");
    assert_eq!((response.status, response.header("strict-transport-security")), (400, Some(long)));
    let mut h2 = H2::connect_tls(gateway.address_of("https"), "localhost", certs.client_config(&["h2"], BOTH));
    assert_eq!(h2.get("/gone").header("strict-transport-security"), Some(long));
    // RFC 6797 §7.2: never without TLS. What an upstream says there is its own.
    let plain = Client::connect(gateway.address_of("http")).get("/");
    assert_eq!(plain.head.all("strict-transport-security"), ["max-age=1"]);
    let own = Client::connect(gateway.address_of("http")).get("/gone");
    assert_eq!((own.status, own.header("strict-transport-security")), (502, None));
}

#[test]
fn hosts_are_sent_to_https_one_by_one() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let rest = format!(
        "[listeners.http]\nbind = \"127.0.0.1:0\"\nhttps_redirect = {{ port = 8443, hosts = [\"shop.test\", \"*.secure.test\"] }}\n{RESPOND}"
    );
    let gateway = Gateway::start(&toml(&leaf, "", &rest));
    let ask = |host: &str| {
        let response = Client::connect(gateway.address_of("http")).request("GET", "/ok", &[("host", host)], b"");
        (response.status, response.header("location").unwrap_or_default().to_owned())
    };
    assert_eq!(ask("shop.test"), (308, "https://shop.test:8443/ok".into()));
    assert_eq!(ask("Shop.test:80").0, 308);
    assert_eq!(ask("a.b.secure.test").0, 308);
    for other in ["secure.test", "other.test", "127.0.0.1"] {
        assert_eq!(ask(other).0, 200, "{other}");
    }
}

#[test]
fn a_listener_whose_certificates_have_expired_is_not_ready() {
    let certs = Certs::new();
    let (expired, good) = (certs.expired_leaf(&["localhost"]), certs.leaf(&["other.test"]));
    let gateway = Gateway::start(&toml(&expired, "", RESPOND));
    let ready = |gateway: &Gateway| {
        let response = gateway.admin("/readyz");
        (response.status, response.text())
    };
    assert_eq!(ready(&gateway), (503, "all certificates of listener `https` have expired\n".into()));
    assert_eq!(gateway.admin("/healthz").status, 200);
    gateway.wait_log("the warning", |line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("certificate `main` has expired"))
    });
    let expiry = gateway.metric("sluice_certificate_expiry_timestamp_seconds", &[("certificate", "main")]);
    assert!(expiry < Some(1_700_000_000.0), "{expiry:?}");
    let allowed = toml(&expired, "", RESPOND).replace("[admin]\n", "[admin]\nready_when_expired = true\n");
    gateway.reload(&allowed);
    assert_eq!(ready(&gateway).0, 200);
    // One host of two is a matter of that host.
    let both = toml(&expired, "", RESPOND).replace("[\"main\"]", "[\"main\", \"good\"]")
        + &format!("[certificates.good]\ncert = \"{}\"\nkey = \"{}\"\n", good.cert.display(), good.key.display());
    gateway.reload(&both);
    assert_eq!(ready(&gateway).0, 200);
}

#[test]
fn a_certificate_above_another_one_that_has_expired_is_warned_of_and_the_listener_is_ready() {
    let certs = Certs::new();
    let (old, good) = (certs.expired_leaf(&["an old root"]), certs.leaf(&["localhost"]));
    let chain = [&good.cert, &old.cert].map(|file| std::fs::read_to_string(file).expect("PEM")).concat();
    std::fs::write(&good.cert, chain).expect("a file");
    let gateway = Gateway::start(&toml(&good, "", RESPOND));
    assert_eq!(gateway.admin("/readyz").status, 200);
    gateway.wait_log("the warning", |line| {
        let message = line["message"].as_str();
        message.is_some_and(|message| message.starts_with("a certificate above it in the chain of `main` has expired"))
    });
    let expiry = gateway.metric("sluice_certificate_expiry_timestamp_seconds", &[("certificate", "main")]);
    assert!(expiry < Some(1_700_000_000.0), "{expiry:?}");
}

#[test]
fn each_table_of_certificates_on_demand_is_asked_for_the_names_of_its_hosts() {
    let no = || Origin::serve(|_| Reply::status(404));
    let (first, second) = (no(), no());
    let certificate = |name: &str, ask: &Origin, hosts: &str| {
        let ask = ask.url();
        format!("[certificates.{name}]\nacme = \"nobody\"\non_demand = {{ ask = \"{ask}\", hosts = [\"{hosts}\"] }}\n")
    };
    let (state, nobody) = (tempfile::tempdir().expect("a folder"), sluice_harness::origin::nobody());
    let toml = format!(
        "[gateway]\nworkers = 1\nstate_dir = \"{}\"\n[listeners.https]\nbind = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [\"a\", \"b\"] }}\n{RESPOND}\
         [acme.nobody]\ndirectory = \"https://{nobody}/\"\nterms_of_service_agreed = true\n{}{}",
        state.path().display(),
        certificate("a", &first, "*.a.test"),
        certificate("b", &second, "*.b.test"),
    );
    let gateway = Gateway::start(&toml);
    let config = Certs::new().client_config(&["http/1.1"], BOTH);
    for name in ["x.b.test", "x.a.test", "x.c.test"] {
        assert!(Client::connect_tls(gateway.address_of("https"), name, config.clone()).is_err(), "{name}");
    }
    let asked = |origin: &Origin| origin.requests().into_iter().map(|request| request.target).collect::<Vec<_>>();
    assert_eq!(asked(&first), ["/?domain=x.a.test"]);
    assert_eq!(asked(&second), ["/?domain=x.b.test"]);
}
