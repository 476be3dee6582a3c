//! Reads `[consumers]`: the callers that the operator knows.

use super::item::Item;
use super::read::Table;
use crate::services::consumers::{BadCredential, ConsumerSpec, Credential};

pub(super) fn consumer(name: &str, table: &Table<'_>) -> Option<ConsumerSpec> {
    let plan = table
        .key("plan", "What it has agreed to, for filters: rate limits by plan, rules of access.", r#""gold""#)
        .get("none", Item::string);
    let labels = table.optional_whole_table("labels").map_or_else(Vec::new, |table| {
        let named = table.named("A label, for filters.", r#""partner""#).into_iter();
        named.filter_map(|(name, item)| Some((name, item.string()?))).collect()
    });
    let mut credentials = table
        .key(
            "keys",
            "SHA-256 hashes of its API keys, as `sluice hash key` prints them.",
            r#"["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]"#,
        )
        .get("none", |item| item.list(|item| credential(&item, Credential::key)))
        .unwrap_or_default();
    let certificates = table
        .key(
            "certificates",
            "What a verified client certificate has that is this consumer's: `sha256:` (its fingerprint), `subject:` (RFC 4514), or an alternative name as `dns:`, `uri:`, `email:` or `ip:`.",
            r#"["uri:spiffe://acme.example/orders"]"#,
        )
        .get("none", |item| item.list(|item| credential(&item, Credential::certificate)));
    credentials.extend(certificates.unwrap_or_default());
    if let Some(passwords) = table.optional_whole_table("passwords") {
        let about =
            "The hash of the password of a user name, as `sluice hash password` prints it (Argon2id in PHC format).";
        for (user, item) in passwords.named(about, r#""$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$bm9uZQ""#) {
            credentials.extend(credential(&item, |hash| Credential::password(&user, hash)));
        }
    }
    let spec = ConsumerSpec { name: name.to_owned(), plan, labels, credentials };
    match spec.check() {
        Ok(()) => Some(spec),
        Err(error) => {
            table.fail(error.to_string());
            None
        }
    }
}

/// A credential, which is never shown: it may be one that was written in the wrong place.
fn credential(item: &Item<'_>, read: impl FnOnce(&str) -> Result<Credential, BadCredential>) -> Option<Credential> {
    let text = item.clone().secret()?;
    match read(text.expose()) {
        Ok(credential) => Some(credential),
        Err(error) => {
            item.fail(error.to_string());
            None
        }
    }
}
