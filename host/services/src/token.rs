//! Verifies tokens: JSON Web Signatures (RFC 7515) in compact form. Nothing of a token is believed before its signature was checked.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use lru::LruCache;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

use super::crypto::check_size;
use super::keyset::Version;
use super::{KeySet, ServiceError, Verification};

/// A JOSE header up to this length is remembered; a usual one has some fifty bytes.
const LONGEST_HEAD: usize = 512;
/// The most tokens that a verifier remembers …
pub const MAX_REMEMBERED: u32 = 10_000;
/// … the longest of them, in bytes …
const LONGEST_TOKEN: usize = 4 << 10;
/// … and the bytes of all of them and their payloads.
const MAX_BYTES: usize = 8 << 20;

/// Why a token is not good. What each means is said in the WIT package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotCompact,
    BadHeader,
    Critical,
    WrongType,
    WrongAlgorithm,
    UnknownKey,
    BadSignature,
    BadPayload,
}

/// Which tokens are good, and what was seen of them.
pub struct TokenVerifier {
    keys: Arc<KeySet>,
    heads: HeadRules,
    remembered: Option<RefCell<Remembered>>,
}

/// What the JOSE header of a token has to be.
#[derive(Clone)]
pub(crate) struct HeadRules {
    algorithms: Vec<String>,
    typ: Option<String>,
    /// The header that was accepted last: an issuer uses the same one again and again.
    head: RefCell<Option<(Box<[u8]>, Accepted)>>,
}

/// The parts of a token whose header is accepted. Its signature has not been looked at.
pub(crate) struct Opened<'t> {
    pub(crate) accepted: Accepted,
    /// Header and payload, as they are signed.
    pub(crate) signed: &'t [u8],
    payload: &'t [u8],
    pub(crate) signature: Vec<u8>,
}

impl Opened<'_> {
    /// The payload: `NotCompact` for what is not base64url, `BadPayload` for what is not UTF-8.
    pub(crate) fn payload(&self) -> Result<String, Refusal> {
        let payload = decode(self.payload).ok_or(Refusal::NotCompact)?;
        String::from_utf8(payload).map_err(|_| Refusal::BadPayload)
    }
}

/// Tokens that were good, and their payloads.
struct Remembered {
    /// The keys that made them good.
    by: Version,
    tokens: LruCache<Box<[u8]>, Arc<str>>,
    bytes: usize,
}

impl Remembered {
    fn keep(&mut self, token: &[u8], payload: &Arc<str>) {
        let size = |token: &[u8], payload: &str| token.len() + payload.len();
        self.bytes += size(token, payload);
        let mut out = self.tokens.push(token.into(), Arc::clone(payload));
        loop {
            if let Some((token, payload)) = out {
                self.bytes -= size(&token, &payload);
            }
            if self.bytes <= MAX_BYTES {
                return;
            }
            out = self.tokens.pop_lru();
        }
    }
}

/// What decides in a JOSE header. Other members are ignored (RFC 7515 §4); one given twice is an error.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    typ: Option<String>,
}

/// True for a member that is there, whatever its value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A JOSE header whose tokens are accepted, if their signature is good. It depends on nothing but the header and the rules.
#[derive(Clone)]
pub(crate) struct Accepted {
    pub(crate) alg: Arc<str>,
    pub(crate) kid: Option<Arc<str>>,
}

impl TokenVerifier {
    /// Accepts tokens of these algorithms (see [`KeySet::verify`]) that are signed with one of the keys, of this type if one is
    /// given, and remembers so many (at most [`MAX_REMEMBERED`]) until the keys change.
    pub fn new(keys: Arc<KeySet>, algorithms: Vec<String>, typ: Option<String>, remember: u32) -> Self {
        let remembered = NonZeroUsize::new(remember.min(MAX_REMEMBERED) as usize)
            .map(|many| RefCell::new(Remembered { by: keys.version(), tokens: LruCache::sparse(many), bytes: 0 }));
        TokenVerifier { keys, heads: HeadRules::new(algorithms, typ), remembered }
    }

    /// Another one with these rules, which has seen nothing.
    pub fn anew(&self) -> Self {
        let HeadRules { algorithms, typ, .. } = self.heads.clone();
        TokenVerifier::new(self.keys.clone(), algorithms, typ, self.remembers())
    }

    /// How many tokens it may remember.
    pub fn remembers(&self) -> u32 {
        self.remembered.as_ref().map_or(0, |remembered| remembered.borrow().tokens.cap().get() as u32)
    }

