//! Lists that sources tell, on endpoints without sockets.

use std::time::{Duration, Instant};

use super::*;
use crate::upstream::{
    Affinity, Choice, EndpointRegistry, EndpointSpec, LocalUpstream, TargetSpec, Upstream, UpstreamSpec,
};

fn endpoint(i: usize, weight: u32) -> EndpointSpec {
    let url = format!("http://127.1.{}.{}:8080", i / 250, i % 250 + 1);
    EndpointSpec { weight, ..EndpointSpec::from_url(&url).unwrap() }
}

struct Case {
    registry: Arc<EndpointRegistry>,
    resolver: Arc<Resolver>,
    upstream: Arc<Upstream>,
    feed: Feed,
}

/// An upstream whose source has told nothing yet.
fn case() -> Case {
    case_with(model::Discovery::File("/nonexistent/orders.json".into()), None)
}

fn case_with(source: model::Discovery, before: Option<&Case>) -> Case {
    let (registry, resolver) = match before {
        Some(before) => (before.registry.clone(), before.resolver.clone()),
        None => (EndpointRegistry::new(), Resolver::new(&[], None)),
    };
    let spec = UpstreamSpec::new("orders", TargetSpec::Discovered(source));
    let before = before.map(|before| &*before.upstream);
    let upstream = Arc::new(Upstream::new(spec, &registry, &resolver, before).unwrap());
    let feed = Feed { set: upstream.set().clone(), listed: upstream.listed().unwrap().clone() };
    Case { registry, resolver, upstream, feed }
}

impl Case {
    fn names(&self) -> String {
        let members = self.upstream.set().members();
        members.endpoints.iter().map(|member| &*member.endpoint.name).collect::<Vec<_>>().join(" ")
    }

    fn errors(&self) -> Vec<(&'static str, u64)> {
        self.upstream.discovery_state().unwrap().errors
    }
}

#[tokio::test(flavor = "local")]
async fn the_last_good_list_stays() {
    let case = case();
    assert!(!case.upstream.has_endpoints() && case.upstream.discovery_state().unwrap().age.is_none());
    assert!(case.upstream.warning().is_some_and(|warning| warning.contains("/nonexistent/orders.json")));
    let local = LocalUpstream::new(case.upstream.clone(), None);
    assert_eq!(local.choose(&local.endpoints(), Choice::Balanced(Affinity::default()), None, &[]), None);
    let missing = case.upstream.wait_for_endpoints(Instant::now());
    assert!(missing.is_some_and(|why| why.contains("has told no endpoints yet")));

    assert!(case.feed.told(vec![endpoint(2, 1), endpoint(1, 1), endpoint(2, 1)]).await);
    assert_eq!(case.names(), "127.1.0.2:8080 127.1.0.3:8080", "in order, and each of them once");
    assert!(case.upstream.has_endpoints() && case.upstream.wait_for_endpoints(Instant::now()).is_none());
    assert!(local.choose(&local.endpoints(), Choice::Balanced(Affinity::default()), None, &[]).is_some());

    assert!(!case.feed.told(Vec::new()).await);
    assert!(!case.feed.told((0..20_000).map(|i| endpoint(i, 1)).collect()).await);
    let wrong = || EndpointSpec { host: "not a host".to_owned(), ..endpoint(0, 1) };
    assert!(!case.feed.told(vec![wrong()]).await);
    assert_eq!(case.names(), "127.1.0.2:8080 127.1.0.3:8080");
    assert_eq!(case.errors(), [("unavailable", 1), ("invalid", 2), ("empty", 1)], "the file is not there, either");
    assert!(case.feed.told(vec![endpoint(1, 1), wrong(), endpoint(2, 1)]).await, "the others are used");
    let state = case.upstream.discovery_state().unwrap();
    assert!(state.endpoints == 2 && state.age.is_some_and(|age| age < Duration::from_secs(60)));
}

#[tokio::test(flavor = "local")]
async fn who_stays_keeps_its_record() {
    let mut case = case();
    case.feed.told(vec![endpoint(1, 1), endpoint(2, 1), endpoint(3, 1)]).await;
    let before = case.upstream.set().members();
    let version = case.upstream.set().version();
    case.feed.told(vec![endpoint(3, 1), endpoint(2, 1), endpoint(1, 1)]).await;
    assert_eq!(case.upstream.set().version(), version, "the same endpoints in another order are no change");
    case.feed.told(vec![endpoint(4, 1), endpoint(2, 5), endpoint(1, 1)]).await;
    let after = case.upstream.set().members();
    let weights: Vec<u32> = after.endpoints.iter().map(|member| member.endpoint.weight).collect();
    assert_eq!(weights, [1, 5, 1]);
    assert!(Arc::ptr_eq(&before.hosts[0].record, &after.hosts[0].record), "nothing of it has changed");
    assert!(Arc::ptr_eq(&before.endpoints[0].endpoint, &after.endpoints[0].endpoint));
    assert!(Arc::ptr_eq(&before.hosts[1].record, &after.hosts[1].record), "only its weight has changed");

    // A reload begins with what is known, also if the source is another one.
    let updates = case.upstream.discovery_state().unwrap().updates;
    case = case_with(model::Discovery::File("/nonexistent/others.json".into()), Some(&case));
    assert_eq!(case.upstream.discovery_state().unwrap().updates, updates);
    let srv = model::Srv { name: "_http._tcp.orders.test".to_owned(), https: false };
    case = case_with(model::Discovery::Srv(srv), Some(&case));
    assert_eq!(case.names(), "127.1.0.2:8080 127.1.0.3:8080 127.1.0.5:8080");
    assert!(Arc::ptr_eq(&case.upstream.set().members().hosts[0].record, &before.hosts[0].record));
    assert!(case.upstream.has_endpoints());
}

/// 1,000 endpoints, of which one goes and one comes with each list: what a worker has of the others stays, and it has the new list soon
/// after it was told.
#[tokio::test(flavor = "local")]
async fn a_change_of_one_of_a_thousand_is_in_use_soon() {
    const ENDPOINTS: usize = 1_000;
    const CHANGES: usize = 100;
    let case = case();
    let list = |first: usize| (first..first + ENDPOINTS).map(|i| endpoint(i, 1)).collect::<Vec<_>>();
    case.feed.told(list(0)).await;
    let local = LocalUpstream::new(case.upstream.clone(), None);
    let mut took = Vec::with_capacity(CHANGES);
    for first in 1..=CHANGES {
        let before = local.endpoints();
        let stays = before.pools().nth(ENDPOINTS / 2).unwrap().clone();
        let specs = list(first);
        let begun = Instant::now();
        assert!(case.feed.told(specs).await);
        let endpoints = local.endpoints();
        took.push(begun.elapsed());
        assert_ne!(endpoints.version(), before.version());
        assert!(endpoints.pools().any(|pool| std::rc::Rc::ptr_eq(pool, &stays)), "its connections stay");
        assert!(local.choose(&endpoints, Choice::Balanced(Affinity::default()), None, &[]).is_some());
    }
    took.sort_unstable();
    let (p50, p99) = (took[CHANGES / 2], took[CHANGES * 99 / 100 - 1]);
    // The promise is 50 ms for both. Other tests run meanwhile, and this build is not optimised.
    assert!(p50 < Duration::from_millis(50) && p99 < Duration::from_millis(500), "{p50:?} {p99:?}");
}
