//! Endpoints that a source lists: a watched file, SRV records of the DNS, Consul. What a source does wrong, and when it is away.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::consul::{Answer, Consul, instances};
use sluice_harness::origin::{Request, nobody};
use sluice_harness::tools::{Ended, free_port, need, wait_for_port, without_proxies};
use sluice_harness::{Certs, Client, Gateway, NameServer, Origin, Reply, eventually};

use crate::support::{BASE, route, setup, with_base};

/// An upstream `orders` with this table `discovery`, and a route for everything.
fn orders(discovery: &str) -> String {
    with_base(&format!("[upstreams.orders]\ndiscovery = {{ {discovery} }}\n{}", route("orders", &[])))
}

fn listed(urls: &[&str]) -> String {
    json!({ "endpoints": urls }).to_string()
}

/// The texts that this many requests are answered with, in order and each once.
fn answers(gateway: &Gateway, requests: usize) -> Vec<String> {
    let mut client = gateway.client();
    let mut found: Vec<String> = (0..requests).map(|_| client.get("/").text()).collect();
    found.sort();
    found.dedup();
    found
}

fn errors(gateway: &Gateway, kind: &str) -> f64 {
    gateway.metric("sluice_discovery_errors_total", &[("upstream", "orders"), ("kind", kind)]).unwrap_or(0.0)
}

fn metric(gateway: &Gateway, name: &str) -> Option<f64> {
    gateway.metric(name, &[("upstream", "orders")])
}

fn is_ready(gateway: &Gateway) -> bool {
    gateway.admin("/readyz").status == 200
}

#[test]
fn a_file_is_read_again_when_it_changes() {
    let (a, b, c) = (Origin::named("a"), Origin::named("b"), Origin::named("c"));
    let setup = setup().file("orders.json", listed(&[&a.url(), &b.url()]));
    let gateway = setup.start(&orders("file = \"orders.json\""));
    assert!(is_ready(&gateway), "what the file has is known at the start");
    assert_eq!(answers(&gateway, 4), ["a", "b"]);
    let connections = a.connections();

    // Replaced as a whole, as careful tools do.
    gateway.write("orders.json", listed(&[&a.url(), &c.url()]));
    eventually("the list after it was replaced", || answers(&gateway, 4) == ["a", "c"]);
    let line = gateway.wait_log("the change", |line| line["removed"] == b.address().to_string());
    assert_eq!((&line["message"], &line["added"]), (&json!("endpoints have changed"), &json!(c.address().to_string())));
    assert_eq!(metric(&gateway, "sluice_discovery_endpoints"), Some(2.0));
    assert_eq!(a.connections(), connections, "the connections to an endpoint that stays are kept");

    // Written in place.
    std::fs::write(gateway.dir().join("orders.json"), listed(&[&b.url()])).expect("a file");
    eventually("the list after it was written in place", || answers(&gateway, 4) == ["b"]);

    // Nonsense, an empty list, no file at all: the last good list stays, and each is told.
    for (text, kind) in [("{ \"endpoints\": [", "invalid"), ("{ \"endpoints\": [] }", "empty")] {
        let before = errors(&gateway, kind);
        gateway.write("orders.json", text);
        eventually(kind, || errors(&gateway, kind) > before);
        assert_eq!(answers(&gateway, 4), ["b"], "{kind}");
    }
    std::fs::remove_file(gateway.dir().join("orders.json")).expect("the file");
    eventually("a file that is gone", || errors(&gateway, "unavailable") > 0.0);
    let shown = || -> Value {
        let upstream: Value = serde_json::from_str(&gateway.admin("/api/v1/upstreams/orders").text()).expect("JSON");
        upstream["discovery"].clone()
    };
    let discovery = shown();
    assert_eq!(discovery["source"], "file");
    assert!(discovery["age_seconds"].as_f64().is_some_and(|age| age < 60.0), "{discovery}");
    assert!(discovery["last_error"].as_str().is_some_and(|error| error.contains("No such file")), "{discovery}");
    assert_eq!(answers(&gateway, 4), ["b"]);
    gateway.write("orders.json", listed(&[&c.url()]));
    eventually("the file to be back", || answers(&gateway, 4) == ["c"]);
    gateway.wait_log("that it works again", |line| line["message"] == "discovery works again");
    assert_eq!(shown()["last_error"], Value::Null);
    assert!(metric(&gateway, "sluice_discovery_updates_total") >= Some(3.0));
    assert!(metric(&gateway, "sluice_discovery_age_seconds").is_some_and(|age| age < 30.0));
}

