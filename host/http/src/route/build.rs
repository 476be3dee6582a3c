//! From the routes as written to the index: the order of precedence, and routes that can't be told apart.

use std::cmp::{Ordering, Reverse};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderName, Method};
use ipnet::IpNet;
use regex::Regex;

use super::conditions::Conditions;
use super::draft::Draft;
use super::methods;
use super::tree::{RankedMatch, Tree, index, segments};
use super::{
    Captures, FieldSpec, HostPattern, MatchSpec, PathPattern, RequestView, Rest, RouteError, RouteSpec, Router, Segment,
};

/// A match, ready to be tried.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) route: usize,
    conditions: Option<Box<Conditions>>,
    params: Params,
}

/// The index of a segment, and the name of its value.
type Named = (usize, Arc<str>);

/// Where the values of parameters are found.
#[derive(Debug)]
enum Params {
    /// By the index of the segment.
    Segments(Vec<Named>),
    /// The same, and all from a segment on.
    Rest(Box<(Vec<Named>, Named)>),
    Groups(Box<(Regex, Vec<Arc<str>>)>),
}

impl Match {
    pub(super) fn holds(&self, view: &RequestView) -> bool {
        self.conditions.as_ref().is_none_or(|conditions| conditions.hold(view))
    }

    /// Whether it names this method, so that it is more than a match for any.
    pub(super) fn names(&self, method: &Method) -> bool {
        self.conditions.as_ref().is_some_and(|conditions| conditions.names(method))
    }

    pub(super) fn captures(&self, path: &str) -> Captures {
        match &self.params {
            Params::Segments(params) => captured(params, path),
            Params::Rest(rest) => {
                let (params, (at, name)) = &**rest;
                let mut captures = captured(params, path);
                let below = path.strip_prefix('/').unwrap_or(path).splitn(at + 1, '/').nth(*at);
                captures.push((name.clone(), below.unwrap_or_default().to_owned()));
                captures
            }
            Params::Groups(groups) => {
                let (regex, names) = &**groups;
                if names.is_empty() {
                    return Vec::new();
                }
                let Some(found) = regex.captures(path) else { return Vec::new() };
                let value = |name: &Arc<str>| Some((name.clone(), found.name(name)?.as_str().to_owned()));
                names.iter().filter_map(value).collect()
            }
        }
    }
}

fn captured(params: &[Named], path: &str) -> Captures {
    let mut left = segments(path).enumerate();
    let value = |(at, name): &Named| {
        let (_, segment) = left.find(|(n, _)| n == at)?;
        Some((name.clone(), segment.to_owned()))
    };
    params.iter().filter_map(value).collect()
}

fn params(path: &PathPattern) -> Params {
    match path {
        PathPattern::Segments { segments, rest } => {
            let named = |(at, segment): (usize, &Segment)| match segment {
                Segment::Param(name) => Some((at, name.clone())),
                Segment::Literal(_) | Segment::Any => None,
            };
            let each = segments.iter().enumerate().filter_map(named).collect();
            match rest {
                Rest::Param(name) => Params::Rest(Box::new((each, (segments.len(), name.clone())))),
                Rest::None | Rest::Any => Params::Segments(each),
            }
        }
        PathPattern::Regex(regex) => {
            Params::Groups(Box::new((regex.clone(), regex.capture_names().flatten().map(Arc::from).collect())))
        }
    }
}

pub(super) fn build(specs: &[RouteSpec]) -> Result<Router, Vec<RouteError>> {
    let mut errors = Vec::new();
    let mut matches = Vec::new();
    let mut candidates = Vec::new();
    for (route, spec) in specs.iter().enumerate() {
        if spec.matches.is_empty() {
            errors.push(RouteError::NoMatch { route: spec.name.clone() });
        }
        for wanted in &spec.matches {
            let conditions = Conditions::build(wanted);
            let at = matches.len();
            matches.push(Match { route, conditions, params: params(&wanted.path) });
            let hosts = if wanted.hosts.is_empty() { &[HostPattern::Any] } else { wanted.hosts.as_slice() };
            candidates.extend(hosts.iter().map(|host| Candidate { spec, wanted, host, at }));
        }
    }
    find_duplicates(&candidates, &mut errors);
    candidates.sort_by(Candidate::precedence);
    let mut draft = Draft::default();
    for (rank, candidate) in candidates.iter().enumerate() {
        let conditional = matches.get(candidate.at).is_some_and(|found| found.conditions.is_some());
        let entry = RankedMatch { rank: index(rank), at: index(candidate.at), conditional };
        draft.insert(candidate.host, &candidate.wanted.path, entry);
    }
    match Tree::new(draft) {
        Ok(tree) if errors.is_empty() => return Ok(Router { tree, matches, methods: methods::named(specs) }),
        Ok(_) => {}
        Err(error) => errors.push(RouteError::Regexes { why: error.to_string() }),
    }
    Err(errors)
}

/// A match for one of its hosts.
struct Candidate<'a> {
    spec: &'a RouteSpec,
    wanted: &'a MatchSpec,
    host: &'a HostPattern,
    at: usize,
}

