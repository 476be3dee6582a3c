//! Settings that no other module shows at work.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::origin::nobody;
use sluice_harness::{Client, Gateway, Origin, Reply, eventually, fixtures};

use crate::support::{BASE, filter, gateway, probe, route, setup, with_base};

const HELLO: &str = "[routes.all]\nmatch = { path = \"/**\" }\nrespond = { status = 200, body = \"hello\" }\n";

#[test]
fn a_fixed_address() {
    let address = nobody();
    let gateway = Gateway::start(&format!(
        "[listeners.one]\nbind = \"{address}\"\n[listeners.two]\nbind = \"127.0.0.1:0\"\n{HELLO}"
    ));
    assert_eq!(gateway.address_of("one"), address);
    assert_eq!(Client::connect(address).get("/").text(), "hello");
    assert_eq!(Client::connect(gateway.address_of("two")).get("/").text(), "hello");
}

#[test]
fn the_number_of_workers() {
    for workers in [1, 3] {
        let gateway = Gateway::start(&(BASE.replace("workers = 1", &format!("workers = {workers}")) + HELLO));
        // A thread names itself after it has started.
        eventually("all workers", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("/proc");
            let names = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok());
            names.filter(|name| name.starts_with("worker")).count() == workers
        });
    }
}

/// Whatever the machine gives to others.
#[test]
fn no_huge_pages() {
    let gateway = Gateway::start(&(BASE.to_owned() + HELLO));
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("/proc");
    // Older kernels have no such line.
    let line = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
    assert!(line.is_none_or(|enabled| enabled.trim() == "0"), "{line:?}");
}

#[test]
fn the_folder_of_plugins() {
    let toml = with_base(
        &(route("http://127.0.0.1:1", &["a"])
            + "[filters.a]\nplugin = \"mine\"\nconfig = { on-request = [{ do = \"respond\", status = 418 }] }\n"),
    );
    let toml = toml.replace("workers = 1", "workers = 1\nplugin_dir = \"elsewhere\"");
    let wasm = std::fs::read(fixtures::file("probe")).expect("the fixture");
    let gateway = Gateway::setup().file("elsewhere/mine.wasm", &wasm).start(&toml);
    assert_eq!(gateway.get("/").status, 418);
    assert!(!Gateway::setup().file("plugins/mine.wasm", &wasm).refused(&toml).status.success());
}

#[test]
fn compiled_plugins_are_kept() {
    let toml = with_base(
        &(route("http://127.0.0.1:1", &["a"]) + &probe("a", json!({"on-request": [{"do": "respond", "status": 418}]}))),
    );
    let gateway = setup().start(&toml.replace("workers = 1", "workers = 1\ncache_dir = \"kept\""));
    assert_eq!(gateway.get("/").status, 418);
    fn files(dir: &Path) -> usize {
        let entries = std::fs::read_dir(dir).map(|all| all.flatten().collect::<Vec<_>>()).unwrap_or_default();
        entries.iter().map(|e| if e.path().is_dir() { files(&e.path()) } else { 1 }).sum()
    }
    assert!(files(&gateway.dir().join("kept")) > 0, "nothing in the cache");
}

#[test]
fn a_plugin_file_and_its_hash() {
    let wasm = std::fs::read(fixtures::file("probe")).expect("the fixture");
    let toml = |hash: &str| {
        with_base(&format!(
            "{}[plugins.mine]\nfile = \"build/some.wasm\"\nsha256 = \"{hash}\"\n[filters.a]\nplugin = \"mine\"\nconfig = {{ on-request = [{{ do = \"respond\", status = 418 }}] }}\n",
            route("http://127.0.0.1:1", &["a"])
        ))
    };
    let hash = sha256(&fixtures::file("probe"));
    let gateway = Gateway::setup().file("build/some.wasm", &wasm).start(&toml(&hash));
    assert_eq!(gateway.get("/").status, 418);
    let refused = Gateway::setup().file("build/some.wasm", &wasm).refused(&toml(&"0".repeat(64)));
    assert!(!refused.status.success() && refused.stderr.contains("sha256"), "{refused:?}");
}

