//! Listeners of the configuration → their settings, TLS included.

use std::sync::Arc;

use super::{Errors, key};
use crate::certs::{
    CertStore, CertificateSource, HstsPolicies, OrderedCertificate, OrderedPlace, TlsContext, TlsPolicy,
    check_certificate, check_client_auth,
};
use crate::config::model::ReadAgain;
use crate::config::{Loaded, model};
use crate::server::{ListenerSettings, Listeners};

/// Why a listener can't be.
pub struct ListenerError {
    pub listener: model::Name,
    pub message: String,
}

pub(super) fn build(
    loaded: &Loaded,
    (certs, ordered): (&CertStore, &[OrderedPlace]),
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Option<Listeners> {
    let mut found = Vec::new();
    let listeners = settings(&loaded.config, (certs, ordered), &mut found, warnings);
    let place = |error: &ListenerError| key(&["listeners", &error.listener, "tls"]);
    errors.extend(found.iter().map(|error| loaded.error_on(&place(error), error.message.as_str())));
    found.is_empty().then_some(listeners)
}

/// Whether a certificate can be shown, or clients be verified by what is there for it; why not.
pub fn check_read_again(again: ReadAgain<'_>) -> Result<(), String> {
    let checked = match again {
        ReadAgain::Certificate(certificate) => check_certificate(&source(certificate, &[])),
        ReadAgain::Clients(auth) => check_client_auth(auth),
    };
    checked.map_err(|error| crate::chain(&error))
}

/// The settings of all listeners that can be, and why the others can't.
pub fn settings(
    config: &model::Config,
    (certs, ordered): (&CertStore, &[OrderedPlace]),
    errors: &mut Vec<ListenerError>,
    warnings: &mut Vec<String>,
) -> Listeners {
    let mut settings = Vec::new();
    for listener in &config.listeners {
        let tls = match &listener.tls {
            None => None,
            Some(tls) => match tls_context(config, (certs, ordered), listener, tls) {
                Ok(context) => {
                    warnings
                        .extend(context.warnings().iter().map(|line| format!("listener `{}`: {line}", listener.name)));
                    Some(context)
                }
                Err(message) => {
                    errors.push(ListenerError { listener: listener.name.clone(), message });
                    continue;
                }
            },
        };
        let built = ListenerSettings {
            http1: listener.protocols.http1,
            h2: listener.protocols.h2,
            tls,
            handshakes: listener.tls.as_ref().map(|tls| tls.handshakes).unwrap_or_default(),
            hsts: listener.tls.as_ref().and_then(|tls| HstsPolicies::new(&tls.hsts)),
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
    Listeners { settings, max_connections: config.gateway.max_connections as usize }
}

fn tls_context(
    config: &model::Config,
    (certs, ordered): (&CertStore, &[OrderedPlace]),
    listener: &model::Listener,
    tls: &model::ListenerTls,
) -> Result<Arc<TlsContext>, String> {
    let found: Vec<_> = tls
        .certificates
        .iter()
        .filter_map(|name| config.certificates.iter().find(|certificate| certificate.name == *name))
        .map(|certificate| {
            let hosts: Vec<String> = certificate.hosts.iter().map(ToString::to_string).collect();
            (certificate, hosts)
        })
        .collect();
    let sources: Vec<_> = found.iter().map(|(certificate, hosts)| source(certificate, hosts)).collect();
    let policy = TlsPolicy {
        listener: &listener.name,
        certificates: &sources,
        settings: tls,
        http1: listener.protocols.http1,
        h2: listener.protocols.h2,
    };
    let wanted = config.acme_certificates.iter().zip(ordered);
    let wanted: Vec<_> = (tls.certificates.iter().enumerate())
        .filter_map(|(at, name)| {
            let (certificate, place) = wanted.clone().find(|(certificate, _)| certificate.name == *name)?;
            let (names, hosts) = match &certificate.wanted {
                model::Wanted::Names(names) => (&names[..], &[][..]),
                model::Wanted::OnDemand(on_demand) => (&[][..], &on_demand.hosts[..]),
            };
            Some(OrderedCertificate { at, place, names, hosts })
        })
        .collect();
    certs.context_with(policy, &wanted).map_err(|error| crate::chain(&error))
}

fn source<'a>(certificate: &'a model::Certificate, hosts: &'a [String]) -> CertificateSource<'a> {
    CertificateSource { name: &certificate.name, chain: &certificate.cert.text, key: certificate.key.expose(), hosts }
}
