//! Calls of filters stay off addresses that their grants do not cover, whatever a name says (server-side request forgery, DNS rebinding).

use serde_json::{Value, json};
use sluice_harness::{Gateway, NameServer, Origin, eventually};

use crate::support::{BASE, filter, route, setup};

/// How long the names of these tests may be remembered: not at all.
const NOW: u32 = 0;

/// [`BASE`] with this name server.
fn asking(server: &NameServer) -> String {
    BASE.replace("workers = 1", &format!("workers = 1\nnameservers = [\"{}\"]", server.address()))
}

/// A config that calls this URL and says in a header what came of it.
fn calling(url: &str, to: &str) -> Value {
    json!({"on-request": [{"do": "call", "url": url, "to": to, "timeout-ms": 300}]})
}

fn granting(grant: &str) -> String {
    format!("grants = {{ http = [{grant}] }}")
}

/// What came of the call of one more request.
fn outcome(gateway: &Gateway, origin: &Origin) -> String {
    assert_eq!(gateway.get("/").status, 200);
    origin.last().header("x-called").expect("the filter calls").to_owned()
}

#[test]
fn a_name_that_leads_to_this_machine_needs_its_grant() {
    let (origin, secret, server) = (Origin::named("o"), Origin::named("secret"), NameServer::start());
    server.set("public.test", [127, 0, 0, 1], NOW);
    let url = format!("http://public.test:{}", secret.address().port());
    let toml = |grant: &str| {
        let granted = filter("a", "probe-waiting", &granting(grant), calling(&url, "x-called"));
        asking(&server) + "[telemetry]\nlog_level = \"debug\"\n" + &route(&origin.url(), &["a"]) + &granted
    };
    let gateway = setup().start(&toml(&format!("\"{url}\"")));
    let missing = format!("grants.http = [{{ origin = \"{url}\", allow_private = true }}]");
    let refused = outcome(&gateway, &origin);
    assert!(
        refused.starts_with("not-granted") && refused.contains(&missing) && refused.contains("loopback"),
        "{refused}"
    );
    assert_eq!(secret.connections(), 0, "refused before it is connected to");
    gateway.wait_log("the address", |line| line["address"] == "127.0.0.1" && line["class"] == "loopback");

    gateway.reload(&toml(&format!("{{ origin = \"{url}\", allow_private = true }}")));
    assert_eq!(outcome(&gateway, &origin), "200 secret");
    gateway.reload(&toml(&format!("{{ origin = \"{url}\" }}")));
    assert!(outcome(&gateway, &origin).starts_with("not-granted"), "the connection that is kept is no way around");
}

#[test]
fn a_plugin_s_grant_of_private_addresses_is_for_all_its_filters() {
    let (origin, secret, server) = (Origin::named("o"), Origin::named("secret"), NameServer::start());
    server.set("private.test", [127, 0, 0, 1], NOW);
    let url = format!("http://private.test:{}", secret.address().port());
    let toml = |of_plugin: &str, of_filter: &str| {
        asking(&server)
            + &route(&origin.url(), &["a"])
            + &format!("[plugins.probe-waiting]\n{}\n", granting(of_plugin))
            + &filter("a", "probe-waiting", of_filter, calling(&url, "x-called"))
    };
    let (bare, private) = (format!("\"{url}\""), format!("{{ origin = \"{url}\", allow_private = true }}"));
    let gateway = setup().start(&toml(&private, ""));
    assert_eq!(outcome(&gateway, &origin), "200 secret");
    gateway.reload(&toml(&private, &granting(&bare)));
    assert!(outcome(&gateway, &origin).starts_with("not-granted"), "a filter may have less");
    let refused = setup().refused(&toml(&bare, &granting(&private)));
    let expected = format!("the grants of the plugin do not include `{url}` with `allow_private`");
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
}

