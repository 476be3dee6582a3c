//! All consumers at one time, with an index for each way to find them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::credential::{Credential, CredentialKind, MAX_CREDENTIAL, key_digest, user_digest};
use super::index::{Digest, Index};
use super::token::IssuerKeys;

/// The longest name, plan, and name or value of a label, in bytes.
pub(super) const MAX_TEXT: usize = 256;
/// The labels of a consumer.
pub(super) const MAX_LABELS: usize = 64;

/// A caller that the operator knows.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumer {
    pub name: Box<str>,
    pub plan: Option<Arc<str>>,
    /// In the order of their names.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
}

impl Consumer {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }
}

/// A consumer as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerSpec {
    pub name: String,
    pub plan: Option<String>,
    pub labels: Vec<(String, String)>,
    pub credentials: Vec<Credential>,
}

/// Why a consumer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("the name of a consumer has 1 to {MAX_TEXT} bytes and no control characters")]
    Name,
    #[error("a plan has 1 to {MAX_TEXT} bytes and no control characters")]
    Plan,
    #[error(
        "labels have names and values of 1 to {MAX_TEXT} bytes without control characters, at most {MAX_LABELS} of them"
    )]
    Labels,
    #[error("the label `{0}` is there twice")]
    LabelTwice(String),
}

impl ConsumerSpec {
    /// Whether its texts may be handed on: they become values of labels and lines of logs.
    pub fn check(&self) -> Result<(), SpecError> {
        let is_text = |text: &str| (1..=MAX_TEXT).contains(&text.len()) && !text.contains(char::is_control);
        if !is_text(&self.name) {
            return Err(SpecError::Name);
        }
        if self.plan.as_ref().is_some_and(|plan| !is_text(plan)) {
            return Err(SpecError::Plan);
        }
        if self.labels.len() > MAX_LABELS || !self.labels.iter().all(|(name, value)| is_text(name) && is_text(value)) {
            return Err(SpecError::Labels);
        }
        let mut names = HashSet::new();
        match self.labels.iter().find(|(name, _)| !names.insert(name)) {
            Some((name, _)) => Err(SpecError::LabelTwice(name.clone())),
            None => Ok(()),
        }
    }
}

/// Why consumers don't go together. The numbers are their places in the list that was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsumerError {
    #[error("the consumer `{name}` is there twice")]
    Name { name: String, first: usize, second: usize },
    #[error(
        "the consumers `{first_name}` and `{second_name}` have the same {what}: it would not say which of them calls"
    )]
    Credential { what: &'static str, first_name: String, second_name: String, first: usize, second: usize },
}

impl ConsumerError {
    /// The place of the consumer to blame.
    pub fn second(&self) -> usize {
        match self {
            ConsumerError::Name { second, .. } | ConsumerError::Credential { second, .. } => *second,
        }
    }
}

/// All consumers at one time.
#[derive(Default)]
pub struct ConsumerSet {
    /// In the order of their names.
    consumers: Vec<Arc<Consumer>>,
    keys: Index,
    certificates: Index,
    users: Index,
    /// What the numbers of `users` mean.
    passwords: Vec<Password>,
    issuers: Index,
    /// What the numbers of `issuers` mean.
    token_keys: Vec<IssuerKeys>,
}

struct Password {
    hash: Box<str>,
    consumer: u32,
}

/// Whose password a caller has to have. For a name that nobody has it is another's, always the same one for a name, so that its time tells as
/// little as that of a real one, also where hashes cost different times.
pub(crate) struct Account<'s> {
    pub(crate) consumer: &'s Arc<Consumer>,
    pub(crate) hash: &'s str,
    /// Whether somebody has the name.
    pub(crate) is_known: bool,
}

