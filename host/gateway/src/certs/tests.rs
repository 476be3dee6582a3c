//! Sessions and certificates over several configurations, with a client in memory.

use std::sync::LazyLock;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection, SignatureScheme};
use rustls_pki_types::ServerName;

use super::*;
use crate::config::model::{ClientAuthMode, Pem, TlsVersion};
use crate::route::HostPattern;

type Versions = &'static [&'static rustls::SupportedProtocolVersion];
const TLS12: Versions = &[&rustls::version::TLS12];
const TLS13: Versions = &[&rustls::version::TLS13];

struct Pair {
    chain: String,
    key: String,
    der: CertificateDer<'static>,
}

fn pair(names: &[&str]) -> Pair {
    pair_for(names, &rcgen::PKCS_ECDSA_P256_SHA256)
}

fn pair_for(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Pair {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let params = rcgen::CertificateParams::new(names).expect("names");
    let cert = params.self_signed(&key).expect("a certificate");
    Pair { chain: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
}

fn source(pair: &Pair) -> CertificateSource<'_> {
    CertificateSource { name: "main", chain: &pair.chain, key: &pair.key, hosts: &[] }
}

fn policy<'a>(listener: &'a str, certificates: &'a [CertificateSource<'a>]) -> TlsPolicy<'a> {
    static USUAL: LazyLock<ListenerTls> = LazyLock::new(ListenerTls::default);
    TlsPolicy { listener, certificates, settings: &USUAL, http1: true, h2: true }
}

fn asking(client_auth: &[ClientAuth]) -> ListenerTls {
    ListenerTls { client_auth: client_auth.to_vec(), ..ListenerTls::default() }
}

/// The configuration for all server names of a listener.
fn config(store: &CertStore, policy: TlsPolicy<'_>) -> Arc<ServerConfig> {
    let context = store.context(policy).expect("a context");
    Arc::clone(context.config(context.policy(None), &[]))
}

/// Clients show a certificate of this authority.
fn auth(authority: &Pair, mode: ClientAuthMode, hosts: &[&str]) -> ClientAuth {
    let hosts = hosts.iter().map(|host| HostPattern::parse(host).expect("a host")).collect();
    ClientAuth { hosts, ca: authority.chain.as_str().into(), crl: None, mode, forward: false }
}

/// A client that trusts these certificates and remembers its sessions.
fn client(trusted: &[&Pair], versions: Versions) -> Arc<ClientConfig> {
    client_showing(None, trusted, versions)
}

/// The same with a certificate of its own.
fn client_showing(shown: Option<&Pair>, trusted: &[&Pair], versions: Versions) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pair in trusted {
        roots.add(pair.der.clone()).expect("a root");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            config.with_client_auth_cert(vec![pair.der.clone()], key).expect("a pair")
        }
    };
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
        CertStore::default().context(policy("l", certificates)).map(|_| ()).expect_err("refused").to_string()
    };
    assert_eq!(make("", &other.key), "certificate `main`: no certificate in the chain");
    assert_eq!(make(&good.chain, "nonsense"), "certificate `main`: key is not PEM");
    assert!(make(&good.chain, &other.key).starts_with("certificate `main`: chain and key cannot be used together"));
    let none = CertStore::default().context(policy("l", &[])).map(|_| ()).expect_err("refused");
    assert_eq!(none.to_string(), "no certificate");
}

#[test]
fn bad_authorities_and_revocation_lists_are_errors() {
    let pair = pair(&["a.test"]);
    let make = |ca: &str, crl: Option<&str>| {
        let auth = auth(&pair, ClientAuthMode::Required, &[]);
        let auth = ClientAuth { ca: ca.into(), crl: crl.map(Pem::from), ..auth };
        let certificates = [source(&pair)];
        let settings = asking(&[auth]);
        let policy = TlsPolicy { settings: &settings, ..policy("l", &certificates) };
        CertStore::default().context(policy).map(|_| ()).expect_err("refused").to_string()
    };
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let list = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    assert!(make(broken, None).starts_with("`client_auth.ca`: malformed certificate"), "{}", make(broken, None));
    let wrong = make(&pair.chain, Some(list));
    assert!(wrong.starts_with("`client_auth`: clients cannot be verified"), "{wrong}");
}

#[test]
fn names_choose_exactly_then_by_wildcard_then_the_first() {
    let provider = default_provider();
    let (first, wild) = (pair(&["first.test"]), pair(&["*.wild.test"]));
    let first = read(&source(&first), &provider).expect("a certificate");
    let wild = read(&source(&wild), &provider).expect("a certificate");
    assert_eq!((&*first.names, &*wild.names), (&["first.test".to_owned()][..], &["*.wild.test".to_owned()][..]));
    let mut resolver = ByServerName::new();
    assert!(resolver.add(&first.names, &first.key).is_empty());
    assert!(resolver.add(&wild.names, &wild.key).is_empty());
    assert_eq!(resolver.add(&first.names, &wild.key), ["first.test"], "the first certificate keeps the name");
    let found = |name| resolver.find(name, &[SignatureScheme::ECDSA_NISTP256_SHA256]).expect("a certificate");
    assert!(Arc::ptr_eq(&found(Some("first.test")), &first.key));
    assert!(Arc::ptr_eq(&found(Some("a.wild.test")), &wild.key));
    assert!(Arc::ptr_eq(&found(Some("a.b.wild.test")), &first.key), "one label only");
    assert!(Arc::ptr_eq(&found(Some("wild.test")), &first.key));
    assert!(Arc::ptr_eq(&found(None), &first.key));
}

