//! Sessions and certificates over several configurations, with a client in memory.

use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;

type Versions = &'static [&'static rustls::SupportedProtocolVersion];
const TLS12: Versions = &[&rustls::version::TLS12];
const TLS13: Versions = &[&rustls::version::TLS13];

struct Pair {
    chain: String,
    key: String,
    der: CertificateDer<'static>,
}

fn pair(names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    Pair { chain: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
}

fn source(pair: &Pair) -> CertificateSource<'_> {
    CertificateSource { name: "main", chain: &pair.chain, key: &pair.key, hosts: &[] }
}

fn config(store: &CertStore, listener: &str, pair: &Pair, min_version: TlsVersion) -> Arc<ServerConfig> {
    let certificates = &[source(pair)];
    store.server_config(TlsPolicy { listener, certificates, http1: true, h2: true, min_version }).expect("a config")
}

/// A client that trusts these certificates and remembers its sessions.
fn client(trusted: &[&Pair], versions: Versions) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pair in trusted {
        roots.add(pair.der.clone()).expect("a root");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(16);
    Arc::new(config)
}

/// One handshake: its kind as the server sees it, and the certificate that the client knows.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (HandshakeKind, CertificateDer<'static>) {
    let name = ServerName::try_from("a.test").expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("a client");
    let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
    loop {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        server.read_tls(&mut &*wire).expect("memory");
        server.process_new_packets().expect("a good client");
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        let done = wire.is_empty();
        client.read_tls(&mut &*wire).expect("memory");
        client.process_new_packets().expect("a good server");
        if done && !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            let shown = client.peer_certificates().expect("a certificate")[0].clone().into_owned();
            return (server.handshake_kind().expect("it is over"), shown);
        }
    }
}

#[test]
fn bad_pems_name_their_certificate() {
    let (good, other) = (pair(&["a.test"]), pair(&["b.test"]));
    let make = |chain: &str, key: &str| {
        let certificates = &[CertificateSource { name: "main", chain, key, hosts: &[] }];
        let policy = TlsPolicy { listener: "l", certificates, http1: true, h2: true, min_version: TlsVersion::Tls12 };
        CertStore::default().server_config(policy).map(|_| ()).expect_err("refused").to_string()
    };
    assert_eq!(make("", &other.key), "certificate `main`: no certificate in the chain");
    assert_eq!(make(&good.chain, "nonsense"), "certificate `main`: key is not PEM");
    assert!(make(&good.chain, &other.key).starts_with("certificate `main`: chain and key cannot be used together"));
    let policy = TlsPolicy { listener: "l", certificates: &[], http1: true, h2: true, min_version: TlsVersion::Tls12 };
    let none = CertStore::default().server_config(policy).map(|_| ()).expect_err("refused");
    assert_eq!(none.to_string(), "no certificate");
}

#[test]
fn names_choose_exactly_then_by_wildcard_then_the_first() {
    let provider = default_provider();
    let (first, wild) = (pair(&["first.test"]), pair(&["*.wild.test"]));
    let first = read(&source(&first), &provider).expect("a certificate");
    let wild = read(&source(&wild), &provider).expect("a certificate");
    assert_eq!((&*first.names, &*wild.names), (&["first.test".to_owned()][..], &["*.wild.test".to_owned()][..]));
    let mut resolver = ByServerName::new(Arc::clone(&first.key));
    resolver.add(&first.names, &first.key);
    resolver.add(&wild.names, &wild.key);
    resolver.add(&first.names, &wild.key);
    assert!(Arc::ptr_eq(resolver.find(Some("first.test")), &first.key), "the first certificate keeps the name");
    assert!(Arc::ptr_eq(resolver.find(Some("a.wild.test")), &wild.key));
    assert!(Arc::ptr_eq(resolver.find(Some("a.b.wild.test")), &first.key), "one label only");
    assert!(Arc::ptr_eq(resolver.find(Some("wild.test")), &first.key));
    assert!(Arc::ptr_eq(resolver.find(None), &first.key));
}

#[test]
fn sessions_outlive_a_configuration_and_a_certificate() {
    for versions in [TLS12, TLS13] {
        let (old, new) = (pair(&["a.test"]), pair(&["a.test"]));
        let store = CertStore::default();
        let before = config(&store, "https", &old, TlsVersion::Tls12);
        let known = client(&[&old, &new], versions);
        assert_eq!(handshake(&known, &before), (HandshakeKind::Full, old.der.clone()));
        assert_eq!(handshake(&known, &before).0, HandshakeKind::Resumed);
        let after = config(&store, "https", &old, TlsVersion::Tls12);
        drop(before);
        assert_eq!(handshake(&known, &after).0, HandshakeKind::Resumed, "{versions:?}");
        let renewed = config(&store, "https", &new, TlsVersion::Tls12);
        drop(after);
        assert_eq!(handshake(&known, &renewed).0, HandshakeKind::Resumed, "{versions:?}");
        let stranger = client(&[&old, &new], versions);
        assert_eq!(handshake(&stranger, &renewed), (HandshakeKind::Full, new.der.clone()), "the new certificate");
    }
}

#[test]
fn a_session_is_not_resumed_under_another_policy() {
    let pair = pair(&["a.test"]);
    let store = CertStore::default();
    let usual = config(&store, "https", &pair, TlsVersion::Tls12);
    let strict = config(&store, "https", &pair, TlsVersion::Tls13);
    let other = config(&store, "internal", &pair, TlsVersion::Tls12);
    for elsewhere in [strict, other] {
        let client = client(&[&pair], TLS13);
        assert_eq!(handshake(&client, &usual).0, HandshakeKind::Full);
        assert_eq!(handshake(&client, &elsewhere).0, HandshakeKind::Full);
    }
}

#[test]
fn what_nobody_uses_is_forgotten() {
    let (old, new) = (pair(&["a.test"]), pair(&["a.test"]));
    let store = CertStore::default();
    let before = config(&store, "https", &old, TlsVersion::Tls12);
    let held = |store: &CertStore| {
        let shared = store.shared.lock().expect("no panic");
        (shared.sessions.len(), shared.certificates.len())
    };
    let after = config(&store, "other", &new, TlsVersion::Tls12);
    assert_eq!(held(&store), (2, 2), "a failed reload must not lose what is running");
    drop(before);
    let _again = config(&store, "other", &new, TlsVersion::Tls12);
    assert_eq!(held(&store), (1, 1));
    drop(after);
}
