//! Splits traffic between the upstreams of a route: by header and cookie rules, then by weight. See README.md.

mod config;

use sluice_filter::{Hook, prelude::*, random};

use config::{By, Config, Rule};

struct TrafficSplit {
    config: Config,
    total: u64,
}

impl Filter for TrafficSplit {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        let total = config.check()?;
        if config.sticky.is_none() && config.response_header.is_none() {
            setup.hook(Hook::OnResponse, false)?;
        }
        setup.needs(&config.needs())?;
        Ok(Self { config, total })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            grants: Some(r#"{"read_headers": ["cookie"], "write_headers": ["set-cookie"]}"#),
            docs: Some(include_str!("../README.md")),
            ..Describe::default()
        }
    }
}

/// What a retry and `on_response` have to know of the choice.
struct Chosen {
    upstream: String,
    /// A new place for the cookie.
    place: Option<u64>,
}

impl Chosen {
    /// As whether there is a new place, its eight bytes, and the upstream's name: it is written for each request.
    fn keep(upstream: &str, place: Option<u64>) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(size_of::<u64>() + 1 + upstream.len());
        bytes.push(place.is_some().into());
        bytes.extend_from_slice(&place.unwrap_or_default().to_le_bytes());
        bytes.extend_from_slice(upstream.as_bytes());
        state::set_bytes(&bytes)
    }

    fn kept() -> Result<Option<Chosen>, Error> {
        let Some(bytes) = state::get_bytes()? else { return Ok(None) };
        let Some(([is_new, place @ ..], upstream)) = bytes.split_first_chunk::<9>() else { return Ok(None) };
        let upstream = str::from_utf8(upstream)?.to_owned();
        Ok(Some(Chosen { upstream, place: (*is_new == 1).then(|| u64::from_le_bytes(*place)) }))
    }
}

impl SelectUpstream for TrafficSplit {
    fn select_upstream(&self, route: &Route) -> Result<(), Error> {
        // Called again for a retry: the caller stays where it is.
        if let Some(chosen) = Chosen::kept()? {
            return route.choose_upstream(&chosen.upstream);
        }
        let request = route.request();
        for rule in &self.config.rules {
            if fits(rule, request)? {
                return self.choose(route, &rule.upstream, None);
            }
        }
        if self.total == 0 {
            return Ok(());
        }
        let (place, new) = self.place(request)?;
        match self.at(place) {
            Some(upstream) => self.choose(route, upstream, new.then_some(place)),
            None => Ok(()),
        }
    }
}

impl OnResponse for TrafficSplit {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        let Some(chosen) = Chosen::kept()? else { return Ok(Verdict::Continue) };
        if let Some(name) = &self.config.response_header {
            if_there_is_room(response.set_header(name, &chosen.upstream))?;
        }
        if let (Some(sticky), Some(place)) = (&self.config.sticky, chosen.place) {
            let secure = if response.request().scheme()? == "https" { "; Secure" } else { "" };
            let cookie = format!(
                "{}={place:016x}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}",
                sticky.cookie,
                sticky.max_age.as_secs()
            );
            if_there_is_room(response.append_header("set-cookie", &cookie))?;
        }
        Ok(Verdict::Continue)
    }
}

impl TrafficSplit {
    fn choose(&self, route: &Route, upstream: &str, place: Option<u64>) -> Result<(), Error> {
        route.choose_upstream(upstream)?;
        context::set("split.upstream", upstream)?;
        Chosen::keep(upstream, place)
    }

    /// The caller's place among all (of 2^64), and whether a cookie has to tell it from now on.
    fn place(&self, request: &Request) -> Result<(u64, bool), Error> {
        if let Some(sticky) = &self.config.sticky {
            let kept = request.cookie(&sticky.cookie)?;
            let place = kept.filter(|text| text.len() == 16).and_then(|text| u64::from_str_radix(&text, 16).ok());
            return match place {
                Some(place) => Ok((place, false)),
                None => Ok((random::number()?, true)),
            };
        }
        let value = match &self.config.by {
            By::Random => None,
            By::Of(attribute) => attribute.value(request)?,
        };
        match value {
            Some(value) => Ok((hash(&self.config.salt, &value), false)),
            None => Ok((random::number()?, false)),
        }
    }

    /// The upstream at a place. The shares lie side by side in the order of the config: when the last one grows, it takes
    /// over callers of its neighbour and nobody else moves.
    fn at(&self, place: u64) -> Option<&str> {
        let mut rest = u64::try_from((u128::from(place) * u128::from(self.total)) >> 64).unwrap_or(0);
        for share in &self.config.split {
            if rest < u64::from(share.weight) {
                return Some(&share.upstream);
            }
            rest -= u64::from(share.weight);
        }
        None
    }
}

/// An upstream may have sent as many fields as a response can have: its response is worth more than ours.
fn if_there_is_room(edited: Result<(), Error>) -> Result<(), Error> {
    edited.or_else(|error| if matches!(error, Error::TooLarge(_)) { Ok(()) } else { Err(error) })
}

fn fits(rule: &Rule, request: &Request) -> Result<bool, Error> {
    Ok(match (&rule.when.value(request)?, &rule.value) {
        (Some(value), Some(wanted)) => value == wanted,
        (Some(_), None) => true,
        (None, _) => false,
    })
}

/// FNV-1a with the finish of splitmix64, which spreads values that differ in their last letter only.
fn hash(salt: &str, value: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in salt.bytes().chain([0]).chain(value.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

sluice_filter::export!(TrafficSplit: SelectUpstream, OnResponse);

#[cfg(test)]
mod tests;
