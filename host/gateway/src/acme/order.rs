//! One order (RFC 8555 §7.4): control over each name is shown, then the certificate is fetched. Whatever comes of it, what was shown is taken back.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::challenges::Shown;
use super::dns::{self, Change};
use super::failure::{Failure, Kind};
use super::parts::Parts;
use super::sharing::DISTRIBUTION;
use super::storage::Storage;
use crate::certs::Challenge;
use crate::config::model::{AcmeAuthority, ChallengeKind, DnsCommand, KeyType};

/// How long an authority may take to look at what it was shown, or to issue.
const DECISION: Duration = Duration::from_secs(180);
/// An order with everything.
pub(super) const LONGEST: Duration = Duration::from_secs(20 * 60);
/// What precedes a name that a TXT record is for (RFC 8555 §8.4).
const TXT: &str = "_acme-challenge.";

/// What is ordered, and how.
pub(super) struct Request<'a> {
    pub(super) authority: &'a AcmeAuthority,
    pub(super) names: &'a [String],
    pub(super) key_type: KeyType,
    /// What the authority knows the certificate by that this one takes the place of.
    pub(super) replaces: Option<CertificateIdentifier<'a>>,
    /// How many orders have failed before: each begins with another kind of challenge.
    pub(super) failures: u32,
    pub(super) parts: &'a Parts,
    pub(super) storage: &'a Storage,
}

/// What an authority has issued, as PEM text.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// TXT records that were added. What is left of them when this is dropped, as by a reload that cuts the order off, is removed in the background.
struct Records {
    dns: Option<DnsCommand>,
    added: Vec<(String, String)>,
}

pub(super) async fn order(account: &Account, request: &Request<'_>) -> Result<Issued, Failure> {
    let mut records = Records { dns: request.authority.dns.clone(), added: Vec::new() };
    let mut shown = Shown::new(request.parts, request.storage);
    let issued = timeout(LONGEST, issue(account, request, (&mut shown, &mut records))).await;
    shown.take_back().await;
    records.remove().await;
    issued.unwrap_or_else(|_| Err(Failure::new(Kind::Refused, format!("the order has not ended within {LONGEST:?}"))))
}

/// What an order shows: challenges, and TXT records.
type Showing<'a, 'p> = (&'a mut Shown<'p>, &'a mut Records);

async fn issue(account: &Account, request: &Request<'_>, showing: Showing<'_, '_>) -> Result<Issued, Failure> {
    let identifiers: Vec<Identifier> = request.names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = create(account, &identifiers, request.replaces.clone()).await?;
    // Names that were shown not long ago may count still.
    if order.state().status != OrderStatus::Ready {
        show_names(&mut order, request, showing).await?;
    }
    let (key, csr) = signing_request(request.names.to_vec(), request.key_type).await?;
    order.finalize_csr(&csr).await.map_err(|error| Failure::of(&error))?;
    let policy = RetryPolicy::new().timeout(DECISION);
    let chain = order.poll_certificate(&policy).await.map_err(|error| Failure::of(&error))?;
    Ok(Issued { chain, key })
}

async fn create(
    account: &Account,
    identifiers: &[Identifier],
    replaces: Option<CertificateIdentifier<'_>>,
) -> Result<Order, Failure> {
    let plain =
        async || account.new_order(&NewOrder::new(identifiers)).await.map_err(|error| Failure::of_new_order(&error));
    let Some(replaced) = replaces else { return plain().await };
    match account.new_order(&NewOrder::new(identifiers).replaces(replaced)).await.map_err(|error| Failure::of(&error)) {
        Ok(order) => Ok(order),
        Err(failure) if matches!(failure.kind, Kind::RateLimited | Kind::NoAccount) => Err(failure),
        // RFC 9773 §5: it may have been replaced before, or be of another authority or account. That is no reason to go without a certificate.
        Err(_) => plain().await,
    }
}

/// Shows control over all names, and waits until the authority has seen it.
async fn show_names(order: &mut Order, request: &Request<'_>, showing: Showing<'_, '_>) -> Result<(), Failure> {
    let (shown, records) = showing;
    let mut kinds = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization.map_err(|error| Failure::of(&error))?;
        match authorization.status {
            AuthorizationStatus::Pending => kinds.push(Some(prepare(authorization, request, shown, records).await?)),
            AuthorizationStatus::Valid => kinds.push(None),
            status => {
                return Err(Failure::new(Kind::Challenge, format!("an authorisation of the order is {status:?}")));
            }
        }
    }
    if shown.is_shared() {
        // Until all gateways show it: the authority may ask any of them.
        sleep(DISTRIBUTION).await;
    }
    let mut authorizations = order.authorizations();
    for kind in kinds {
        let Some(authorization) = authorizations.next().await else { break };
        let (Some(kind), Ok(mut authorization)) = (kind, authorization) else { continue };
        let Some(mut challenge) = authorization.challenge(kind) else { continue };
        challenge.set_ready().await.map_err(|error| Failure::of(&error))?;
    }
    let ready = order.poll_ready(&RetryPolicy::new().timeout(DECISION)).await;
    let result = match ready {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) => Err(Failure::new(Kind::Challenge, "the order is invalid")),
        Err(error) => Err(Failure::of(&error)),
    };
    match result {
        Err(failure) if failure.kind == Kind::Challenge => Err(explained(order, failure).await),
        other => other,
    }
}

