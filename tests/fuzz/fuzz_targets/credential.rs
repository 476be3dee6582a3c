//! Credentials as the configuration has them: no panic, no secret in an error, and what is accepted is found by who shows it.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use sluice_services::consumers::{BadCredential, ConsumerSet, ConsumerSpec, Credential, CredentialKind};

fn has(set: &ConsumerSet, kind: CredentialKind, shown: &str) -> bool {
    set.find(kind, shown).is_some_and(|consumer| &*consumer.name == "it")
}

/// No part of a refused text may be in what is said of it: it may be a secret in the wrong place.
fn assert_unquoted(found: &Result<Credential, BadCredential>, text: &str) {
    if let Err(error) = found
        && !matches!(error, BadCredential::TokenKeys(_))
    {
        let said = error.to_string();
        // What is short may be in any text.
        assert!(text.len() < 24 || !said.contains(text), "{said}");
        assert!(!format!("{error:?}").contains(text) || text.len() < 24);
    }
}

// Lines: the way, and a text for each argument.
fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let (way, one, other) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default(), lines.next());
    let other = other.unwrap_or_default();
    let found = match way {
        "key" => Credential::key(one),
        "certificate" => Credential::certificate(one),
        "password" => Credential::password(one, other),
        _ => Credential::token(one.to_owned(), Vec::new(), other.to_owned()),
    };
    assert_unquoted(&found, if way == "password" { other } else { one });
    let Ok(credential) = found else { return };
    let spec = ConsumerSpec { name: "it".to_owned(), credentials: vec![credential.clone()], ..Default::default() };
    let set = ConsumerSet::new(&[Cow::Borrowed(&spec)]).expect("one credential belongs to one");
    match credential {
        Credential::Key(_) => {
            let digits = one.strip_prefix("sha256:").expect("its kind");
            assert!(digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            // The hash is not the key.
            assert!(!has(&set, CredentialKind::Key, one) && !has(&set, CredentialKind::Key, digits));
        }
        Credential::Certificate(kind, text) => {
            assert_eq!(one, format!("{}:{text}", kind.name()));
            assert!(has(&set, kind, &text));
            assert!(!has(&set, CredentialKind::Key, &text) && !has(&set, CredentialKind::Key, one));
        }
        Credential::Password(user, hash) => {
            assert!((1..=256).contains(&user.len()) && !user.contains([':', '\n', '\0']));
            assert!(hash.starts_with("$argon2id$v=19$"));
        }
        Credential::Token(keys) => assert!(!keys.issuer.is_empty() && keys.issuer.len() <= 2048),
    }
});
