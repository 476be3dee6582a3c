//! The TLS handshake of a connection: whether its address may have one, under which policy it goes on, and what it came to.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::server::Acceptor;
use rustls::{
    AlertDescription, CertificateError, HandshakeKind, NamedGroup, PeerIncompatible, ServerConfig, ServerConnection,
};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::activity::Watched;
use super::connection::{Accepted, End, Serving, serving};
use super::worker::Shared;
use super::{ConnectionInfo, Service, TlsInfo};
use crate::certs::{ClientCertificate, ClientCertificateError, TlsContext};
use crate::telemetry::{ServerName, TlsHandshake};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("timeout")]
    Timeout,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Certificate(#[from] ClientCertificateError),
}

/// The handshake. `None`: it failed, or its address has too many of them.
pub(super) fn over_tls<S: Service>(
    accepted: Accepted,
    context: Arc<TlsContext>,
    worker: Rc<Shared<S>>,
) -> impl Future<Output = Result<Option<Serving>, End>> {
    // Before the future, which would keep both what was accepted and its parts.
    let pending = accepted.handshakes.begin(accepted.ends.peer(), &accepted.settings.handshakes);
    let peer = accepted.ends.peer_socket();
    let (mut socket, info) = accepted.split();
    socket.begin_handshake();
    async move {
        let pending = match pending {
            Ok(pending) => pending,
            Err(limit) => {
                info.counters.tls.refused(limit.name());
                return Ok(None);
            }
        };
        let done = timeout(info.settings.handshake_timeout, handshake(socket, &context)).await;
        drop(pending);
        match done.unwrap_or(Err(Failure::Timeout)) {
            Ok(None) => Ok(None),
            Ok(Some((stream, tls))) => Ok(Some(begin(stream, tls, &context, info, worker))),
            Err(failure) => {
                let (peer, listener) = (peer.map(tracing::field::display), &*info.listener);
                let reason = failure.reason();
                info.counters.tls.failed(reason);
                tracing::debug!(peer, listener, reason, error = %failure, "TLS handshake failed");
                Ok(None)
            }
        }
    }
}

/// Counts the handshake and goes on with the protocol that was agreed on.
fn begin<S: Service>(
    mut stream: TlsStream<Watched>,
    tls: TlsInfo,
    context: &TlsContext,
    mut info: ConnectionInfo,
    worker: Rc<Shared<S>>,
) -> Serving {
    let name = match tls.sni.as_deref() {
        None => ServerName::None,
        Some(name) => context.known_name(name).map_or(ServerName::Other, ServerName::Known),
    };
    info.counters.tls.done(agreed(stream.get_ref().1, tls.version), name);
    let (socket, _) = stream.get_mut();
    socket.end_handshake();
    let h2 = tls.alpn.as_deref() == Some(b"h2") || !info.settings.http1;
    info.tls = Some(Box::new(tls));
    let activity = if h2 { socket.speak_h2() } else { Rc::clone(socket.activity()) };
    serving(h2, stream, activity, info, worker)
}

/// The server name chooses the policy before the handshake goes on under it. `None`: it was the question of an ACME authority, and is
/// answered.
async fn handshake(socket: Watched, context: &TlsContext) -> Result<Option<(TlsStream<Watched>, TlsInfo)>, Failure> {
    // Each step has memory of its own, so that only that of the step at hand is held.
    let hello = Box::new(Box::pin(LazyConfigAcceptor::new(Acceptor::default(), socket)).await?);
    if let Some(config) = context.challenge(&hello.client_hello()) {
        return Box::pin(answer_challenge(*hello, config)).await.map(|()| None);
    }
    if let Some(wait) = context.missing_certificate(hello.client_hello().server_name()) {
        wait.await;
    }
    let (policy, config) = {
        let hello = hello.client_hello();
        let policy = context.policy(hello.server_name());
        (policy, Arc::clone(context.config(policy, hello.cipher_suites())))
    };
    let rest = Box::pin(hello.into_stream(config));
    let stream = rest.await?;
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "unknown",
    };
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    let client_certificate = shown.map(|leaf| ClientCertificate::read(leaf, context.forwards(policy)));
    let tls = TlsInfo {
        sni: session.server_name().map(str::to_owned),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        version,
        policy,
        client_certificate: client_certificate.transpose()?.map(Box::new),
    };
    Ok(Some((stream, tls)))
}

/// RFC 8737 §3: nothing follows the handshake.
async fn answer_challenge(hello: StartHandshake<Watched>, config: Arc<ServerConfig>) -> Result<(), Failure> {
    hello.into_stream(config).await?.shutdown().await?;
    Ok(())
}

/// What both sides have agreed on.
fn agreed(session: &ServerConnection, version: &'static str) -> TlsHandshake {
    TlsHandshake {
        version,
        cipher_suite: session.negotiated_cipher_suite().map_or("", |suite| suite_name(suite.suite())),
        group: session.negotiated_key_exchange_group().map_or("", |group| group_name(group.name())),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

/// The name at IANA; that of a suite of TLS 1.3 begins otherwise in rustls.
fn suite_name(suite: rustls::CipherSuite) -> &'static str {
    match suite {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => suite.as_str().unwrap_or("unknown"),
    }
}

fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::secp256r1MLKEM768 => "SecP256r1MLKEM768",
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "unknown",
    }
}

impl Failure {
    /// The label of metrics.
    fn reason(&self) -> &'static str {
        match self {
            Failure::Timeout => "timeout",
            Failure::Certificate(ClientCertificateError::Expired) => "client-certificate-expired",
            Failure::Certificate(ClientCertificateError::Malformed) => "client-certificate",
            Failure::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(error) => reason_of(error),
                // The client has left, in order or not.
                None => "closed",
            },
        }
    }
}

fn reason_of(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => "not-tls",
        rustls::Error::PeerIncompatible(why) => match why {
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13 => "no-version",
            PeerIncompatible::NoCipherSuitesInCommon => "no-cipher-suite",
            PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => "no-group",
            PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => "no-signature",
            _ => "incompatible",
        },
        rustls::Error::NoApplicationProtocol => "no-protocol",
        rustls::Error::NoCertificatesPresented => "client-certificate-missing",
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "client-certificate-expired",
            CertificateError::Revoked => "client-certificate-revoked",
            CertificateError::UnknownRevocationStatus | CertificateError::ExpiredRevocationListContext { .. } => {
                "revocation-unknown"
            }
            _ => "client-certificate",
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate => "certificate-refused",
            _ => "alert",
        },
        rustls::Error::PeerMisbehaved(_) | rustls::Error::InappropriateHandshakeMessage { .. } => "misbehaved",
        rustls::Error::DecryptError => "decrypt",
        // It has no variant of its own.
        rustls::Error::General(why) if why == "no server certificate chain resolved" => "no-certificate",
        _ => "other",
    }
}
