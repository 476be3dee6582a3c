//! What the host functions of `wit/services.wit` do, in plain Rust: limits, values, keys, calls to other services, metrics.
//! No wasm here. The services of a process are made once and outlive reloads.

pub mod clock;
pub mod crypto;
mod error;
pub mod filter_metrics;
pub mod grants;
pub mod keyset;
pub mod kv;
pub mod limiter;
pub mod log_limit;
pub mod outbound;
pub mod random;
mod rate;
pub mod token;

use std::sync::Arc;

pub use clock::Clock;
pub use error::ServiceError;
pub use filter_metrics::FilterMetrics;
pub use grants::{Grants, Origin, Origins, Secrets};
pub use keyset::{KeySet, KeySets, Verification};
pub use kv::Kv;
pub use limiter::Limiter;
pub use token::TokenVerifier;

/// The state that filters share over workers, snapshots and reloads.
pub struct Services {
    pub clock: Clock,
    pub limiter: Limiter,
    pub kv: Kv,
    pub key_sets: KeySets,
    pub metrics: FilterMetrics,
    /// How outbound calls verify their servers.
    pub tls: outbound::Tls,
}

impl Services {
    /// The services of this process. Outbound https is verified with the system's roots, or with Mozilla's where the system
    /// has none.
    pub fn new(clock: Clock) -> Arc<Self> {
        let tls = outbound::Tls::system();
        Arc::new(Services {
            limiter: Limiter::new(clock.clone()),
            kv: Kv::new(clock.clone()),
            key_sets: KeySets::new(clock.clone(), tls.clone()),
            metrics: FilterMetrics::default(),
            clock,
            tls,
        })
    }
}
