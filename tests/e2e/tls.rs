//! TLS at the listeners.

use std::fmt::Write;
use std::sync::Arc;

use rustls::NamedGroup;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SignatureScheme};
use sluice_harness::certs::Leaf;
use sluice_harness::h2::H2;
use sluice_harness::{Certs, Client, Gateway, Origin, Reply, eventually};

use crate::support::{route, setup, with_base};

type Versions = &'static [&'static rustls::SupportedProtocolVersion];
const ONLY_12: Versions = &[&TLS12];
const ONLY_13: Versions = &[&TLS13];
const BOTH: Versions = &[&TLS12, &TLS13];

fn serving(leaves: &[(&str, &Leaf)], tls: &str, more: &str, upstream: &str) -> Gateway {
    let names: Vec<&str> = leaves.iter().map(|(name, _)| *name).collect();
    let mut toml =
        format!("[listeners.https]\nbind = \"127.0.0.1:0\"\ntls = {{ certificates = {names:?}{tls} }}\n{more}\n");
    for (name, leaf) in leaves {
        write!(
            toml,
            "[certificates.{name}]\ncert = \"${{file:{}}}\"\nkey = \"${{file:{}}}\"\n",
            leaf.cert.display(),
            leaf.key.display()
        )
        .expect("a string");
    }
    Gateway::start(&(toml + &route(upstream, &[])))
}

fn shown(gateway: &Gateway, certs: &Certs, name: &str) -> std::io::Result<Vec<u8>> {
    let client = Client::connect_tls(gateway.address(), name, certs.client_config(&[], BOTH))?;
    let certificates = client.tls().and_then(|t| t.peer_certificates()).expect("a certificate");
    Ok(certificates[0].to_vec())
}

#[test]
fn certificates_by_server_name() {
    let certs = Certs::new();
    let (first, second, wild) =
        (certs.leaf(&["first.test"]), certs.leaf(&["second.test"]), certs.leaf(&["*.wild.test"]));
    let origin = Origin::named("o");
    let gateway = serving(&[("a", &first), ("b", &second), ("c", &wild)], "", "", &origin.url());
    assert_eq!(shown(&gateway, &certs, "first.test").expect("trusted"), first.der().to_vec());
    assert_eq!(shown(&gateway, &certs, "second.test").expect("trusted"), second.der().to_vec());
    assert_eq!(shown(&gateway, &certs, "x.wild.test").expect("trusted"), wild.der().to_vec());
    assert!(shown(&gateway, &certs, "other.test").is_err(), "the first certificate is not for this name");
}

#[test]
fn hosts_of_a_certificate_can_be_named() {
    let certs = Certs::new();
    let (broad, own) = (certs.leaf(&["one.test", "two.test"]), certs.leaf(&["two.test"]));
    let origin = Origin::named("o");
    let gateway = Gateway::start(&format!(
        "[listeners.https]\nbind = \"127.0.0.1:0\"\ntls = {{ certificates = [\"broad\", \"own\"] }}\n\
         [certificates.broad]\ncert = \"${{file:{}}}\"\nkey = \"${{file:{}}}\"\nhosts = [\"one.test\"]\n\
         [certificates.own]\ncert = \"${{file:{}}}\"\nkey = \"${{file:{}}}\"\n{}",
        broad.cert.display(),
        broad.key.display(),
        own.cert.display(),
        own.key.display(),
        route(&origin.url(), &[])
    ));
    assert_eq!(shown(&gateway, &certs, "one.test").expect("trusted"), broad.der().to_vec());
    assert_eq!(shown(&gateway, &certs, "two.test").expect("trusted"), own.der().to_vec());
}

#[test]
fn requests_over_tls() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::named("behind tls");
    let gateway = serving(&[("a", &leaf)], "", "", &origin.url());
    let mut client = Client::connect_tls(gateway.address(), "localhost", certs.client_config(&["http/1.1"], BOTH))
        .expect("a handshake");
    for _ in 0..3 {
        assert_eq!(client.get("/x").text(), "behind tls");
    }
    assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
}

