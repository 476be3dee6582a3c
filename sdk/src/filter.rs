//! What a filter is: a type made from its config, with the hooks that it implements.

use crate::consumers::ConsumerTokenVerifier;
use serde::de::DeserializeOwned;

use crate::{
    ConfigError, Error, Hook,
    crypto::{KeySet, TokenRules, TokenVerifier},
    host,
};

/// A filter: a value made from the filter's table in `gateway.toml`, once for each instance, or once for all those that are
/// copies of the first (`instances = { mode = "fresh" }`).
///
/// An instance serves one exchange at a time, but not one after the other hook by hook: between the `on_request` and
/// the `on_response` of one exchange it may serve others. What belongs to an exchange goes into [`crate::state`] or
/// [`crate::context`], never into the filter.
pub trait Filter: Sized + 'static {
    /// The config: anything that serde reads, `()` for none. Use `#[serde(deny_unknown_fields)]`, so that a misspelt key is an
    /// error.
    type Config: DeserializeOwned;

    /// Takes the config, declares what the filter wants to be called for, or refuses. The errors of `setup` convert, so that
    /// `?` works.
    ///
    /// # Errors
    /// A refusal names the key; the whole configuration is then refused, with the line of that key.
    fn new(config: Self::Config, setup: &mut Setup) -> Result<Self, ConfigError>;

    /// What the component says about itself. Name, version and hooks are filled in from Cargo and `export!`.
    #[must_use]
    fn describe() -> Describe {
        Describe::default()
    }
}

/// What a component says about itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Describe {
    /// A JSON Schema of the config, as JSON text.
    pub schema: Option<&'static str>,
    /// What the plugin needs, as JSON text shaped like the `grants` table in `gateway.toml`; `describe` in `wit/hooks.wit` has an
    /// example of all there is.
    pub grants: Option<&'static str>,
    /// Markdown.
    pub docs: Option<&'static str>,
    /// The filter decides who may call: the gateway warns when it fails open.
    pub authenticates: bool,
}

/// What a filter can declare while it is made.
#[derive(Debug)]
pub struct Setup(pub(crate) ());

impl Setup {
    /// Turns a hook off (or on again): one that this config has no use for costs nothing then.
    ///
    /// # Errors
    /// `Invalid` for a hook that the filter does not export.
    pub fn hook(&mut self, hook: Hook, wanted: bool) -> Result<(), Error> {
        Ok(host::interest::hook(hook.name(), wanted)?)
    }

    /// Asks for request bodies of these media types (`application/json`, `text/*`, `*/*+json`; none: all) up to
    /// `max_bytes`, decoded. A larger one is answered with 413. A `max_bytes` over the operator's `limits.body` counts as that
    /// limit.
    ///
    /// # Errors
    /// `NotGranted` where the filter may not see bodies, `Invalid` for what is no media type or without the hook, `TooLarge` for
    /// more than 64 types.
    pub fn request_body(&mut self, max_bytes: u64, content_types: &[&str]) -> Result<(), Error> {
        Ok(host::interest::request_body(max_bytes, &owned(content_types))?)
    }

    /// The same for responses. A larger one is passed on unseen when the filter fails open, and answered with 500 when closed.
    ///
    /// # Errors
    /// As [`Self::request_body`].
    pub fn response_body(&mut self, max_bytes: u64, content_types: &[&str]) -> Result<(), Error> {
        Ok(host::interest::response_body(max_bytes, &owned(content_types))?)
    }

    /// Asks for request bodies of these media types (none: all) piece by piece, in [`crate::OnRequestChunk`]. Where a body matches several
    /// interests, the first of these counts: whole by `want_body`, events, chunks, whole by its type.
    ///
    /// # Errors
    /// As [`Self::request_body`].
    pub fn request_chunks(&mut self, content_types: &[&str]) -> Result<(), Error> {
        Ok(host::interest::request_chunks(&owned(content_types))?)
    }

    /// The same for responses, in [`crate::OnResponseChunk`].
    ///
    /// # Errors
    /// As [`Self::request_body`].
    pub fn response_chunks(&mut self, content_types: &[&str]) -> Result<(), Error> {
        Ok(host::interest::response_chunks(&owned(content_types))?)
    }

    /// Asks for responses of these media types event by event, in [`crate::OnResponseEvent`]: `text/event-stream` has server-sent events; in any
    /// other type, each line is an event. None: `text/event-stream` and the types of NDJSON.
    ///
    /// # Errors
    /// As [`Self::request_body`].
    pub fn response_events(&mut self, content_types: &[&str]) -> Result<(), Error> {
        Ok(host::interest::response_events(&owned(content_types))?)
    }

    /// Says what this config needs to have been granted, in place of what [`Describe::grants`] says for every config: a `grants` table
    /// as JSON. It grants nothing: the gateway warns of what is missing.
    ///
    /// # Errors
    /// `Invalid` for what is not a table, `TooLarge` past 64 KiB.
    pub fn needs(&mut self, grants: &serde_json::Value) -> Result<(), Error> {
        Ok(host::interest::needs(&grants.to_string())?)
    }

    /// Declares a set of keys for [`crate::crypto`]; `source` is JSON as described at `crypto.key-set` in the WIT.
    ///
    /// # Errors
    /// `Invalid` when the keys can't be read, `NotGranted` for a URL whose origin is not granted.
    pub fn key_set(&mut self, source: &serde_json::Value) -> Result<KeySet, Error> {
        Ok(KeySet(host::crypto::key_set(&source.to_string())?))
    }

    /// Declares which tokens are good, for [`TokenVerifier::verify`].
    ///
    /// # Errors
    /// `TooLarge` for more than 10,000 tokens to remember.
    pub fn token_verifier(&mut self, rules: &TokenRules<'_>) -> Result<TokenVerifier, Error> {
        Ok(TokenVerifier(host::crypto::token_verifier(&host::crypto::TokenRules {
            key_set: rules.keys.0,
            algorithms: owned(rules.algorithms),
            typ: rules.typ.map(str::to_owned),
            remember: rules.remember,
        })?))
    }

    /// Declares what tokens have to be that consumers sign with keys of their own, for
    /// [`ConsumerTokenVerifier::verify`](crate::consumers::ConsumerTokenVerifier::verify).
    ///
    /// # Errors
    /// `Invalid` for more than 16 algorithms.
    pub fn consumer_token_verifier(
        &mut self,
        algorithms: &[&str],
        typ: Option<&str>,
    ) -> Result<ConsumerTokenVerifier, Error> {
        let rules = host::consumers::ConsumerTokenRules { algorithms: owned(algorithms), typ: typ.map(str::to_owned) };
        Ok(ConsumerTokenVerifier(host::consumers::token_verifier(&rules)?))
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
