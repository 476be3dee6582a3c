//! Warnings of redirects that lead a client to where it is, for ever: each is followed with an example of what its route is for.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Uri};

use super::key;
use crate::config::Loaded;
use crate::config::model::{Action, Listener, Route};
use crate::http::target::routing_host;
use crate::route::{HostPattern, Ingress, MatchSpec, PathPattern, Redirect, RequestView, Rest, Router, Segment};

/// A warning for each route that redirects a request to itself.
pub(super) fn warnings(loaded: &Loaded, router: &Router) -> Vec<String> {
    let redirects = loaded.config.routes.iter().enumerate().filter_map(|(index, route)| match &route.action {
        Action::Redirect { to, .. } => Some((index, route, to)),
        Action::Forward(_) | Action::Respond { .. } => None,
    });
    let warning = |(index, route, to): (usize, &Route, &Redirect)| {
        let (listener, url) = route.matches.iter().find_map(|wanted| looping(loaded, router, index, wanted, to))?;
        let place = loaded.locate(&key(&["routes", &route.name])).map(|place| format!("{place}: ")).unwrap_or_default();
        Some(format!(
            "{place}the redirect of the route `{}` leads to itself: a client of the listener `{listener}` that asks for {url} is sent there \
             again (`match` can name a `listener` or a `scheme`)",
            route.name
        ))
    };
    redirects.filter_map(warning).collect()
}

/// Follows a redirect from each listener. The listener and the address where a client is sent to the address that it asked for.
fn looping<'l>(
    loaded: &'l Loaded,
    router: &Router,
    index: usize,
    wanted: &MatchSpec,
    to: &Redirect,
) -> Option<(&'l str, String)> {
    let listeners = &loaded.config.listeners;
    let method = wanted.methods.first().cloned().unwrap_or(Method::GET);
    let host = match wanted.hosts.first() {
        None | Some(HostPattern::Any) => "www.example.com".to_owned(),
        Some(HostPattern::Exact(name)) => name.to_string(),
        Some(HostPattern::Wildcard(suffix)) => format!("www.{suffix}"),
    };
    let first = |listener: &Listener| {
        let port = listener.bind.port().filter(|port| !matches!(port, 0 | 80 | 443));
        let authority = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        Uri::builder().scheme(scheme(listener)).authority(authority).path_and_query(example(&wanted.path)).build().ok()
    };
    let sent = |listener: &Listener, uri: &Uri| redirected(router, index, &method, listener, uri, to);
    listeners.iter().filter_map(|listener| sent(listener, &first(listener)?)).find_map(|uri| {
        let here = listeners.iter().filter(|listener| is_at(listener, listeners, &uri));
        here.filter(|listener| sent(listener, &uri).is_some_and(|again| again == uri))
            .map(|listener| (listener.name.as_str(), uri.to_string()))
            .next()
    })
}

/// Where a client is sent, if this route takes its request.
fn redirected(
    router: &Router,
    index: usize,
    method: &Method,
    listener: &Listener,
    uri: &Uri,
    to: &Redirect,
) -> Option<Uri> {
    let (authority, target): (&Authority, &PathAndQuery) = (uri.authority()?, uri.path_and_query()?);
    let scheme = scheme(listener);
    let host = routing_host(authority);
    let view = RequestView {
        ingress: &Ingress { listener: &listener.name, scheme: &scheme, sni: listener.tls.is_some().then_some(host) },
        host,
        path: target.path(),
        method,
        query: target.query(),
        headers: &HeaderMap::new(),
        client_ip: Some([127, 0, 0, 1].into()),
    };
    let found = router.find(&view).filter(|found| found.index == index)?;
    to.location(&scheme, authority, target, &found.params).ok()?.to_str().ok()?.parse().ok()
}

fn scheme(listener: &Listener) -> Scheme {
    if listener.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
}

/// Whether an address leads to a listener: by its port where one has it, and otherwise by its scheme, since ports may be mapped.
fn is_at(listener: &Listener, all: &[Listener], uri: &Uri) -> bool {
    let speaks = |listener: &Listener| uri.scheme() == Some(&scheme(listener));
    let own = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(own);
    speaks(listener)
        && (listener.bind.port() == Some(port)
            || !all.iter().any(|other| speaks(other) && other.bind.port() == Some(port)))
}

/// A path that a pattern is for.
fn example(pattern: &PathPattern) -> String {
    let PathPattern::Segments { segments, rest } = pattern else { return "/".to_owned() };
    let mut path: String = segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Param(_) | Segment::Any => "/x".to_owned(),
        })
        .collect();
    match rest {
        Rest::Any | Rest::Param(_) => path.push_str("/x"),
        Rest::None => {}
    }
    path
}
