//! Which route a request takes. Pure: no I/O, no async, and nothing of what a route does once it is found.
//!
//! Precedence, the first difference decides:
//!
//! 1. `priority`, higher first;
//! 2. host: exact, then the longest wildcard, then any (Gateway API: the host goes before the path);
//! 3. path: exact literals, then patterns with `{param}` or `*`, then prefixes (`/**`) with the most segments, then regular
//!    expressions with the longest text; among patterns of a kind, the one that has a literal where the other has a parameter,
//!    from the left;
//! 4. a match with methods before one without;
//! 5. more header conditions, then more query, cookie and client address conditions (an address condition counts once);
//! 6. the route's name, so that the choice is the same at every start.
//!
//! Two routes that are equal in everything up to 5 and in what they ask for are an error.

mod build;
mod conditions;
mod draft;
mod pattern;
mod rewrite;
mod tree;

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use ipnet::IpNet;

pub use pattern::{HostPattern, PathPattern, PatternError, ValuePattern};
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
    /// Any of these.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// Any of these.
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

/// The parts of a request that select.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// Lower-case, without port (see `http::target::Target::host`).
    pub host: &'a str,
    /// Normalised (see `http::path::normalise_path`).
    pub path: &'a str,
    pub method: &'a Method,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub client_ip: IpAddr,
}

/// Values of `{param}`s and of named groups of a regular expression, percent-decoded. A value that is not UTF-8 when decoded stays encoded.
pub type Captures = Vec<(Arc<str>, String)>;

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