impl Candidate<'_> {
    /// `Less` wins. The rules are in the description of [`super`].
    fn precedence(&self, other: &Self) -> Ordering {
        let ingress = |m: &MatchSpec| Reverse((!m.listeners.is_empty(), m.scheme.is_some(), !m.sni.is_empty()));
        let conditions = |m: &MatchSpec| {
            let methods = (!m.methods.is_empty(), methods::names_head_alone(&m.methods));
            Reverse((methods, m.headers.len(), m.query.len(), m.cookies.len(), !m.client_ip.is_empty()))
        };
        Reverse(self.spec.priority)
            .cmp(&Reverse(other.spec.priority))
            .then_with(|| ingress(self.wanted).cmp(&ingress(other.wanted)))
            .then_with(|| host_order(self.host).cmp(&host_order(other.host)))
            .then_with(|| path_order(&self.wanted.path, &other.wanted.path))
            .then_with(|| conditions(self.wanted).cmp(&conditions(other.wanted)))
            .then_with(|| self.spec.name.cmp(&other.spec.name))
            .then_with(|| self.at.cmp(&other.at))
    }
}

fn host_order(host: &HostPattern) -> (u8, Reverse<usize>) {
    match host {
        HostPattern::Exact(_) => (0, Reverse(0)),
        HostPattern::Wildcard(suffix) => (1, Reverse(suffix.len())),
        HostPattern::Any => (2, Reverse(0)),
    }
}

fn path_order(a: &PathPattern, b: &PathPattern) -> Ordering {
    let (a_segments, b_segments, rest) = match (a, b) {
        (PathPattern::Regex(a), PathPattern::Regex(b)) => {
            return b.as_str().len().cmp(&a.as_str().len()).then_with(|| a.as_str().cmp(b.as_str()));
        }
        (PathPattern::Regex(_), PathPattern::Segments { .. }) => return Ordering::Greater,
        (PathPattern::Segments { .. }, PathPattern::Regex(_)) => return Ordering::Less,
        (PathPattern::Segments { segments: a, rest: x }, PathPattern::Segments { segments: b, rest: y }) => {
            if x.is_any() != y.is_any() {
                return x.is_any().cmp(&y.is_any());
            }
            (a, b, x.is_any())
        }
    };
    let is_wild = |segment: &Segment| !matches!(segment, Segment::Literal(_));
    let length = if rest { b_segments.len().cmp(&a_segments.len()) } else { Ordering::Equal };
    // Of two patterns for one path, the one without wildcards is less at the first place where the other has one; so this
    // also puts exact paths first.
    length.then_with(|| a_segments.iter().map(is_wild).cmp(b_segments.iter().map(is_wild)))
}

/// What a candidate asks for, in a form in which equal demands are equal.
#[derive(PartialEq, Eq, Hash)]
struct Demand<'a> {
    priority: i64,
    listener: Option<&'a str>,
    scheme: Option<&'a str>,
    sni: Vec<String>,
    host: &'a HostPattern,
    path: String,
    method: Option<&'a Method>,
    fields: [Vec<Field<'a>>; 3],
    client_ip: Vec<IpNet>,
}

/// A name, and the key of its pattern.
type Field<'a> = (&'a str, (u8, &'a str));

/// Methods and listeners are compared one by one, as hosts are: `GET, HEAD` and `GET` on the same path match the same `GET`s.
fn find_duplicates(candidates: &[Candidate], errors: &mut Vec<RouteError>) {
    let mut seen: HashMap<Demand, &Arc<str>> = HashMap::new();
    let mut told = HashSet::new();
    for candidate in candidates {
        let wanted = candidate.wanted;
        let methods = each_or_none(&wanted.methods);
        let listeners = each_or_none(&wanted.listeners);
        for (method, listener) in methods.iter().flat_map(|m| listeners.iter().map(move |l| (*m, *l))) {
            let mut sni: Vec<String> = wanted.sni.iter().map(ToString::to_string).collect();
            sni.sort();
            sni.dedup();
            let mut client_ip: Vec<IpNet> = wanted.client_ip.iter().map(IpNet::trunc).collect();
            client_ip.sort();
            client_ip.dedup();
            let demand = Demand {
                priority: candidate.spec.priority,
                listener: listener.map(|name| &**name),
                scheme: wanted.scheme.as_ref().map(Scheme::as_str),
                sni,
                host: candidate.host,
                path: shape(&wanted.path),
                method,
                fields: [
                    sorted(&wanted.headers, HeaderName::as_str),
                    sorted(&wanted.query, String::as_str),
                    sorted(&wanted.cookies, String::as_str),
                ],
                client_ip,
            };
            let name = &candidate.spec.name;
            match seen.get(&demand) {
                None => {
                    seen.insert(demand, name);
                }
                Some(first) if *first != name && told.insert((*first, name)) => {
                    errors.push(RouteError::Duplicate { first: Arc::clone(first), second: name.clone() });
                }
                Some(_) => {}
            }
        }
    }
}

/// Every item of a list, or `None` for a list that asks for nothing.
fn each_or_none<T>(list: &[T]) -> Vec<Option<&T>> {
    if list.is_empty() { vec![None] } else { list.iter().map(Some).collect() }
}

fn sorted<N>(fields: &[FieldSpec<N>], name: impl Fn(&N) -> &str) -> Vec<Field<'_>> {
    let mut sorted: Vec<_> = fields.iter().map(|field| (name(&field.name), field.value.key())).collect();
    sorted.sort();
    sorted.dedup();
    sorted
}

/// The path pattern without the names of its parameters.
fn shape(path: &PathPattern) -> String {
    match path {
        PathPattern::Regex(regex) => regex.as_str().to_owned(),
        PathPattern::Segments { segments, rest } => {
            let mut text = String::new();
            for segment in segments {
                text.push('/');
                match segment {
                    Segment::Literal(literal) => text.push_str(literal),
                    Segment::Param(_) | Segment::Any => text.push_str("{}"),
                }
            }
            if rest.is_any() {
                text.push_str("/{**}");
            }
            text
        }
    }
}
