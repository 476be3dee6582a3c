//! What the host functions of `wit/services.wit` do, in plain Rust: limits, values, keys, metrics. No wasm here, and no sockets but those of
//! [`state`]: what else needs the network is asked of an [`Outbound`]. The services of a process are made once and outlive reloads.

pub mod addresses;
pub mod clock;
pub mod consumers;
pub mod crypto;
mod error;
pub mod events;
pub mod exposition;
pub mod filter_metrics;
pub mod grants;
pub mod keyset;
pub mod kv;
pub mod limiter;
pub mod log_limit;
pub mod outbound;
pub mod passwords;
pub mod piece;
pub mod places;
pub mod random;
mod rate;
pub mod state;
pub mod token;

use std::sync::Arc;

pub use addresses::Reach;
pub use clock::Clock;
pub use consumers::Consumers;
pub use error::ServiceError;
pub use exposition::Exposition;
pub use filter_metrics::FilterMetrics;
pub use grants::{Grants, Origin, Origins, Secrets};
pub use keyset::{KeySet, KeySets, Verification};
pub use kv::Kv;
pub use limiter::Limiter;
pub use outbound::Outbound;
pub use passwords::Passwords;
pub use random::Random;
pub use state::Stores;
pub use token::TokenVerifier;

/// The state that filters share over workers, snapshots and reloads.
pub struct Services {
    pub clock: Clock,
    pub random: Random,
    pub limiter: Limiter,
    pub kv: Kv,
    pub stores: Stores,
    pub consumers: Consumers,
    pub passwords: Passwords,
    pub key_sets: KeySets,
    /// Those of consumers. They are apart: what a caller can ask for must not decide whether the gateway is ready.
    pub consumer_keys: KeySets,
    pub metrics: FilterMetrics,
    pub outbound: Arc<dyn Outbound>,
}

impl Services {
    /// The services of this process.
    pub fn new(clock: Clock, outbound: Arc<dyn Outbound>) -> Arc<Self> {
        Services::with(clock, Random::System, outbound)
    }

    /// The same with another source of what filters draw.
    pub fn with(clock: Clock, random: Random, outbound: Arc<dyn Outbound>) -> Arc<Self> {
        Arc::new(Services {
            limiter: Limiter::new(clock.clone()),
            kv: Kv::new(clock.clone()),
            stores: Stores::new(clock.clone()),
            consumers: Consumers::default(),
            passwords: Passwords::default(),
            key_sets: KeySets::new(clock.clone(), outbound.clone()),
            consumer_keys: KeySets::new(clock.clone(), outbound.clone()),
            metrics: FilterMetrics::default(),
            clock,
            random,
            outbound,
        })
    }
}
