//! TLS: which certificate and protocol a client gets, and handshakes that fail.

use rustls_pki_types::ServerName;

use super::*;
use crate::certs::{CertStore, CertificateSource, TlsPolicy};
use crate::config::model::ListenerTls;

/// A TLS client that trusts the given certificates.
fn client(roots: &[String], alpn: &[&str]) -> tokio_rustls::TlsConnector {
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        use rustls_pki_types::pem::PemObject;
        let root = rustls_pki_types::CertificateDer::from_pem_slice(root.as_bytes()).expect("PEM");
        store.add(root).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config).into()
}

fn tls_gateway(names: &[&str]) -> (Gateway, Vec<String>) {
    let made: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            let made = rcgen::generate_simple_self_signed([(*name).to_owned()]).expect("a certificate");
            (made.cert.pem(), made.signing_key.serialize_pem())
        })
        .collect();
    let sources: Vec<CertificateSource<'_>> =
        made.iter().map(|(chain, key)| CertificateSource { name: "c", chain, key, hosts: &[] }).collect();
    let settings_of_tls = ListenerTls::default();
    let policy = TlsPolicy { listener: "l", certificates: &sources, settings: &settings_of_tls, http1: true, h2: true };
    let tls = CertStore::default().context(policy).expect("a configuration");
    let gateway = gateway(1, ListenerSettings { tls: Some(tls), ..settings() });
    (gateway, made.iter().map(|(chain, _)| chain.clone()).collect())
}

#[test]
fn the_server_name_chooses_the_certificate_and_alpn_the_protocol() {
    let (gateway, chains) = tls_gateway(&["first.test", "second.test"]);
    for (name, trusted, alpn) in [("first.test", 0, "h2"), ("second.test", 1, "h2"), ("second.test", 1, "http/1.1")] {
        let body = block_on(async {
            let io = tokio::net::TcpStream::connect(gateway.address).await.expect("a connection");
            let name = ServerName::try_from(name).expect("a name");
            let connector = client(&chains[trusted..=trusted], &[alpn]);
            let mut io = connector.connect(name, io).await.expect("the certificate of that name");
            if alpn == "h2" {
                return h2_get(io).await.1;
            }
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("a request");
            let mut text = String::new();
            io.read_to_string(&mut text).await.expect("closed in order");
            text
        });
        assert!(body.ends_with(&format!("sni=Some({name:?}) alpn=Some({alpn:?})")), "{body}");
    }
}

#[test]
fn handshakes_that_fail_or_never_end_are_counted() {
    let (gateway, _) = tls_gateway(&["first.test"]);
    let current = gateway.table.load_full();
    let hasty = ListenerSettings {
        handshake_timeout: Duration::from_millis(50),
        ..(**current.find("web").expect("the listener")).clone()
    };
    gateway.table.store(Arc::new(table(hasty, 1000)));
    let mut silent = gateway.connect();
    assert!(is_closed(&mut silent));
    let mut plain = gateway.connect();
    ask(&mut plain, "/");
    while !is_closed(&mut plain) {}
    for reason in ["timeout", "not-tls"] {
        let line = format!(r#"sluice_tls_failures_total{{listener="web",reason="{reason}"}} 1"#);
        eventually("both counted", || gateway.metric(&line));
    }
}
