//! Certificates of several gateways that share a state, from a real ACME authority (Pebble), with a real Redis server.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sluice_harness::pebble::Options;
use sluice_harness::redis::Redis;
use sluice_harness::tools::free_port;
use sluice_harness::{Gateway, Origin, Pebble, Reply, eventually};

use super::acme::{NAMES, Site, at, orders, shown, trusted};

/// What `[acme.pebble]` has for it.
const SHARED: &str = "\nstate = \"shared\"\nchallenges = [\"http-01\"]";

/// The state itself.
fn state(redis: &Redis) -> String {
    format!("\n[state.shared]\nredis = [\"{}\"]\n", redis.url())
}

#[test]
fn gateways_that_share_a_state_order_one_certificate() {
    let sites = [Site::new(), Site::new(), Site::new()];
    let (Some(pebble), Some(redis)) = (Pebble::start(sites[2].options()), Redis::start(&[])) else { return };
    let acme = at(&pebble) + "\nstate = \"shared\"\nchallenges = [\"http-01\"]";
    let state = format!("{NAMES}\n[state.shared]\nredis = [\"{}\"]\n", redis.url());
    // The authority asks the third, whoever orders.
    let gateways: Vec<Gateway> = sites.iter().map(|site| site.start(&acme, &state)).collect();
    let config = pebble.client_config(&[]);
    let first = trusted(&gateways[0], "site.test", &config);
    for gateway in &gateways {
        assert_eq!(trusted(gateway, "site.test", &config), first);
    }
    assert_eq!(pebble.issued(), 1);
    assert_eq!(gateways.iter().map(|gateway| orders(gateway, "issued")).sum::<f64>(), 1.0);
    // One that comes later has it at once, and one whose state is away has what it had.
    drop(gateways);
    let late = sites[0].again();
    let gateway = late.start(&acme, &state);
    assert_eq!(trusted(&gateway, "site.test", &config), first);
    assert_eq!(pebble.issued(), 1);
    eventually("it is kept", || late.state.path().join("acme/certificates/site.json").exists());
    drop(gateway);
    drop(redis);
    let gateway = late.start(&acme, &state);
    assert_eq!(shown(&gateway, "site.test", &config).expect("from disk"), first);
}

/// The rights that a page says are enough.
fn rights() -> String {
    let page = include_str!("../../docs/src/configuration/acme.md");
    let line = page.split('`').find(|code| code.starts_with("~sluice:* +")).expect("the rights");
    line.to_owned()
}

#[test]
fn gateways_that_differ_order_what_each_of_them_needs() {
    let sites = [Site::new(), Site::new()];
    let rights = rights();
    let user = ["--user", "gateway", "on", ">secret", "&*", "-@all"].into_iter().chain(rights.split(' '));
    let arguments: Vec<&str> = user.collect();
    let (Some(pebble), Some(redis)) = (Pebble::start(sites[0].options()), Redis::start(&arguments)) else { return };
    let acme = at(&pebble) + SHARED;
    let state = state(&redis) + "username = \"gateway\"\npassword = \"secret\"\n";
    let config = pebble.client_config(&[]);
    let old = sites[0].start(&acme, &format!("{NAMES}{state}"));
    let first = trusted(&old, "site.test", &config);
    // As while a change is rolled out: this one has a name more.
    let new = sites[1].start(&acme, &format!("names = [\"site.test\", \"www.site.test\"]{state}"));
    let second = trusted(&new, "www.site.test", &config);
    let scripts = redis.calls("evalsha");
    eventually("both have looked at the state again", || redis.calls("evalsha") > scripts + 6);
    assert_eq!(shown(&old, "site.test", &config).expect("trusted"), first);
    assert_eq!(shown(&new, "site.test", &config).expect("trusted"), second);
    assert_eq!(pebble.issued(), 2);
    // Nothing stays in the state for ever.
    for key in redis.ask(&["KEYS", "sluice:{acme}:certificates/*"]).lines() {
        let life: i64 = redis.ask(&["TTL", key]).trim().parse().expect("a number");
        assert!(life > 30 * 24 * 3600, "{key}: {life}");
    }
}

/// A host shows one certificate of `tls-alpn-01` at a time.
#[test]
fn orders_that_have_only_some_names_in_common_follow_each_other() {
    let sites = [Site::new(), Site::new()];
    let (Some(pebble), Some(redis)) = (Pebble::start(sites[0].options()), Redis::start(&[])) else { return };
    let acme = at(&pebble) + "\nstate = \"shared\"\nchallenges = [\"tls-alpn-01\"]";
    let other = format!(
        "[certificates.other]\nacme = \"other\"\nnames = [\"www.site.test\"]\n[acme.other]\nterms_of_service_agreed = true\n{acme}\nkey_type = \"rsa-2048\"\n"
    );
    let both = format!("names = [\"site.test\", \"www.site.test\"]\n{other}{}", state(&redis));
    let gateways = [sites[0].start(&acme, &both), sites[1].start(&acme, &format!("{NAMES}{}", state(&redis)))];
    for (gateway, certificate) in [(&gateways[0], "site"), (&gateways[0], "other"), (&gateways[1], "site")] {
        let count = |result: &str| {
            gateway.metric("sluice_acme_orders_total", &[("certificate", certificate), ("result", result)])
        };
        eventually("it is ordered", || count("issued") == Some(1.0) || count("challenge").is_some());
        assert_eq!(count("challenge"), None, "{certificate}");
    }
    assert_eq!(pebble.issued(), 3);
    eventually("all locks are let go", || redis.ask(&["KEYS", "sluice:{acme}:lock:*"]).trim().is_empty());
}

