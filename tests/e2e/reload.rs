//! A reload drops nothing and breaks nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sluice_harness::load::Neighbour;
use sluice_harness::{Origin, Reply, eventually};

use crate::support::{filter, gateway, probe, route, setup, with_base};

fn answering(body: &str) -> String {
    with_base(&format!("[routes.all]\nmatch = {{ path = \"/**\" }}\nrespond = {{ status = 200, body = \"{body}\" }}\n"))
}

#[test]
fn a_good_configuration_takes_over() {
    let gateway = setup().start(&answering("old"));
    let mut kept = gateway.client();
    assert_eq!(kept.get("/").text(), "old");
    let line = gateway.try_reload(&answering("new"));
    assert_eq!((&line["message"], &line["routes"]), (&json!("configuration reloaded"), &json!(1)), "{line}");
    assert!(line["changed"].is_null() && line["upstreams"] == 0, "{line}");
    assert_eq!(gateway.get("/").text(), "new");
    assert_eq!(kept.get("/").text(), "new", "also on a connection from before");
    assert_eq!(gateway.metric("sluice_reloads_total", &[("result", "ok")]), Some(1.0));
}

#[test]
fn a_bad_configuration_is_refused_with_its_places() {
    let gateway = setup().start(&answering("old"));
    let bad = answering("new") + "[routes.more]\nmatch = { path = \"/x\" }\nupstream = \"missing\"\nprioritty = 3\n";
    let line = gateway.try_reload(&bad);
    assert!(line["message"].as_str().is_some_and(|m| m.contains("refused")), "{line}");
    let text = line.to_string();
    let row = |needle: &str| bad.lines().position(|l| l.starts_with(needle)).expect("a line") + 1;
    assert!(text.contains(&format!("gateway.toml:{}:", row("upstream = \"missing\""))), "{text}");
    assert!(text.contains(&format!("gateway.toml:{}:1", row("prioritty"))), "{text}");
    assert!(text.contains("did you mean `priority`"), "{text}");
    assert_eq!(gateway.get("/").text(), "old");
    assert_eq!(gateway.metric("sluice_reloads_total", &[("result", "refused")]), Some(1.0));
    gateway.reload(&answering("good again"));
    assert_eq!(gateway.get("/").text(), "good again");
}

#[test]
fn broken_toml_and_broken_plugins_are_refused() {
    let gateway = setup().file("plugins/broken.wasm", "no component").start(&answering("old"));
    for bad in [
        "[listeners".to_string(),
        with_base(&(route("http://127.0.0.1:1", &["a"]) + "[filters.a]\nplugin = \"broken\"\n")),
        with_base(&(route("http://127.0.0.1:1", &["a"]) + "[filters.a]\nplugin = \"missing\"\n")),
        with_base(&(route("http://127.0.0.1:1", &["a"]) + &probe("a", json!({"configure": [{"do": "trap"}]})))),
        with_base(&(route("http://127.0.0.1:1", &["a"]) + &probe("a", json!({"configure": [{"do": "spin"}]})))),
        with_base(&(route("http://127.0.0.1:1", &["a"]) + &probe("a", json!({"configure": [{"do": "memory"}]})))),
        with_base(&(route("http://127.0.0.1:1", &["a"]) + &probe("a", json!({"configure": [{"do": "nonsense"}]})))),
    ] {
        let line = gateway.try_reload(&bad);
        assert!(line["message"].as_str().is_some_and(|m| m.contains("refused")), "{line}");
        assert!(line.to_string().contains("gateway.toml:"), "{line}");
        assert_eq!(gateway.get("/").text(), "old");
    }
}

#[test]
fn a_filter_that_traps_on_every_request_is_refused_unless_a_key_allows_it() {
    let origin = Origin::named("o");
    let trapping = |lines: &str| {
        with_base(
            &(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, json!({"on-response": [{"do": "trap"}]}))),
        )
    };
    let gateway = setup().start(&answering("old"));
    let line = gateway.try_reload(&trapping(""));
    assert!(line.to_string().contains("filters.a.plugin: the hook on-response trapped: "), "{line}");
    assert_eq!(gateway.get("/").text(), "old");
    gateway.reload(&trapping("on_failed_trial = \"warn\""));
    assert_eq!(gateway.get("/").status, 500);
}

