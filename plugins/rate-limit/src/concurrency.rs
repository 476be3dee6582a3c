//! Limits of requests at the same time. The gateway holds the place of a request until its exchange has ended, and counts the places of all
//! gateways where the plugin's state is shared.

use serde::Deserialize;
use serde::de::IgnoredAny;
use sluice_filter::concurrency::PlaceLimit;
use sluice_filter::{ConfigError, Error, Request};

use super::key::Key;
use super::plan::{Amount, Plans};

/// That of the gateway.
const MAX_AMOUNT: u64 = 100_000;

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    key: Key,
    amount: u64,
    #[serde(default)]
    plans: Plans,
    /// As it was once.
    #[serde(default)]
    lease: Option<IgnoredAny>,
}

/// A limit ready to be asked.
pub(crate) struct Concurrency {
    pub(crate) name: String,
    pub(crate) key: Key,
    amount: u64,
    pub(crate) plans: Plans,
}

impl Rule {
    pub(crate) fn concurrency(self, index: usize) -> Result<Concurrency, ConfigError> {
        let refuse = |key: &str, why: &str| Err(ConfigError::new(format!("concurrency[{index}].{key}"), why));
        if !(1..=MAX_AMOUNT).contains(&self.amount) {
            return refuse("amount", "expected 1 to 100000");
        }
        if self.plans.amounts().any(|amount| !(1..=MAX_AMOUNT).contains(&amount)) {
            return refuse("plans", "expected amounts of 1 to 100000, or \"unlimited\"");
        }
        if self.lease.is_some() {
            return refuse("lease", "leave it out: a place is held as long as its exchange takes");
        }
        let name = self.name.unwrap_or_else(|| format!("concurrency{index}"));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return refuse("name", "expected letters, digits, `-`, `_` and `.`");
        }
        Ok(Concurrency { name, key: self.key, amount: self.amount, plans: self.plans })
    }
}

impl Concurrency {
    /// The limits that a request is under: one for each of its keys; none for a request that it is not about.
    pub(crate) fn places(&self, request: &Request, plan: Option<&str>) -> Result<Vec<PlaceLimit>, Error> {
        let most = match plan.and_then(|plan| self.plans.of(plan)) {
            Some(Amount::Unlimited) => return Ok(Vec::new()),
            Some(Amount::Limited(amount)) => amount,
            None => self.amount,
        };
        let amount = u32::try_from(most).unwrap_or(u32::MAX);
        Ok(self.key.of(request, &self.name)?.into_iter().map(|key| PlaceLimit { key, amount }).collect())
    }
}