impl fmt::Debug for ConsumerSet {
    // It holds hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerSet").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl ConsumerSet {
    /// The set of these consumers, each of which was checked.
    pub fn new(specs: &[Cow<'_, ConsumerSpec>]) -> Result<ConsumerSet, ConsumerError> {
        let mut order: Vec<usize> = (0..specs.len()).collect();
        order.sort_by(|a, b| specs[*a].name.cmp(&specs[*b].name));
        if let Some([first, second]) = order.array_windows().find(|[a, b]| specs[*a].name == specs[*b].name) {
            let name = specs[*first].name.clone();
            return Err(ConsumerError::Name { name, first: *first, second: *second });
        }
        let mut texts = Texts::default();
        let (mut keys, mut certificates, mut users, mut passwords) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut issuers, mut token_keys) = (Vec::new(), Vec::new());
        let mut consumers = Vec::with_capacity(specs.len());
        for (number, spec) in (0_u32..).zip(order.iter().map(|at| &specs[*at])) {
            for credential in &spec.credentials {
                match credential {
                    Credential::Key(digest) => keys.push((*digest, number)),
                    Credential::Certificate(kind, text) => certificates.push((kind.digest(text), number)),
                    Credential::Password(user, hash) => {
                        users.push((user_digest(user), passwords.len() as u32));
                        passwords.push(Password { hash: hash.as_str().into(), consumer: number });
                    }
                    Credential::Token(keys) => {
                        issuers.push((key_digest(keys.issuer.as_bytes()), token_keys.len() as u32));
                        token_keys.push(IssuerKeys::new(keys, number));
                    }
                }
            }
            let mut labels: Vec<_> =
                spec.labels.iter().map(|(name, value)| (texts.share(name), texts.share(value))).collect();
            labels.sort();
            let plan = spec.plan.as_deref().map(|plan| texts.share(plan));
            consumers.push(Arc::new(Consumer { name: spec.name.as_str().into(), plan, labels: labels.into() }));
        }
        let same = |what: &'static str, consumers: (u32, u32)| {
            let places = [consumers.0, consumers.1].map(|number| order[number as usize]);
            let (first, second) = (places[0].min(places[1]), places[0].max(places[1]));
            let name = |at: usize| specs[at].name.clone();
            ConsumerError::Credential { what, first_name: name(first), second_name: name(second), first, second }
        };
        let of_user = |number: u32| passwords[number as usize].consumer;
        let of_issuer = |number: u32| token_keys[number as usize].consumer;
        Ok(ConsumerSet {
            keys: Index::new(keys).map_err(|pair| same("key", pair))?,
            certificates: Index::new(certificates).map_err(|pair| same("property of a certificate", pair))?,
            users: Index::new(users).map_err(|(a, b)| same("user name", (of_user(a), of_user(b))))?,
            issuers: Index::new(issuers).map_err(|(a, b)| same("issuer of tokens", (of_issuer(a), of_issuer(b))))?,
            consumers,
            passwords,
            token_keys,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.consumers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    /// The consumer that has this credential. None is found past 16 KiB.
    pub fn find(&self, kind: CredentialKind, shown: &str) -> Option<&Arc<Consumer>> {
        if shown.len() > MAX_CREDENTIAL {
            return None;
        }
        let digest: Digest = kind.digest(shown);
        let index = if kind == CredentialKind::Key { &self.keys } else { &self.certificates };
        let found = index.find(&digest)?;
        let consumer = self.consumers.get(found.number as usize)?;
        found.is_there.then_some(consumer)
    }

    /// The account of a user name. None where nobody has a password.
    pub(crate) fn account(&self, name: &str) -> Option<Account<'_>> {
        let found = self.users.find(&user_digest(name))?;
        let password = self.passwords.get(found.number as usize)?;
        let consumer = self.consumers.get(password.consumer as usize)?;
        Some(Account { consumer, hash: &password.hash, is_known: found.is_there })
    }

    /// The consumer whose tokens have this issuer, and its keys.
    pub(super) fn issuer(&self, issuer: &str) -> Option<(&Arc<Consumer>, &IssuerKeys)> {
        let keys = self.token_keys.get(self.issuers.find(&key_digest(issuer.as_bytes()))?.number()? as usize)?;
        Some((self.consumers.get(keys.consumer as usize)?, keys))
    }

    /// Takes over the keys of tokens that the consumers before these have read and fetched.
    pub(super) fn adopt_keys(&self, earlier: &ConsumerSet) {
        for (digest, number) in self.issuers.entries() {
            let known = earlier.issuers.find(digest).and_then(|found| found.number());
            let known = known.and_then(|number| earlier.token_keys.get(number as usize));
            if let (Some(keys), Some(known)) = (self.token_keys.get(*number as usize), known) {
                keys.adopt(known);
            }
        }
    }

    /// The consumer of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Consumer>> {
        let at = self.consumers.binary_search_by(|consumer| (*consumer.name).cmp(name)).ok()?;
        self.consumers.get(at)
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let consumer = |consumer: &Arc<Consumer>| {
            // The counts of the reference, and the pointer to it.
            size_of::<Consumer>() + 3 * size_of::<usize>() + consumer.name.len() + size_of_val(&*consumer.labels)
        };
        let passwords: usize = self.passwords.iter().map(|one| size_of_val(one) + one.hash.len()).sum();
        self.consumers.iter().map(consumer).sum::<usize>()
            + self.keys.bytes()
            + self.certificates.bytes()
            + self.users.bytes()
            + passwords
            + self.issuers.bytes()
            + self.token_keys.iter().map(IssuerKeys::bytes).sum::<usize>()
    }
}

