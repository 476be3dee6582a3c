//! Reads `[acme]`, the authorities that certificates are ordered from, and the certificates that are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;

use super::defaults;
use super::gateway::host_pattern;
use super::item::Item;
use super::key::Words;
use super::model::{
    AcmeAuthority, AcmeCertificate, ChallengeKind, DnsCommand, ExternalAccount, KeyType, Name, OnDemand, Secret, Wanted,
};
use super::read::Table;
use crate::route::HostPattern;

/// Of the 20 minutes of an order, some are left for the authority.
const LONGEST_DNS_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The most names that an order may have; authorities take 100 or fewer.
const MAX_NAMES: usize = 100;

pub(super) fn authority(
    name: &str,
    table: &Table<'_>,
    states: &BTreeSet<String>,
    known: &BTreeSet<String>,
) -> Option<AcmeAuthority> {
    let directory = table
        .key(
            "directory",
            "The URL of the authority's directory.",
            r#""https://acme-v02.api.letsencrypt.org/directory""#,
        )
        .require(|item| item.parse(r#"a URL like "https://acme.example/directory""#, |text| url(text, &["https"])));
    let contact = table
        .key("contact", "Where the authority reaches the operator.", r#"["mailto:ops@example.com"]"#)
        .get("none", |item| {
            item.list(|item| {
                item.parse(r#"a URL like "mailto:ops@example.com""#, |text| url(text, &["mailto", "tel", "https"]))
            })
        })
        .unwrap_or_default();
    let agreed = table
        .key(
            "terms_of_service_agreed",
            "That the operator agrees to the authority's terms of service. Without `true` there is no account.",
            "true",
        )
        .require(Item::boolean);
    if agreed == Some(false) {
        table.fail("`terms_of_service_agreed` has to be true: the authority gives no account otherwise");
    }
    let external_account = table.optional_table("eab").and_then(|table| external_account(&table));
    let ca = table
        .key("ca", "Authorities to trust beside the system's when the directory is asked.", r#""certs/ca.pem""#)
        .get("none", |item| item.pem("CERTIFICATE"));
    let dns = table.optional_table("dns").and_then(|table| dns_command(&table));
    let challenges = table
        .key(
            "challenges",
            "How control over names is shown, in the order of preference: after a failure, the next one is tried.",
            r#"["tls-alpn-01"]"#,
        )
        .get("`http-01` and `tls-alpn-01`; with `dns`, `dns-01`", |item| item.filled(Item::word))
        .unwrap_or_else(|| match table.has("dns") {
            true => vec![ChallengeKind::Dns01],
            false => vec![ChallengeKind::Http01, ChallengeKind::TlsAlpn01],
        });
    match (challenges.contains(&ChallengeKind::Dns01), table.has("dns")) {
        (true, false) => table.fail("`dns-01` among the `challenges` needs `dns.command`"),
        (false, true) => table.fail("`dns` goes with `dns-01` among the `challenges`"),
        (true, true) | (false, false) => {}
    }
    let renew_before = table
        .key("renew_before", "How long before its end a certificate is renewed, at the latest. The authority may ask for it earlier (RFC 9773).", r#""30d""#)
        .get("a third of its life", Item::duration);
    let key_type =
        table.key("key_type", "The kind of the certificates' keys.", r#""rsa-2048""#).word_or(defaults::ACME_KEY_TYPE);
    let state = table
        .key(
            "state",
            "The `[state.NAME]` in which gateways share accounts, challenges and certificates, keys included.",
            r#""shared""#,
        )
        .get("each gateway orders for itself and keeps it in `gateway.state_dir`", |item| {
            item.reference("state", states)
        });
    let fallback = table
        .key(
            "fallback",
            "Other `[acme.NAME]` to ask, in this order, when this one gives no certificate.",
            r#"["second"]"#,
        )
        .get("none", |item| {
            item.list(|item| {
                let other = item.clone().reference("authority", known)?;
                if *other == *name {
                    item.fail("an authority is no fallback for itself");
                }
                Some(other)
            })
        })
        .unwrap_or_default();
    Some(AcmeAuthority {
        name: Name::from(name),
        directory: directory?,
        contact,
        external_account,
        ca,
        challenges,
        dns,
        renew_before,
        key_type,
        state,
        fallback,
    })
}

fn external_account(table: &Table<'_>) -> Option<ExternalAccount> {
    let key_id =
        table.key("kid", "The identifier of the key that the authority has given.", r#""kid-1""#).require(Item::string);
    let key = table.key("hmac", "That key: base64url, as authorities show it.", r#""${env:ACME_EAB_HMAC}""#).require(
        |item| {
            let key = mac_key(&item.clone().secret()?);
            if key.is_none() {
                item.fail("expected base64url");
            }
            key
        },
    );
    Some(ExternalAccount::new(key_id?, key?))
}

/// Base64url (RFC 8555 §7.3.4), with or without padding.
fn mac_key(text: &Secret) -> Option<Vec<u8>> {
    let key = URL_SAFE_NO_PAD.decode(text.expose().trim_end_matches('=')).ok()?;
    (!key.is_empty()).then_some(key)
}

fn dns_command(table: &Table<'_>) -> Option<DnsCommand> {
    let command = table
        .key(
            "command",
            "A program that changes TXT records, with its first arguments, without a shell. It is called with `add` or `remove`, the name and the value, and ends when the record can be seen.",
            r#"["/usr/local/bin/txt-record", "--zone", "example.com"]"#,
        )
        .require(|item| item.filled(|item| item.parse("the path of a program, or an argument", |text| (!text.contains('\0')).then(|| text.to_owned()))));
    let timeout = table
        .key("timeout", "How long it may take.", r#""5m""#)
        .or(defaults::ACME_DNS_TIMEOUT, |item| item.duration_up_to(LONGEST_DNS_TIMEOUT));
    let command = command?;
    if command.first().is_some_and(String::is_empty) {
        table.fail("the program of `command` is empty");
        return None;
    }
    Some(DnsCommand { command, timeout })
}

/// Reads what a certificate has that is ordered. The table has `acme`, or keys are listed.
pub(super) fn certificate(name: &str, table: &Table<'_>, authorities: &BTreeSet<String>) -> Option<AcmeCertificate> {
    let authority = table
        .key(
            "acme",
            "The `[acme.NAME]` that the certificate is ordered from, in place of `cert` and `key`.",
            r#""letsencrypt""#,
        )
        .get("the certificate is in `cert`", |item| item.reference("authority", authorities));
    let names = table
        .key(
            "names",
            "The names of the certificate that is ordered, also with `*.` at the start: then by `dns-01` only.",
            r#"["example.com", "www.example.com"]"#,
        )
        .get("none; needed with `acme` unless there is `on_demand`", |item| {
            let names = item.clone().filled(dns_name)?;
            if names.len() > MAX_NAMES {
                item.fail(format!("expected at most {MAX_NAMES} names"));
            }
            let twice = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name));
            if let Some((_, name)) = twice {
                item.fail(format!("`{name}` is in it twice"));
            }
            Some(names)
        });
    let on_demand = table.optional_table("on_demand").and_then(|table| on_demand(&table));
    if !table.has("acme") {
        for key in ["names", "on_demand"].into_iter().filter(|key| table.has(key)) {
            table.fail(format!("`{key}` goes with `acme`"));
        }
        return None;
    }
    for key in ["cert", "key", "hosts"].into_iter().filter(|key| table.has(key)) {
        table.fail(format!("`{key}` is for a certificate that is not ordered: leave it out beside `acme`"));
    }
    let wanted = match (table.has("names"), table.has("on_demand")) {
        (true, false) => Wanted::Names(names?),
        (false, true) => Wanted::OnDemand(on_demand?),
        (true, true) | (false, false) => {
            table.fail("a certificate that is ordered has either `names` or `on_demand`");
            return None;
        }
    };
    Some(AcmeCertificate { name: Name::from(name), authority: authority?, wanted })
}

fn on_demand(table: &Table<'_>) -> Option<OnDemand> {
    let ask = table
        .key(
            "ask",
            "Who says whether a name gets a certificate: it is called with the query parameter `domain`, and 200 means yes.",
            r#""https://accounts.internal/has-domain""#,
        )
        .require(|item| item.parse(r#"a URL like "https://accounts.internal/has-domain""#, |text| url(text, &["https", "http"])));
    let rate = table
        .key("rate", "Certificates that are ordered in an hour, at most.", "300")
        .or(defaults::ACME_ON_DEMAND_RATE, |item| item.integer(1..=100_000));
    let hosts = table
        .key("hosts", "Only names that fit one of these are asked for.", r#"["*.customers.example.com"]"#)
        .get("all", |item| item.list(host_pattern))
        .unwrap_or_default();
    Some(OnDemand { ask: ask?, rate, hosts })
}

/// Refuses a certificate whose names none of the challenges of an authority, or of one of its fallbacks, can show.
pub(super) fn check_wildcards(root: &Table<'_>, certificates: &[AcmeCertificate], authorities: &[AcmeAuthority]) {
    let find = |name: &Name| authorities.iter().find(|authority| authority.name == *name);
    for certificate in certificates {
        let (Wanted::Names(names), Some(first)) = (&certificate.wanted, find(&certificate.authority)) else { continue };
        let Some(wildcard) = names.iter().find(|name| name.starts_with("*.")) else { continue };
        let all = std::iter::once(first).chain(first.fallback.iter().filter_map(find));
        for authority in all.filter(|authority| !authority.challenges.contains(&ChallengeKind::Dns01)) {
            root.fail_in(
                &["certificates", &certificate.name, "names"],
                format!(
                    "`{wildcard}` can be shown by `dns-01` only, which `acme.{}` does not have among its `challenges`",
                    authority.name
                ),
            );
        }
    }
}

/// A DNS name, also with `*.` at the start, in lower case.
fn dns_name(item: Item<'_>) -> Option<String> {
    let is_address = |name: &str| name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    match host_pattern(item.clone().taking(r#"a host name, also with "*." at the start"#))? {
        HostPattern::Exact(name) if !is_address(&name) => Some(name.into()),
        HostPattern::Wildcard(parent) => Some(format!("*.{parent}")),
        HostPattern::Exact(_) | HostPattern::Any => {
            item.fail("expected a host name: certificates for addresses are not ordered");
            None
        }
    }
}

/// A URL of one of these schemes, as it is written.
fn url(text: &str, schemes: &[&str]) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let fits = schemes.contains(&url.scheme()) && url.fragment().is_none() && url.username().is_empty();
    fits.then(|| text.to_owned())
}

impl Words for ChallengeKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("http-01", Self::Http01), ("tls-alpn-01", Self::TlsAlpn01), ("dns-01", Self::Dns01)];
}

impl Words for KeyType {
    const WORDS: &'static [(&'static str, Self)] =
        &[("ecdsa-p256", Self::EcdsaP256), ("ecdsa-p384", Self::EcdsaP384), ("rsa-2048", Self::Rsa2048)];
}
