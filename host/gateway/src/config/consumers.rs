//! Reads `[consumers]`: the callers that the operator knows.

use super::filters::json_of;
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
    if let Some(tokens) = table.optional_whole_table("jwt") {
        credentials.extend(token_keys(&tokens));
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

/// The issuer and the keys of tokens that it signs itself.
fn token_keys(table: &Table<'_>) -> Option<Credential> {
    let issuer = table
        .key(
            "issuer",
            "The `iss` of tokens that it signs. No other consumer may have it.",
            r#""https://login.acme.example""#,
        )
        .get("none", Item::string);
    let audiences = table
        .key("audiences", "A token's `aud` names one of these.", r#"["https://api.example"]"#)
        .get("any", |item| item.list(Item::string))
        .unwrap_or_default();
    let keys = table.key(
        "keys",
        "Its keys: a table with `jwks_url`, `jwks`, `pem` or `secret`, and what `crypto.key-set` of the interface has beside them.",
        r#"{ jwks_url = "https://login.acme.example/keys" }"#,
    );
    let source = keys.get("none", |item| json_of(&item));
    let (Some(issuer), Some(source)) = (issuer, source) else {
        table.fail("expected an `issuer` and `keys`");
        return None;
    };
    match Credential::token(issuer, audiences, source) {
        Ok(credential) => Some(credential),
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