#[test]
fn a_file_of_a_kubernetes_volume() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let toml = |url: &str, weight: u32| {
        format!("[[endpoints]]\nurl = \"{url}\"\nweight = {weight}\nlabels = {{ zone = \"b\" }}\n")
    };
    let gateway = setup()
        .file("volume/one/orders.toml", toml(&a.url(), 3))
        .file("volume/two/orders.toml", toml(&b.url(), 1))
        .start(&orders("file = \"volume/data/orders.toml\""));
    // Nothing is there yet: the listeners are open, and the answer says that the gateway knows no endpoint.
    assert_eq!((gateway.get("/").status, gateway.admin("/readyz").status), (503, 503));
    gateway.wait_log("why", |line| {
        line["kind"] == "no-endpoint" && line.to_string().contains("has told no endpoints yet")
    });
    let link = |target: &str| {
        let new = gateway.dir().join("volume/new");
        std::os::unix::fs::symlink(target, &new).expect("a link");
        std::fs::rename(new, gateway.dir().join("volume/data")).expect("a rename");
    };
    link("one");
    eventually("the list behind the link", || answers(&gateway, 2) == ["a"]);
    eventually("readiness", || is_ready(&gateway));
    let upstream: Value = serde_json::from_str(&gateway.admin("/api/v1/upstreams/orders").text()).expect("JSON");
    let expected = json!([{ "url": a.url(), "weight": 3, "priority": 0, "labels": { "zone": "b" } }]);
    assert_eq!(upstream["endpoints"], expected);
    link("two");
    eventually("the list behind the new link", || answers(&gateway, 2) == ["b"]);
}

#[test]
fn srv_records_have_ports_and_weights() {
    let (a, b, c) = (Origin::named("a"), Origin::named("b"), Origin::named("c"));
    let port = |origin: &Origin| origin.address().port();
    let server = NameServer::start();
    for name in ["one.test", "two.test"] {
        server.set(name, [127, 0, 0, 1], 3600);
    }
    let service = "_http._tcp.orders.test";
    // The last one is for the time when the others are gone.
    server.set_services(
        service,
        &[(1, 3, port(&a), "one.test"), (1, 1, port(&b), "two.test"), (2, 9, port(&c), "one.test")],
        0,
    );
    let base = BASE.replace("workers = 1", &format!("workers = 1\nnameservers = [\"{}\"]", server.address()));
    let upstream = format!(
        "[upstreams.orders]\ndiscovery = {{ srv = \"{service}\" }}\ndns = {{ min_ttl = \"50ms\", max_ttl = \"100ms\" }}\n"
    );
    let gateway = setup().start(&(base + &upstream + &route("orders", &[])));
    eventually("readiness", || is_ready(&gateway));
    let mut client = gateway.client();
    let found: Vec<String> = (0..40).map(|_| client.get("/").text()).collect();
    let count = |name: &str| found.iter().filter(|text| *text == name).count();
    assert_eq!((count("a"), count("b")), (30, 10));

    // Failures and an answer of none leave the last records in use.
    server.fail(service);
    eventually("a failure", || errors(&gateway, "unavailable") > 0.0);
    assert_eq!(answers(&gateway, 4), ["a", "b"]);
    server.remove(service);
    eventually("an answer that there is no service", || errors(&gateway, "empty") > 0.0);
    assert_eq!(answers(&gateway, 4), ["a", "b"]);
    server.set_services(service, &[(2, 9, port(&c), "one.test")], 0);
    eventually("the new records", || answers(&gateway, 2) == ["c"]);
    assert!(server.questions(service) >= 4, "asked again by its TTL");
}

