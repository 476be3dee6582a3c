//! Limits how often a caller may call: several limits at once, all or nothing. See README.md.

mod concurrency;
mod cost;
mod kept;
mod key;
mod plan;
mod policy;

use serde_json::json;
use sluice_filter::{
    Attribute,
    concurrency::{self as places, PlaceLimit},
    consumers,
    limiter::{self, Limit, Standing},
    metrics,
    prelude::*,
};

use concurrency::Concurrency;
use cost::Cost;
use kept::Kept;
use key::{Key, MOST_KEYS};
use policy::{Policy, Rule, policy_of};

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    limits: Vec<Rule>,
    #[serde(default)]
    concurrency: Vec<concurrency::Rule>,
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
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "kebab-case")]
enum HeaderStyle {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    Ratelimit,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    XRatelimit,
}

pub(crate) struct RateLimit {
    limits: Vec<Policy>,
    concurrency: Vec<Concurrency>,
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

impl Filter for RateLimit {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        if config.limits.is_empty() && config.concurrency.is_empty() || config.limits.len() > 16 {
            return Err(ConfigError::new("limits", "expected 1 to 16 limits"));
        }
        if config.concurrency.len() > 4 {
            return Err(ConfigError::new("concurrency", "expected at most 4 limits"));
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
        let concurrency = config.concurrency.into_iter().enumerate().map(|(i, rule)| rule.concurrency(i));
        let concurrency: Vec<Concurrency> = concurrency.collect::<Result<_, _>>()?;
        for (i, limit) in concurrency.iter().enumerate() {
            let names = limits.iter().map(|limit| &limit.name).chain(concurrency[..i].iter().map(|limit| &limit.name));
            if names.into_iter().any(|name| *name == limit.name) {
                let twice = format!("`{}` is there twice", limit.name);
                return Err(ConfigError::new(format!("concurrency[{i}].name"), twice));
            }
        }
        let keys = || limits.iter().map(|limit| &limit.key).chain(concurrency.iter().map(|limit| &limit.key));
        let attributes = || keys().flat_map(Key::attributes);
        let of_costs = [Some(&config.cost), config.response_cost.as_ref()].into_iter().flatten();
        let headers = attributes().filter_map(Attribute::header).chain(of_costs.filter_map(Cost::header));
        let headers: Vec<&str> = headers.collect();
        let plans = limits.iter().map(|limit| &limit.plans).chain(concurrency.iter().map(|limit| &limit.plans));
        let has_plans = plans.into_iter().any(|plans| !plans.is_empty());
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
        Ok(Self {
            limits,
            concurrency,
            status,
            message,
            ratelimit,
            x_ratelimit,
            cost,
            response_cost,
            dry_run,
            has_plans,
            policy,
        })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            ..Describe::default()
        }
    }
}

impl OnRequest for RateLimit {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        match self.decide(request) {
            Err(Error::Unavailable(why)) => self.undecided(&why),
            Err(Error::Timeout) => self.undecided("the state of the limits has not answered in time"),
            decided => decided,
        }
    }
}

impl RateLimit {
    fn decide(&self, request: &Request) -> Result<Verdict, Error> {
        let plan = self.plan()?;
        self.count(request, plan.as_deref())
    }

