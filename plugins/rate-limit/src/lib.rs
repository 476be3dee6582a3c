//! Limits how often a caller may call: several limits at once, all or nothing. See README.md.

mod cost;
mod key;
mod plan;

use std::fmt::Write;

use serde_json::json;
use sluice_filter::{
    Attribute, Duration, consumers,
    limiter::{self, Algorithm, Limit, Standing},
    metrics,
    prelude::*,
};

use cost::Cost;
use key::Key;
use plan::{Amount, Plans};

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
    #[serde(default = "default_cost")]
    cost: Cost,
    #[serde(default)]
    response_cost: Option<Cost>,
    #[serde(default)]
    dry_run: bool,
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
    #[serde(default)]
    plans: Plans,
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
    /// What a request counts, and what its response counts besides.
    cost: Cost,
    response_cost: Option<Cost>,
    /// Refuses nobody, and says nothing to clients.
    dry_run: bool,
    has_plans: bool,
    /// The `RateLimit-Policy` of all limits, for callers without a plan.
    policy: String,
}

/// A limit ready to be asked for.
struct Policy {
    name: String,
    key: Key,
    algorithm: Algorithm,
    amount: u64,
    plans: Plans,
    window_ms: u64,
    burst: u64,
}

impl Policy {
    /// What a caller of this plan may take in a window; none without a bound.
    fn amount(&self, plan: Option<&str>) -> Option<u64> {
        match plan.and_then(|plan| self.plans.of(plan)) {
            Some(Amount::Unlimited) => None,
            Some(Amount::Limited(amount)) => Some(amount),
            None => Some(self.amount),
        }
    }

    /// What is shown as the quota: what may be taken at once.
    fn quota(&self, amount: u64) -> u64 {
        match self.algorithm {
            Algorithm::TokenBucket if self.burst > 0 => self.burst,
            // What the even rate allows, and the burst on top.
            Algorithm::LeakyBucket => self.burst.saturating_add(1),
            Algorithm::TokenBucket | Algorithm::FixedWindow | Algorithm::SlidingWindow => amount,
        }
    }
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
        let of_costs = [Some(&config.cost), config.response_cost.as_ref()].into_iter().flatten();
        let headers = attributes().filter_map(Attribute::header).chain(of_costs.filter_map(Cost::header));
        let headers: Vec<&str> = headers.collect();
        let has_plans = limits.iter().any(|limit| !limit.plans.is_empty());
        let mut needs = json!({ "read_headers": headers });
        if has_plans || attributes().any(Attribute::needs_authentication) {
            needs["authentication"] = true.into();
        }
        setup.needs(&needs)?;
        let ratelimit = config.headers.contains(&HeaderStyle::Ratelimit);
        let x_ratelimit = config.headers.contains(&HeaderStyle::XRatelimit);
        let has_fields = !config.dry_run && (ratelimit || x_ratelimit);
        if !has_fields && config.response_cost.is_none() {
            setup.hook(sluice_filter::Hook::OnResponse, false)?;
        }
        let policy = policy_of(&limits, None);
        let message = config.message.unwrap_or_else(|| "too many requests, try again later".to_owned());
        let Config { status, cost, response_cost, dry_run, .. } = config;
        let (ratelimit, x_ratelimit) = (has_fields && ratelimit, has_fields && x_ratelimit);
        Ok(Self { limits, status, message, ratelimit, x_ratelimit, cost, response_cost, dry_run, has_plans, policy })
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
        if self.amount == 0 || self.amount > MAX_AMOUNT {
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
        if self.plans.amounts().any(|amount| amount == 0 || amount > MAX_AMOUNT) {
            return refuse("plans", "expected amounts of 1 to 1000000000000, or \"unlimited\"");
        }
        let Rule { key, amount, plans, burst, .. } = self;
        Ok(Policy { name, key, algorithm, amount, plans, window_ms, burst })
    }
}

