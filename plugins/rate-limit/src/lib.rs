//! Limits how often a caller may call: several limits at once, all or nothing. See README.md.

mod key;

use std::fmt::Write;

use serde_json::json;
use sluice_filter::{
    Attribute, Duration,
    limiter::{self, Algorithm, Limit, Standing},
    prelude::*,
};

use key::Key;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    limits: Vec<Rule>,
    #[serde(default = "default_headers")]
    headers: Vec<HeaderStyle>,
    #[serde(default = "default_status")]
    status: u16,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum HeaderStyle {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    Ratelimit,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    XRatelimit,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    key: Key,
    #[serde(default)]
    algorithm: Kind,
    amount: u64,
    #[serde(default = "default_window")]
    window: Duration,
    #[serde(default)]
    burst: u64,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    TokenBucket,
    LeakyBucket,
    FixedWindow,
    SlidingWindow,
}

struct RateLimit {
    limits: Vec<Policy>,
    status: u16,
    message: String,
    ratelimit: bool,
    x_ratelimit: bool,
    /// The `RateLimit-Policy` of all limits.
    policy: String,
}

/// A limit ready to be asked for.
struct Policy {
    name: String,
    key: Key,
    algorithm: Algorithm,
    amount: u64,
    window_ms: u64,
    burst: u64,
    /// What is shown as the quota: what may be taken at once.
    quota: u64,
}

impl Filter for RateLimit {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        if config.limits.is_empty() || config.limits.len() > 16 {
            return Err(ConfigError::new("limits", "expected 1 to 16 limits"));
        }
        if !(400..=599).contains(&config.status) {
            return Err(ConfigError::new("status", "expected 400 to 599"));
        }
        let limits: Vec<Policy> =
            config.limits.into_iter().enumerate().map(|(i, rule)| rule.policy(i)).collect::<Result<_, _>>()?;
        for (i, limit) in limits.iter().enumerate() {
            if limits[..i].iter().any(|other| other.name == limit.name) {
                return Err(ConfigError::new(format!("limits[{i}].name"), format!("`{}` is there twice", limit.name)));
            }
        }
        let attributes = || limits.iter().flat_map(|limit| limit.key.attributes());
        let headers: Vec<&str> = attributes().filter_map(Attribute::header).collect();
        let mut needs = json!({ "read_headers": headers });
        if attributes().any(Attribute::needs_authentication) {
            needs["authentication"] = true.into();
        }
        setup.needs(&needs)?;
        let ratelimit = config.headers.contains(&HeaderStyle::Ratelimit);
        let x_ratelimit = config.headers.contains(&HeaderStyle::XRatelimit);
        if !ratelimit && !x_ratelimit {
            setup.hook(sluice_filter::Hook::OnResponse, false)?;
        }
        let mut policy = String::new();
        for limit in &limits {
            let separator = if policy.is_empty() { "" } else { ", " };
            let window = limit.window_ms.div_ceil(1000);
            let _ = write!(policy, "{separator}\"{}\";q={};w={window}", limit.name, limit.quota);
        }
        let message = config.message.unwrap_or_else(|| "too many requests, try again later".to_owned());
        Ok(Self { limits, status: config.status, message, ratelimit, x_ratelimit, policy })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            ..Describe::default()
        }
    }
}

