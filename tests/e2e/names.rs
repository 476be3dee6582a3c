//! Who is asked for the names of endpoints, and how long an answer is used.

use std::net::TcpListener;

use serde_json::json;
use sluice_harness::h2::{self, H2Origin};
use sluice_harness::wait::eventually_some;
use sluice_harness::{NameServer, Origin, eventually};

use crate::support::{BASE, filter, gateway, route, setup, with_base};

const HOUR: u32 = 3600;

/// [`BASE`] with these name servers.
fn asking(servers: &[&NameServer]) -> String {
    let servers: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    BASE.replace("workers = 1", &format!("workers = 1\nnameservers = {servers:?}"))
}

/// A route `/NAME` to the host `NAME.test`.
fn named(name: &str, port: u16, dns: &str) -> String {
    format!(
        "[upstreams.{name}]\nendpoints = [\"http://{name}.test:{port}\"]\n{dns}\n\
         [routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"{name}\"\n"
    )
}

#[test]
fn the_name_servers_of_the_gateway() {
    let (origin, server) = (Origin::named("by name"), NameServer::start());
    server.set("known.test", [127, 0, 0, 1], HOUR);
    let port = origin.address().port();
    let routes = named("known", port, "") + &named("unknown", port, "") + &named("later", port, "");
    let gateway = setup().start(&(asking(&[&server]) + &routes));
    assert_eq!(gateway.get("/known").text(), "by name");
    assert_eq!(server.questions("known.test"), 1);
    assert!([502, 503].contains(&gateway.get("/unknown").status));
    assert!(server.questions("unknown.test") > 0, "asked for in vain");

    let other = NameServer::start();
    other.set("later.test", [127, 0, 0, 1], HOUR);
    assert!([502, 503].contains(&gateway.get("/later").status));
    gateway.reload(&(asking(&[&other]) + &routes));
    assert_eq!(gateway.get("/later").text(), "by name", "a reload changes who is asked");
    assert_eq!((gateway.get("/known").text(), other.questions("known.test")), ("by name".into(), 0), "known already");

    let refused = setup().refused(&BASE.replace("workers = 1", "workers = 1\nnameservers = [\"dns.example\"]"));
    assert!(refused.stderr.contains("gateway.nameservers[0]"), "{}", refused.stderr);
}