impl OnRequest for RateLimit {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let plan = self.plan()?;
        let asked = self.asked(request, plan.as_deref())?;
        if asked.limits.is_empty() {
            return Ok(Verdict::Continue);
        }
        let is_empty = || Ok::<_, Error>(matches!(&*request.method()?, "GET" | "HEAD" | "OPTIONS" | "TRACE"));
        let cost = match &self.cost {
            cost if *cost == Cost::ONE => 1,
            cost => cost.of(is_empty()?, |name| request.header(name))?,
        };
        let standings = limiter::take(&asked.limits, cost)?;
        let Some((index, standing)) = self.tightest(&asked, &standings) else { return Ok(Verdict::Continue) };
        if standings.iter().all(|one| one.allowed) {
            self.remember(index, standing, &asked)?;
            return Ok(Verdict::Continue);
        }
        let name = &self.limits[index].name;
        if self.dry_run {
            log::info(&format!("dry run: the limit `{name}` would refuse this request"));
            metrics::count("would_refuse_total", &[("limit", name)], 1)?;
            return Ok(Verdict::Continue);
        }
        let reason: String = format!("over-limit:{name}").chars().take(64).collect();
        let mut draft =
            Problem::new(self.status, title(self.status)).detail(self.message.as_str()).draft().reason(&reason);
        if let Some(seconds) = retry_after(&standings) {
            draft = draft.header("retry-after", &seconds.to_string());
        }
        let retry_ms = if standing.retry_after_ms == NEVER { 0 } else { standing.retry_after_ms };
        for (name, value) in self.fields(index, plan.as_deref(), (0, standing.reset_ms.max(retry_ms))) {
            draft = draft.header(name, &value);
        }
        draft.send()
    }
}

/// The limits that count a request, each with its index.
struct Asked {
    indexes: Vec<usize>,
    limits: Vec<Limit>,
}

impl Asked {
    fn iter(&self) -> impl Iterator<Item = (usize, &Limit)> {
        self.indexes.iter().copied().zip(&self.limits)
    }
}

/// What the response needs of the request's limits.
struct Kept {
    index: usize,
    remaining: u64,
    reset_ms: u64,
    /// Keys and amounts of the limits, where the response counts, too.
    charged: Vec<(usize, String, u64)>,
}

impl OnResponse for RateLimit {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        let Some(kept) = state::get_bytes()? else { return Ok(Verdict::Continue) };
        let Kept { index, mut remaining, reset_ms, charged } = Kept::read(&kept)?;
        if let Some(cost) = &self.response_cost {
            remaining = self.charge(cost, response, &charged, index)?.unwrap_or(remaining);
        }
        let plan = self.plan()?;
        for (name, value) in self.fields(index, plan.as_deref(), (remaining, reset_ms)) {
            match response.set_header(name, &value) {
                // The upstream has sent as many fields as a response can have: its response is worth more than ours.
                Err(Error::TooLarge(_)) => break,
                set => set?,
            }
        }
        Ok(Verdict::Continue)
    }
}

impl Kept {
    /// Without limits to charge it is a few numbers, since each response reads it.
    fn write(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(24);
        for number in [self.index as u64, self.remaining, self.reset_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        if !self.charged.is_empty() {
            bytes.extend(serde_json::to_vec(&self.charged)?);
        }
        Ok(bytes)
    }

    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let number =
            |i: usize| bytes.get(i * 8..i * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let charged = match bytes.get(24..) {
            Some(rest) if !rest.is_empty() => serde_json::from_slice(rest)?,
            _ => Vec::new(),
        };
        let index = usize::try_from(number(0)).unwrap_or(usize::MAX);
        Ok(Kept { index, remaining: number(1), reset_ms: number(2), charged })
    }
}

impl RateLimit {
    /// The plan of the caller, where a limit goes by it.
    fn plan(&self) -> Result<Option<String>, Error> {
        if self.has_plans { consumers::plan() } else { Ok(None) }
    }

    /// The limits that count a request.
    fn asked(&self, request: &Request, plan: Option<&str>) -> Result<Asked, Error> {
        let most = self.limits.len();
        let mut asked = Asked { indexes: Vec::with_capacity(most), limits: Vec::with_capacity(most) };
        for (index, limit) in self.limits.iter().enumerate() {
            let Some(amount) = limit.amount(plan) else { continue };
            // A limit whose key the request does not have does not count it.
            if let Some(key) = limit.key.of(request, &limit.name)? {
                asked.indexes.push(index);
                asked.limits.push(self.limit(index, key, amount));
            }
        }
        Ok(asked)
    }

    fn limit(&self, index: usize, key: String, amount: u64) -> Limit {
        let Policy { algorithm, window_ms, burst, .. } = self.limits[index];
        Limit { key, algorithm, amount, window_ms, burst }
    }