#[test]
fn a_plugin_that_is_called_as_a_component() {
    let toml = |call: &str| {
        let filter = probe("probe", json!({"on-request": [{"do": "respond", "status": 418}]}));
        with_base(&format!("{}[plugins.probe]\n{call}\n{filter}", route("http://127.0.0.1:1", &["probe"])))
    };
    for (call, called) in [("", "direct"), ("call = \"auto\"", "direct"), ("call = \"component\"", "component")] {
        let gateway = setup().start(&toml(call));
        assert_eq!(gateway.get("/").status, 418, "{call}");
        let labels = [("filter", "probe"), ("plugin", "probe"), ("called", called)];
        assert_eq!(gateway.metric("sluice_filter_info", &labels), Some(1.0), "{call}");
    }
    let refused = setup().refused(&toml("call = \"indirect\""));
    assert!(!refused.status.success() && refused.stderr.contains("plugins.probe.call"), "{refused:?}");
}

fn sha256(file: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(file).output().expect("sha256sum");
    String::from_utf8_lossy(&output.stdout)[..64].to_string()
}

#[test]
fn pipelines_by_name_and_by_default() {
    let origin = Origin::named("o");
    let mark =
        |name: &str| probe(name, json!({"on-request": [{"do": "append-header", "name": "x-in", "value": name}]}));
    let url = origin.url();
    let gateway = gateway(&format!(
        "[pipelines]\ndefault = [\"a\"]\nboth = [\"a\", \"b\"]\n\
         [routes.usual]\nmatch = {{ path = \"/usual\" }}\nupstream = \"{url}\"\n\
         [routes.named]\nmatch = {{ path = \"/named\" }}\nupstream = \"{url}\"\npipeline = \"both\"\n\
         [routes.none]\nmatch = {{ path = \"/none\" }}\nupstream = \"{url}\"\npipeline = []\n{}{}",
        mark("a"),
        mark("b")
    ));
    for (target, marks) in [("/usual", vec!["a"]), ("/named", vec!["a", "b"]), ("/none", vec![])] {
        gateway.get(target);
        assert_eq!(origin.last().head.all("x-in"), marks, "{target}");
    }
}

#[test]
fn values_by_regex_and_presence() {
    let gateway = gateway(
        r#"
[routes.query]
match = { path = "/q", query = { v = { regex = "[0-9]+" } } }
respond = { status = 201 }
[routes.any_query]
match = { path = "/q", query = { any = { present = true } } }
respond = { status = 202 }
[routes.cookie]
match = { path = "/c", cookies = { g = { regex = "a.*" } } }
respond = { status = 201 }
[routes.any_cookie]
match = { path = "/c", cookies = { h = { present = true } } }
respond = { status = 202 }
"#,
    );
    assert_eq!(gateway.get("/q?v=12").status, 201);
    assert_eq!(gateway.get("/q?v=x").status, 404);
    assert_eq!(gateway.get("/q?any").status, 202);
    let cookie = |value: &str| gateway.request("GET", "/c", &[("cookie", value)], b"").status;
    assert_eq!((cookie("g=abc"), cookie("g=b"), cookie("h=")), (201, 404, 202));
}

#[test]
fn the_cpu_time_of_a_call() {
    let origin = Origin::named("o");
    let config = || json!({"on-request": [{"do": "spin", "ms": 60}]});
    let short = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config())));
    assert_eq!(short.get("/").status, 500);
    let lines = "limits = { cpu = \"2s\", wall = \"10s\" }";
    let long = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config())));
    assert_eq!(long.get("/").status, 200);
}

