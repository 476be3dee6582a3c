//! `https_redirect` of listeners: what is answered before a route is looked for.

use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::config::model::{Config, HttpsRedirect};
use crate::exchange::RequestHead;
use crate::http::target::routing_host;
use crate::route::{
    HostPattern, Ingress, MatchSpec, PathPattern, Redirect, RequestView, Rest, RouteError, RouteSpec, Router,
};

/// The port of https (RFC 9110 §4.2.2).
const HTTPS_PORT: u16 = 443;

/// The listeners that send their clients to https.
pub struct HttpsRedirects(Vec<OfListener>);

struct OfListener {
    listener: Arc<str>,
    status: StatusCode,
    to: Redirect,
    /// Finds what is served without TLS.
    except: Router,
    /// Finds the hosts that it is for; none: all.
    hosts: Option<Router>,
}

impl HttpsRedirects {
    pub(super) fn build(config: &Config) -> Result<HttpsRedirects, RouteError> {
        let with = config.listeners.iter().filter_map(|listener| Some((listener, listener.https_redirect.as_ref()?)));
        let each = with.map(|(listener, redirect)| {
            let wanted = redirect.except.iter().cloned().map(MatchSpec::new).collect::<Vec<_>>();
            let except = match wanted.is_empty() {
                true => vec![],
                false => vec![RouteSpec { name: "except".into(), matches: wanted, priority: 0 }],
            };
            let to =
                Redirect { scheme: Some(Scheme::HTTPS), port: Some(port(config, redirect)), ..Redirect::default() };
            let except = Router::build(except).map_err(|mut errors| errors.swap_remove(0))?;
            let hosts = match redirect.hosts.is_empty() {
                true => None,
                false => Some(of_hosts(&redirect.hosts)?),
            };
            Ok(OfListener { listener: listener.name.clone().into(), status: redirect.status, to, except, hosts })
        });
        Ok(HttpsRedirects(each.collect::<Result<_, _>>()?))
    }

    /// The redirect of a request that came in at a listener, if it gets one: status and `Location`. A client that has spoken TLS to a trusted
    /// proxy gets none.
    pub fn find(&self, listener: &str, request: &RequestHead) -> Option<(StatusCode, HeaderValue)> {
        let found = self.0.iter().find(|of| *of.listener == *listener)?;
        let (host, path) = (routing_host(&request.authority), request.target.path());
        let is_for = |router: &Router| found.has(router, host, path);
        if request.scheme == Scheme::HTTPS || is_for(&found.except) || !found.hosts.as_ref().is_none_or(is_for) {
            return None;
        }
        let location = found.to.location(&request.scheme, &request.authority, &request.target, &[]).ok()?;
        Some((found.status, location))
    }
}

impl OfListener {
    fn has(&self, router: &Router, host: &str, path: &str) -> bool {
        let view = RequestView {
            ingress: &Ingress { listener: &self.listener, scheme: &Scheme::HTTP, sni: None },
            host,
            path,
            method: &Method::GET,
            query: None,
            headers: &HeaderMap::new(),
            client_ip: None,
        };
        router.find(&view).is_some()
    }
}

/// What finds requests for these hosts.
fn of_hosts(hosts: &[HostPattern]) -> Result<Router, RouteError> {
    let everything = PathPattern::Segments { segments: vec![], rest: Rest::Any };
    let matches = vec![MatchSpec { hosts: hosts.to_vec(), ..MatchSpec::new(everything) }];
    let built = Router::build(vec![RouteSpec { name: "hosts".into(), matches, priority: 0 }]);
    built.map_err(|mut errors| errors.swap_remove(0))
}

/// Where the listener with TLS takes any port, the one that clients see is not known here.
fn port(config: &Config, redirect: &HttpsRedirect) -> u16 {
    let target = redirect.listener.as_ref().and_then(|name| config.listeners.iter().find(|one| one.name == *name));
    let bound = target.and_then(|listener| listener.bind.port()).filter(|port| *port != 0);
    redirect.port.or(bound).unwrap_or(HTTPS_PORT)
}