    /// Keeps what the response needs.
    fn remember(&self, index: usize, standing: Standing, asked: &Asked) -> Result<(), Error> {
        let charged = match self.response_cost {
            Some(_) => asked.iter().map(|(index, limit)| (index, limit.key.clone(), limit.amount)).collect(),
            None if self.ratelimit || self.x_ratelimit => Vec::new(),
            None => return Ok(()),
        };
        let Standing { remaining, reset_ms, .. } = standing;
        state::set_bytes(&Kept { index, remaining, reset_ms, charged }.write()?)
    }

    /// Counts a response. It is there already, so each limit counts as much of it as it has left. Answers what the limit of this index has
    /// left then.
    fn charge(
        &self,
        cost: &Cost,
        response: &Response,
        charged: &[(usize, String, u64)],
        shown: usize,
    ) -> Result<Option<u64>, Error> {
        let cost = cost.of(false, |name| response.header(name))?;
        let mut left = None;
        let limits = charged.iter().filter(|(index, ..)| *index < self.limits.len());
        let limits: Vec<_> =
            limits.map(|(index, key, amount)| (*index, self.limit(*index, key.clone(), *amount))).collect();
        for (index, limit) in limits {
            let mut standing = limiter::take(std::slice::from_ref(&limit), cost)?;
            if let Some(one) = standing.first().filter(|one| !one.allowed && one.remaining > 0) {
                standing = limiter::take(&[limit], one.remaining)?;
            }
            if index == shown {
                left = standing.first().map(|one| one.remaining);
            }
        }
        Ok(left)
    }

    /// The limit that refuses longest, or else the one of which the smallest part is left: what the fields tell the client.
    fn tightest(&self, asked: &Asked, standings: &[Standing]) -> Option<(usize, Standing)> {
        let rank = |index: usize, limit: &Limit, standing: &Standing| {
            let left = standing.remaining.saturating_mul(1_000_000) / self.limits[index].quota(limit.amount).max(1);
            (standing.allowed, std::cmp::Reverse(standing.retry_after_ms), left)
        };
        let tightest =
            asked.iter().zip(standings).min_by_key(|((index, limit), standing)| rank(*index, limit, standing));
        tightest.map(|((index, _), standing)| (index, *standing))
    }

    /// The fields of the chosen styles.
    fn fields(
        &self,
        index: usize,
        plan: Option<&str>,
        (remaining, reset_ms): (u64, u64),
    ) -> Vec<(&'static str, String)> {
        let Some(limit) = self.limits.get(index) else { return Vec::new() };
        let reset = reset_ms.div_ceil(1000);
        let mut fields = Vec::with_capacity(5);
        if self.ratelimit {
            let policy = if plan.is_some() { policy_of(&self.limits, plan) } else { self.policy.clone() };
            fields.push(("ratelimit-policy", policy));
            fields.push(("ratelimit", format!("\"{}\";r={remaining};t={reset}", limit.name)));
        }
        if self.x_ratelimit {
            let quota = limit.amount(plan).map_or(0, |amount| limit.quota(amount));
            fields.push(("x-ratelimit-limit", quota.to_string()));
            fields.push(("x-ratelimit-remaining", remaining.to_string()));
            fields.push(("x-ratelimit-reset", reset.to_string()));
        }
        fields
    }
}

/// The `RateLimit-Policy` of the limits that hold for callers of this plan.
fn policy_of(limits: &[Policy], plan: Option<&str>) -> String {
    let mut policy = String::new();
    for (limit, amount) in limits.iter().filter_map(|limit| Some((limit, limit.amount(plan)?))) {
        let separator = if policy.is_empty() { "" } else { ", " };
        let (window, quota) = (limit.window_ms.div_ceil(1000), limit.quota(amount));
        let _ = write!(policy, "{separator}\"{}\";q={quota};w={window}", limit.name);
    }
    policy
}

/// The most that a limit may allow in its window.
const MAX_AMOUNT: u64 = 1_000_000_000_000;

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

fn default_cost() -> Cost {
    Cost::ONE
}

fn default_window() -> Duration {
    Duration::from_secs(1)
}

sluice_filter::export!(RateLimit: OnRequest, OnResponse);

#[cfg(test)]
mod tests;