#[test]
fn what_is_no_regular_file_is_refused_and_later_reloads_go_on() {
    let gateway = setup().file("plugins/real.wasm", "no component").start(&answering("old"));
    let fifo = |path: &str| {
        let path = gateway.dir().join(path);
        let _ = std::fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo(1)").success());
    };
    fifo("plugins/stuck.wasm");
    fifo("stuck");
    let filter = |lines: &str| with_base(&format!("{}[filters.a]\n{lines}\n", route("http://127.0.0.1:1", &["a"])));
    let certificate = |cert: &str| answering("x") + &format!("[certificates.c]\ncert = \"{cert}\"\nkey = \"stuck\"\n");
    let include = |path: &str| answering("x").replace("[gateway]", &format!("include = [\"{path}\"]\n[gateway]"));
    let cases = [
        (filter("plugin = \"stuck\""), "a FIFO or a pipe"),
        (filter("plugin = \"b\"\n[plugins.b]\nfile = \"stuck\""), "a FIFO or a pipe"),
        (filter("plugin = \"b\"\n[plugins.b]\nfile = \"/dev/zero\""), "a device"),
        (filter("plugin = \"b\"\n[plugins.b]\nfile = \"plugins\""), "a directory"),
        (filter("plugin = \"cors\"\nconfig = { origins = [\"${file:stuck}\"] }"), "a FIFO or a pipe"),
        (certificate("stuck"), "a FIFO or a pipe"),
        (certificate("/dev/zero"), "a device"),
        (include("stuck"), "a FIFO or a pipe"),
    ];
    for (toml, found) in cases {
        let line = gateway.try_reload(&toml);
        let text = line.to_string();
        assert!(text.contains(&format!("it is {found}, expected a regular file")), "{toml}\n{line}");
    }
    fifo("gateway.toml");
    gateway.signal("HUP");
    gateway.wait_log("the configuration itself", |line| {
        line.to_string().contains("gateway.toml: cannot read the file: it is a FIFO or a pipe, expected a regular file")
    });
    gateway.reload(&answering("new"));
    assert_eq!(gateway.get("/").text(), "new");
}

/// A component that compiles for a long time: the fixture with one more core module, which has one large function.
fn slow_component() -> Vec<u8> {
    fn number(mut n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while n > 0x7f {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }
    let counted = |bytes: &[u8]| [&number(bytes.len())[..], bytes].concat();
    let section = |kind: u8, content: &[u8]| [&[kind][..], &counted(content)].concat();
    // 100 locals of the type i32, and as many blocks as follow, each of which changes some of them.
    let mut body = vec![1, 100, 0x7f];
    for n in 0..150_000_usize {
        let local = |k: usize| (n * 7 + n / 100 * k + k * 31) as u8 % 100;
        // block; local.get; br_if 0; local.get; local.get; i32.add; local.set; end
        body.extend([0x02, 0x40, 0x20, local(0), 0x0d, 0, 0x20, local(1), 0x20, local(2), 0x6a, 0x21, local(3), 0x0b]);
    }
    body.push(0x0b);
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section(1, &[1, 0x60, 0, 0]));
    module.extend(section(3, &[1, 0]));
    module.extend(section(10, &[&[1][..], &counted(&body)].concat()));
    let fixture = std::fs::read(sluice_harness::fixtures::file("plain")).expect("a fixture");
    [fixture, section(1, &module)].concat()
}

#[test]
fn a_plugin_that_compiles_for_long_is_told_of_and_holds_up_no_other_reload() {
    let gateway = setup().file("plugins/slow.wasm", slow_component()).start(&answering("old"));
    let slow = with_base(&(route("http://127.0.0.1:1", &["a"]) + "[filters.a]\nplugin = \"slow\"\n"));
    let slow = slow.replace("[gateway]", "[gateway]\ncompile.threads = 3");
    gateway.write("gateway.toml", &slow);
    gateway.signal("HUP");
    let told = gateway.wait_log("the compilation", |line| line["message"] == "still compiling");
    assert_eq!(told["what"], "plugin `slow`", "{told}");
    assert_eq!(gateway.metric("sluice_reload_in_progress", &[]), Some(1.0));
    let compiler = children(gateway.pid()).pop().expect("a process that compiles");
    let environment = std::fs::read(format!("/proc/{compiler}/environ")).expect("its environment");
    assert!(environment.split(|byte| *byte == 0).any(|one| one == b"RAYON_NUM_THREADS=3"));
    gateway.reload(&answering("new"));
    assert_eq!(gateway.get("/").text(), "new");
    assert_eq!(gateway.metric("sluice_reload_in_progress", &[]), Some(0.0));
    eventually("the end of a compilation that nobody needs", || children(gateway.pid()).is_empty());
}

