//! Admits or refuses callers by their address. See README.md.

mod list;

use std::net::IpAddr;

use serde_json::json;
use sluice_filter::{metrics, prelude::*};

use list::List;

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    allow: Option<Entries>,
    #[serde(default)]
    deny: Option<Entries>,
    #[serde(default = "default_status")]
    status: u16,
    #[serde(default = "default_message")]
    message: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    unix: Unix,
}

/// What the gateway gives as the address of a client over a Unix socket.
const UNIX: &str = "unix:";

/// Addresses and prefixes: a list, or the lines of a file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(untagged)]
enum Entries {
    Lines(String),
    List(Vec<String>),
}

/// What becomes of clients over a Unix socket, which have no address.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "lowercase")]
enum Unix {
    #[default]
    Allow,
    Deny,
}

pub(crate) struct IpFilter {
    /// None: everybody who is not denied.
    allow: Option<List>,
    deny: List,
    status: u16,
    message: String,
    dry_run: bool,
    unix: Unix,
}

impl Filter for IpFilter {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        let Config { allow, deny, status, message, dry_run, unix } = config;
        if !(400..=499).contains(&status) {
            return Err(ConfigError::new("status", "expected 400 to 499"));
        }
        let named = |key: &'static str| move |(at, why): (String, String)| ConfigError::new(format!("{key}{at}"), why);
        let allow = allow.map(Entries::list).transpose().map_err(named("allow"))?;
        let deny = deny.map(Entries::list).transpose().map_err(named("deny"))?;
        if allow.is_none() && deny.is_none() {
            return Err(ConfigError::new("allow", "expected addresses or prefixes here or in `deny`"));
        }
        setup.needs(&json!({}))?;
        Ok(Self { allow, deny: deny.unwrap_or_default(), status, message, dry_run, unix })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            ..Describe::default()
        }
    }
}

impl Entries {
    /// An error has the place within the key. What is emptied by mistake must not let everybody in, nor keep everybody out.
    fn list(self) -> Result<List, (String, String)> {
        const NOTHING: &str = "has no addresses: expected at least one, or no such key";
        let entries: Vec<(String, String)> = match self {
            Entries::List(list) => list.into_iter().enumerate().map(|(at, entry)| (format!("[{at}]"), entry)).collect(),
            Entries::Lines(text) => {
                let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim().to_owned());
                let lines = (1..).zip(lines).filter(|(_, line)| !line.is_empty());
                lines.map(|(number, line)| (format!(": line {number}"), line)).collect()
            }
        };
        if entries.is_empty() {
            return Err((String::new(), NOTHING.to_owned()));
        }
        List::new(entries)
    }
}

impl OnRequest for IpFilter {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let address = request.client_address()?;
        let reason = match address.parse::<IpAddr>() {
            Ok(address) if self.deny.has(address) => "ip-denied",
            Ok(address) if self.allow.as_ref().is_some_and(|allow| !allow.has(address)) => "ip-not-allowed",
            Ok(_) => return Ok(Verdict::Continue),
            Err(_) if address == UNIX && self.unix == Unix::Allow => return Ok(Verdict::Continue),
            Err(_) => "ip-unknown",
        };
        if self.dry_run {
            metrics::count("would_refuse_total", &[("reason", reason)], 1)?;
            return Ok(Verdict::Continue);
        }
        let draft = Problem::new(self.status, "Forbidden").detail(self.message.as_str()).draft().reason(reason);
        // A 404, 410 or 451 may be kept by caches on its own account, and given to others.
        draft.header("cache-control", "no-store").send()
    }
}

fn default_status() -> u16 {
    403
}

fn default_message() -> String {
    "this address may not call".to_owned()
}

sluice_filter::export!(IpFilter: OnRequest);

#[cfg(test)]
mod tests;