    /// The payload of a good token. Errors: those of [`KeySet::verify`].
    pub fn verify(&self, token: &[u8]) -> Result<Result<Arc<str>, Refusal>, ServiceError> {
        check_size(token)?;
        let Some(remembered) = self.remembered.as_ref().filter(|_| token.len() <= LONGEST_TOKEN) else {
            return self.verify_anew(token);
        };
        // Before the keys are used: what they change to meanwhile makes the token be verified again.
        let version = self.keys.version();
        {
            let mut remembered = remembered.borrow_mut();
            if !remembered.by.is(&version) {
                remembered.tokens.clear();
                remembered.bytes = 0;
                remembered.by = version;
            } else if let Some(payload) = remembered.tokens.get(token) {
                return Ok(Ok(Arc::clone(payload)));
            }
        }
        let verified = self.verify_anew(token)?;
        if let Ok(payload) = &verified {
            remembered.borrow_mut().keep(token, payload);
        }
        Ok(verified)
    }

    fn verify_anew(&self, token: &[u8]) -> Result<Result<Arc<str>, Refusal>, ServiceError> {
        let token = match self.heads.open(token) {
            Ok(token) => token,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Accepted { alg, kid } = &token.accepted;
        Ok(match self.keys.verify(alg, kid.as_deref(), token.signed, &token.signature)? {
            Verification::Valid => token.payload().map(Into::into),
            Verification::Invalid => Err(Refusal::BadSignature),
            Verification::UnknownKey => Err(Refusal::UnknownKey),
        })
    }
}

impl HeadRules {
    pub(crate) fn new(algorithms: Vec<String>, typ: Option<String>) -> Self {
        HeadRules { algorithms, typ, head: RefCell::default() }
    }

    /// Takes a token apart whose header is accepted.
    pub(crate) fn open<'t>(&self, token: &'t [u8]) -> Result<Opened<'t>, Refusal> {
        let mut dots = memchr::memchr_iter(b'.', token);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(Refusal::NotCompact);
        };
        let (head, payload, signature) = (&token[..first], &token[first + 1..second], &token[second + 1..]);
        if payload.is_empty() || signature.is_empty() {
            return Err(Refusal::NotCompact);
        }
        let signature = decode(signature).ok_or(Refusal::NotCompact)?;
        Ok(Opened { accepted: self.accepted(head)?, signed: &token[..second], payload, signature })
    }

    fn accepted(&self, head: &[u8]) -> Result<Accepted, Refusal> {
        if let Some((known, accepted)) = &*self.head.borrow()
            && **known == *head
        {
            return Ok(accepted.clone());
        }
        let text = decode(head).ok_or(Refusal::NotCompact)?;
        // An array would be read as the members in order.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(Refusal::BadHeader);
        }
        // RFC 7515 §5.2: the octets are UTF-8, also of members that are ignored here.
        let text = std::str::from_utf8(&text).map_err(|_| Refusal::BadHeader)?;
        let parsed: Head = serde_json::from_str(text).map_err(|_| Refusal::BadHeader)?;
        // RFC 7515 §4.1.11: an extension that is not understood makes the token invalid, and none is understood here.
        if parsed.crit {
            return Err(Refusal::Critical);
        }
        if let Some(wanted) = &self.typ
            && !parsed.typ.as_deref().is_some_and(|typ| bare(typ).eq_ignore_ascii_case(bare(wanted)))
        {
            return Err(Refusal::WrongType);
        }
        if !self.algorithms.contains(&parsed.alg) {
            return Err(Refusal::WrongAlgorithm);
        }
        let accepted = Accepted { alg: parsed.alg.into(), kid: parsed.kid.map(Into::into) };
        if head.len() <= LONGEST_HEAD {
            *self.head.borrow_mut() = Some((head.into(), accepted.clone()));
        }
        Ok(accepted)
    }
}

/// RFC 7515 §4.1.9: `application/` may be left out, and media types have no case.
fn bare(typ: &str) -> &str {
    const PREFIX: &str = "application/";
    match typ.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => rest,
        _ => typ,
    }
}

