//! The operator's consumers: who may call, found by what they show. A [`ConsumerSet`] is immutable; the [`Consumers`] of the process publish
//! the one in use, so that a change needs neither a lock nor a new snapshot.

mod credential;
mod index;
pub mod lines;
mod set;
mod token;

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

pub use credential::{BadCredential, Credential, CredentialKind, TokenKeys, key_digest, key_hash, new_key};
pub(crate) use set::Account;
pub use set::{Consumer, ConsumerError, ConsumerSet, ConsumerSpec, SpecError};
pub use token::{ConsumerToken, ConsumerTokenVerifier};

/// The consumers of the process.
#[derive(Debug, Default)]
pub struct Consumers {
    current: ArcSwap<ConsumerSet>,
}

impl Consumers {
    /// Those in use now. Not to be held over a wait.
    pub fn current(&self) -> Guard<Arc<ConsumerSet>> {
        self.current.load()
    }

    /// From now on these are in use.
    pub fn publish(&self, set: Arc<ConsumerSet>) {
        set.adopt_keys(&self.current());
        self.current.store(set);
    }
}
