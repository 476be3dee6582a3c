//! The operator's consumers in tests.

use std::borrow::Cow;
use std::sync::Arc;

use sluice_services::consumers as native;
use sluice_services::passwords;

use super::Harness;
use crate::Filter;

/// A consumer as the operator has written it, with its credentials in the clear.
#[derive(Debug, Clone, Default)]
pub struct Consumer(native::ConsumerSpec);

impl Consumer {
    /// A consumer without plan, labels and credentials.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(native::ConsumerSpec { name: name.to_owned(), ..native::ConsumerSpec::default() })
    }

    /// Sets the plan.
    #[must_use]
    pub fn plan(mut self, plan: &str) -> Self {
        self.0.plan = Some(plan.to_owned());
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.0.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an API key.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.0.credentials.push(native::Credential::Key(native::key_digest(key.as_bytes())));
        self
    }

    /// Adds what a certificate has to have, such as `dns:client.example`.
    ///
    /// # Panics
    /// Where that is no kind and text.
    #[must_use]
    pub fn certificate(mut self, text: &str) -> Self {
        self.0.credentials.push(native::Credential::certificate(text).expect("a kind and a text"));
        self
    }

    /// Adds an issuer of tokens, with the source of its keys as for [`crate::Setup::key_set`].
    ///
    /// # Panics
    /// Where that is no source of keys.
    #[must_use]
    pub fn tokens(mut self, issuer: &str, keys: &serde_json::Value) -> Self {
        let credential = native::Credential::token(issuer.to_owned(), Vec::new(), keys.to_string());
        self.0.credentials.push(credential.expect("a source of keys"));
        self
    }

    /// Adds a user name with its password.
    ///
    /// # Panics
    /// Where the name can be none.
    #[must_use]
    pub fn password(mut self, username: &str, password: &str) -> Self {
        let hash = passwords::hash(password.as_bytes());
        self.0.credentials.push(native::Credential::password(username, &hash).expect("a user name"));
        self
    }
}

/// What is known of the caller of an exchange that is a consumer of the operator's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownConsumer {
    /// The plan.
    pub plan: Option<String>,
    /// The labels, in the order of their names.
    pub labels: Vec<(String, String)>,
    /// How it was found.
    pub method: String,
}

impl<F: Filter> Harness<F> {
    /// Puts these consumers in the place of those that there were.
    ///
    /// # Panics
    /// Where they don't go together: two have the same name or credential.
    pub fn consumers(&self, consumers: &[Consumer]) {
        let specs: Vec<_> = consumers.iter().map(|consumer| Cow::Borrowed(&consumer.0)).collect();
        let set = native::ConsumerSet::new(&specs).expect("consumers that go together");
        self.with(|services| services.gateway.consumers.publish(Arc::new(set)));
    }
}
