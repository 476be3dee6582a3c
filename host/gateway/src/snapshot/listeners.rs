//! Listeners of the configuration → their settings, TLS included.

use std::sync::Arc;

use super::{Errors, key};
use crate::certs::{CertStore, CertificateSource, OrderedCertificate, OrderedPlace, TlsContext, TlsPolicy};
use crate::config::{Loaded, model};
use crate::server::{ListenerSettings, Listeners};

pub(super) fn build(
    loaded: &Loaded,
    (certs, ordered): (&CertStore, &[OrderedPlace]),
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Option<Listeners> {
    let mut settings = Vec::new();
    let before = errors.len();
    for listener in &loaded.config.listeners {
        let tls = match &listener.tls {
            None => None,
            Some(tls) => match tls_context(loaded, (certs, ordered), listener, tls) {
                Ok(context) => {
                    warnings
                        .extend(context.warnings().iter().map(|line| format!("listener `{}`: {line}", listener.name)));
                    Some(context)
                }
                Err(message) => {
                    errors.push(loaded.error_on(&key(&["listeners", &listener.name, "tls"]), message));
                    continue;
                }
            },
        };
        let built = ListenerSettings {
            http1: listener.protocols.http1,
            h2: listener.protocols.h2,
            tls,
            trusted_proxies: listener.trusted_proxies.clone(),
            proxy_protocol: listener.proxy_protocol.clone(),
            max_connections: listener.max_connections as usize,
            lifetime: listener.lifetime,
            header_timeout: listener.timeouts.header,
            idle_timeout: listener.timeouts.idle,
            handshake_timeout: listener.timeouts.handshake,
            max_head_bytes: usize::try_from(listener.limits.head.0).unwrap_or(usize::MAX),
            max_headers: listener.limits.headers as usize,
            max_streams: listener.limits.streams,
        };
        settings.push((listener.name.clone().into(), Arc::new(built)));
    }
    let max_connections = loaded.config.gateway.max_connections as usize;
    (errors.len() == before).then_some(Listeners { settings, max_connections })
}

fn tls_context(
    loaded: &Loaded,
    (certs, ordered): (&CertStore, &[OrderedPlace]),
    listener: &model::Listener,
    tls: &model::ListenerTls,
) -> Result<Arc<TlsContext>, String> {
    let found: Vec<_> = tls
        .certificates
        .iter()
        .filter_map(|name| loaded.config.certificates.iter().find(|certificate| certificate.name == *name))
        .map(|certificate| {
            let hosts: Vec<String> = certificate.hosts.iter().map(ToString::to_string).collect();
            (certificate, hosts)
        })
        .collect();
    let sources: Vec<_> = found
        .iter()
        .map(|(certificate, hosts)| CertificateSource {
            name: &certificate.name,
            chain: &certificate.cert,
            key: certificate.key.expose(),
            hosts,
        })
        .collect();
    let policy = TlsPolicy {
        listener: &listener.name,
        certificates: &sources,
        http1: listener.protocols.http1,
        h2: listener.protocols.h2,
        min_version: tls.min_version,
        client_auth: &tls.client_auth,
    };
    let wanted = loaded.config.acme_certificates.iter().zip(ordered);
    let wanted: Vec<_> = (tls.certificates.iter().enumerate())
        .filter_map(|(at, name)| {
            let (certificate, place) = wanted.clone().find(|(certificate, _)| certificate.name == *name)?;
            let names = match &certificate.wanted {
                model::Wanted::Names(names) => &names[..],
                model::Wanted::OnDemand(_) => &[],
            };
            Some(OrderedCertificate { at, place, names })
        })
        .collect();
    certs.context_with(policy, &wanted).map_err(|error| crate::chain(&error))
}