#[test]
fn consul_is_asked_for_what_was_configured() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let consul = Consul::start(&[&a]);
    let keys = "tag = \"v2\", dc = \"eu\", namespace = \"team\", token = \"${env:TOKEN}\", wait = \"300ms\"";
    let toml = orders(&format!("consul = \"orders\", address = \"{}\", {keys}", consul.origin.url()));
    let gateway = setup().env("TOKEN", "s3cret").start(&toml);
    eventually("readiness", || is_ready(&gateway));
    assert_eq!(answers(&gateway, 2), ["a"]);
    eventually("a query that waits, and one after it", || consul.asked().len() >= 3);
    let asked = consul.asked();
    let path = "/v1/health/service/orders?passing=1&tag=v2&dc=eu&ns=team";
    assert_eq!(asked[0].target, path);
    assert_eq!(asked[1].target, format!("{path}&index=7&wait=300ms"));
    assert!(asked.iter().all(|request| request.header("x-consul-token") == Some("s3cret")));
    assert!(gateway.log().iter().all(|line| !line.to_string().contains("s3cret")));

    let meta = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    let all = vec![(a.address().to_string(), 3, BTreeMap::new()), (b.address().to_string(), 1, meta)];
    consul.say(8, Answer::Instances(all));
    eventually("the second instance", || metric(&gateway, "sluice_discovery_endpoints") == Some(2.0));
    let mut client = gateway.client();
    let found = (0..40).filter(|_| client.get("/").text() == "b").count();
    assert_eq!(found, 10, "a quarter by weight");
    let upstream: Value = serde_json::from_str(&gateway.admin("/api/v1/upstreams/orders").text()).expect("JSON");
    let labels: Vec<&Value> =
        upstream["endpoints"].as_array().expect("a list").iter().map(|one| &one["labels"]).collect();
    assert!(labels.contains(&&json!({ "zone": "b" })), "{labels:?}");
}

#[test]
fn whatever_consul_does_the_last_good_list_stays() {
    let (a, b, c) = (Origin::named("a"), Origin::named("b"), Origin::named("c"));
    let consul = Consul::start(&[&a]);
    let gateway = setup()
        .start(&orders(&format!("consul = \"orders\", address = \"{}\", wait = \"200ms\"", consul.origin.url())));
    eventually("readiness", || is_ready(&gateway));
    let wrong = [
        (Answer::Text(500, "No cluster leader"), "status"),
        (Answer::Text(403, "ACL not found"), "status"),
        (Answer::Text(200, "<html>a captive portal</html>"), "invalid"),
        (Answer::Text(200, "{\"not\": \"a list\"}"), "invalid"),
        (Answer::Text(200, "[{\"Node\": {}, \"Service\": {\"Port\": 0}}]"), "invalid"),
        (Answer::Instances(Vec::new()), "empty"),
    ];
    for (index, (wrong, kind)) in (8..).zip(wrong) {
        let before = errors(&gateway, kind);
        consul.say(index, wrong);
        eventually(kind, || errors(&gateway, kind) > before);
        assert_eq!(answers(&gateway, 3), ["a"], "{kind}");
    }
    let line = gateway.wait_log("what Consul said", |line| line["reason"].to_string().contains("No cluster leader"));
    assert_eq!((&line["kind"], &line["kept"]), (&json!("status"), &json!(1)));
    consul.say(100, instances(&[&b]));
    eventually("a good answer", || answers(&gateway, 3) == ["b"]);

    // An index that goes back is that of a server that was restored: waiting for more than it would miss what happens.
    consul.say(3, instances(&[&c]));
    eventually("the answer with the smaller index", || answers(&gateway, 3) == ["c"]);
    let after = consul.asked().len();
    eventually("the next query", || consul.asked().len() > after);
    let waits_for = |request: &Request| request.target.contains("index=100");
    assert!(!waits_for(consul.asked().last().expect("a query")), "it does not wait for the index from before");
}

#[test]
fn a_consul_that_hangs_or_is_away_costs_no_request() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let consul = Consul::start(&[&a]);
    consul.say(7, Answer::Hang);
    let dead = nobody();
    let upstream = |name: &str, address: &str| {
        format!(
            "[upstreams.{name}]\ndiscovery = {{ consul = \"orders\", address = \"{address}\" }}\n\
             [routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"{name}\"\n"
        )
    };
    let open = format!("[routes.open]\nmatch = {{ path = \"/open\" }}\nupstream = \"{}\"\n", b.url());
    let toml =
        with_base(&(upstream("hangs", &consul.origin.url()) + &upstream("away", &format!("http://{dead}")) + &open));
    let begun = Instant::now();
    let gateway = setup().start(&toml);
    assert_eq!(
        (gateway.get("/open").status, gateway.get("/hangs").status, gateway.get("/away").status),
        (200, 503, 503)
    );
    assert_eq!(gateway.admin("/readyz").status, 503);
    // As for key sets: for 5 s in all.
    eventually("readiness all the same", || is_ready(&gateway));
    let took = begun.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(20)).contains(&took), "{took:?}");
    for name in ["hangs", "away"] {
        let text = format!("upstream `{name}` has no endpoints yet: consul `orders` at");
        gateway.wait_log(&text, |line| line["message"].as_str().is_some_and(|message| message.starts_with(&text)));
    }
    consul.say(8, instances(&[&a]));
    eventually("the first answer", || gateway.get("/hangs").text() == "a");
}

