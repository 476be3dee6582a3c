//! The two files of the example `from-kong` say the same: each service, route, plugin and consumer of `kong.yml` has its counterpart in `gateway.toml`, with
//! the same names and numbers, and the gateway has no filter more on these routes. A plugin that is not known here fails the test.

use std::collections::BTreeSet;
use std::fs;

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::markdown::root;

/// Filters of the gateway that no plugin of a service stands for: the limit comes from the consumers, and Kong tells upstreams the caller unasked.
const BESIDE: [&str; 2] = ["per-consumer", "caller"];

fn read(file: &str) -> String {
    let path = root().join("examples/from-kong").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The part of YAML that the file is written in: maps and lists in blocks, and in one line with brackets.
fn yaml(text: &str) -> Value {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let mut lines: Vec<_> = lines.map(|line| (line.len() - line.trim_start().len(), line.trim().to_owned())).collect();
    let mut at = 0;
    let value = block(&mut lines, &mut at);
    assert_eq!(at, lines.len(), "not read to its end: {:?}", lines.get(at));
    value
}

fn block(lines: &mut [(usize, String)], at: &mut usize) -> Value {
    let indent = lines[*at].0;
    let is_list = lines[*at].1.starts_with("- ");
    let (mut list, mut map) = (Vec::new(), Map::new());
    while let Some((_, text)) = lines.get(*at).filter(|(found, _)| *found == indent).cloned() {
        match text.strip_prefix("- ") {
            // The rest of the line is the first line of the element.
            Some(rest) => {
                lines[*at] = (indent + 2, rest.to_owned());
                list.push(block(lines, at));
            }
            None => {
                let (key, value) = text.split_once(':').unwrap_or_else(|| panic!("no key: {text}"));
                *at += 1;
                let value = if value.is_empty() { block(lines, at) } else { line(value) };
                map.insert(key.to_owned(), value);
            }
        }
    }
    if is_list { list.into() } else { map.into() }
}

/// A value in one line.
fn line(text: &str) -> Value {
    let mut rest = text;
    let value = flow(&mut rest);
    assert!(rest.trim().is_empty(), "behind the value: {text}");
    value
}

fn flow(rest: &mut &str) -> Value {
    *rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('[') {
        *rest = inner;
        let mut list = Vec::new();
        while !closes(rest, ']') {
            list.push(flow(rest));
        }
        return list.into();
    }
    if let Some(inner) = rest.strip_prefix('{') {
        *rest = inner;
        let mut map = Map::new();
        while !closes(rest, '}') {
            let (key, behind) = rest.split_once(':').expect("a key");
            *rest = behind;
            map.insert(key.to_owned(), flow(rest));
        }
        return map.into();
    }
    if let Some(inner) = rest.strip_prefix('"') {
        let (text, behind) = inner.split_once('"').expect("an end of the text");
        *rest = behind;
        return text.into();
    }
    let end = rest.find([',', ']', '}']).unwrap_or(rest.len());
    let (word, behind) = rest.split_at(end);
    *rest = behind;
    match word.trim() {
        "true" => true.into(),
        "false" => false.into(),
        word => word.parse::<u64>().map_or_else(|_| word.into(), Value::from),
    }
}

/// Whether a list or a map ends here; else its next value is in front.
fn closes(rest: &mut &str, end: char) -> bool {
    *rest = rest.trim_start_matches([' ', ',']);
    assert!(!rest.is_empty(), "no `{end}`");
    let behind = rest.strip_prefix(end);
    *rest = behind.unwrap_or(rest);
    behind.is_some()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A filter of a route's pipeline with this plugin.
fn filter<'g>(gateway: &'g Value, pipeline: &[&'g str], plugin: &str, fits: impl Fn(&Value) -> bool) -> &'g str {
    let is_it = |name: &&&str| {
        let filter = &gateway["filters"][**name];
        filter["plugin"].as_str().unwrap_or(name) == plugin && fits(filter)
    };
    pipeline.iter().find(is_it).copied().unwrap_or_else(|| panic!("no filter of {pipeline:?} is that {plugin}"))
}

/// The filters of a route that stand for a plugin of Kong's.
fn counterpart<'g>(gateway: &'g Value, pipeline: &[&'g str], host: &str, plugin: &Value) -> Option<&'g str> {
    let config = &plugin["config"];
    let same = |names: &'static [&'static str]| {
        move |filter: &Value| names.iter().all(|name| filter["config"][name] == config[name])
    };
    Some(match text(&plugin["name"]) {
        "bot-detection" => {
            let denied = list(&config["deny"]).iter().map(text).collect::<Vec<_>>().join("|");
            let bots = &gateway["routes"]["bots"];
            let wanted = json!({ "host": host, "path": "/**", "headers": { "user-agent": { "regex": format!("(?i).*{denied}.*") } } });
            assert_eq!((&bots["match"], &bots["respond"]["status"]), (&wanted, &json!(403)));
            return None;
        }
        "ip-restriction" => filter(gateway, pipeline, "ip-filter", same(&["allow", "deny"])),
        "cors" => filter(gateway, pipeline, "cors", same(&["origins", "methods", "headers"])),
        "key-auth" => filter(gateway, pipeline, "api-key", |filter| {
            let grants = &filter["grants"];
            let is_hidden = config["hide_credentials"] == json!(true) && grants["write_headers"] == config["key_names"];
            filter["config"].is_null()
                && config["key_names"] == json!(["x-api-key"])
                && grants["read_headers"] == config["key_names"]
                && is_hidden
        }),
        "jwt" => filter(gateway, pipeline, "jwt-auth", |filter| {
            // `exp` is required unless the filter says otherwise.
            let claims = filter["config"].get("required_claims").cloned().unwrap_or_else(|| json!(["exp"]));
            filter["config"]["consumer_keys"] == json!(true) && claims == config["claims_to_verify"]
        }),
        "acl" => filter(gateway, pipeline, "acl", |filter| {
            let allowed: Vec<_> = list(&filter["config"]["rules"])
                .iter()
                .map(|rule| (text(&rule["effect"]), rule["if"]["labels"].clone()))
                .collect();
            let wanted = list(&config["allow"]).iter().map(|group| ("allow", json!({ text(group): "member" })));
            allowed == wanted.collect::<Vec<_>>()
        }),
        kind @ ("request-transformer" | "response-transformer") => filter(gateway, pipeline, "transform", |filter| {
            let rules = &filter["config"][kind.trim_end_matches("-transformer")]["headers"];
            let added: Map<String, Value> = list(&config["add"]["headers"])
                .iter()
                .map(|field| text(field).split_once(':').expect("a name and a value"))
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
            rules["remove"] == config["remove"]["headers"] && rules["add"] == Value::from(added)
        }),
        other => panic!("no counterpart of `{other}` is known"),
    })
}

#[test]
fn services_routes_and_plugins_of_kong_are_in_the_gateway() {
    let (kong, toml) = (yaml(&read("kong.yml")), read("gateway.toml"));
    let gateway = serde_json::to_value(toml.parse::<toml::Table>().unwrap()).unwrap();
    assert!(list(&kong["services"]).len() > 1 && list(&kong["consumers"]).len() > 1, "{kong}");
    for service in list(&kong["services"]) {
        // The example's upstream is built in, and a comment has the real address.
        assert!(toml.contains(&format!("endpoints = [{}]", service["url"])), "{}", service["url"]);
        for route in list(&service["routes"]) {
            let ours = &gateway["routes"][text(&route["name"])];
            let [host] = list(&route["hosts"]) else { panic!("one host: {route}") };
            let paths: Vec<_> =
                list(&route["paths"]).iter().map(|path| format!("{}/**", text(path).trim_end_matches('/'))).collect();
            assert_eq!(ours["match"], json!({ "host": host, "path": paths.join("") }), "{route}");
            assert_eq!((&ours["upstream"], &ours["rewrite"]), (&json!("orders"), &Value::Null), "{route}");
            let strips = route["strip_path"] != json!(false) && paths != ["/**"];
            assert!(!strips, "{route}: a prefix that is stripped needs a `rewrite`");
            let pipeline: Vec<&str> = list(&ours["pipeline"]).iter().map(text).collect();
            let plugins = list(&service["plugins"]).iter();
            let found: BTreeSet<&str> =
                plugins.filter_map(|plugin| counterpart(&gateway, &pipeline, text(host), plugin)).collect();
            let ours: BTreeSet<&str> = pipeline.iter().copied().filter(|name| !BESIDE.contains(name)).collect();
            assert_eq!(found, ours, "{route}: a filter that no plugin stands for");
        }
    }
}

#[test]
fn consumers_of_kong_are_in_the_gateway() {
    let kong = yaml(&read("kong.yml"));
    let gateway = serde_json::to_value(read("gateway.toml").parse::<toml::Table>().unwrap()).unwrap();
    let names: BTreeSet<&str> = list(&kong["consumers"]).iter().map(|consumer| text(&consumer["username"])).collect();
    let ours: BTreeSet<&str> = gateway["consumers"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ours);
    let [limit] = list(&gateway["filters"]["per-consumer"]["config"]["limits"]) else { panic!("one limit") };
    assert_eq!((&limit["key"], &limit["window"]), (&json!("consumer"), &json!("1h")));
    for consumer in list(&kong["consumers"]) {
        let name = text(&consumer["username"]);
        let ours = &gateway["consumers"][name];
        let keys: Vec<_> = list(&consumer["keyauth_credentials"])
            .iter()
            .map(|credential| format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(text(&credential["key"])))))
            .collect();
        assert_eq!(ours["keys"], json!(keys), "{name}");
        let [signs] = list(&consumer["jwt_secrets"]) else { panic!("one secret: {consumer}") };
        assert_eq!(ours["jwt"], json!({ "issuer": signs["key"], "keys": { "secret": signs["secret"] } }), "{name}");
        assert_eq!(gateway["filters"]["token"]["config"]["algorithms"], json!([signs["algorithm"]]), "{name}");
        let groups = list(&consumer["acls"]).iter().map(|acl| (text(&acl["group"]).to_owned(), json!("member")));
        assert_eq!(ours["labels"], Value::from(groups.collect::<Map<_, _>>()), "{name}");
        match list(&consumer["plugins"]) {
            [] => assert_eq!(ours["plan"], Value::Null, "{name}"),
            [plugin] => {
                assert_eq!(plugin["name"], "rate-limiting", "{name}");
                let plan = text(&ours["plan"]);
                assert_eq!(limit["plans"].get(plan).unwrap_or(&limit["amount"]), &plugin["config"]["hour"], "{name}");
            }
            other => panic!("no counterpart of {other:?} is known"),
        }
    }
}