#[test]
fn names_that_filters_call() {
    let (origin, called, server) = (Origin::named("o"), Origin::named("called"), NameServer::start());
    server.set("called.test", [127, 0, 0, 1], HOUR);
    let url = format!("http://called.test:{}", called.address().port());
    let config = json!({"on-request": [{"do": "call", "url": &url, "to": "x-called"}]});
    let grants = format!("grants = {{ http = [{{ origin = \"{url}\", allow_private = true }}] }}");
    let gateway = setup()
        .start(&(asking(&[&server]) + &route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", &grants, config)));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(origin.last().header("x-called"), Some("200 called"));
    assert_eq!(server.questions("called.test"), 1);
}

/// The servers say an hour; the name moves within it.
#[test]
fn an_answer_is_used_no_longer_than_told() {
    let ((before, after), server) = (Origin::pair("before", "after"), NameServer::start());
    let names = ["short.test", "long.test"];
    names.iter().for_each(|name| server.set(name, [127, 0, 0, 1], HOUR));
    let port = before.address().port();
    let gateway = setup().start(
        &(asking(&[&server])
            + &named("short", port, "dns = { min_ttl = \"100ms\", max_ttl = \"200ms\" }")
            + &named("long", port, "dns = { min_ttl = \"100ms\", max_ttl = \"1h\" }")),
    );
    assert_eq!((gateway.get("/short").text(), gateway.get("/long").text()), ("before".into(), "before".into()));
    names.iter().for_each(|name| server.set(name, [127, 0, 0, 2], HOUR));
    eventually("the new address", || gateway.get("/short").text() == "after");
    assert!(server.questions("short.test") > 1 && after.count() > 0);
    assert_eq!((gateway.get("/long").text(), server.questions("long.test")), ("before".into(), 1));
}

#[test]
fn ipv6_addresses_that_are_never_answered_hold_up_nothing() {
    let (origin, server) = (Origin::named("o"), NameServer::start());
    let families = ["all", "auto", "v4_preferred", "v4_only"];
    let routes: String = (0..families.len())
        .map(|i| {
            server.set(&format!("n{i}.test"), [127, 0, 0, 1], HOUR);
            server.ignore_ipv6(&format!("n{i}.test"));
            let dns = format!("dns = {{ lookup_family = {:?} }}", families[i]);
            named(&format!("n{i}"), origin.address().port(), &dns)
        })
        .collect();
    let gateway = setup().start(&(asking(&[&server]) + &routes));
    for (i, family) in families.iter().enumerate() {
        assert_eq!(gateway.get(&format!("/n{i}")).text(), "o", "{family}");
    }
    let refused = setup().refused(&with_base(&named("n", 80, "dns = { lookup_family = \"both\" }")));
    assert!(refused.stderr.contains("upstreams.n.dns.lookup_family"), "{}", refused.stderr);
}

#[test]
fn an_answer_that_there_is_no_address_ends_the_use_of_the_old_one() {
    let (origin, server) = (Origin::named("o"), NameServer::start());
    let port = origin.address().port();
    ["gone", "empty"].iter().for_each(|name| server.set(&format!("{name}.test"), [127, 0, 0, 1], HOUR));
    let dns = "dns = { min_ttl = \"50ms\", max_ttl = \"100ms\" }";
    let gateway = setup().start(&(asking(&[&server]) + &named("gone", port, dns) + &named("empty", port, dns)));
    for target in ["/gone", "/empty"] {
        assert_eq!(gateway.get(target).text(), "o");
    }
    server.remove("gone.test");
    server.empty("empty.test");
    for target in ["/gone", "/empty"] {
        eventually("the end of the old address", || gateway.get(target).status == 502);
    }
    eventually("the end of the old connections", || origin.open() == 0);
    server.set("gone.test", [127, 0, 0, 1], HOUR);
    eventually("the name to be back", || gateway.get("/gone").status == 200);
}

#[test]
fn a_failure_of_the_name_servers_keeps_the_last_address_for_a_stated_time() {
    let (origin, server) = (Origin::named("o"), NameServer::start());
    let port = origin.address().port();
    ["short", "long"].iter().for_each(|name| server.set(&format!("{name}.test"), [127, 0, 0, 1], HOUR));
    let dns = |stale| format!("dns = {{ min_ttl = \"50ms\", max_ttl = \"100ms\", max_stale = \"{stale}\" }}");
    let routes = named("short", port, &dns("300ms")) + &named("long", port, &dns("1h"));
    let gateway = setup().start(&(asking(&[&server]) + &routes));
    assert_eq!((gateway.get("/short").status, gateway.get("/long").status), (200, 200));
    ["short.test", "long.test"].iter().for_each(|name| server.fail(name));
    eventually("the end of what is too old", || {
        assert_eq!(gateway.get("/long").status, 200);
        gateway.get("/short").status == 502
    });
    assert_eq!(gateway.get("/long").status, 200);
    assert!(server.questions("long.test") > 1);
}

#[test]
fn all_addresses_of_a_name_get_their_share_over_http2() {
    let answers_as = |name: &'static str| move |_| async move { http::Response::new(h2::full(name)) };
    let (port, listeners) = eventually_some("a port that is free at three addresses", || {
        let first = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = first.local_addr().ok()?.port();
        let other = |address: &str| TcpListener::bind((address, port)).ok();
        Some((port, [first, other("127.0.0.2")?, other("127.0.0.3")?]))
    });
    let names = ["one", "two", "three"];
    let _origins: Vec<H2Origin> =
        listeners.into_iter().zip(names).map(|(listener, name)| H2Origin::on(listener, answers_as(name))).collect();
    let server = NameServer::start();
    server.set_all("h2.test", &[[127, 0, 0, 1], [127, 0, 0, 2]], 0);
    let dns = "protocol = \"h2c\"\ndns = { min_ttl = \"50ms\", max_ttl = \"100ms\" }";
    let gateway = setup().start(&(asking(&[&server]) + &named("h2", port, dns)));
    let mut client = gateway.client();
    let mut shares = |requests: usize| {
        let answers: Vec<String> = (0..requests).map(|_| client.get("/h2").text()).collect();
        names.map(|name| answers.iter().filter(|answer| *answer == name).count())
    };
    eventually("the second address", || shares(2)[1] > 0);
    let [one, two, three] = shares(40);
    assert!((15..=25).contains(&one) && one + two == 40 && three == 0, "{one} {two} {three}");
    server.set_all("h2.test", &[[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]], 0);
    eventually("the third address", || shares(3)[2] > 0);
    let found = shares(60);
    assert!(found.iter().all(|share| (15..=25).contains(share)), "{found:?}");
}

/// The servers say that an answer is for once.
#[test]
fn an_answer_is_used_no_shorter_than_told() {
    let (origin, server) = (Origin::named("o"), NameServer::start());
    ["often.test", "once.test"].iter().for_each(|name| server.set(name, [127, 0, 0, 1], 0));
    let port = origin.address().port();
    let gateway = setup().start(
        &(asking(&[&server])
            + &named("often", port, "dns = { min_ttl = \"1ms\" }")
            + &named("once", port, "dns = { min_ttl = \"1h\", max_ttl = \"2h\" }")),
    );
    eventually("a question for each of many requests", || {
        assert_eq!((gateway.get("/often").text(), gateway.get("/once").text()), ("o".into(), "o".into()));
        server.questions("often.test") > 5
    });
    assert_eq!(server.questions("once.test"), 1);
}

#[test]
fn bounds_that_cross_are_refused() {
    let toml = with_base(&named("n", 80, "dns = { min_ttl = \"10s\", max_ttl = \"5s\" }"));
    let refused = setup().refused(&toml);
    assert!(refused.stderr.contains("`min_ttl` is above `max_ttl`"), "{}", refused.stderr);
    gateway(&named("n", 80, "dns = { min_ttl = \"2s\", max_ttl = \"5s\" }"));
}
