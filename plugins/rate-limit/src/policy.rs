//! A limit of requests in a window of time, and what clients are told of it.

use std::fmt::Write;

use serde::Deserialize;
use sluice_filter::{
    ConfigError, Duration,
    limiter::{Algorithm, Limit},
};

use super::key::Key;
use super::plan::{Amount, Plans};

/// A leap year.
pub(crate) const MAX_WINDOW_MS: u64 = 366 * 86_400_000;
/// The most that a limit may allow in its window.
const MAX_AMOUNT: u64 = 1_000_000_000_000;

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    key: Key,
    #[serde(default)]
    algorithm: Kind,
    amount: u64,
    #[serde(default)]
    plans: Plans,
    #[serde(default = "default_window")]
    window: Duration,
    #[serde(default)]
    burst: u64,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    TokenBucket,
    LeakyBucket,
    FixedWindow,
    SlidingWindow,
}

/// A limit ready to be asked for.
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) key: Key,
    algorithm: Algorithm,
    amount: u64,
    pub(crate) plans: Plans,
    window_ms: u64,
    burst: u64,
}

impl Policy {
    /// The limit as the gateway is asked for it.
    pub(crate) fn limit(&self, key: String, amount: u64) -> Limit {
        let Policy { algorithm, window_ms, burst, .. } = *self;
        Limit { key, algorithm, amount, window_ms, burst }
    }

    /// What a caller of this plan may take in a window; none without a bound.
    pub(crate) fn amount(&self, plan: Option<&str>) -> Option<u64> {
        match plan.and_then(|plan| self.plans.of(plan)) {
            Some(Amount::Unlimited) => None,
            Some(Amount::Limited(amount)) => Some(amount),
            None => Some(self.amount),
        }
    }

    /// What is shown as the quota: what may be taken at once.
    pub(crate) fn quota(&self, amount: u64) -> u64 {
        match self.algorithm {
            Algorithm::TokenBucket if self.burst > 0 => self.burst,
            // What the even rate allows, and the burst on top.
            Algorithm::LeakyBucket => self.burst.saturating_add(1),
            Algorithm::TokenBucket | Algorithm::FixedWindow | Algorithm::SlidingWindow => amount,
        }
    }
}

impl Rule {
    pub(crate) fn policy(self, index: usize) -> Result<Policy, ConfigError> {
        let refuse = |key: &str, why: &str| Err(ConfigError::new(format!("limits[{index}].{key}"), why));
        let window_ms = self.window.as_millis();
        if self.amount == 0 || self.amount > MAX_AMOUNT {
            return refuse("amount", "expected 1 to 1000000000000");
        }
        if window_ms == 0 || window_ms > MAX_WINDOW_MS {
            return refuse("window", "expected 1ms to 366d");
        }
        let name = self.name.unwrap_or_else(|| if index == 0 { "default".to_owned() } else { format!("limit{index}") });
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return refuse("name", "expected letters, digits, `-`, `_` and `.`");
        }
        let algorithm = match self.algorithm {
            Kind::TokenBucket => Algorithm::TokenBucket,
            Kind::LeakyBucket => Algorithm::LeakyBucket,
            Kind::FixedWindow => Algorithm::FixedWindow,
            Kind::SlidingWindow => Algorithm::SlidingWindow,
        };
        if self.burst > 0 && matches!(self.algorithm, Kind::FixedWindow | Kind::SlidingWindow) {
            return refuse("burst", "has a meaning only for buckets");
        }
        if self.plans.amounts().any(|amount| amount == 0 || amount > MAX_AMOUNT) {
            return refuse("plans", "expected amounts of 1 to 1000000000000, or \"unlimited\"");
        }
        let Rule { key, amount, plans, burst, .. } = self;
        Ok(Policy { name, key, algorithm, amount, plans, window_ms, burst })
    }
}

/// The `RateLimit-Policy` of the limits that hold for callers of this plan.
pub(crate) fn policy_of(limits: &[Policy], plan: Option<&str>) -> String {
    let mut policy = String::new();
    for (limit, amount) in limits.iter().filter_map(|limit| Some((limit, limit.amount(plan)?))) {
        let separator = if policy.is_empty() { "" } else { ", " };
        let (window, quota) = (limit.window_ms.div_ceil(1000), limit.quota(amount));
        let _ = write!(policy, "{separator}\"{}\";q={quota};w={window}", limit.name);
    }
    policy
}

fn default_window() -> Duration {
    Duration::from_secs(1)
}
