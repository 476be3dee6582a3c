//! Lists that sources tell, on endpoints without sockets.

use std::time::{Duration, Instant};

use super::*;
use crate::telemetry::Metrics;
use crate::upstream::{
    Affinity, Choice, EndpointRegistry, EndpointSpec, LocalUpstream, Protocol, TargetSpec, Upstream, UpstreamSpec,
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
    let wrong = || EndpointSpec { place: crate::upstream::Place::host("not a host", 80), ..endpoint(0, 1) };
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

/// 1,000 endpoints, of which one goes and one comes with each list: what a worker has of the others stays, and it has the new list as soon
/// as that was told. How long that takes the stress tests tell.
#[tokio::test(flavor = "local")]
async fn a_change_of_one_of_a_thousand_leaves_the_others() {
    const ENDPOINTS: usize = 1_000;
    const CHANGES: usize = 20;
    let case = case();
    let list = |first: usize| (first..first + ENDPOINTS).map(|i| endpoint(i, 1)).collect::<Vec<_>>();
    case.feed.told(list(0)).await;
    let local = LocalUpstream::new(case.upstream.clone(), None);
    for first in 1..=CHANGES {
        let before = local.endpoints();
        let stays = before.pools().nth(ENDPOINTS / 2).unwrap().clone();
        assert!(case.feed.told(list(first)).await);
        let endpoints = local.endpoints();
        assert_ne!(endpoints.version(), before.version());
        assert!(endpoints.pools().any(|pool| std::rc::Rc::ptr_eq(pool, &stays)), "its connections stay");
        assert!(local.choose(&endpoints, Choice::Balanced(Affinity::default()), None, &[]).is_some());
    }
}

#[tokio::test(flavor = "local")]
async fn what_is_taken_over_is_as_the_new_source_tells_it() {
    let srv = |https| model::Discovery::Srv(model::Srv { name: "_http._tcp.orders.test".to_owned(), https });
    let plain = case_with(srv(false), None);
    plain.feed.told(vec![endpoint(1, 1)]).await;
    let after = |source, protocol| {
        let spec = UpstreamSpec { protocol, ..UpstreamSpec::new("orders", TargetSpec::Discovered(source)) };
        Upstream::new(spec, &plain.registry, &plain.resolver, Some(&plain.upstream)).unwrap()
    };
    let urls = |upstream: &Upstream| upstream.endpoint_specs().iter().map(EndpointSpec::url).collect::<Vec<_>>();
    let upstream = after(srv(true), Protocol::Http2);
    assert_eq!(urls(&upstream), ["https://127.1.0.2:8080"]);
    assert!(upstream.set().members().endpoints[0].endpoint.tls.is_some());

    // A file says the scheme itself: what can't be used is not taken over, and the file is read.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.json");
    std::fs::write(&path, r#"{ "endpoints": [{ "url": "https://127.1.0.9:8443" }] }"#).unwrap();
    assert_eq!(urls(&after(model::Discovery::File(path.clone()), Protocol::Auto)), ["http://127.1.0.2:8080"]);
    assert_eq!(urls(&after(model::Discovery::File(path), Protocol::Http2)), ["https://127.1.0.9:8443"]);
}

#[tokio::test(flavor = "local")]
async fn a_failure_of_the_gateway_ends_no_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.json");
    let spec = UpstreamSpec::new("orders", TargetSpec::Discovered(model::Discovery::File(path.clone())));
    let (registry, resolver) = (EndpointRegistry::new(), Resolver::new(&[], None));
    let sources = Sources::stopped(directory.path().to_owned());
    let upstream = Arc::new(Upstream::with_sources(spec, &registry, &resolver, &sources, None).unwrap());
    let feed = Feed { set: upstream.set().clone(), listed: upstream.listed().unwrap().clone() };
    let case = Case { registry, resolver, upstream, feed };
    let (background, _thread) = Background::start(Metrics::new()).unwrap();
    let is_noted = async {
        while case.errors() != [("unavailable", 1), ("internal", 1)] {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = file::follow(path, &case.feed, &background) => panic!("it has ended"),
        () = is_noted => {}
    }
    assert!(!case.feed.told(vec![endpoint(1, 1)]).await);
    assert_eq!(case.errors(), [("unavailable", 1), ("internal", 2)], "there was no file at first");
}

/// Whether the end of a panic was told: then the beginning of another one is new.
fn is_told(case: &Case) -> bool {
    case.upstream.set().changes().note_panic("", true)
}

#[tokio::test(flavor = "local")]
async fn a_panic_ends_with_another_list_and_with_one_endpoint() {
    let check = model::HealthCheck {
        probe: model::Probe::Tcp,
        interval: Duration::from_secs(5),
        interval_jitter_percent: 0,
        timeout: Duration::from_secs(1),
        healthy_threshold: 1,
        unhealthy_threshold: 1,
        port: None,
    };
    for (before, after) in [(2, 2), (2, 3), (2, 1), (1, 1)] {
        let case = case();
        let list = |count: usize| (1..=count).map(|i| endpoint(i, 1)).collect::<Vec<_>>();
        case.feed.told(list(before)).await;
        let local = LocalUpstream::new(case.upstream.clone(), None);
        let choose = || local.choose(&local.endpoints(), Choice::Balanced(Affinity::default()), None, &[]);
        let members = case.upstream.set().members();
        members.hosts.iter().for_each(|host| host.record.checked(&check, Some(&"down")));
        assert!(choose().is_some() && !is_told(&case), "in panic, and told");
        members.hosts.iter().for_each(|host| host.record.checked(&check, None));
        case.feed.told(list(after)).await;
        assert!(choose().is_some() && is_told(&case), "from {before} to {after}");
    }
}