/// Plans and labels are mostly the same few texts.
#[derive(Default)]
struct Texts(HashSet<Arc<str>>);

impl Texts {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::super::key_digest;
    use super::*;

    fn spec(name: &str, credentials: Vec<Credential>) -> ConsumerSpec {
        ConsumerSpec { name: name.into(), credentials, ..ConsumerSpec::default() }
    }

    fn key(key: &str) -> Credential {
        Credential::Key(key_digest(key.as_bytes()))
    }

    fn set(specs: &[ConsumerSpec]) -> Result<ConsumerSet, ConsumerError> {
        ConsumerSet::new(&specs.iter().map(Cow::Borrowed).collect::<Vec<_>>())
    }

    #[test]
    fn a_consumer_is_found_by_each_of_its_credentials() {
        let certificate = |text| Credential::certificate(text).unwrap();
        let set = set(&[
            spec("zeta", vec![key("k1"), key("k2"), certificate("dns:z.example")]),
            spec("alpha", vec![key("k3"), certificate("subject:CN=alpha")]),
        ])
        .unwrap();
        let name = |kind, shown| set.find(kind, shown).map(|consumer| &*consumer.name);
        assert_eq!(name(CredentialKind::Key, "k2"), Some("zeta"));
        assert_eq!(name(CredentialKind::Key, "k3"), Some("alpha"));
        assert_eq!(name(CredentialKind::Key, "k4"), None);
        assert_eq!(name(CredentialKind::Dns, "Z.example"), Some("zeta"));
        assert_eq!(name(CredentialKind::Uri, "z.example"), None);
        assert_eq!(name(CredentialKind::Key, "subject:CN=alpha"), None, "a key is no property of a certificate");
        assert_eq!(name(CredentialKind::Key, &"k".repeat(MAX_CREDENTIAL + 1)), None);
        assert_eq!(set.named("alpha").map(|consumer| &*consumer.name), Some("alpha"));
        assert!(set.named("alph").is_none() && set.len() == 2);
    }

    #[test]
    fn a_name_and_a_credential_belong_to_one() {
        let error = set(&[spec("a", vec![]), spec("b", vec![]), spec("a", vec![])]).unwrap_err();
        assert_eq!(error.to_string(), "the consumer `a` is there twice");
        assert_eq!(error.second(), 2);
        let error = set(&[spec("b", vec![key("k")]), spec("c", vec![]), spec("a", vec![key("k")])]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the consumers `b` and `a` have the same key: it would not say which of them calls"
        );
        assert_eq!(error.second(), 2);
        assert!(!error.to_string().contains("sha256"));
    }

    #[test]
    fn texts_that_would_break_logs_are_refused() {
        let with = |name: &str, plan: Option<&str>, labels: &[(&str, &str)]| ConsumerSpec {
            name: name.into(),
            plan: plan.map(Into::into),
            labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            credentials: vec![],
        };
        assert_eq!(with("a\nb", None, &[]).check(), Err(SpecError::Name));
        assert_eq!(with("", None, &[]).check(), Err(SpecError::Name));
        assert_eq!(with("a", Some("\u{7f}"), &[]).check(), Err(SpecError::Plan));
        assert_eq!(with("a", None, &[("x", "")]).check(), Err(SpecError::Labels));
        assert_eq!(with("a", None, &[("x", "1"), ("x", "2")]).check(), Err(SpecError::LabelTwice("x".into())));
        assert_eq!(with("ä", Some("gold"), &[("x", "1")]).check(), Ok(()));
    }
}
