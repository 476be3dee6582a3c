//! Tokens that consumers sign with keys of their own. The issuer that a token names says whose keys verify it; no other keys are tried, so
//! that no consumer can sign as another.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use super::credential::TokenKeys;
use crate::crypto::check_size;
use crate::token::{Accepted, HeadRules, Refusal};
use crate::{KeySet, KeySets, ServiceError, Services, Verification};

/// What tokens of consumers have to be.
pub struct ConsumerTokenVerifier {
    heads: HeadRules,
}

/// What came of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerToken {
    Good {
        consumer: String,
        payload: String,
    },
    Refused(Refusal),
    /// No consumer has the issuer that it names.
    UnknownIssuer,
    /// It is good, but not for one of the audiences that the consumer's tokens are for.
    WrongAudience,
}

/// What decides in the claims. Nothing of it is believed before the signature was checked, but for whose keys to try.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    #[serde(default)]
    aud: Audience,
}

/// RFC 7519 §4.1.3: a text, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Audience::Many(Vec::new())
    }
}

impl Audience {
    fn names(&self) -> &[String] {
        match self {
            Audience::One(name) => std::slice::from_ref(name),
            Audience::Many(names) => names,
        }
    }
}

impl ConsumerTokenVerifier {
    /// Accepts tokens of these algorithms (see [`KeySet::verify`]), of this type if one is given.
    pub fn new(algorithms: Vec<String>, typ: Option<String>) -> Self {
        ConsumerTokenVerifier { heads: HeadRules::new(algorithms, typ) }
    }

    /// Another one with these rules.
    pub fn anew(&self) -> Self {
        ConsumerTokenVerifier { heads: self.heads.clone() }
    }

    /// Verifies a token with the keys of the consumer that has its issuer. Errors: those of [`KeySet::verify`].
    pub fn verify(&self, services: &Services, token: &[u8]) -> Result<ConsumerToken, ServiceError> {
        check_size(token)?;
        let token = match self.heads.open(token) {
            Ok(token) => token,
            Err(refusal) => return Ok(ConsumerToken::Refused(refusal)),
        };
        let payload = match token.payload() {
            Ok(payload) => payload,
            Err(refusal) => return Ok(ConsumerToken::Refused(refusal)),
        };
        let Ok(claims) = serde_json::from_str::<Claims>(&payload) else { return Ok(ConsumerToken::UnknownIssuer) };
        let consumers = services.consumers.current();
        let Some((consumer, issuer)) = consumers.issuer(&claims.iss) else { return Ok(ConsumerToken::UnknownIssuer) };
        let Some(keys) = issuer.keys(&services.consumer_keys)? else {
            return Ok(ConsumerToken::Refused(Refusal::UnknownKey));
        };
        let Accepted { alg, kid } = &token.accepted;
        Ok(match keys.verify(alg, kid.as_deref(), token.signed, &token.signature)? {
            Verification::Invalid => ConsumerToken::Refused(Refusal::BadSignature),
            Verification::UnknownKey => ConsumerToken::Refused(Refusal::UnknownKey),
            Verification::Valid if !issuer.is_for(claims.aud.names()) => ConsumerToken::WrongAudience,
            Verification::Valid => ConsumerToken::Good { consumer: consumer.name.to_string(), payload },
        })
    }
}

/// The keys of one issuer. They are read when its first token comes: most consumers of a large file never send one.
#[derive(Debug)]
pub(super) struct IssuerKeys {
    source: Box<str>,
    audiences: Box<[String]>,
    pub(super) consumer: u32,
    /// None for a source whose keys can't be read.
    set: OnceLock<Option<Arc<KeySet>>>,
}

impl IssuerKeys {
    pub(super) fn new(keys: &TokenKeys, consumer: u32) -> Self {
        let TokenKeys { source, audiences, .. } = keys;
        let (source, audiences) = (source.as_str().into(), audiences.as_slice().into());
        IssuerKeys { source, audiences, consumer, set: OnceLock::new() }
    }