    /// Answers where nobody can say whether the request is within its limits: that is no fault of the caller, and none of the gateway.
    fn undecided(&self, why: &str) -> Result<Verdict, Error> {
        log::warn(&format!("the limits can't be decided: {why}"));
        if self.dry_run {
            return Ok(Verdict::Continue);
        }
        let problem = Problem::new(503, title(503)).detail("the rate limits can't be checked now, try again later");
        problem.draft().reason("limits-unavailable").header("retry-after", "1").send()
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

impl OnResponse for RateLimit {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        let Some(kept) = Kept::read()? else { return Ok(Verdict::Continue) };
        let Kept { index, mut remaining, reset_ms, charged } = kept;
        if let Some(cost) = &self.response_cost {
            match self.charge(cost, response, &charged, index) {
                Ok(left) => remaining = left.unwrap_or(remaining),
                // The response is there; that it is not counted is no reason to withhold it.
                Err(Error::Unavailable(why)) => log::warn(&format!("a response is not counted: {why}")),
                Err(Error::Timeout) => {
                    log::warn("a response is not counted: the state of the limits has not answered in time")
                }
                Err(error) => return Err(error),
            }
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

impl RateLimit {
    /// The plan of the caller, where a limit goes by it.
    fn plan(&self) -> Result<Option<String>, Error> {
        if self.has_plans { consumers::plan() } else { Ok(None) }
    }

    fn refuse_concurrent(&self, name: &str) -> Result<Verdict, Error> {
        if self.passes_dry(name)? {
            return Ok(Verdict::Continue);
        }
        let reason: String = format!("over-limit:{name}").chars().take(64).collect();
        let problem = Problem::new(self.status, title(self.status)).detail(self.message.as_str());
        problem.draft().reason(&reason).header("retry-after", "1").send()
    }

    /// Answers a request with a key that has more values than can be counted at once: to count some of them would let a caller choose which.
    fn refuse_uncountable(&self) -> Result<Verdict, Error> {
        log::info("the keys of the limits have too many values in this request");
        if self.dry_run {
            return Ok(Verdict::Continue);
        }
        let problem = Problem::new(400, "Bad Request").detail("a header or a cookie has too many values");
        problem.draft().reason("too-many-values").send()
    }

    /// Whether a request that this limit refuses passes all the same. Then that is written and counted.
    fn passes_dry(&self, name: &str) -> Result<bool, Error> {
        if self.dry_run {
            log::info(&format!("dry run: the limit `{name}` would refuse this request"));
            metrics::count("would_refuse_total", &[("limit", name)], 1)?;
        }
        Ok(self.dry_run)
    }

    /// Counts a request in all limits, or answers it.
    fn count(&self, request: &Request, plan: Option<&str>) -> Result<Verdict, Error> {
        let asked = self.asked(request, plan)?;
        let held = self.places(request, plan)?;
        if asked.limits.is_empty() && held.is_empty() {
            return Ok(Verdict::Continue);
        }
        if asked.limits.len() > MOST_KEYS || held.len() > MOST_KEYS {
            return self.refuse_uncountable();
        }
        let is_empty = || Ok::<_, Error>(matches!(&*request.method()?, "GET" | "HEAD" | "OPTIONS" | "TRACE"));
        let cost = match &self.cost {
            cost if *cost == Cost::ONE => 1,
            cost => cost.of(is_empty()?, |name| request.header(name))?,
        };
        let standings = if held.is_empty() {
            limiter::take(&asked.limits, cost)?
        } else {
            let (names, wanted): (Vec<&str>, Vec<PlaceLimit>) = held.into_iter().unzip();
            let admission = places::enter(&wanted, &asked.limits, cost)?;
            if let Some(full) = admission.full {
                let name = usize::try_from(full).ok().and_then(|full| names.get(full));
                return self.refuse_concurrent(name.copied().unwrap_or_default());
            }
            admission.standings
        };
        let Some((index, standing)) = self.tightest(&asked, &standings) else { return Ok(Verdict::Continue) };
        if standings.iter().all(|one| one.allowed) {
            self.remember(index, standing, &asked)?;
            return Ok(Verdict::Continue);
        }
        let name = &self.limits[index].name;
        if self.passes_dry(name)? {
            return Ok(Verdict::Continue);
        }
        let reason: String = format!("over-limit:{name}").chars().take(64).collect();
        let mut draft =
            Problem::new(self.status, title(self.status)).detail(self.message.as_str()).draft().reason(&reason);
        if let Some(seconds) = retry_after(&standings) {
            draft = draft.header("retry-after", &seconds.to_string());
        }
        let retry_ms = if standing.retry_after_ms == NEVER { 0 } else { standing.retry_after_ms };
        for (name, value) in self.fields(index, plan, (0, standing.reset_ms.max(retry_ms))) {
            draft = draft.header(name, &value);
        }
        draft.send()
    }

    /// The places that a request needs, each with the name of its limit.
    fn places(&self, request: &Request, plan: Option<&str>) -> Result<Vec<(&str, PlaceLimit)>, Error> {
        let mut held = Vec::with_capacity(self.concurrency.len());
        for limit in &self.concurrency {
            held.extend(limit.places(request, plan)?.into_iter().map(|place| (&*limit.name, place)));
        }
        Ok(held)
    }

    /// The limits that count a request.
    fn asked(&self, request: &Request, plan: Option<&str>) -> Result<Asked, Error> {
        let most = self.limits.len();
        let mut asked = Asked { indexes: Vec::with_capacity(most), limits: Vec::with_capacity(most) };
        for (index, limit) in self.limits.iter().enumerate() {
            let Some(amount) = limit.amount(plan) else { continue };
            // A limit whose key the request does not have does not count it.
            for key in limit.key.of(request, &limit.name)? {
                asked.indexes.push(index);
                asked.limits.push(limit.limit(key, amount));
            }
        }
        Ok(asked)
    }

    /// Keeps what the hooks to come need.
    fn remember(&self, index: usize, standing: Standing, asked: &Asked) -> Result<(), Error> {
        let charged = match self.response_cost {
            Some(_) => asked.iter().map(|(index, limit)| (index, limit.key.clone(), limit.amount)).collect(),
            None if self.ratelimit || self.x_ratelimit => Vec::new(),
            None => return Ok(()),
        };
        let Standing { remaining, reset_ms, .. } = standing;
        Kept { index, remaining, reset_ms, charged }.write()
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
            limits.map(|(index, key, amount)| (*index, self.limits[*index].limit(key.clone(), *amount))).collect();
        for (index, limit) in limits {
            let mut standing = limiter::take(std::slice::from_ref(&limit), cost)?;
            if let Some(one) = standing.first().filter(|one| !one.allowed && one.remaining > 0) {
                standing = limiter::take(&[limit], cost.min(one.remaining))?;
            }
            if index == shown {
                // Of several values of its key, the one with the least left.
                left = standing.first().map(|one| left.map_or(one.remaining, |left: u64| left.min(one.remaining)));
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

sluice_filter::export!(RateLimit: OnRequest, OnResponse);

#[cfg(test)]
mod tests;