/// The processes that a process has started and that have not ended.
fn children(process: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the threads of a process");
    let children =
        tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    children.flat_map(|children| children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn a_plugin_that_takes_more_than_it_may_to_compile_is_refused_with_the_key() {
    let gateway = setup().file("plugins/slow.wasm", slow_component()).start(&answering("old"));
    let cases = [
        ("timeout = \"50ms\"", "takes longer than 50ms to compile; `gateway.compile.timeout` allows more"),
        ("memory = \"64MiB\"", "needs more than 64 MiB of memory to compile; `gateway.compile.memory` allows more"),
    ];
    for (limit, expected) in cases {
        let rest = format!("{}[filters.a]\nplugin = \"slow\"\n", route("http://127.0.0.1:1", &["a"]));
        let line = gateway.try_reload(&with_base(&rest).replace("[gateway]", &format!("[gateway]\ncompile.{limit}")));
        let place = format!("/plugins/slow.wasm: {expected}");
        assert!(line.to_string().contains(&place), "{line}");
    }
    assert_eq!(gateway.get("/").text(), "old");
}

#[test]
fn a_changed_file_is_noticed() {
    let config = answering("old").replace("reload = false", "reload = true");
    let gateway = setup().start(&config);
    gateway.write("gateway.toml", config.replace("old", "new"));
    eventually("the new configuration", || gateway.get("/").text() == "new");
}

#[test]
fn a_changed_file_is_left_alone_when_told_so() {
    let gateway = setup().start(&answering("old"));
    gateway.write("gateway.toml", answering("unseen"));
    gateway.write("gateway.toml", answering("new"));
    gateway.signal("HUP");
    eventually("the new configuration", || gateway.get("/").text() == "new");
    // It is in use a moment before it is counted.
    eventually("it is counted", || gateway.metric("sluice_reloads_total", &[("result", "ok")]) != Some(0.0));
    assert_eq!(gateway.metric("sluice_reloads_total", &[("result", "ok")]), Some(1.0));
}

#[test]
fn included_files_count() {
    let main = answering("main").replace("[gateway]", "include = [\"conf.d/*.toml\"]\n[gateway]");
    let gateway = setup()
        .file(
            "conf.d/one.toml",
            "[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200, body = \"one\" }\n",
        )
        .start(&main);
    assert_eq!((gateway.get("/one").text(), gateway.get("/").text()), ("one".into(), "main".into()));
    gateway.write(
        "conf.d/two.toml",
        "[routes.two]\nmatch = { path = \"/two\" }\nrespond = { status = 200, body = \"two\" }\n",
    );
    gateway.reload(&main);
    assert_eq!((gateway.get("/one").text(), gateway.get("/two").text()), ("one".into(), "two".into()));
    gateway.write("conf.d/two.toml", "[routes.two]\nmatch = { path = \"/two\" }\nrespond = { statuss = 200 }\n");
    let line = gateway.try_reload(&main);
    assert!(line.to_string().contains("two.toml:3:"), "{line}");
}

#[test]
fn a_plugin_file_that_changed_is_loaded_again() {
    let origin = Origin::named("o");
    let toml = with_base(
        &(route(&origin.url(), &["a"])
            + "[filters.a]\nplugin = \"mine\"\nconfig = { on-request = [{ do = \"calls\", to = \"x-calls\" }] }\n"),
    );
    let gateway = setup().plugin("mine", &sluice_harness::fixtures::file("probe")).start(&toml);
    gateway.get("/");
    gateway.write(
        "plugins/mine.wasm",
        std::fs::read(sluice_harness::fixtures::file("probe-waiting")).expect("the fixture"),
    );
    gateway.reload(&toml);
    assert_eq!(gateway.get("/").status, 200);
    gateway.write("plugins/mine.wasm", "no component");
    assert!(gateway.try_reload(&toml)["message"].as_str().is_some_and(|m| m.contains("refused")));
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn counters_and_values_survive() {
    let origin = Origin::named("o");
    let toml = |extra: &str| {
        let config = json!({
            "on-request": [
                {"do": "limit", "algorithm": "fixed-window", "key": "all", "amount": 5, "window-ms": 86_400_000},
                {"do": "kv-set", "space": "mine", "name": "k", "value": "kept", "to": "x-set", "if-header": "x-write"},
                {"do": "kv-get", "space": "mine", "name": "k", "to": "x-got"},
            ],
        });
        with_base(
            &(route(&origin.url(), &["a"]) + &filter("a", "probe", "grants = { kv = [\"mine\"] }", config) + extra),
        )
    };
    let gateway = setup().start(&toml(""));
    for _ in 0..3 {
        assert_eq!(gateway.request("GET", "/", &[("x-write", "1")], b"").status, 200);
    }
    gateway.reload(&toml("[routes.other]\nmatch = { path = \"/other\" }\nrespond = { status = 200 }\n"));
    let after: Vec<u16> = (0..4).map(|_| gateway.get("/").status).collect();
    assert_eq!(after, [200, 200, 429, 429]);
    assert_eq!(origin.last().header("x-got"), Some("kept"));
}

#[test]
fn an_exchange_ends_with_the_configuration_it_began_with() {
    let origin = Origin::scripted();
    let toml = |name: &str| {
        let config = json!({"on-response": [{"do": "set-header", "name": "x-config", "value": name}]});
        with_base(&(route(&origin.url(), &["a"]) + &probe("a", config)))
    };
    let gateway = setup().start(&toml("old"));
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut conn = origin.accept();
    conn.read_head();
    gateway.reload(&toml("new"));
    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.read_response("GET").header("x-config"), Some("old"));
}

#[test]
fn a_stream_goes_on_through_a_reload() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(Some(wait));
    let origin = Origin::serve(move |_| {
        let wait = wait.lock().expect("the channel").take().expect("one request");
        Reply::script(move |conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab");
            wait.recv().expect("the word to go on");
            conn.write("cd");
        })
    });
    let gateway = gateway(&route(&origin.url(), &[]));
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    assert_eq!(client.read_exact(2), b"ab");
    gateway.reload(&answering("new"));
    go.send(()).expect("the origin waits");
    assert_eq!(client.read_exact(2), b"cd");
    assert_eq!(client.get("/").text(), "new");
}