#[test]
fn the_cpu_time_for_a_body() {
    let origin = Origin::named("o");
    let config = || json!({"on-request-body": [{"do": "spin", "ms": 60}]});
    let with = |lines: &str| gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config())));
    // 64 KiB: a sixteenth of what a MiB has.
    let body = [b'x'; 64 << 10];
    assert_eq!(with("limits = { cpu_per_mib = \"10ms\" }").request("POST", "/", &[], &body).status, 500);
    let longer = with("limits = { cpu_per_mib = \"60s\" }");
    assert_eq!(longer.request("POST", "/", &[], &body).status, 200);
    assert_eq!(longer.request("POST", "/", &[], b"x").status, 500, "a small body has little time");
}

#[test]
fn the_time_of_a_call_with_its_waits() {
    let origin = Origin::named("o");
    let silent = Origin::serve(|_| Reply::script(|conn| conn.wait_for_close()));
    let config = json!({"on-request": [{"do": "call", "url": silent.url(), "to": "x-called"}]});
    let lines = format!("limits = {{ wall = \"200ms\" }}\ngrants = {{ http = [\"{}\"] }}", silent.url());
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", &lines, config)));
    let start = Instant::now();
    let status = gateway.get("/").status;
    // The outbound call is cut at the deadline, and the filter may still say so, or the whole call is over.
    assert!([200, 500].contains(&status), "{status}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn the_memory_of_an_instance() {
    let toml =
        |lines: &str| with_base(&(route("http://127.0.0.1:1", &["a"]) + &filter("a", "probe", lines, json!({}))));
    let refused = setup().refused(&toml("limits = { memory = \"64KiB\" }"));
    assert!(!refused.status.success() && refused.stderr.contains("memory"), "{refused:?}");
    setup().start(&toml("limits = { memory = \"8MiB\" }"));
}

#[test]
fn the_tables_of_an_instance() {
    let toml =
        |lines: &str| with_base(&(route("http://127.0.0.1:1", &["a"]) + &filter("a", "probe", lines, json!({}))));
    let refused = setup().refused(&toml("limits = { table_elements = 1 }"));
    assert!(!refused.status.success() && refused.stderr.contains("table"), "{refused:?}");
    setup().start(&toml("limits = { table_elements = 5000 }"));
}

#[test]
fn the_answer_to_an_outbound_call_is_bounded() {
    let origin = Origin::named("o");
    let big = Origin::serve(|_| Reply::text("x".repeat(5000)));
    let config = || json!({"on-request": [{"do": "call", "url": big.url(), "to": "x-called"}]});
    let ask = |limits: &str| {
        let lines = format!("grants = {{ http = [\"{}\"] }}\n{limits}", big.url());
        let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", &lines, config())));
        assert_eq!(gateway.get("/").status, 200);
        origin.last().header("x-called").expect("what the call gave").to_string()
    };
    assert!(ask("").starts_with("200 xxx"));
    assert!(ask("limits = { http_body = \"1KiB\" }").starts_with("too-large"));
}

/// What a plugin's table grants, all its filters have, and no filter more than that.
#[test]
fn what_a_plugin_s_table_says_is_for_all_its_filters() {
    let origin = Origin::named("o");
    let other = Origin::named("other");
    let config = || {
        json!({"on-request": [
            {"do": "try-set-header", "name": "cookie", "value": "a=b", "to": "x-wrote"},
            {"do": "secret", "name": "token", "to": "x-secret"},
            {"do": "kv-set", "space": "mine", "name": "k", "value": "v", "to": "x-kv"},
            {"do": "kv-set", "space": "mine", "name": "big", "value": "x".repeat(3000), "to": "x-big"},
            {"do": "call", "url": other.url(), "to": "x-called"},
        ],})
    };
    let grants = format!(
        "[plugins.probe-waiting.grants]\nwrite_headers = [\"cookie\"]\nkv = [\"mine\"]\nkv_quota = \"2KiB\"\nhttp = [\"{}\"]\nsecrets = {{ token = \"s3cret\" }}\n",
        other.url()
    );
    let rest = route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", "", config());
    let granted = gateway(&(grants.clone() + &rest));
    assert_eq!(granted.request("POST", "/", &[], b"x").status, 200);
    let seen = origin.last();
    assert_eq!(
        (seen.header("x-wrote"), seen.header("x-secret"), seen.header("x-kv")),
        (Some("done"), Some("s3cret"), Some("()"))
    );
    assert!(seen.header("x-big").is_some_and(|v| v.starts_with("too-large")), "{seen:?}");
    assert_eq!(seen.header("x-called"), Some("200 other"));
    let bare = gateway(&rest);
    assert_eq!(bare.request("POST", "/", &[], b"x").status, 200);
    let seen = origin.last();
    for name in ["x-wrote", "x-secret", "x-kv", "x-called"] {
        assert!(seen.header(name).is_some_and(|v| v.starts_with("not-granted")), "{name}: {seen:?}");
    }
    let bodies = route(&origin.url(), &["a"]) + &probe("a", json!({"on-request-body": []}));
    let refused = setup().refused(&with_base(&(format!("[plugins.probe]\ngrants = {{ body = false }}\n{bodies}"))));
    assert!(!refused.status.success() && refused.stderr.contains("grants.body = true"), "{refused:?}");
    gateway(&bodies);
    let wider = grants
        + &route(&origin.url(), &["a"])
        + &filter("a", "probe-waiting", "grants = { kv = [\"mine\", \"more\"] }", config());
    let refused = setup().refused(&with_base(&wider));
    assert!(!refused.status.success() && refused.stderr.contains("grants of the plugin do not include"), "{refused:?}");
}

/// The same for instances and limits, each of which a filter may set otherwise.
#[test]
fn instances_that_are_kept_ready() {
    let origin = Origin::named("o");
    let start = |plugin: &str, lines: &str| {
        let plugin = format!("[plugins.probe]\n{plugin}\n");
        gateway(&(plugin + &route(&origin.url(), &["a"]) + &filter("a", "probe", lines, json!({"on-request": []}))))
    };
    let counts = |gateway: &Gateway| {
        ["instances", "instances_prewarmed_total", "instance_waits_total"]
            .map(|name| gateway.metric(&format!("sluice_filter_{name}"), &[("filter", "a")]).expect("a series"))
    };
    for (plugin, lines) in [("instances = { warm = 2 }", ""), ("instances = { warm = 5 }", "instances = { warm = 2 }")]
    {
        let gateway = start(plugin, lines);
        assert_eq!(counts(&gateway), [1.0, 0.0, 0.0], "it waits for the first request");
        assert_eq!(gateway.get("/").status, 200);
        eventually("two behind the one that was called", || counts(&gateway) == [3.0, 3.0, 0.0]);
    }
    let gateway = start("", "instances = { warm = 0 }");
    assert_eq!(counts(&gateway), [0.0; 3]);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(counts(&gateway), [1.0, 0.0, 1.0]);
}

#[test]
fn the_instances_and_limits_of_a_plugin() {
    let origin = Origin::named("o");
    let calls = || json!({"on-request": [{"do": "calls", "to": "x-calls"}]});
    let seen = |plugin: &str, lines: &str| {
        let gateway = gateway(
            &(format!("[plugins.probe]\n{plugin}\n")
                + &route(&origin.url(), &["a"])
                + &filter("a", "probe", lines, calls())),
        );
        let mut client = gateway.client();
        (0..3)
            .map(|_| {
                assert_eq!(client.get("/").status, 200);
                origin.last().header("x-calls").expect("a number").to_string()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(seen("instances = { mode = \"fresh\" }", ""), ["1", "1", "1"]);
    assert_eq!(seen("instances = { mode = \"fresh\" }", "instances = { mode = \"reused\" }"), ["1", "2", "3"]);
    assert_eq!(seen("instances = { uses = 2, max = 1, queue = 1 }", ""), ["1", "2", "1"]);

    let refused = |lines: &str| {
        let toml = format!("[plugins.probe]\n{lines}\n") + &route(&origin.url(), &["a"]) + &probe("a", json!({}));
        setup().refused(&with_base(&toml)).stderr
    };
    assert!(refused("limits = { memory = \"64KiB\" }").contains("memory"));
    assert!(refused("limits = { table_elements = 1 }").contains("table"));
    assert!(
        refused("limits = { cpu = \"3s\", wall = \"2s\" }").contains("cpu"),
        "the deadline inside is after the one outside"
    );

    let big = Origin::serve(|_| Reply::text("x".repeat(5000)));
    let config = json!({"on-request": [{"do": "call", "url": big.url(), "to": "x-called"}], "on-request-body": []});
    let plugin = format!(
        "[plugins.probe-waiting]\nlimits = {{ http_body = \"1KiB\", body = \"1KiB\", cpu_per_mib = \"1s\" }}\ngrants = {{ http = [\"{}\"] }}\n",
        big.url()
    );
    let gateway = gateway(&(plugin + &route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", "", config)));
    assert_eq!(gateway.request("POST", "/", &[], b"small").status, 200);
    assert!(origin.last().header("x-called").is_some_and(|v| v.starts_with("too-large")));
    assert_eq!(gateway.request("POST", "/", &[], &[b'x'; 2000]).status, 413);
}

/// What a route or an upstream leaves out is that of its group, or else the defaults.
#[test]
fn what_routes_and_upstreams_share() {
    let origin = Origin::named("o");
    let target = |name: &str| format!("[upstreams.{name}]\nendpoints = [\"{}\"]\n", origin.url());
    let gateway = Gateway::start(&with_base(&format!(
        "[defaults.route]\nlimits = {{ body = \"10B\" }}\n[groups.large.route]\nlimits = {{ body = \"20B\" }}\n\
         [routes.small]\nmatch = {{ path = \"/small\" }}\nupstream = \"one\"\n\
         [routes.large]\ngroup = \"large\"\nmatch = {{ path = \"/large\" }}\nupstream = \"one\"\n\
         [routes.own]\ngroup = \"large\"\nmatch = {{ path = \"/own\" }}\nupstream = \"one\"\nlimits = {{ body = \"30B\" }}\n{}",
        target("one")
    )));
    let status = |path: &str, size: usize| gateway.request("POST", path, &[], &vec![b'x'; size]).status;
    for (path, most) in [("/small", 10), ("/large", 20), ("/own", 30)] {
        assert_eq!((status(path, most), status(path, most + 1)), (200, 413), "{path}");
    }

    // Nobody speaks HTTP/2 there, so that an upstream that inherits `h2c` gets no answer.
    let gateway = Gateway::start(&with_base(&format!(
        "[defaults.upstream]\nprotocol = \"h2c\"\n[groups.old.upstream]\nprotocol = \"http/1.1\"\n\
         [routes.new]\nmatch = {{ path = \"/new\" }}\nupstream = \"new\"\n\
         [routes.old]\nmatch = {{ path = \"/old\" }}\nupstream = \"old\"\n{}{}group = \"old\"\n",
        target("new"),
        target("old")
    )));
    assert_eq!((gateway.get("/new").status, gateway.get("/old").status), (502, 200));
}

#[test]
fn a_key_says_where_its_value_comes_from() {
    let toml = with_base(&format!("[defaults.route]\nupgrade = false\n{HELLO}"));
    let line = 1 + toml.lines().position(|line| line == "upgrade = false").expect("the line");
    let said = |key: &str| setup().command_output(&toml, &["check", "--explain-key", key]);
    let expected = format!("routes.all.upgrade = false\n    gateway.toml:{line}:11, from defaults.route.upgrade\n");
    assert_eq!(said("routes.all.upgrade").stdout, expected);
    let unknown = said("routes.all.upgrad");
    assert!(!unknown.status.success());
    assert_eq!(unknown.stderr, "there is no key `routes.all.upgrad`, did you mean `routes.all.upgrade`?\n");
}