#[test]
fn every_class_of_addresses_is_refused_behind_a_name() {
    let (origin, server) = (Origin::named("o"), NameServer::start());
    let classes = [
        ([127, 0, 0, 1], "loopback"),
        ([10, 1, 2, 3], "private"),
        ([172, 20, 0, 1], "private"),
        ([192, 168, 0, 1], "private"),
        ([100, 64, 0, 1], "carrier NAT"),
        ([169, 254, 169, 254], "metadata"),
        ([169, 254, 0, 1], "link-local"),
        ([0, 0, 0, 0], "unspecified"),
        ([224, 0, 0, 1], "multicast"),
        ([255, 255, 255, 255], "broadcast"),
    ];
    let call = |i: usize| json!({"do": "call", "url": format!("http://n{i}.test/"), "to": format!("x-{i}")});
    for (i, (address, _)) in classes.iter().enumerate() {
        server.set(&format!("n{i}.test"), *address, NOW);
    }
    let calls: Vec<_> = (0..classes.len()).map(call).collect();
    let grants: Vec<_> = (0..classes.len()).map(|i| format!("\"http://n{i}.test\"")).collect();
    let caller = filter("a", "probe-waiting", &granting(&grants.join(", ")), json!({"on-request": calls}));
    let gateway = setup().start(&(asking(&server) + &route(&origin.url(), &["a"]) + &caller));
    assert_eq!(gateway.get("/").status, 200);
    let seen = origin.last();
    for (i, (address, class)) in classes.iter().enumerate() {
        let outcome = seen.header(&format!("x-{i}")).expect("the filter calls");
        assert!(outcome.starts_with("not-granted") && outcome.ends_with(class), "{address:?}: {outcome}");
    }
}

/// The first answer passes a check that is made once; the second is where the attacker wants the call to go.
#[test]
fn a_name_that_changes_between_tries_is_checked_at_each() {
    let (origin, secret, server) = (Origin::named("o"), Origin::named("secret"), NameServer::start());
    // RFC 7526: an address of the Internet that is nobody's.
    server.set("rebinding.test", [192, 88, 99, 1], NOW);
    let url = format!("http://rebinding.test:{}", secret.address().port());
    let caller = filter("a", "probe-waiting", &granting(&format!("\"{url}\"")), calling(&url, "x-called"));
    let gateway = setup().start(&(asking(&server) + &route(&origin.url(), &["a"]) + &caller));
    let first = outcome(&gateway, &origin);
    assert!(first.starts_with("timeout") || first.starts_with("unavailable"), "{first}");
    server.set("rebinding.test", [127, 0, 0, 1], NOW);
    eventually("the name leads to this machine", || outcome(&gateway, &origin).starts_with("not-granted"));
    // Beside a public address, the other one is passed over.
    server.set_all("rebinding.test", &[[127, 0, 0, 1], [192, 88, 99, 1]], NOW);
    eventually("the public address is tried", || {
        let outcome = outcome(&gateway, &origin);
        outcome.starts_with("timeout") || outcome.starts_with("unavailable")
    });
    assert_eq!(secret.connections(), 0);
}

#[test]
fn a_key_set_is_fetched_from_granted_addresses_alone() {
    let (origin, keys, server) = (Origin::named("o"), Origin::named("keys"), NameServer::start());
    server.set("keys.test", [127, 0, 0, 1], NOW);
    let url = format!("http://keys.test:{}", keys.address().port());
    let toml = |grant: &str| {
        let login = filter("a", "jwt-auth", &granting(grant), json!({"jwks_url": format!("{url}/jwks")}));
        asking(&server) + &route(&origin.url(), &["a"]) + &login
    };
    let gateway = setup().start(&toml(&format!("\"{url}\"")));
    gateway.wait_log("the refusal", |line| line["error"].as_str().is_some_and(|why| why.contains("allow_private")));
    assert_eq!(keys.connections(), 0);
    // The set of the filter that may is another one, although its source is the same.
    let gateway = setup().start(&toml(&format!("{{ origin = \"{url}\", allow_private = true }}")));
    eventually("the keys are fetched", || keys.count() > 0);
    drop(gateway);
}

#[test]
fn an_origin_that_is_granted_as_an_address_or_as_localhost_is_called() {
    let (origin, called) = (Origin::named("o"), Origin::named("called"));
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{}", called.address().port());
        let caller = filter("a", "probe-waiting", &granting(&format!("\"{url}\"")), calling(&url, "x-called"));
        let gateway = setup().start(&(BASE.to_owned() + &route(&origin.url(), &["a"]) + &caller));
        assert_eq!(outcome(&gateway, &origin), "200 called", "{host}");
    }
}

#[test]
fn check_tells_of_names_that_are_probably_private() {
    let with = |grant: &str| {
        let toml = BASE.to_owned()
            + &route("http://127.0.0.1:9", &["a"])
            + &filter("a", "probe-waiting", &granting(grant), json!({}));
        setup().command_output(&toml, &["check"]).stdout
    };
    let warned = with("\"https://auth.internal\"");
    assert!(warned.contains("grant http = [{ origin = \"https://auth.internal\", allow_private = true }]"), "{warned}");
    for quiet in [
        "\"https://auth.example\"",
        "\"http://10.0.0.1\"",
        "{ origin = \"https://auth.internal\", allow_private = true }",
    ] {
        assert!(!with(quiet).contains("private"), "{quiet}");
    }
}