impl Rule {
    fn policy(self, index: usize) -> Result<Policy, ConfigError> {
        let refuse = |key: &str, why: &str| Err(ConfigError::new(format!("limits[{index}].{key}"), why));
        let window_ms = self.window.as_millis();
        if self.amount == 0 || self.amount > 1_000_000_000_000 {
            return refuse("amount", "expected 1 to 1000000000000");
        }
        if window_ms == 0 || window_ms > 366 * 86_400_000 {
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
        let quota = match self.algorithm {
            Kind::TokenBucket if self.burst > 0 => self.burst,
            // What the even rate allows, and the burst on top.
            Kind::LeakyBucket => self.burst.saturating_add(1),
            Kind::TokenBucket | Kind::FixedWindow | Kind::SlidingWindow => self.amount,
        };
        Ok(Policy { name, key: self.key, algorithm, amount: self.amount, window_ms, burst: self.burst, quota })
    }
}

impl OnRequest for RateLimit {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let mut asked = Vec::with_capacity(self.limits.len());
        let mut indexes = Vec::with_capacity(self.limits.len());
        for (index, limit) in self.limits.iter().enumerate() {
            // A limit whose key the request does not have does not count it.
            if let Some(key) = limit.key.of(request, &limit.name)? {
                asked.push(Limit {
                    key,
                    algorithm: limit.algorithm,
                    amount: limit.amount,
                    window_ms: limit.window_ms,
                    burst: limit.burst,
                });
                indexes.push(index);
            }
        }
        if asked.is_empty() {
            return Ok(Verdict::Continue);
        }
        let standings = limiter::take(&asked, 1)?;
        let Some((index, standing)) = self.tightest(&indexes, &standings) else { return Ok(Verdict::Continue) };
        if standings.iter().all(|one| one.allowed) {
            if self.ratelimit || self.x_ratelimit {
                let mut kept = Vec::with_capacity(24);
                for number in [index as u64, standing.remaining, standing.reset_ms] {
                    kept.extend_from_slice(&number.to_le_bytes());
                }
                state::set_bytes(&kept)?;
            }
            return Ok(Verdict::Continue);
        }
        let reason: String = format!("over-limit:{}", self.limits[index].name).chars().take(64).collect();
        let mut draft =
            Problem::new(self.status, title(self.status)).detail(self.message.as_str()).draft().reason(&reason);
        if let Some(seconds) = retry_after(&standings) {
            draft = draft.header("retry-after", &seconds.to_string());
        }
        let retry_ms = if standing.retry_after_ms == NEVER { 0 } else { standing.retry_after_ms };
        for (name, value) in self.fields(index, 0, standing.reset_ms.max(retry_ms)) {
            draft = draft.header(name, &value);
        }
        draft.send()
    }
}

impl OnResponse for RateLimit {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        let Some(kept) = state::get_bytes()? else { return Ok(Verdict::Continue) };
        let number =
            |i: usize| kept.get(i * 8..i * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let index = usize::try_from(number(0)).unwrap_or(usize::MAX);
        for (name, value) in self.fields(index, number(1), number(2)) {
            match response.set_header(name, &value) {
                // The upstream has sent as many fields as a response can have: its response is worth more than ours.
                Err(Error::TooLarge(_)) => break,
                set => set?,
            }
        }
        Ok(Verdict::Continue)
    }
}

impl RateLimit {
    /// The limit that refuses longest, or else the one of which the smallest part is left: what the fields tell the client.
    fn tightest(&self, indexes: &[usize], standings: &[Standing]) -> Option<(usize, Standing)> {
        let rank = |index: usize, standing: &Standing| {
            let left = standing.remaining.saturating_mul(1_000_000) / self.limits[index].quota.max(1);
            (standing.allowed, std::cmp::Reverse(standing.retry_after_ms), left)
        };
        indexes.iter().copied().zip(standings.iter().copied()).min_by_key(|(index, standing)| rank(*index, standing))
    }

    /// The fields of the chosen styles.
    fn fields(&self, index: usize, remaining: u64, reset_ms: u64) -> Vec<(&'static str, String)> {
        let Some(limit) = self.limits.get(index) else { return Vec::new() };
        let reset = reset_ms.div_ceil(1000);
        let mut fields = Vec::with_capacity(5);
        if self.ratelimit {
            fields.push(("ratelimit-policy", self.policy.clone()));
            fields.push(("ratelimit", format!("\"{}\";r={remaining};t={reset}", limit.name)));
        }
        if self.x_ratelimit {
            fields.push(("x-ratelimit-limit", limit.quota.to_string()));
            fields.push(("x-ratelimit-remaining", remaining.to_string()));
            fields.push(("x-ratelimit-reset", reset.to_string()));
        }
        fields
    }
}

/// `retry-after-ms` of a call that can't pass at any time.
const NEVER: u64 = u64::MAX;

/// When all limits would allow the call, in seconds; none if one of them never will.
fn retry_after(standings: &[Standing]) -> Option<u64> {
    let longest = standings.iter().map(|one| one.retry_after_ms).max().unwrap_or(0);
    (longest != NEVER).then(|| longest.div_ceil(1000).max(1))
}

fn title(status: u16) -> &'static str {
    match status {
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Request Refused",
    }
}

fn default_headers() -> Vec<HeaderStyle> {
    vec![HeaderStyle::Ratelimit, HeaderStyle::XRatelimit]
}

fn default_status() -> u16 {
    429
}

fn default_window() -> Duration {
    Duration::from_secs(1)
}

sluice_filter::export!(RateLimit: OnRequest, OnResponse);

#[cfg(test)]
mod tests;