#[test]
fn alpn_chooses_the_protocol() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::named("o");
    let gateway = serving(&[("a", &leaf)], "", "", &origin.url());
    let mut h2 = H2::connect_tls(gateway.address(), "localhost", certs.client_config(&["h2", "http/1.1"], BOTH));
    assert_eq!(h2.get("/").status, 200);
    let client =
        Client::connect_tls(gateway.address(), "localhost", certs.client_config(&["http/1.1"], BOTH)).expect("h1");
    assert_eq!(client.tls().and_then(|t| t.alpn_protocol()), Some(&b"http/1.1"[..]));

    let only_h1 = serving(&[("a", &leaf)], "", "protocols = [\"http/1.1\"]", &origin.url());
    let client = Client::connect_tls(only_h1.address(), "localhost", certs.client_config(&["h2", "http/1.1"], BOTH))
        .expect("h1");
    assert_eq!(client.tls().and_then(|t| t.alpn_protocol()), Some(&b"http/1.1"[..]));
}

#[test]
fn a_client_that_offers_only_http_1_0_is_served() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::named("o");
    let gateway = serving(&[("a", &leaf)], "", "", &origin.url());
    let config = certs.client_config(&["http/1.0"], BOTH);
    let mut client = Client::connect_tls(gateway.address(), "localhost", config).expect("a handshake");
    assert_eq!(client.tls().and_then(|t| t.alpn_protocol()), Some(&b"http/1.0"[..]));
    client.send("GET / HTTP/1.0\r\nhost: localhost\r\n\r\n");
    assert_eq!(client.read_response("GET").status, 200);
}

#[test]
fn rsa_and_ecdsa_certificates_for_one_name_are_both_used() {
    let certs = Certs::new();
    let rsa = certs.leaf_for(&["localhost"], &rcgen::PKCS_RSA_SHA256);
    let ecdsa = certs.leaf(&["localhost"]);
    let origin = Origin::named("o");
    let gateway = serving(&[("modern", &ecdsa), ("old", &rsa)], "", "", &origin.url());
    let shown = |schemes: &[SignatureScheme], versions| {
        let config = certs.client_config_verifying(schemes, versions);
        let client = Client::connect_tls(gateway.address(), "localhost", config).expect("a handshake");
        client.tls().and_then(|tls| tls.peer_certificates()).expect("a certificate")[0].to_vec()
    };
    for versions in [ONLY_12, ONLY_13] {
        let both = [SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];
        assert_eq!(shown(&both[..1], versions), rsa.der().to_vec(), "{versions:?}");
        assert_eq!(shown(&both[1..], versions), ecdsa.der().to_vec(), "{versions:?}");
        assert_eq!(shown(&both, versions), ecdsa.der().to_vec(), "the first that fits: {versions:?}");
    }
}

#[test]
fn the_minimum_version() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::named("o");
    let usual = serving(&[("a", &leaf)], "", "", &origin.url());
    let strict = serving(&[("a", &leaf)], ", min_version = \"1.3\"", "", &origin.url());
    let handshake = |gateway: &Gateway, versions: Versions| {
        Client::connect_tls(gateway.address(), "localhost", certs.client_config(&[], versions))
            .map(|mut c| c.get("/").status)
    };
    assert_eq!(handshake(&usual, ONLY_12).expect("TLS 1.2"), 200);
    assert_eq!(handshake(&strict, ONLY_13).expect("TLS 1.3"), 200);
    assert!(handshake(&strict, ONLY_12).is_err());
}

#[test]
fn clear_text_on_a_tls_listener() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::named("o");
    let gateway = serving(&[("a", &leaf)], "", "", &origin.url());
    let answer = gateway.raw("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(!answer.contains(" 200 "), "{answer}");
    assert_eq!(origin.count(), 0);
    let mut h2 = H2::connect_tls(gateway.address(), "localhost", certs.client_config(&["h2"], BOTH));
    assert_eq!(h2.get("/").status, 200, "the listener goes on");
}