#[test]
fn a_state_that_has_lost_its_data_gets_the_certificate_again() {
    let sites = [Site::new(), Site::new()];
    let (Some(pebble), Some(redis)) = (Pebble::start(sites[0].options()), Redis::start(&[])) else { return };
    let (acme, certificate) = (at(&pebble) + SHARED, format!("{NAMES}{}", state(&redis)));
    let config = pebble.client_config(&[]);
    let first = sites[0].start(&acme, &certificate);
    let shown_first = trusted(&first, "site.test", &config);
    let number = || redis.ask(&["GET", "sluice:{acme}:certificates:number"]).trim().parse().unwrap_or(0);
    eventually("it is in the state", || number() > 0);
    let scripts = redis.calls("evalsha");
    eventually("the gateway has looked at it", || redis.calls("evalsha") > scripts + 2);
    redis.ask(&["FLUSHALL"]);
    eventually("it is there again", || redis.ask(&["KEYS", "sluice:{acme}:certificates/site/*"]).lines().count() == 1);
    drop(first);
    let second = sites[1].start(&acme, &certificate);
    assert_eq!(trusted(&second, "site.test", &config), shown_first);
    assert_eq!(pebble.issued(), 1);
}

#[test]
fn another_gateway_orders_when_one_dies_while_it_orders() {
    let sites = [Site::new(), Site::new()];
    // The authority asks there, and gets no answer while the first one orders.
    let hangs = TcpListener::bind(("127.0.0.1", sites[1].http)).expect("a port");
    let (Some(pebble), Some(redis)) = (Pebble::start(sites[1].options()), Redis::start(&[])) else { return };
    let (acme, certificate) = (at(&pebble) + SHARED, format!("{NAMES}{}", state(&redis)));
    let first = sites[0].start(&acme, &certificate);
    let (question, _) = hangs.accept().expect("the authority asks");
    let lock = redis.ask(&["KEYS", "sluice:{acme}:lock:names/*"]).trim().to_owned();
    drop((first, question, hangs));
    let life: i64 = redis.ask(&["PTTL", &lock]).trim().parse().expect("a lock");
    assert!((1..=60_000).contains(&life), "it ends by itself: {life}");
    let second = sites[1].start(&acme, &certificate);
    let config = pebble.client_config(&[]);
    assert!(shown(&second, "site.test", &config).is_err(), "the lock is the first one's still");
    // Its minute is over.
    redis.ask(&["PEXPIRE", &lock, "1"]);
    trusted(&second, "site.test", &config);
    assert_eq!(pebble.issued(), 1);
}

#[test]
fn an_order_ends_when_the_state_hangs_for_longer_than_its_lock_holds() {
    let sites = [Site::new(), Site::new()];
    // The authority asks there, and gets no answer for now.
    let hangs = TcpListener::bind(("127.0.0.1", sites[1].http)).expect("a port");
    let (Some(pebble), Some(redis)) = (Pebble::start(sites[1].options()), Redis::start(&[])) else { return };
    let (acme, certificate) = (at(&pebble) + SHARED, format!("{NAMES}{}", state(&redis)));
    let first = sites[0].start(&acme, &certificate);
    let (question, _) = hangs.accept().expect("the authority asks");
    redis.hang();
    eventually("the order ends", || orders(&first, "state") >= 1.0);
    redis.resume();
    drop((question, hangs));
    let second = sites[1].start(&acme, &certificate);
    let config = pebble.client_config(&[]);
    let shown_first = trusted(&first, "site.test", &config);
    assert_eq!(trusted(&second, "site.test", &config), shown_first);
    assert_eq!(pebble.issued(), 1);
}

/// Certificates on demand, so many in an hour, for names that get them.
fn on_demand(ask: &Origin, rate: u32, redis: &Redis) -> String {
    format!("on_demand = {{ ask = \"{}/has\", rate = {rate} }}{}", ask.url(), state(redis))
}

