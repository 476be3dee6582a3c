//! Who may call, by address and by rules: `ip-filter` and `acl` behind filters that find the caller.

use sluice_harness::wait::eventually;
use sluice_harness::{Gateway, Origin};

use crate::support::{gateway, route, setup, with_base};

/// SHA-256 of `the-key`.
const HASH: &str = "sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290";

fn status(gateway: &Gateway, method: &str, key: &str) -> u16 {
    gateway.request(method, "/", &[("x-api-key", key)], b"").status
}

#[test]
fn rules_go_by_what_the_operator_says_of_the_caller() {
    let origin = Origin::named("origin");
    let toml = |plan: &str| {
        route(&origin.url(), &["key", "access"])
            + "[filters.key]\nplugin = \"api-key\"\ngrants = { consumers = true, read_headers = [\"x-api-key\"], write_headers = [\"x-api-key\"] }\n\
               config = { optional = true }\n\
               [filters.access]\nplugin = \"acl\"\nconfig.rules = [\n\
               { name = \"read\", effect = \"allow\", if = { methods = \"GET\", plans = [\"gold\"], labels = { tier = \"partner\" } } },\n]\n"
            + &format!("[consumers.acme]\nplan = \"{plan}\"\nlabels = {{ tier = \"partner\" }}\nkeys = [\"{HASH}\"]\n")
    };
    for mode in ["reused", "fresh"] {
        let instances = format!("[plugins.acl]\ninstances = {{ mode = \"{mode}\" }}\n");
        let gateway = gateway(&(toml("gold") + &instances));
        assert_eq!((status(&gateway, "GET", "the-key"), status(&gateway, "POST", "the-key")), (200, 403), "{mode}");
        gateway.wait_access("the refusal", |line| line["consumer"] == "acme" && line["reason"] == "acl-denied:default");
        let nobody = gateway.get("/");
        assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, Some("ApiKey realm=\"api\"")));
        gateway.reload(&with_base(&(toml("silver") + &instances)));
        assert_eq!(status(&gateway, "GET", "the-key"), 403, "{mode}: the plan has changed");
    }
}

/// RFC 9110 §15.5.2: a 401 names the credentials that would help, also where those that could have been shown were a group's to look at.
#[test]
fn strangers_are_told_which_credentials_would_help() {
    let origin = Origin::named("origin");
    let filters = "[filters.key]\nplugin = \"api-key\"\ngrants = { consumers = true, read_headers = [\"x-api-key\"], write_headers = [\"x-api-key\"] }\n\
                   [filters.login]\nplugin = \"basic-auth\"\ngrants = { consumers = true, read_headers = [\"authorization\"], write_headers = [\"authorization\"] }\n\
                   [filters.access]\nplugin = \"acl\"\nconfig.rules = [\n\
                   { effect = \"deny\", if = { methods = \"DELETE\" } },\n{ effect = \"allow\", if = { authenticated = true } },\n]\n";
    let group = "pipeline = [{ any_of = [\"key\", \"login\"], optional = true }, \"access\"]";
    let toml = route(&origin.url(), &[]).replace("pipeline = []", group);
    let consumer = format!("[consumers.acme]\nkeys = [\"{HASH}\"]\n");
    let gateway = gateway(&(toml + filters + &consumer));
    assert_eq!((status(&gateway, "GET", "the-key"), status(&gateway, "DELETE", "the-key")), (200, 403));
    let stranger = gateway.get("/");
    assert_eq!(stranger.status, 401);
    let challenge = stranger.header("www-authenticate").unwrap_or_default();
    assert_eq!(challenge, "ApiKey realm=\"api\", Basic realm=\"api\", charset=\"UTF-8\"");
    let refused = gateway.request("DELETE", "/", &[], b"");
    assert_eq!((refused.status, refused.header("www-authenticate")), (403, None), "no credentials would help");
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_optional_token_is_named_where_one_would_help() {
    let origin = Origin::named("origin");
    let filters = "[filters.token]\nplugin = \"jwt-auth\"\ngrants = { read_headers = [\"authorization\"] }\n\
                   config = { secret = \"a secret of thirty-two bytes, or so\", optional = true, realm = \"orders\" }\n\
                   [filters.access]\nplugin = \"acl\"\nconfig.rules = [{ effect = \"allow\", if = { authenticated = true } }]\n";
    let gateway = gateway(&(route(&origin.url(), &["token", "access"]) + filters));
    let stranger = gateway.get("/");
    assert_eq!((stranger.status, stranger.header("www-authenticate")), (401, Some("Bearer realm=\"orders\"")));
    assert_eq!(origin.count(), 0);
}

#[test]
fn rules_on_the_caller_need_a_filter_that_finds_one() {
    let origin = Origin::named("origin");
    let toml = route(&origin.url(), &["access"])
        + "[filters.access]\nplugin = \"acl\"\nconfig.rules = [{ effect = \"allow\", if = { plans = \"gold\" } }]\n";
    let gateway = gateway(&toml);
    gateway.wait_log("the warning", |line| line.to_string().contains("no filter before it authenticates"));
    assert_eq!(gateway.get("/").status, 403);
}

#[test]
fn addresses_of_a_list_in_a_file() {
    let origin = Origin::named("origin");
    let toml = with_base(
        &(route(&origin.url(), &["blocklist"])
            + "[filters.blocklist]\nplugin = \"ip-filter\"\nconfig = { deny = \"${file:blocked.txt}\" }\n"),
    )
    .replace("reload = false", "")
    .replace("[listeners.http]\n", "[listeners.http]\ntrusted_proxies = [\"127.0.0.0/8\"]\n");
    let gateway = setup().file("blocked.txt", "198.51.100.0/24 # a network\n2001:db8::/32\n").start(&toml);
    let from = |address: &str| gateway.request("GET", "/", &[("x-forwarded-for", address)], b"").status;
    assert_eq!((from("198.51.100.7"), from("2001:db8::1"), from("203.0.113.1")), (403, 403, 200));
    gateway.wait_access("the reason", |line| line["reason"] == "ip-denied");
    gateway.write("blocked.txt", "203.0.113.0/24\n");
    eventually("the changed list is in use", || from("203.0.113.1") == 403);
    assert_eq!(from("198.51.100.7"), 200);
}

#[test]
fn ten_thousand_prefixes_load_within_the_usual_limits() {
    let origin = Origin::named("origin");
    let lines: String = (0..10_000_u32).map(|net| format!("10.{}.{}.0/25\n", net / 256, net % 256)).collect();
    let toml = with_base(
        &(route(&origin.url(), &["blocklist"])
            + "[filters.blocklist]\nplugin = \"ip-filter\"\ninstances = { mode = \"fresh\" }\nconfig = { deny = \"${file:blocked.txt}\" }\n"),
    )
    .replace("[listeners.http]\n", "[listeners.http]\ntrusted_proxies = [\"127.0.0.0/8\"]\n");
    let gateway = setup().file("blocked.txt", lines).start(&toml);
    let from = |address: &str| gateway.request("GET", "/", &[("x-forwarded-for", address)], b"").status;
    assert_eq!((from("10.39.15.1"), from("10.39.15.200"), from("10.39.16.1")), (403, 200, 200));
}