#[test]
fn two_kinds_of_key_for_one_name_are_both_used() {
    let (rsa, ecdsa) = (pair_for(&["a.test"], &rcgen::PKCS_RSA_SHA256), pair(&["a.test"]));
    let certificates = [source(&rsa), source(&ecdsa)];
    let context = CertStore::default().context(policy("l", &certificates)).expect("a context");
    assert!(context.warnings().is_empty(), "{:?}", context.warnings());
    let provider = default_provider();
    let mut resolver = ByServerName::new();
    for source in &certificates {
        let Certificate { key, names, .. } = read(source, &provider).expect("a certificate");
        resolver.add(&names, &key);
    }
    use SignatureScheme::{ECDSA_NISTP256_SHA256, ECDSA_NISTP384_SHA384, RSA_PKCS1_SHA256, RSA_PSS_SHA256};
    for name in [Some("a.test"), None, Some("unknown.test")] {
        let found = |schemes: &[SignatureScheme]| resolver.find(name, schemes).expect("a certificate").cert[0].clone();
        assert_eq!(found(&[ECDSA_NISTP256_SHA256]), ecdsa.der, "{name:?}");
        assert_eq!(found(&[RSA_PSS_SHA256]), rsa.der);
        assert_eq!(found(&[ECDSA_NISTP256_SHA256, RSA_PSS_SHA256]), rsa.der, "the operator's order");
        assert_eq!(found(&[RSA_PKCS1_SHA256, ECDSA_NISTP256_SHA256]), ecdsa.der, "TLS 1.3 signs nothing by PKCS 1");
        assert_eq!(found(&[RSA_PKCS1_SHA256]), rsa.der, "TLS 1.2 does");
        assert_eq!(found(&[ECDSA_NISTP384_SHA384]), rsa.der, "none fits");
    }
}

#[test]
fn a_certificate_that_is_never_used_is_warned_of() {
    let (one, two) = (pair(&["a.test"]), pair(&["a.test", "b.test"]));
    let two = CertificateSource { name: "two", ..source(&two) };
    let context = CertStore::default().context(policy("l", &[source(&one), two])).expect("a context");
    let expected = ["certificate `two` is never used for `a.test`: an earlier one has a key of the same kind"];
    assert_eq!(context.warnings(), expected);
}

#[test]
fn hosts_have_policies_of_their_own() {
    let pair = pair(&["a.test"]);
    let required = |hosts| auth(&pair, ClientAuthMode::Required, hosts);
    let client_auth = [required(&["partners.test", "*.deep.partners.test"]), required(&["*.partners.test"])];
    let certificates = [source(&pair)];
    let settings = asking(&client_auth);
    let policy = TlsPolicy { settings: &settings, ..policy("l", &certificates) };
    let context = CertStore::default().context(policy).expect("a context");
    let of = |host| context.policy(Some(host));
    let open = context.policy(None);
    assert_eq!(of("a.test"), open);
    assert_eq!(of("test"), open);
    assert_ne!(of("partners.test"), open);
    assert_eq!(of("Partners.TEST."), of("partners.test"), "case and a last dot mean nothing");
    assert_eq!(of("x.deep.partners.test"), of("partners.test"), "the longest wildcard holds");
    assert_ne!(of("x.partners.test"), of("partners.test"));
    assert_eq!(of("y.x.partners.test"), of("x.partners.test"), "no depth of labels gets past it");
}

