//! Says which callers may do what: rules on the consumer, its plan, labels and claims, and on the request. See README.md.

mod condition;

use serde_json::json;
use sluice_filter::{ClaimPath, metrics, prelude::*};

use condition::{Conditions, Facts};

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    rules: Vec<Rule>,
    #[serde(default)]
    default: Effect,
    #[serde(default = "default_roles")]
    roles_claim: ClaimPath,
    #[serde(default = "default_scope")]
    scope_claim: ClaimPath,
    #[serde(default = "default_message")]
    message: String,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    effect: Effect,
    #[serde(default, rename = "if")]
    conditions: Conditions,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "lowercase")]
enum Effect {
    Allow,
    #[default]
    Deny,
}

pub(crate) struct Acl {
    rules: Vec<(String, Effect, Conditions)>,
    /// The first rule about the caller: a stranger who gets past it could have done better with credentials.
    first_by_caller: Option<usize>,
    default: Effect,
    roles_claim: ClaimPath,
    scope_claim: ClaimPath,
    message: String,
    dry_run: bool,
}

impl Filter for Acl {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        if config.rules.is_empty() {
            return Err(ConfigError::new("rules", "expected at least one rule"));
        }
        let mut rules = Vec::with_capacity(config.rules.len());
        for (at, rule) in config.rules.into_iter().enumerate() {
            let name = rule.name.unwrap_or_else(|| format!("rule{at}"));
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if !(1..=48).contains(&name.len()) || !name.bytes().all(is_word) {
                let why = "expected 1 to 48 letters, digits, `-`, `_` and `.`";
                return Err(ConfigError::new(format!("rules[{at}].name"), why));
            }
            rule.conditions.check().map_err(|(key, why)| ConfigError::new(format!("rules[{at}].if.{key}"), why))?;
            rules.push((name, rule.effect, rule.conditions));
        }
        let first_by_caller = rules.iter().position(|(_, _, conditions)| conditions.are_about_the_caller());
        let headers: Vec<&str> = rules.iter().flat_map(|(_, _, conditions)| conditions.headers()).collect();
        setup.needs(&json!({ "authentication": first_by_caller.is_some(), "read_headers": headers }))?;
        let Config { default, roles_claim, scope_claim, message, dry_run, .. } = config;
        Ok(Self { rules, first_by_caller, default, roles_claim, scope_claim, message, dry_run })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            ..Describe::default()
        }
    }
}

impl OnRequest for Acl {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let mut facts = Facts::new(request, &self.roles_claim, &self.scope_claim);
        let mut decision = (self.rules.len(), self.default, "default");
        for (at, (name, effect, conditions)) in self.rules.iter().enumerate() {
            if conditions.hold(&mut facts)? {
                decision = (at, *effect, name);
                break;
            }
        }
        let (at, Effect::Deny, rule) = decision else { return Ok(Verdict::Continue) };
        if self.dry_run {
            metrics::count("would_refuse_total", &[("rule", rule)], 1)?;
            return Ok(Verdict::Continue);
        }
        // RFC 9110 §15.5.2: a 401 says which credentials would do. Where no filter before this one takes any, none would.
        let is_for_callers = self.first_by_caller.is_some_and(|first| first <= at);
        let challenges =
            if is_for_callers && facts.consumer()?.is_none() { context::challenges()? } else { Vec::new() };
        let problem = match challenges.is_empty() {
            true => Problem::new(403, "Forbidden").detail(self.message.as_str()),
            false => Problem::new(401, "Unauthorized").detail("credentials are needed"),
        };
        let mut draft = problem.draft().reason(&format!("acl-denied:{rule}")).header("cache-control", "no-store");
        if !challenges.is_empty() {
            draft = draft.header("www-authenticate", &challenges.join(", "));
        }
        draft.send()
    }
}

fn default_roles() -> ClaimPath {
    ClaimPath::new(["roles"]).expect("a name")
}

fn default_scope() -> ClaimPath {
    ClaimPath::new(["scope"]).expect("a name")
}

fn default_message() -> String {
    "the caller may not do this".to_owned()
}

sluice_filter::export!(Acl: OnRequest);

#[cfg(test)]
mod tests;
