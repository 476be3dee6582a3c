//! Which route a request takes. Pure: no I/O, no async, and nothing of what a route does once it is found.
//!
//! Precedence, the first difference decides:
//!
//! 1. `priority`, higher first;
//! 2. where the request came in: a match with listeners before one without, then one with a scheme, then one with TLS server names;
//! 3. host: exact, then the longest wildcard, then any (Gateway API: the host goes before the path);
//! 4. path: exact literals, then patterns with `{param}` or `*`, then prefixes (`/**`) with the most segments, then regular
//!    expressions with the longest text; among patterns of a kind, the one that has a literal where the other has a parameter,
//!    from the left;
//! 5. a match with methods before one without, and one that names HEAD alone before one that takes it with GET;
//! 6. more header conditions, then more query, cookie and client address conditions (an address condition counts once);
//! 7. the route's name, so that the choice is the same at every start.
//!
//! Two routes that are equal in everything up to 6 and in what they ask for are an error.

mod build;
mod conditions;
mod draft;
mod methods;
mod pattern;
mod rewrite;
mod tree;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderMap, HeaderName, Method};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;

pub use conditions::{cookie, query_parameter};
pub use methods::Preflight;
pub use pattern::{HostPattern, PathPattern, PatternError, Rest, Segment, ValuePattern};
pub use rewrite::{PathRewrite, Redirect, RewriteError, Template};

use build::Match;
use tree::Tree;

/// What selects a route. A route matches when one of its matches does.
#[derive(Debug, Clone)]
pub struct RouteSpec {
    pub name: Arc<str>,
    pub matches: Vec<MatchSpec>,
    /// Higher wins over everything else; 0 by default.
    pub priority: i64,
}

/// One way to select a route: all of its parts have to hold; an empty list holds always.
#[derive(Debug, Clone)]
pub struct MatchSpec {
    /// The request came in at any of these.
    pub listeners: Vec<Arc<str>>,
    pub scheme: Option<Scheme>,
    /// The server name of the TLS handshake is any of these.
    pub sni: Vec<HostPattern>,
    /// Any of these.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// Any of these. GET stands for HEAD, too.
    pub methods: Vec<Method>,
    /// All of these; for a field of several lines any line.
    pub headers: Vec<FieldSpec<HeaderName>>,
    /// All of these; for a repeated parameter the first.
    pub query: Vec<FieldSpec<String>>,
    /// All of these; for a repeated cookie the first.
    pub cookies: Vec<FieldSpec<String>>,
    /// The client is in any of these.
    pub client_ip: Vec<IpNet>,
}

impl MatchSpec {
    /// A match on the path alone.
    pub fn new(path: PathPattern) -> Self {
        MatchSpec {
            listeners: vec![],
            scheme: None,
            sni: vec![],
            hosts: vec![],
            path,
            methods: vec![],
            headers: vec![],
            query: vec![],
            cookies: vec![],
            client_ip: vec![],
        }
    }
}

/// A condition on a named value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldSpec<N> {
    pub name: N,
    pub value: ValuePattern,
}

/// Why no router can be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("there is no match")]
    NoMatch { route: Arc<str> },
    #[error("the regular expressions of all paths can't be compiled together: {why}")]
    Regexes { why: String },
    #[error("matches the same requests as the route `{first}`")]
    Duplicate { first: Arc<str>, second: Arc<str> },
}

/// Where a request came in.
#[derive(Debug, Clone, Copy)]
pub struct Ingress<'a> {
    /// The listener's name.
    pub listener: &'a str,
    /// How the client spoke, to this gateway or to a trusted proxy before it.
    pub scheme: &'a Scheme,
    /// The server name of the TLS handshake, lower-case.
    pub sni: Option<&'a str>,
}

/// The parts of a request that select.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    pub ingress: &'a Ingress<'a>,
    /// Lower-case, without port (see `http::target::Target::host`).
    pub host: &'a str,
    /// Normalised (see `http::path::normalise_path`).
    pub path: &'a str,
    pub method: &'a Method,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// `None` where the client has none; no network contains it then.
    pub client_ip: Option<IpAddr>,
}

/// Values of `{param}`s and of named groups of a regular expression, as they stand in the path: percent-encoded, so that a slash
/// between two segments and one within a segment (`%2F`) are not the same. [`decode_param`] has their text.
pub type Captures = Vec<(Arc<str>, String)>;

/// The text of a parameter. A value that is not UTF-8 when decoded stays encoded.
pub fn decode_param(value: &str) -> String {
    percent_decode_str(value).decode_utf8().map_or_else(|_| value.to_owned(), Cow::into_owned)
}

/// The route of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// The position in the list that the router was built from.
    pub index: usize,
    pub params: Captures,
}

/// All routes, indexed.
#[derive(Debug)]
pub struct Router {
    tree: Tree,
    matches: Vec<Match>,
    /// All methods that a match names.
    methods: Vec<Method>,
}

impl Router {
    /// Indexes routes. All errors are found at once.
    pub fn build(specs: Vec<RouteSpec>) -> Result<Router, Vec<RouteError>> {
        build::build(&specs)
    }

    /// The best route for a request. Allocates only for parameters and where regular expressions are tried.
    pub fn find(&self, view: &RequestView) -> Option<RouteMatch> {
        let best = self.tree.find(view, &self.matches)?;
        let found = self.matches.get(best.at as usize)?;
        Some(RouteMatch { index: found.route, params: found.captures(view.path) })
    }
}

#[cfg(test)]
mod tests;
