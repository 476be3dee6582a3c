//! Warnings of caches that can't work as they are configured, or that mix what should stay apart.

use http::Method;
use sluice_cache::policy::SetCookie;

use super::key;
use crate::cache::largest;
use crate::config::Loaded;
use crate::config::model::{Action, Route, RouteCache};
use crate::filter::{Hook, Pipeline};

/// Adds a warning for each thing that is odd with the cache of a route.
pub(super) fn warn(loaded: &Loaded, route: &Route, pipeline: &Pipeline, warnings: &mut Vec<String>) {
    let Some(cache) = &route.cache else { return };
    let place = loaded.locate(&key(&["routes", &route.name, "cache"])).map(|place| format!("{place}: "));
    let place = place.unwrap_or_default();
    for odd in odd(loaded, route, cache, pipeline) {
        warnings.push(format!("{place}the cache of the route `{}` {odd}", route.name));
    }
}

fn odd(loaded: &Loaded, route: &Route, cache: &RouteCache, pipeline: &Pipeline) -> Vec<String> {
    let mut odd = Vec::new();
    let filters = pipeline.filters();
    if let Some(chooser) = filters.iter().find(|filter| filter.hooks().contains(Hook::SelectUpstream)) {
        odd.push(format!("stores nothing: the filter `{}` chooses the upstream (`select-upstream`)", chooser.name()));
    }
    let takes = |method: &Method| {
        route.matches.iter().any(|wanted| wanted.methods.is_empty() || wanted.methods.contains(method))
    };
    if !takes(&Method::GET) {
        odd.push("stores nothing: the route does not match the method GET".to_owned());
    }
    if cache.purge.is_some() && !Method::from_bytes(b"PURGE").is_ok_and(|purge| takes(&purge)) {
        odd.push("grants `purge`, but the route does not match the method PURGE".to_owned());
    }
    let most = largest(loaded.config.cache.memory.0);
    if cache.max_object.0 > most {
        odd.push(format!(
            "has a `max_object` of {}, but a response takes an eighth of `cache.memory` at most: {most} bytes",
            cache.max_object
        ));
    }
    let authenticates = filters.iter().find(|filter| filter.plugin().description().authenticates);
    if let Some(filter) = authenticates
        && cache.policy.implied_with_credentials
        && !cache.key.consumer
    {
        odd.push(format!(
            "mixes callers: the filter `{}` finds who they are, and with `ttl_with_credentials` a response to one of them is stored \
             for all (`consumer = true` keeps them apart)",
            filter.name()
        ));
    }
    if let (SetCookie::Store, Action::Forward(targets)) = (cache.policy.set_cookie, &route.action)
        && let Some(upstream) = loaded.config.upstreams.iter().find(|upstream| {
            upstream.balancing.sticky.is_some() && targets.iter().any(|(name, _)| *name == upstream.name)
        })
    {
        odd.push(format!(
            "stores no response with a cookie, in spite of `set_cookie = \"store\"`: the upstream `{}` is `sticky`, and its cookies \
             are for one client",
            upstream.name
        ));
    }
    odd
}