#[test]
fn sessions_outlive_a_configuration_and_a_certificate() {
    for versions in [TLS12, TLS13] {
        let (old, new) = (pair(&["a.test"]), pair(&["a.test"]));
        let store = CertStore::default();
        let before = config(&store, policy("https", &[source(&old)]));
        let known = client(&[&old, &new], versions);
        assert_eq!(handshake(&known, &before), (HandshakeKind::Full, old.der.clone()));
        assert_eq!(handshake(&known, &before).0, HandshakeKind::Resumed);
        let after = config(&store, policy("https", &[source(&old)]));
        drop(before);
        assert_eq!(handshake(&known, &after).0, HandshakeKind::Resumed, "{versions:?}");
        let renewed = config(&store, policy("https", &[source(&new)]));
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
    let certificates = [source(&pair)];
    let usual = config(&store, policy("https", &certificates));
    let strict = ListenerTls { min_version: TlsVersion::Tls13, ..ListenerTls::default() };
    let strict = config(&store, TlsPolicy { settings: &strict, ..policy("https", &certificates) });
    let other = config(&store, policy("internal", &certificates));
    for elsewhere in [strict, other] {
        let client = client(&[&pair], TLS13);
        assert_eq!(handshake(&client, &usual).0, HandshakeKind::Full);
        assert_eq!(handshake(&client, &elsewhere).0, HandshakeKind::Full);
    }
}

#[test]
fn a_session_does_not_carry_a_client_past_another_authentication() {
    let (server, one, two) = (pair(&["a.test"]), pair(&["one.test"]), pair(&["two.test"]));
    let certificates = [source(&server)];
    for versions in [TLS12, TLS13] {
        let store = CertStore::default();
        let with = |auth: &[ClientAuth]| {
            config(&store, TlsPolicy { settings: &asking(auth), ..policy("https", &certificates) })
        };
        let open = with(&[]);
        let optional = with(&[auth(&one, ClientAuthMode::Optional, &[])]);
        let required = with(&[auth(&one, ClientAuthMode::Required, &[])]);
        // A self-signed certificate stands for its authority.
        let both = ClientAuth {
            ca: (one.chain.clone() + &two.chain).as_str().into(),
            ..auth(&one, ClientAuthMode::Required, &[])
        };
        let more = with(&[both]);
        let ways = [&open, &optional, &required, &more];
        for (first, from) in ways.iter().enumerate() {
            for (second, to) in ways.iter().enumerate() {
                let client = client_showing(Some(&one), &[&server], versions);
                assert_eq!(handshake(&client, from).0, HandshakeKind::Full);
                let expected = if first == second { HandshakeKind::Resumed } else { HandshakeKind::Full };
                assert_eq!(handshake(&client, to).0, expected, "{first} then {second}, {versions:?}");
            }
        }
        let again = with(&[auth(&one, ClientAuthMode::Required, &[])]);
        let client = client_showing(Some(&one), &[&server], versions);
        assert_eq!(handshake(&client, &required).0, HandshakeKind::Full);
        assert_eq!(handshake(&client, &again).0, HandshakeKind::Resumed, "a reload without a change");
    }
}

#[test]
fn what_nobody_uses_is_forgotten() {
    let (old, new) = (pair(&["a.test"]), pair(&["a.test"]));
    let store = CertStore::default();
    let before = config(&store, policy("https", &[source(&old)]));
    let held = |store: &CertStore| {
        let shared = store.shared.lock().expect("no panic");
        (shared.sessions.len(), shared.certificates.len())
    };
    let after = config(&store, policy("other", &[source(&new)]));
    assert_eq!(held(&store), (2, 2), "a failed reload must not lose what is running");
    drop(before);
    let _again = config(&store, policy("other", &[source(&new)]));
    assert_eq!(held(&store), (1, 1));
    drop(after);
}

fn sharing(secrets: &[&str], auth: &[ClientAuth]) -> ListenerTls {
    let secrets = secrets.iter().map(|secret| (*secret).to_owned().into()).collect();
    let rotation = std::time::Duration::from_secs(3600);
    ListenerTls { session_tickets: Some(SessionTickets { secrets, rotation }), ..asking(auth) }
}

#[test]
fn a_session_of_one_gateway_is_resumed_by_another_with_its_secret_under_the_same_policy() {
    let (server, one, two) = (pair(&["a.test"]), pair(&["one.test"]), pair(&["two.test"]));
    let certificates = [source(&server)];
    for versions in [TLS12, TLS13] {
        let gateway = |settings: &ListenerTls| {
            config(&CertStore::default(), TlsPolicy { settings, ..policy("https", &certificates) })
        };
        let auth = |authority: &Pair| vec![auth(authority, ClientAuthMode::Optional, &[])];
        let first = gateway(&sharing(&["a secret"], &auth(&one)));
        let others = [
            (sharing(&["a secret"], &auth(&one)), HandshakeKind::Resumed),
            (sharing(&["a newer secret", "a secret"], &auth(&one)), HandshakeKind::Resumed),
            (sharing(&["another secret"], &auth(&one)), HandshakeKind::Full),
            (sharing(&[], &auth(&one)), HandshakeKind::Full),
            (sharing(&["a secret"], &auth(&two)), HandshakeKind::Full),
            (sharing(&["a secret"], &[]), HandshakeKind::Full),
        ];
        for (at, (settings, expected)) in others.iter().enumerate() {
            let shown = if at == 4 { None } else { Some(&one) };
            let client = client_showing(shown, &[&server], versions);
            assert_eq!(handshake(&client, &first).0, HandshakeKind::Full);
            assert_eq!(handshake(&client, &gateway(settings)).0, *expected, "case {at}, {versions:?}");
        }
    }
}

#[test]
fn no_session_is_resumed_where_tickets_are_off() {
    let server = pair(&["a.test"]);
    let certificates = [source(&server)];
    for versions in [TLS12, TLS13] {
        let off = ListenerTls { session_tickets: None, ..ListenerTls::default() };
        let gateway = config(&CertStore::default(), TlsPolicy { settings: &off, ..policy("https", &certificates) });
        let client = client(&[&server], versions);
        for _ in 0..2 {
            assert_eq!(handshake(&client, &gateway).0, HandshakeKind::Full, "{versions:?}");
        }
    }
}