    /// Takes over what an earlier set of consumers has read and fetched.
    pub(super) fn adopt(&self, earlier: &IssuerKeys) {
        if self.source == earlier.source
            && let Some(set) = earlier.set.get()
        {
            // Fails where it was read meanwhile, which is as good.
            let _ = self.set.set(set.clone());
        }
    }

    fn keys(&self, sets: &KeySets) -> Result<Option<&Arc<KeySet>>, ServiceError> {
        if let Some(known) = self.set.get() {
            return Ok(known.as_ref());
        }
        let set = match sets.resolve_trusted(&self.source) {
            Ok(set) => Some(set),
            Err(ServiceError::Invalid(reason)) => {
                tracing::warn!(reason, "the keys of a consumer can't be read; its tokens are refused");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(self.set.get_or_init(|| set).as_ref())
    }

    /// Whether one of these is an audience of the consumer's tokens; all are where it names none.
    fn is_for(&self, audiences: &[String]) -> bool {
        self.audiences.is_empty() || audiences.iter().any(|audience| self.audiences.contains(audience))
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(self)
            + self.source.len()
            + self.audiences.iter().map(|one| size_of_val(one) + one.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::super::{ConsumerSet, ConsumerSpec, Credential};
    use super::*;
    use crate::Clock;
    use crate::outbound::Offline;

    /// Of 32 bytes: the letter says whose it is.
    fn secret(letter: &str) -> String {
        letter.repeat(32)
    }

    fn spec(name: &str, issuer: &str, audiences: &[&str], source: &str) -> ConsumerSpec {
        let audiences = audiences.iter().map(|one| (*one).to_owned()).collect();
        let credentials = vec![Credential::token(issuer.to_owned(), audiences, source.to_owned()).unwrap()];
        ConsumerSpec { name: name.into(), credentials, ..ConsumerSpec::default() }
    }

    fn of_secret(letter: &str) -> String {
        format!(r#"{{"secret": "{}"}}"#, secret(letter))
    }

    fn publish(services: &Services, specs: &[ConsumerSpec]) {
        let specs: Vec<_> = specs.iter().map(Cow::Borrowed).collect();
        services.consumers.publish(Arc::new(ConsumerSet::new(&specs).unwrap()));
    }

    fn services(specs: &[ConsumerSpec]) -> Arc<Services> {
        let services = Services::new(Clock::system(), Arc::new(Offline));
        publish(&services, specs);
        services
    }

    fn sign(letter: &str, claims: &str) -> String {
        let services = Services::new(Clock::system(), Arc::new(Offline));
        let message = [r#"{"alg":"HS256"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let keys = services.key_sets.resolve_trusted(&of_secret(letter)).unwrap();
        let signature = keys.sign("HS256", None, message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn verify(services: &Services, token: &str) -> ConsumerToken {
        ConsumerTokenVerifier::new(vec!["HS256".into()], None).verify(services, token.as_bytes()).unwrap()
    }

    #[test]
    fn no_consumer_can_sign_as_another() {
        let services = services(&[
            spec("a", "https://a.example", &[], &of_secret("a")),
            spec("b", "https://b.example", &[], &of_secret("b")),
        ]);
        let claims = |issuer: &str| format!(r#"{{"iss":"{issuer}"}}"#);
        let good = |consumer: &str, issuer: &str| ConsumerToken::Good {
            consumer: consumer.to_owned(),
            payload: claims(issuer),
        };
        let by = |letter: &str, issuer: &str| verify(&services, &sign(letter, &claims(issuer)));
        assert_eq!(by("a", "https://a.example"), good("a", "https://a.example"));
        assert_eq!(by("b", "https://b.example"), good("b", "https://b.example"));
        for (letter, issuer) in [("a", "https://b.example"), ("b", "https://a.example"), ("c", "https://a.example")] {
            assert_eq!(by(letter, issuer), ConsumerToken::Refused(Refusal::BadSignature), "{letter} as {issuer}");
        }
        // An issuer is compared byte by byte (RFC 7519 §4.1.1).
        for issuer in ["https://a.example/", "HTTPS://a.example", "a", ""] {
            assert_eq!(by("a", issuer), ConsumerToken::UnknownIssuer, "{issuer}");
        }
        // The issuer that chooses the keys is the one that whoever reads the claims finds.
        for claims in
            ["{}", "[]", r#"{"iss":7}"#, r#"{"iss":"https://a.example","iss":"https://b.example"}"#, "no JSON"]
        {
            assert_eq!(verify(&services, &sign("a", claims)), ConsumerToken::UnknownIssuer, "{claims}");
        }
        // The attack on memory: deep claims that nobody has signed.
        let deep = format!(r#"{{"iss":"https://a.example","x":{}}}"#, "[".repeat(100_000));
        assert_eq!(verify(&services, &sign("c", &deep)), ConsumerToken::UnknownIssuer);
        assert_eq!(verify(&services, "a.b"), ConsumerToken::Refused(Refusal::NotCompact));
    }

    #[test]
    fn tokens_are_for_an_audience() {
        let services = services(&[spec("a", "me", &["orders", "users"], &of_secret("a"))]);
        for (audience, is_good) in [
            (r#","aud":"orders""#, true),
            (r#","aud":["x","users"]"#, true),
            (r#","aud":"other""#, false),
            (r#","aud":[]"#, false),
            ("", false),
        ] {
            let token = sign("a", &format!(r#"{{"iss":"me"{audience}}}"#));
            let found = verify(&services, &token);
            assert_eq!(matches!(found, ConsumerToken::Good { .. }), is_good, "{audience}: {found:?}");
            assert!(is_good || found == ConsumerToken::WrongAudience, "{audience}: {found:?}");
        }
    }

    #[test]
    fn keys_are_read_once_and_outlive_a_change_of_other_consumers() {
        let keys = |services: &Services| {
            let consumers = services.consumers.current();
            let (_, issuer) = consumers.issuer("me").unwrap();
            issuer.set.get().cloned().flatten()
        };
        let services = services(&[spec("a", "me", &[], &of_secret("a"))]);
        assert!(keys(&services).is_none(), "nothing is read before a token comes");
        let token = sign("a", r#"{"iss":"me"}"#);
        assert!(matches!(verify(&services, &token), ConsumerToken::Good { .. }));
        let read = keys(&services).unwrap();
        publish(&services, &[spec("a", "me", &[], &of_secret("a")), spec("b", "you", &[], &of_secret("b"))]);
        assert!(Arc::ptr_eq(&keys(&services).unwrap(), &read));
        publish(&services, &[spec("a", "me", &[], &of_secret("b"))]);
        assert!(keys(&services).is_none(), "other keys are not those that were read");
        assert_eq!(verify(&services, &token), ConsumerToken::Refused(Refusal::BadSignature));
    }

    #[test]
    fn keys_that_cannot_be_read_admit_nobody() {
        let services = services(&[spec("a", "me", &[], r#"{"pem": "none"}"#)]);
        for _ in 0..2 {
            let found = verify(&services, &sign("a", r#"{"iss":"me"}"#));
            assert_eq!(found, ConsumerToken::Refused(Refusal::UnknownKey));
        }
    }

    #[test]
    fn an_issuer_belongs_to_one_consumer() {
        let specs = [spec("a", "me", &[], &of_secret("a")), spec("b", "me", &[], &of_secret("b"))];
        let error = ConsumerSet::new(&specs.iter().map(Cow::Borrowed).collect::<Vec<_>>()).unwrap_err().to_string();
        assert_eq!(
            error,
            "the consumers `a` and `b` have the same issuer of tokens: it would not say which of them calls"
        );
    }
}