#[test]
fn the_last_good_list_survives_a_restart() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let kept = state.join("discovery/orders.json");
    let consul = Consul::start(&[&a, &b]);
    let toml = orders(&format!("consul = \"orders\", address = \"{}\"", consul.origin.url()))
        .replace("workers = 1", &format!("workers = 1\nstate_dir = {:?}", state.display().to_string()));
    let mut gateway = setup().start(&toml);
    eventually("a list on disk", || {
        std::fs::read_to_string(&kept).is_ok_and(|text| text.contains(&b.address().to_string()))
    });
    gateway.terminate();

    consul.say(9, Answer::Hang);
    let mut gateway = setup().start(&toml);
    assert!(is_ready(&gateway), "there is nothing to wait for");
    assert_eq!(answers(&gateway, 4), ["a", "b"]);
    assert!(metric(&gateway, "sluice_discovery_age_seconds").is_some());
    gateway.wait_log("that it is old", |line| {
        line["message"].as_str().is_some_and(|text| text.starts_with("the endpoints of the last run"))
    });
    gateway.terminate();

    // A file that is broken is ignored, and so is one of another source.
    for (text, reason) in [
        ("{", "EOF"),
        ("{\"version\":1,\"upstream\":\"orders\",\"source\":\"srv `x`\",\"saved\":1,\"endpoints\":[]}", "srv `x`"),
    ] {
        std::fs::write(&kept, text).expect("a file");
        let mut gateway = setup().start(&toml);
        assert_eq!((gateway.get("/").status, gateway.admin("/readyz").status), (503, 503), "{reason}");
        gateway.wait_log(reason, |line| line["reason"].as_str().is_some_and(|text| text.contains(reason)));
        gateway.terminate();
    }

    // Where nothing can be written the gateway goes on without.
    std::fs::remove_dir_all(&state).expect("the folder");
    std::fs::write(&state, "in the way").expect("a file");
    consul.say(10, instances(&[&a]));
    let gateway = setup().start(&toml);
    eventually("the endpoints", || answers(&gateway, 2) == ["a"]);
    eventually("a failure to write", || errors(&gateway, "state") > 0.0);
    gateway.wait_log("it", |line| line["message"] == "the endpoints can't be kept for the next start");
}

#[test]
fn a_reload_leaves_no_gap() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let consul = Consul::start(&[&a]);
    let discovery = format!("consul = \"orders\", address = \"{}\"", consul.origin.url());
    let fixed = with_base(&format!("[upstreams.orders]\nendpoints = [\"{}\"]\n{}", b.url(), route("orders", &[])));
    let gateway = setup().start(&fixed);
    assert_eq!(answers(&gateway, 2), ["b"]);
    gateway.reload(&orders(&discovery));
    eventually("the endpoints of Consul", || {
        let found = answers(&gateway, 2);
        // Both, if the list changes between two requests.
        assert!(
            found.iter().all(|from| from == "a" || from == "b"),
            "the ones before until Consul has answered: {found:?}"
        );
        found == ["a"]
    });
    // Other settings of the upstream change: the list stays, and so do the connections.
    let connections = a.connections();
    consul.say(7, Answer::Hang);
    gateway.reload(&orders(&discovery).replace("[routes.all]", "balance = \"least_request\"\n[routes.all]"));
    assert_eq!((answers(&gateway, 4), a.connections()), (vec!["a".to_owned()], connections));
    // Another source that has not answered yet does not take away what works.
    gateway.reload(&orders("file = \"missing.json\""));
    assert_eq!(answers(&gateway, 4), ["a"]);
}

