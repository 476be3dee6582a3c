//! Slows down who guesses credentials.

use serde::Deserialize;

use crate::limiter::{self, Algorithm, Limit, Standing};
use crate::{ConfigError, Duration, Error, Problem, Request, Verdict, log, network, shortened};

/// How many attempts to authenticate may fail, for filters that check credentials: from one address, and for one account.
///
/// Ask [`Throttle::refused`] before a credential is looked at, and call [`Throttle::attempt`] before one is checked that may turn out wrong. Who is
/// over the limit is then refused whether the credential is right or wrong, and whether the account exists, so that the answers tell
/// nothing. The limits are token buckets: after `window` all attempts are there again, and before that a part of them.
///
/// ```
/// let throttle: sluice_filter::Throttle = sluice_filter::serde_json::from_str(r#"{ "failures": 5 }"#).expect("a config");
/// assert_eq!((throttle.failures, throttle.account_failures), (5, 100));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// Attempts from one address (IPv6: one /64) in `window`; 0 for no limit.
    pub failures: u64,
    /// Attempts for one account in `window`, from anywhere; 0 for no limit.
    pub account_failures: u64,
    /// The time after which all of them are allowed again.
    pub window: Duration,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { failures: 20, account_failures: 100, window: Duration::from_secs(60) }
    }
}

/// How much of an account's name is in a key; a longer one counts by its hash.
const LONGEST_ACCOUNT: usize = 256;

impl Throttle {
    /// Refuses what the limiter can't count, with the key below `key`.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        let window = self.window.as_millis();
        if !(1..=366 * 86_400_000).contains(&window) {
            return Err(ConfigError::new(format!("{key}.window"), "expected 1ms to 366d"));
        }
        for (name, failures) in [("failures", self.failures), ("account_failures", self.account_failures)] {
            if failures > 1_000_000 {
                return Err(ConfigError::new(format!("{key}.{name}"), "expected 0 to 1000000"));
            }
        }
        Ok(())
    }

    /// The seconds after which the caller may try again, where it may not now. Counts nothing.
    ///
    /// # Errors
    /// `Unavailable` where too many callers are counted.
    pub fn refused(&self, request: &Request, account: Option<&str>) -> Result<Option<u64>, Error> {
        self.ask(request, account, 0)
    }

    /// The same, and counts an attempt where it is allowed.
    ///
    /// # Errors
    /// As [`Throttle::refused`].
    pub fn attempt(&self, request: &Request, account: Option<&str>) -> Result<Option<u64>, Error> {
        self.ask(request, account, 1)
    }

    /// Answers a caller who may try again after so many seconds.
    ///
    /// # Errors
    /// `WrongHook` outside the request hooks.
    pub fn refuse(seconds: u64) -> Result<Verdict, Error> {
        let problem = Problem::new(429, "Too Many Requests").detail("too many failed attempts, try again later");
        problem.draft().reason("throttled").header("retry-after", &seconds.to_string()).send()
    }

    /// Answers where nobody can say whether the caller is over the limit: the state of the limits is away, or has no room. That is no fault of the
    /// caller, and none of the filter.
    ///
    /// # Errors
    /// `WrongHook` outside the request hooks.
    pub fn undecided(why: &Error) -> Result<Verdict, Error> {
        log::warn(&format!("failed attempts can't be counted: {why}"));
        let problem = Problem::new(503, "Service Unavailable").detail("credentials can't be checked now");
        let draft = problem.draft().reason("throttle-unavailable").header("retry-after", "1");
        draft.header("cache-control", "no-store").send()
    }

    fn ask(&self, request: &Request, account: Option<&str>, cost: u64) -> Result<Option<u64>, Error> {
        let limit = |key: String, amount: u64| Limit {
            key,
            algorithm: Algorithm::TokenBucket,
            amount,
            window_ms: self.window.as_millis(),
            burst: 0,
        };
        let mut limits = Vec::with_capacity(2);
        if self.failures > 0 {
            limits.push(limit(format!("failed address {}", network(request.client_address()?)), self.failures));
        }
        if let Some(account) = account.filter(|_| self.account_failures > 0) {
            let account = shortened(account.to_owned(), LONGEST_ACCOUNT)?;
            limits.push(limit(format!("failed account {account}"), self.account_failures));
        }
        if limits.is_empty() {
            return Ok(None);
        }
        let standings = limiter::take(&limits, cost)?;
        // A look with cost 0 is always allowed: what is left says whether an attempt would be.
        let refused = |standing: &Standing| if cost == 0 { standing.remaining == 0 } else { !standing.allowed };
        if !standings.iter().any(refused) {
            return Ok(None);
        }
        let until_one = |limit: &Limit| limit.window_ms.div_ceil(limit.amount);
        let wait_ms = limits
            .iter()
            .zip(&standings)
            .filter(|(_, standing)| refused(standing))
            .map(|(limit, standing)| if cost == 0 { until_one(limit) } else { standing.retry_after_ms })
            .max();
        Ok(Some(wait_ms.unwrap_or(0).div_ceil(1000).max(1)))
    }
}
