//! Methods beyond the simple look-up: what GET stands for, what a resource allows, and the route of a CORS preflight.

use http::Method;

use super::{RequestView, RouteMatch, RouteSpec, Router};

/// Whether a list of methods takes one. RFC 9110 §9.1: who supports GET supports HEAD.
pub(super) fn take(methods: &[Method], method: &Method) -> bool {
    methods.contains(method) || *method == Method::HEAD && methods.contains(&Method::GET)
}

/// Whether a match is more precise for HEAD than one that names GET.
pub(super) fn names_head_alone(methods: &[Method]) -> bool {
    methods.contains(&Method::HEAD) && !methods.contains(&Method::GET)
}

/// All methods that a match takes and that is not for any, HEAD behind GET, in the order of their first mention.
pub(super) fn named(specs: &[RouteSpec]) -> Vec<Method> {
    let mut all: Vec<Method> = Vec::new();
    for method in specs.iter().flat_map(|spec| &spec.matches).flat_map(|wanted| &wanted.methods) {
        let implied = (*method == Method::GET).then_some(Method::HEAD);
        for method in [Some(method.clone()), implied].into_iter().flatten() {
            if !all.contains(&method) {
                all.push(method);
            }
        }
    }
    all
}

/// The route of a CORS preflight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preflight {
    /// A route that takes OPTIONS.
    AsOptions(RouteMatch),
    /// The route of the request to come. It does not take OPTIONS: only its filters may answer.
    AsAnnounced(RouteMatch),
}

impl Router {
    /// The methods that would have found a route. Only for requests that find none: it looks up each method that is in any match.
    pub fn allowed(&self, view: &RequestView) -> Vec<&Method> {
        self.methods
            .iter()
            .filter(|method| self.tree.find(&RequestView { method, ..*view }, &self.matches).is_some())
            .collect()
    }

    /// The route of a CORS preflight (the Fetch standard): an OPTIONS request that announces a request with the method `announced`. Where no
    /// match names OPTIONS, it belongs to the route of that request, if its filters could answer and no better match takes it.
    pub fn find_preflight(
        &self,
        view: &RequestView,
        announced: &Method,
        has_filters: impl Fn(usize) -> bool,
    ) -> Option<Preflight> {
        let found = |method: &Method| {
            let best = self.tree.find(&RequestView { method, ..*view }, &self.matches)?;
            Some((best.rank, self.matches.get(best.at as usize)?))
        };
        let (own, other) = (found(view.method), found(announced));
        let as_match = |route: usize, params| RouteMatch { index: route, params };
        if let Some((rank, announced)) = other
            && has_filters(announced.route)
            && own.is_none_or(|(of_own, own)| rank < of_own && !own.names(view.method))
        {
            return Some(Preflight::AsAnnounced(as_match(announced.route, announced.captures(view.path))));
        }
        let (_, own) = own?;
        Some(Preflight::AsOptions(as_match(own.route, own.captures(view.path))))
    }
}