#[test]
fn nothing_fails_while_configurations_alternate() {
    let origin = Origin::fixed("fine");
    let good = |n: usize| {
        let config = json!({"on-response": [{"do": "set-header", "name": "x-n", "value": n.to_string()}]});
        with_base(&(route(&origin.url(), &["a"]) + &probe("a", config)))
    };
    let gateway = setup().start(&good(0));
    let clients: Vec<_> = (0..4).map(|_| Neighbour::start(gateway.address(), "/", Duration::from_millis(1))).collect();
    for n in 1..=6 {
        gateway.reload(&good(n));
        let refused = gateway.try_reload(&(good(n) + "[nonsense]\n"));
        assert!(refused["message"].as_str().is_some_and(|m| m.contains("refused")));
        let asked = clients[0].asked();
        eventually("some requests", || clients[0].asked() > asked + 20);
        assert_eq!(gateway.get("/").header("x-n"), Some(n.to_string().as_str()));
    }
    for client in clients {
        let report = client.stop();
        assert_eq!(report.count(200), report.total(), "{:?}", report.statuses);
    }
}

#[test]
fn what_needs_a_restart_is_said() {
    let gateway = setup().start(&answering("old"));
    let line = gateway.try_reload(&answering("new").replace("workers = 1", "workers = 2"));
    assert_eq!(line["message"], "configuration reloaded");
    gateway.wait_log("the key that needs a restart", |l| {
        l["level"] == "WARN" && l.to_string().contains("restart") && l.to_string().contains("workers")
    });
    assert_eq!(gateway.get("/").text(), "new");
}

/// A server on all addresses of this machine. It counts its connections, and those that the gateway has closed.
struct Everywhere {
    port: u16,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Everywhere {
    fn start() -> Everywhere {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let (opened, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let server = Everywhere { port, opened: opened.clone(), closed: closed.clone() };
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                opened.fetch_add(1, SeqCst);
                let closed = closed.clone();
                let serve = move || {
                    let mut buffer = [0; 4096];
                    while matches!(stream.read(&mut buffer), Ok(1..)) {
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                            break;
                        }
                    }
                    closed.fetch_add(1, SeqCst);
                };
                thread::Builder::new().stack_size(64 << 10).spawn(serve).expect("a thread");
            }
        });
        server
    }
}

#[test]
fn one_of_a_thousand_endpoints_changes() {
    const COUNT: usize = 1000;
    let server = Everywhere::start();
    let url = |i: usize| format!("http://127.1.{}.{}:{}", i / 250, i % 250 + 1, server.port);
    let toml = |first: &str| {
        let others: Vec<String> = (1..COUNT).map(url).collect();
        let endpoints = serde_json::to_string(&others).expect("a list").replacen('[', &format!("[{first}, "), 1);
        with_base(&format!("[upstreams.many]\nendpoints = {endpoints}\n{}", route("many", &[])))
    };
    let gateway = setup().start(&toml(&format!("{:?}", url(0))));
    let mut client = gateway.client();
    for _ in 0..COUNT {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(server.opened.load(SeqCst), COUNT, "each has had its turn");
    // Another weight touches no connection …
    gateway.reload(&toml(&format!("{{ url = {:?}, weight = 2 }}", url(0))));
    for _ in 0..COUNT + 1 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((server.opened.load(SeqCst), server.closed.load(SeqCst)), (COUNT, 0));
    // … and another endpoint in its place only that of the one that is gone.
    gateway.reload(&toml(&format!("{:?}", url(COUNT))));
    for _ in 0..COUNT * 2 {
        assert_eq!(client.get("/").status, 200);
    }
    eventually("the connection of the endpoint that is gone", || server.closed.load(SeqCst) == 1);
    assert_eq!((server.opened.load(SeqCst), server.closed.load(SeqCst)), (COUNT + 1, 1));
}
