//! Reads `[listeners.*.tls]`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::defaults;
use super::gateway::host_pattern;
use super::item::Item;
use super::model::{
    CipherSuite, ClientAuth, HandshakeLimits, Hsts, KeyExchangeGroup, ListenerTls, Secret, SessionTickets, TlsVersion,
};
use super::read::Table;
use crate::route::HostPattern;

/// Bytes of a secret of which keys of tickets are made: shorter ones can be guessed.
const MIN_TICKET_SECRET: usize = 32;
/// Half of the longest life of a ticket (RFC 8446 §4.6.1).
const MAX_TICKET_ROTATION: Duration = Duration::from_secs(84 * 3600);
/// What the list of hosts that browsers ship asks for (hstspreload.org).
const MIN_PRELOAD_AGE: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn read(table: &Table<'_>, certificates: &BTreeSet<String>) -> Option<ListenerTls> {
    let names = table
        .key(
            "certificates",
            "The names of the certificates. The client's server name chooses one; the first serves all other clients.",
            r#"["main"]"#,
        )
        .require(|item| item.filled(|item| item.reference("certificate", certificates)));
    let min_version =
        table.key("min_version", "The oldest version of TLS that is spoken.", r#""1.3""#).word_or(defaults::MIN_TLS);
    let max_version =
        table.key("max_version", "The newest version of TLS that is spoken.", r#""1.2""#).word_or(defaults::MAX_TLS);
    if min_version > max_version {
        table.fail("`min_version` is above `max_version`");
    }
    let is_spoken = |version| (min_version..=max_version).contains(&version);
    let cipher_suites = table
        .key(
            "cipher_suites",
            "The cipher suites, by their names at IANA. The first that the client has is used. Each version that is spoken needs one of its own.",
            r#"["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]"#,
        )
        .get("all that the gateway knows; AES-128 before AES-256, ChaCha20 for clients that have it before AES", |item| cipher_suites(&item, is_spoken));
    let key_exchange_groups = table
        .key(
            "key_exchange_groups",
            "The groups for the key exchange, by their names at IANA. The first that the client has sent a key of is used, or else the first that it has.",
            r#"["x25519", "secp256r1"]"#,
        )
        .get("`X25519MLKEM768`, `x25519`, `secp256r1` and `secp384r1`", |item| groups(&item, is_spoken));
    let session_tickets = table
        .key(
            "session_tickets",
            "Whether clients can resume sessions: `true`, `false`, or a table of settings.",
            "false",
        )
        .or(Tickets::default(), session_tickets);
    let client_auth = table
        .key(
            "client_auth",
            "Certificates that clients show (mutual TLS): one table, or a list of tables for different server names.",
            r#"{ ca = "certs/clients.pem" }"#,
        )
        .get("clients are not asked for a certificate", |item| by_host(item, client_auth, |auth| &auth.hosts));
    let handshakes = handshakes(&table.table("handshakes"));
    let hsts = table
        .key(
            "hsts",
            "The field `Strict-Transport-Security` of responses (RFC 6797): one table, or a list of tables for different hosts.",
            r#"{ max_age = "365d" }"#,
        )
        .get("the field is that of the upstream, if there is one", |item| by_host(item, hsts, |hsts| &hsts.hosts));
    Some(ListenerTls {
        certificates: names?,
        min_version,
        max_version,
        cipher_suites: cipher_suites.unwrap_or_default(),
        key_exchange_groups: key_exchange_groups.unwrap_or_default(),
        session_tickets: session_tickets.0,
        client_auth: client_auth.unwrap_or_default(),
        handshakes,
        hsts: hsts.unwrap_or_default(),
    })
}

fn cipher_suites(item: &Item<'_>, is_spoken: impl Fn(TlsVersion) -> bool) -> Option<Vec<CipherSuite>> {
    let list: Vec<CipherSuite> = item.clone().filled(Item::word)?;
    for (version, name) in [(TlsVersion::Tls12, "1.2"), (TlsVersion::Tls13, "1.3")] {
        let has = list.iter().any(|suite| suite.version() == version);
        if is_spoken(version) && !has {
            item.fail(format!(
                "none of them is for TLS {name}: add one, or leave that version out by `min_version` or `max_version`"
            ));
        } else if has && !is_spoken(version) {
            item.fail(format!("there is one for TLS {name}, which is not spoken by `min_version` and `max_version`"));
        }
    }
    Some(list)
}

fn groups(item: &Item<'_>, is_spoken: impl Fn(TlsVersion) -> bool) -> Option<Vec<KeyExchangeGroup>> {
    let list: Vec<KeyExchangeGroup> = item.clone().filled(Item::word)?;
    if is_spoken(TlsVersion::Tls12) && !list.iter().any(|group| group.is_for_tls12()) {
        item.fail("TLS 1.2 has none of them: add `x25519`, `secp256r1` or `secp384r1`, or set `min_version = \"1.3\"`");
    }
    Some(list)
}

/// Whether and how sessions are resumed, as it is written.
struct Tickets(Option<SessionTickets>);

impl Default for Tickets {
    fn default() -> Self {
        Tickets(ListenerTls::default().session_tickets)
    }
}

impl super::key::Written for Tickets {
    fn written(&self) -> String {
        self.0.is_some().to_string()
    }
}

fn session_tickets(item: Item<'_>) -> Option<Tickets> {
    let item = item.taking("true, false or a table");
    if !item.is_table() {
        return item.boolean().map(|on| Tickets(Tickets::default().0.filter(|_| on)));
    }
    let table = item.table()?;
    let secrets = table
        .key(
            "secrets",
            "Secrets that gateways share, so that a session of one is resumed by the others. Keys are made of the first; tickets of all are taken.",
            r#"["${file:/run/secrets/tickets}"]"#,
        )
        .get("keys are made of chance, and no other gateway knows them", |item| item.filled(ticket_secret));
    let rotation = table
        .key(
            "rotation",
            "How long a key makes tickets. It takes them for as long again. Gateways that share secrets need the same value.",
            r#""1h""#,
        )
        .or(defaults::TICKET_ROTATION, |item| item.duration_up_to(MAX_TICKET_ROTATION));
    if rotation < Duration::from_secs(1) {
        table.fail("`rotation` is shorter than a second");
    }
    Some(Tickets(Some(SessionTickets { secrets: secrets.unwrap_or_default(), rotation })))
}

fn ticket_secret(item: Item<'_>) -> Option<Secret> {
    let secret = item.clone().secret()?;
    if secret.expose().len() < MIN_TICKET_SECRET {
        item.fail(format!("expected a secret of at least {MIN_TICKET_SECRET} bytes"));
        return None;
    }
    if secret.expose().contains("openssl rand") {
        item.fail(
            "expected what `openssl rand -base64 48` prints, found the text of an example, which everybody knows",
        );
        return None;
    }
    Some(secret)
}

fn handshakes(table: &Table<'_>) -> HandshakeLimits {
    let max_pending = table
        .key(
            "max_pending_per_address",
            "Handshakes of one client address under way at a time. Of IPv6, a /64 is one address. Further connections are closed.",
            "20",
        )
        .get("no limit", |item| item.integer(1..=1_000_000u32));
    let rate = table
        .key(
            "rate_per_address",
            "Handshakes in a second of one client address, on average. Further connections are closed.",
            "10",
        )
        .get("no limit", |item| item.integer(1..=1_000_000u32));
    let burst = table
        .key("burst_per_address", "Handshakes of one client address that may begin at once, beside that rate.", "50")
        .or_as("rate_per_address", rate.unwrap_or(1), |item| item.integer(1..=1_000_000u32));
    HandshakeLimits { max_pending, rate, burst }
}

/// A table, or a list of tables for different hosts.
fn by_host<'r, T>(
    item: Item<'r>,
    read: impl Fn(&Table<'r>) -> Option<T>,
    hosts: impl Fn(&T) -> &Vec<HostPattern>,
) -> Option<Vec<T>> {
    let item = item.taking("a table or a list of tables");
    let mut found: Vec<T> = Vec::new();
    for item in item.one_or_more() {
        let Some(one) = item.clone().table().and_then(|table| read(&table)) else { continue };
        let twice = match hosts(&one).as_slice() {
            [] => found
                .iter()
                .any(|other| hosts(other).is_empty())
                .then_some("only one can be without `hosts`".to_owned()),
            own => (own.iter())
                .find(|host| found.iter().any(|other| hosts(other).contains(host)))
                .map(|host| format!("the host `{host}` is in two of them")),
        };
        if let Some(message) = twice {
            item.fail(message);
        }
        found.push(one);
    }
    Some(found)
}

fn client_auth(table: &Table<'_>) -> Option<ClientAuth> {
    let ca = table
        .key("ca", "The authorities that sign the certificates of clients.", r#""certs/clients.pem""#)
        .require(|item| item.pem_of_listener("CERTIFICATE"));
    let mode = table
        .key(
            "mode",
            "Whether a client has to show a certificate. One that it shows must be good in any case.",
            r#""optional""#,
        )
        .word_or(defaults::CLIENT_AUTH);
    let crl = table
        .key(
            "crl",
            "Revocation lists, one of each authority in the chain of a client. A certificate without a list, or with one past its next update, is refused. Sessions are not resumed.",
            r#""certs/clients.crl""#,
        )
        .get("revocation is not checked", |item| item.pem_of_listener("X509 CRL"));
    let hosts = table
        .key("hosts", "The server names that it is for, also with `*.` at the start.", r#"["partners.example.com"]"#)
        .get("all server names that no other table names", |item| item.filled(host_pattern));
    let forward = table
        .key("forward", "Whether upstreams get the certificate, in the field `Client-Cert` (RFC 9440).", "true")
        .or(defaults::FORWARD_CLIENT_CERTIFICATE, Item::boolean);
    Some(ClientAuth { hosts: hosts.unwrap_or_default(), ca: ca?, crl, mode, forward })
}

fn hsts(table: &Table<'_>) -> Option<Hsts> {
    let max_age = table
        .key(
            "max_age",
            "How long browsers reach the host over HTTPS only. `\"off\"` sends 0, and they forget it.",
            r#""365d""#,
        )
        .require(Item::timeout)
        .map(Option::unwrap_or_default);
    let include_subdomains = table
        .key("include_subdomains", "Whether that holds for all names below the host, too.", "true")
        .or(defaults::HSTS_INCLUDE_SUBDOMAINS, Item::boolean);
    let preload = table
        .key(
            "preload",
            "Whether browsers may ship the host in their list. It asks for `include_subdomains` and a `max_age` of a year, and leaving the list takes months.",
            "true",
        )
        .or(defaults::HSTS_PRELOAD, Item::boolean);
    let hosts = table
        .key("hosts", "The hosts that it is for, also with `*.` at the start.", r#"["shop.example.com"]"#)
        .get("all hosts that no other table names", |item| item.filled(host_pattern));
    let max_age = max_age?;
    if !max_age.is_zero() && max_age < Duration::from_secs(1) {
        table.fail("`max_age` is shorter than a second");
    }
    if preload && (!include_subdomains || max_age < MIN_PRELOAD_AGE) {
        table.fail("`preload` needs `include_subdomains = true` and a `max_age` of at least 365d");
    }
    Some(Hsts { hosts: hosts.unwrap_or_default(), max_age, include_subdomains, preload })
}