#[test]
fn consul_and_endpoints_over_tls() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::serve_tls(leaf.server_config(&["http/1.1"]), |_| Reply::text("over TLS"));
    let tls = leaf.server_config(&["http/1.1"]);
    let consul = Consul::start_by(&[&origin], |handler| Origin::serve_tls(tls, handler));
    let ca = certs.ca();
    let address = format!("https://localhost:{}", consul.origin.address().port());
    let toml = |ca_of_consul: &str| {
        orders(&format!("consul = \"orders\", address = \"{address}\", scheme = \"https\"{ca_of_consul}"))
            .replace("[routes.all]", &format!("tls = {{ ca = {ca:?}, server_name = \"localhost\" }}\n[routes.all]"))
    };
    let gateway = setup().start(&toml(""));
    eventually("a server that nobody vouches for", || errors(&gateway, "unavailable") > 0.0);
    assert_eq!(gateway.get("/").status, 503);
    gateway.reload(&toml(&format!(", ca = {ca:?}")));
    eventually("the endpoint", || gateway.get("/").text() == "over TLS");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (discovery, expected) in [
        ("tag = \"v2\"", "needs exactly one of `consul`, `srv` and `file`"),
        ("consul = \"a\", srv = \"b\"", "needs exactly one of `consul`, `srv` and `file`"),
        ("srv = \"b\", token = \"t\"", "`token` goes with `consul` only"),
        ("file = \"a.json\", scheme = \"https\"", "`scheme` goes with `consul` and `srv`"),
        ("file = \"a.yaml\"", "a path that ends with `.json` or `.toml`"),
        ("consul = \"a\", address = \"http://a/b\"", "expected an origin like"),
        ("consul = \"a\", wait = \"1h\"", "at most 600s"),
    ] {
        let refused = setup().refused(&orders(discovery));
        assert!(refused.stderr.contains(expected), "{discovery}: {}", refused.stderr);
    }
    let both = orders("consul = \"a\"").replace("[routes.all]", "endpoints = [\"http://a\"]\n[routes.all]");
    let refused = setup().refused(&both);
    assert!(
        refused.stderr.contains("needs exactly one of `endpoints`, `discovery`, `builtin` and `files`"),
        "{}",
        refused.stderr
    );
    let h2 = orders("consul = \"a\"").replace("[routes.all]", "protocol = \"h2\"\n[routes.all]");
    assert!(setup().refused(&h2).stderr.contains("`protocol = \"h2\"` is for https endpoints"));
}

/// Registers and deregisters at a real agent.
fn register(agent: &str, id: &str, origin: &Origin, tag: &str, weight: u32) {
    let body = json!({
        "ID": id, "Name": "orders", "Tags": [tag], "Address": "127.0.0.1", "Port": origin.address().port(),
        "Meta": { "version": tag }, "Weights": { "Passing": weight, "Warning": 1 },
    });
    put(agent, "/v1/agent/service/register", body.to_string().as_bytes());
}

#[track_caller]
fn put(agent: &str, path: &str, body: &[u8]) {
    let response = Client::connect(agent.parse().expect("an address")).request("PUT", path, &[], body);
    assert_eq!(response.status, 200, "{path}: {}", response.text());
}

#[test]
fn a_real_consul_agent() {
    let Some([consul]) = need(["consul"]) else { return };
    let ports = [free_port(), free_port(), free_port(), free_port()];
    let [http, server, lan, wan] = ports;
    let mut command = Command::new(consul);
    let hcl =
        format!("ports {{ http = {http} dns = -1 grpc = -1 server = {server} serf_lan = {lan} serf_wan = {wan} }}");
    command.args(["agent", "-dev", "-bind", "127.0.0.1", "-node", "test", "-log-level", "err", "-hcl", &hcl]);
    let child = without_proxies(&mut command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("consul");
    let mut child = Some(Ended(child));
    wait_for_port(http);
    let agent = format!("127.0.0.1:{http}");
    eventually("a leader", || {
        Client::connect(agent.parse().expect("an address")).get("/v1/status/leader").text().contains(':')
    });
    let (a, b, c) = (Origin::named("a"), Origin::named("b"), Origin::named("c"));
    register(&agent, "a", &a, "v1", 1);
    register(&agent, "b", &b, "v2", 3);
    let gateway = setup().start(&orders(&format!("consul = \"orders\", address = \"http://{agent}\"")));
    eventually("readiness", || is_ready(&gateway));
    let mut client = gateway.client();
    let found = (0..40).filter(|_| client.get("/").text() == "b").count();
    assert_eq!(found, 30, "by weight");
    register(&agent, "c", &c, "v2", 1);
    eventually("the third instance", || answers(&gateway, 10) == ["a", "b", "c"]);
    put(&agent, "/v1/agent/service/deregister/a", b"");
    eventually("the end of the first", || answers(&gateway, 10) == ["b", "c"]);
    put(&agent, "/v1/agent/service/maintenance/b?enable=true", b"");
    eventually("one that is not passing", || answers(&gateway, 4) == ["c"]);
    let tagged = setup().start(&orders(&format!("consul = \"orders\", address = \"http://{agent}\", tag = \"v1\"")));
    assert_eq!(tagged.get("/").status, 503, "no instance has that tag");
    drop(child.take());
    eventually("that the agent is gone", || errors(&gateway, "unavailable") > 0.0);
    assert_eq!(answers(&gateway, 4), ["c"], "what it said last");
}