/// Shows one name in the first of the configured ways that the authority takes.
async fn prepare(
    mut authorization: AuthorizationHandle<'_>,
    request: &Request<'_>,
    shown: &mut Shown<'_>,
    records: &mut Records,
) -> Result<ChallengeType, Failure> {
    let wanted = &request.authority.challenges;
    let offered = |kind: &ChallengeKind| authorization.challenges.iter().any(|one| one.r#type == challenge_type(*kind));
    let first = request.failures as usize % wanted.len().max(1);
    let Some(kind) = wanted[first..].iter().chain(&wanted[..first]).copied().find(offered) else {
        let offers: Vec<String> = authorization.challenges.iter().map(|one| format!("{:?}", one.r#type)).collect();
        let reason = format!(
            "of the `challenges` of `acme.{}` the authority offers none, but {offers:?}",
            request.authority.name
        );
        return Err(Failure::new(Kind::Challenge, reason));
    };
    let Some(challenge) = authorization.challenge(challenge_type(kind)) else {
        return Err(Failure::new(Kind::Challenge, "the authority has offered a challenge and taken it back"));
    };
    let answer = challenge.key_authorization();
    let Identifier::Dns(host) = challenge.identifier().identifier else {
        return Err(Failure::new(Kind::Refused, "the authority asks for something that is no host name"));
    };
    let host = host.to_ascii_lowercase();
    tracing::debug!(acme = %request.authority.name, host, challenge = kind.name(), "control over a name is shown");
    match (kind, &request.authority.dns) {
        (ChallengeKind::Http01, _) => {
            let (token, key_authorization) = (challenge.token.clone(), answer.as_str().to_owned());
            shown.add(Challenge::Http { host, token, key_authorization }).await?;
        }
        (ChallengeKind::TlsAlpn01, _) => {
            let digest = answer.digest();
            let digest = digest.as_ref().try_into();
            let digest = digest.map_err(|_| Failure::new(Kind::Challenge, "a digest of another length"))?;
            shown.add(Challenge::TlsAlpn { host, digest }).await?;
        }
        (ChallengeKind::Dns01, Some(dns)) => {
            let name = format!("{TXT}{host}");
            let value = answer.dns_value();
            // Before the call: a program that fails may have done half of it.
            records.added.push((name.clone(), value.clone()));
            dns::change(dns, Change::Add, &name, &value).await.map_err(|why| Failure::new(Kind::Dns, why))?;
        }
        (ChallengeKind::Dns01, None) => return Err(Failure::new(Kind::Dns, "there is no program for TXT records")),
    }
    Ok(challenge_type(kind))
}

/// The same failure with what the authority says of each name.
async fn explained(order: &mut Order, failure: Failure) -> Failure {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let name = state.identifier().to_string();
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(|error| format!("{name}: {error}")));
    }
    match reasons.is_empty() {
        true => failure,
        false => Failure { wait: failure.wait, ..Failure::new(failure.kind, reasons.join("; ")) },
    }
}

impl Records {
    async fn remove(mut self) {
        while let (Some(dns), Some((name, value))) = (&self.dns, self.added.last()) {
            remove(dns, name, value).await;
            // Not before: this may be cut off as well.
            self.added.pop();
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        let added = std::mem::take(&mut self.added);
        // Outside of a runtime the process is about to end.
        let (Some(dns), Ok(runtime), false) = (self.dns.take(), Handle::try_current(), added.is_empty()) else {
            return;
        };
        runtime.spawn(async move {
            for (name, value) in added {
                remove(&dns, &name, &value).await;
            }
        });
    }
}

/// One that can't be removed is said: it does no harm, but nobody else removes it.
async fn remove(dns: &DnsCommand, name: &str, value: &str) {
    if let Err(why) = dns::change(dns, Change::Remove, name, value).await {
        tracing::warn!(name, value, why, "a TXT record can't be removed");
    }
}

/// A new key and the request for a certificate of it, made where it holds nothing up: an RSA key takes a while.
async fn signing_request(names: Vec<String>, key_type: KeyType) -> Result<(String, Vec<u8>), Failure> {
    let algorithm = match key_type {
        KeyType::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyType::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        KeyType::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
    };
    let made = tokio::task::spawn_blocking(move || {
        let key = KeyPair::generate_for(algorithm)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?;
        Ok::<_, rcgen::Error>((key.serialize_pem(), csr.der().to_vec()))
    });
    let failed =
        |why: String| Failure::new(Kind::Refused, format!("the request for a certificate can't be made: {why}"));
    made.await.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}

fn challenge_type(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengeKind::Dns01 => ChallengeType::Dns01,
    }
}