/// Strict base64url: no padding, no other characters, no stray bits at the end.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::Offline;
    use crate::{Clock, Services, grants::Origins};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const HEAD: &str = r#"{"alg":"HS256","typ":"at+jwt"}"#;

    fn keys() -> Arc<KeySet> {
        let source = format!(r#"{{"secret": "{SECRET}", "kid": "k1"}}"#);
        Services::new(Clock::system(), Arc::new(Offline)).key_sets.resolve(&source, &Origins::default()).unwrap()
    }

    fn verifier(typ: Option<&str>, remember: u32) -> TokenVerifier {
        TokenVerifier::new(keys(), vec!["HS256".into()], typ.map(str::to_owned), remember)
    }

    fn sign(head: impl AsRef<[u8]>, payload: &[u8]) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(payload));
        let signature = keys().sign("HS256", None, message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn what_is_refused_and_why() {
        let good = sign(HEAD, b"{}");
        let (message, signature) = good.rsplit_once('.').unwrap();
        let (head, payload) = message.split_once('.').unwrap();
        let cases = [
            ("", Refusal::NotCompact),
            ("..", Refusal::NotCompact),
            (message, Refusal::NotCompact),
            (&format!("{good}."), Refusal::NotCompact),
            (&format!("{head}..{signature}"), Refusal::NotCompact),
            (&format!("{message}."), Refusal::NotCompact),
            // Padding, the other alphabet, white space.
            (&format!("{good}="), Refusal::NotCompact),
            (&format!("{message}.+{}", &signature[1..]), Refusal::NotCompact),
            (&format!("{good} "), Refusal::NotCompact),
            // 32 bytes leave two stray bits in the last of 43 characters.
            (&format!("{message}.{}B", &signature[..42]), Refusal::NotCompact),
            (&format!("{head}=.{payload}.{signature}"), Refusal::NotCompact),
            (&format!("{message}.{}", &signature[..40]), Refusal::BadSignature),
            (&sign(HEAD, b"x").replace(&URL_SAFE_NO_PAD.encode("x"), payload), Refusal::BadSignature),
            (&sign(r#"{"alg":"none"}"#, b"{}"), Refusal::WrongAlgorithm),
            (&sign(r#"{"alg":"hs256"}"#, b"{}"), Refusal::WrongAlgorithm),
            (&sign(r#"{"alg":"RS256"}"#, b"{}"), Refusal::WrongAlgorithm),
            (&sign(r#"{"alg":"HS256","kid":"k2"}"#, b"{}"), Refusal::UnknownKey),
            (&sign(r#"{"alg":"HS256","crit":[]}"#, b"{}"), Refusal::Critical),
            (&sign(r#"{"alg":"HS256","crit":null}"#, b"{}"), Refusal::Critical),
            (&sign(r#"{"alg":"HS256","alg":"HS256"}"#, b"{}"), Refusal::BadHeader),
            (&sign(r#"{"alg":1}"#, b"{}"), Refusal::BadHeader),
            (&sign("{}", b"{}"), Refusal::BadHeader),
            (&sign(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}", b"{}"), Refusal::BadHeader),
            (&sign("[]", b"{}"), Refusal::BadHeader),
            (&sign(r#"["HS256",null,true,null]"#, b"{}"), Refusal::BadHeader),
            (&sign(HEAD, b"\xff"), Refusal::BadPayload),
        ];
        let verifier = verifier(None, 10);
        for (token, refusal) in cases {
            // The second time it might be remembered.
            for _ in 0..2 {
                assert_eq!(verifier.verify(token.as_bytes()).unwrap(), Err(refusal), "{token}");
            }
        }
        assert_eq!(verifier.verify(good.as_bytes()).unwrap().as_deref(), Ok("{}"));
        assert!(matches!(verifier.verify(&vec![b'.'; (1 << 20) + 1]), Err(ServiceError::TooLarge(_))));
    }

    #[test]
    fn the_type_is_compared_as_a_media_type() {
        let verifier = verifier(Some("application/AT+jwt"), 0);
        let typed = |typ: &str| sign(format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#), b"{}");
        for (typ, good) in [("at+jwt", true), ("Application/at+JWT", true), ("jwt", false), ("", false)] {
            let expected = if good { Ok("{}") } else { Err(&Refusal::WrongType) };
            assert_eq!(verifier.verify(typed(typ).as_bytes()).unwrap().as_deref(), expected, "{typ}");
        }
        let untyped = sign(r#"{"alg":"HS256"}"#, b"{}");
        assert_eq!(verifier.verify(untyped.as_bytes()).unwrap(), Err(Refusal::WrongType));
    }

    #[test]
    fn so_many_tokens_are_remembered_until_the_keys_change() {
        let verifier = verifier(None, 2);
        let tokens: Vec<String> = ["1", "2", "3"].map(|text| sign(HEAD, text.as_bytes())).into();
        let known = || verifier.remembered.as_ref().unwrap().borrow().tokens.len();
        for token in &tokens {
            assert!(verifier.verify(token.as_bytes()).unwrap().is_ok());
        }
        assert_eq!(known(), 2);
        // A good one that differs in one bit is another one.
        let mut forged = tokens[2].clone().into_bytes();
        let last = forged.len() - 5;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        assert_eq!(verifier.verify(&forged).unwrap(), Err(Refusal::BadSignature));
        assert_eq!(known(), 2);
        verifier.remembered.as_ref().unwrap().borrow_mut().by = keys().version();
        assert!(verifier.verify(tokens[0].as_bytes()).unwrap().is_ok());
        assert_eq!(known(), 1, "the others were made good by other keys");
        let bytes = || verifier.remembered.as_ref().unwrap().borrow().bytes;
        assert_eq!(bytes(), tokens[0].len() + 1);
        verifier.remembered.as_ref().unwrap().borrow_mut().bytes = MAX_BYTES;
        assert!(verifier.verify(tokens[1].as_bytes()).unwrap().is_ok());
        assert_eq!(known(), 1, "the older one has made room");
        let long = sign(HEAD, &[b'1'; LONGEST_TOKEN]);
        assert!(verifier.verify(long.as_bytes()).unwrap().is_ok());
        assert_eq!(known(), 1, "too long to be kept");
    }
}
