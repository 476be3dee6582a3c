//! Tokens of consumers: no panic on what nobody has signed, and only the keys of a token's issuer let it pass.
#![no_main]

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use sluice_services::consumers::{ConsumerSet, ConsumerSpec, ConsumerToken, ConsumerTokenVerifier, Credential};
use sluice_services::outbound::Offline;
use sluice_services::{Clock, KeySet, Services};

/// The consumers and their issuers. The second one's tokens are for an audience.
const CONSUMERS: [(&str, &str, &[&str]); 2] =
    [("a", "https://a.example", &[]), ("b", "https://b.example", &["orders"])];

struct Known {
    services: Arc<Services>,
    verifier: ConsumerTokenVerifier,
    /// Those of each consumer.
    keys: Vec<Arc<KeySet>>,
}

thread_local! {
    static KNOWN: Known = known();
}

fn known() -> Known {
    let services = Services::new(Clock::system(), Arc::new(Offline));
    let source = |name: &str| format!(r#"{{"secret": "{}"}}"#, name.repeat(32));
    let spec = |(name, issuer, audiences): (&str, &str, &[&str])| {
        let audiences = audiences.iter().map(|one| (*one).to_owned()).collect();
        let token = Credential::token(issuer.to_owned(), audiences, source(name)).expect("a source of keys");
        Cow::Owned(ConsumerSpec { name: name.to_owned(), credentials: vec![token], ..Default::default() })
    };
    services.consumers.publish(Arc::new(ConsumerSet::new(&CONSUMERS.map(spec)).expect("two issuers")));
    let keys = CONSUMERS.map(|(name, ..)| services.key_sets.resolve_trusted(&source(name)).expect("a key"));
    let verifier = ConsumerTokenVerifier::new(vec!["HS256".to_owned()], None);
    Known { services, verifier, keys: keys.into() }
}

fuzz_target!(|data: &[u8]| KNOWN.with(|known| check(known, data)));

/// The first byte says whose key signs; then a head and a payload, divided by a line feed. Other first bytes: a whole token.
fn check(known: &Known, data: &[u8]) {
    let Some((signer, rest)) = data.split_first() else { return };
    let signer = match signer {
        b'a' => 0,
        b'b' => 1,
        _ => {
            let found = known.verifier.verify(&known.services, rest);
            // HMAC-SHA-256 can't be found by chance.
            assert!(!matches!(found, Ok(ConsumerToken::Good { .. })), "{found:?}");
            return;
        }
    };
    let mut parts = rest.splitn(2, |byte| *byte == b'\n').map(|part| URL_SAFE_NO_PAD.encode(part));
    let (head, payload) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let message = format!("{head}.{payload}");
    let signature = known.keys[signer].sign("HS256", None, message.as_bytes()).expect("a key that signs");
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    let Ok(ConsumerToken::Good { consumer, payload }) = known.verifier.verify(&known.services, token.as_bytes()) else {
        return;
    };
    let (name, issuer, audiences) = CONSUMERS[signer];
    assert_eq!(consumer, name, "a token was taken for another consumer's");
    let claims: serde_json::Value = serde_json::from_str(&payload).expect("claims");
    assert_eq!(claims["iss"], issuer);
    let is_for = |wanted: &&str| match &claims["aud"] {
        serde_json::Value::String(one) => one == wanted,
        serde_json::Value::Array(many) => many.iter().any(|one| one == wanted),
        _ => false,
    };
    assert!(audiences.is_empty() || audiences.iter().any(is_for));
}