#[test]
fn sessions_survive_a_reload_and_new_ones_see_the_new_certificate() {
    let origin = Origin::named("o");
    for versions in [ONLY_12, ONLY_13] {
        let certs = Certs::new();
        let (old, new) = (certs.leaf(&["localhost"]), certs.leaf(&["localhost"]));
        let toml = |leaf: &Leaf, more: &str| {
            format!(
                "[gateway]\nreload = false\nworkers = 2\n[listeners.https]\nbind = \"127.0.0.1:0\"\n\
                 tls = {{ certificates = [\"a\"] }}\n\
                 [certificates.a]\ncert = \"${{file:{}}}\"\nkey = \"${{file:{}}}\"\n{}{more}",
                leaf.cert.display(),
                leaf.key.display(),
                route(&origin.url(), &[]),
            )
        };
        let gateway = Gateway::start(&toml(&old, ""));
        let connect = |config: &Arc<ClientConfig>| {
            let mut client =
                Client::connect_tls(gateway.address(), "localhost", Arc::clone(config)).expect("a handshake");
            // The tickets of TLS 1.3 come behind the handshake.
            assert_eq!(client.get("/").status, 200);
            let tls = client.tls().expect("a session");
            (tls.handshake_kind().expect("it is over"), tls.peer_certificates().expect("a certificate")[0].to_vec())
        };
        let known = certs.client_config(&["http/1.1"], versions);
        assert_eq!(connect(&known), (HandshakeKind::Full, old.der().to_vec()));
        assert_eq!(connect(&known).0, HandshakeKind::Resumed);
        gateway.reload(&toml(&old, "[routes.other]\nmatch = { path = \"/other\" }\nrespond = { status = 200 }\n"));
        assert_eq!(connect(&known).0, HandshakeKind::Resumed, "a changed route: {versions:?}");
        gateway.reload(&toml(&new, ""));
        assert_eq!(connect(&known).0, HandshakeKind::Resumed, "a changed certificate: {versions:?}");
        let stranger = certs.client_config(&["http/1.1"], versions);
        assert_eq!(connect(&stranger), (HandshakeKind::Full, new.der().to_vec()));
    }
}

#[test]
fn clients_exchange_keys_that_a_quantum_computer_does_not_break() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::named("o");
    let gateway = serving(&[("a", &leaf)], "", "", &origin.url());
    // The gateway's order decides, not the client's; older clients keep what they know.
    let offers: [(&[&'static dyn rustls::crypto::SupportedKxGroup], NamedGroup); 3] = [
        (&[X25519MLKEM768, X25519], NamedGroup::X25519MLKEM768),
        (&[X25519], NamedGroup::X25519),
        (&[SECP256R1], NamedGroup::secp256r1),
    ];
    for (offered, agreed) in offers {
        let mut client = Client::connect_tls(gateway.address(), "localhost", certs.client_config_with(offered))
            .unwrap_or_else(|error| panic!("{agreed:?}: {error}"));
        let group = client.tls().and_then(|tls| tls.negotiated_key_exchange_group()).expect("a key exchange");
        assert_eq!(group.name(), agreed);
        assert_eq!(client.get("/").text(), "o");
    }
}

#[test]
fn so_do_upstreams_and_outbound_calls() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    // They answer only if the gateway offers this key exchange.
    let upstream = Origin::serve_tls(leaf.config_with_only(X25519MLKEM768), |_| Reply::text("upstream"));
    let keys = Origin::serve_tls(leaf.config_with_only(X25519MLKEM768), |_| Reply::text("{\"keys\": []}"));
    let url = |origin: &Origin| format!("https://localhost:{}", origin.address().port());
    let toml = with_base(&format!(
        "[upstreams.tls]\nendpoints = [\"{}\"]\ntls = {{ ca = \"${{file:{}}}\" }}\n{}\
         [filters.auth]\nplugin = \"jwt-auth\"\ngrants = {{ read_headers = [\"authorization\"], http = [\"{}\"] }}\n\
         config = {{ jwks_url = \"{}/jwks\" }}\n",
        url(&upstream),
        certs.ca().display(),
        route("tls", &[])
            + "[routes.guarded]\nmatch = { path = \"/guarded\" }\nupstream = \"tls\"\npipeline = [\"auth\"]\n",
        url(&keys),
        url(&keys),
    ));
    let gateway = setup().env("SSL_CERT_FILE", certs.ca().to_str().expect("UTF-8")).start(&toml);
    assert_eq!(gateway.get("/").text(), "upstream");
    eventually("the keys to be asked for", || keys.count() > 0);
}