#[test]
fn what_another_gateway_has_ordered_on_demand_is_taken_from_the_state() {
    let sites = [Site::new(), Site::new()];
    let (Some(pebble), Some(redis)) = (Pebble::start(sites[0].options()), Redis::start(&[])) else { return };
    let (acme, ask) = (at(&pebble) + SHARED, Origin::serve(|_| Reply::status(200)));
    let config = pebble.client_config(&[]);
    let names = ["one.test", "two.test", "three.test"];
    let first = sites[0].start(&acme, &on_demand(&ask, 10, &redis));
    let ordered = names.map(|name| trusted(&first, name, &config));
    // One that comes later may order one in an hour, and needs none.
    let second = sites[1].start(&acme, &on_demand(&ask, 1, &redis));
    for (name, ordered) in names.iter().zip(ordered) {
        assert_eq!(shown(&second, name, &config).expect("from the state, at the first try"), ordered);
    }
    assert_eq!((pebble.issued(), orders(&second, "over_rate")), (3, 0.0));
}

#[test]
fn gateways_that_are_asked_at_the_same_time_order_one_certificate_on_demand() {
    let sites = [Site::new(), Site::new()];
    let (Some(pebble), Some(redis)) = (Pebble::start(sites[0].options()), Redis::start(&[])) else { return };
    let (acme, ask) = (at(&pebble) + SHARED, Origin::serve(|_| Reply::status(200)));
    let gateways = [5, 1].map(|rate| {
        let site = if rate == 5 { &sites[0] } else { &sites[1] };
        let toml = site.config(&acme, &on_demand(&ask, rate, &redis));
        Gateway::start(&toml.replace("[listeners.https]\n", "[listeners.https]\ntimeouts = { handshake = \"110s\" }\n"))
    });
    let config = pebble.client_config(&[]);
    let first = thread::scope(|scope| {
        let asked = gateways.each_ref().map(|gateway| scope.spawn(|| shown(gateway, "one.test", &config)));
        asked.map(|asked| asked.join().expect("no panic").expect("a certificate at the first try"))
    });
    assert_eq!(first[0], first[1]);
    assert_eq!(pebble.issued(), 1);
}

#[test]
fn a_certificate_on_demand_that_is_wanted_no_more_is_forgotten() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(Options { validity: 24, ..site.options() }) else { return };
    let Some(redis) = Redis::start(&[]) else { return };
    let is_wanted = Arc::new(AtomicBool::new(true));
    let ask = Origin::serve({
        let is_wanted = is_wanted.clone();
        move |_| Reply::status(if is_wanted.load(Ordering::SeqCst) { 200 } else { 404 })
    });
    let gateway = site.start(&(at(&pebble) + SHARED), &on_demand(&ask, 10, &redis));
    trusted(&gateway, "one.test", &pebble.client_config(&[]));
    let file = site.state.path().join("acme/on-demand/site/one.test.json");
    eventually("it is kept", || file.exists());
    is_wanted.store(false, Ordering::SeqCst);
    eventually("it is dropped", || {
        gateway.metric("sluice_acme_on_demand_certificates", &[("certificate", "site")]) == Some(0.0)
    });
    assert!(!file.exists());
    assert_eq!(redis.ask(&["KEYS", "sluice:{acme}:on-demand/*"]).trim(), "");
    assert!(shown(&gateway, "one.test", &pebble.client_config(&[])).is_err());
}

#[test]
fn certificates_of_one_host_are_ordered_one_after_the_other_by_one_account() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let acme = at(&pebble) + "\nchallenges = [\"tls-alpn-01\"]";
    let second = format!(
        "{NAMES}\n[certificates.rsa]\nacme = \"rsa\"\n{NAMES}\n[acme.rsa]\nterms_of_service_agreed = true\n{acme}\nkey_type = \"rsa-2048\"\n"
    );
    let gateway = site.start(&acme, &second);
    for certificate in ["site", "rsa"] {
        let count = |result: &str| {
            gateway.metric("sluice_acme_orders_total", &[("certificate", certificate), ("result", result)])
        };
        eventually("it is ordered", || count("issued") == Some(1.0) || count("challenge").is_some());
        assert_eq!(count("challenge"), None, "{certificate}");
    }
    assert_eq!(pebble.log().matches("accounts in memory").count(), 1, "{}", pebble.log());
}

#[test]
fn after_a_failure_on_demand_the_next_challenge_is_tried() {
    let site = Site::new();
    // Nobody answers there.
    let options = Options { http: free_port(), ..site.options() };
    let Some(pebble) = Pebble::start(options) else { return };
    let ask = Origin::serve(|_| Reply::status(200));
    let gateway = site.start(&at(&pebble), &format!("on_demand = {{ ask = \"{}/has\" }}", ask.url()));
    let config = pebble.client_config(&[]);
    assert!(shown(&gateway, "one.test", &config).is_err());
    assert_eq!(orders(&gateway, "challenge"), 1.0);
    // After a minute.
    trusted(&gateway, "one.test", &config);
    assert_eq!((orders(&gateway, "challenge"), orders(&gateway, "issued")), (1.0, 1.0));
}
