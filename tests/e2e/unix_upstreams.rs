//! Unix sockets behind the gateway: endpoints like others, with a path in place of host and port.

use std::io::{BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use serde_json::Value;
use sluice_harness::tools::{need, run};
use sluice_harness::{Gateway, Origin, eventually, wire};
use tempfile::TempDir;

use crate::support::{gateway, route, setup, with_base};

/// A server of HTTP/1.1 on a Unix socket. It answers with its name, the path and the `Host` of each request, until it is dropped.
struct UnixOrigin {
    path: PathBuf,
    connections: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl UnixOrigin {
    fn start(path: &Path, name: &'static str) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let (connections, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let origin = UnixOrigin { path: path.to_owned(), connections: connections.clone(), stopped: stopped.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(SeqCst) {
                    return;
                }
                connections.fetch_add(1, SeqCst);
                let (stream, stopped) = (stream.expect("a connection"), stopped.clone());
                std::thread::spawn(move || answer(&stream, name, &stopped));
            }
        });
        origin
    }

    fn url(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for UnixOrigin {
    fn drop(&mut self) {
        self.stopped.store(true, SeqCst);
        // It waits for a connection.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn answer(stream: &UnixStream, name: &str, stopped: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    while let Ok(head) = wire::read_head(&mut reader) {
        if stopped.load(SeqCst) {
            return;
        }
        let host = head.header("host").unwrap_or_default();
        let body = format!("{name} {} {host}", head.start.split(' ').nth(1).unwrap_or_default());
        let mut to = stream;
        if write!(to, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).is_err() {
            return;
        }
    }
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The upstream `u` of these endpoints, as TOML, with more lines, and a route for it.
fn to(endpoints: &str, lines: &str) -> String {
    format!("[upstreams.u]\nendpoints = [{endpoints}]\n{lines}\n{}", route("u", &[]))
}

fn shown(gateway: &Gateway, url: &str) -> Value {
    let upstream = gateway.admin("/api/v1/upstreams/u").json();
    let addresses = upstream["addresses"].as_array().expect("addresses");
    addresses.iter().find(|of| of["endpoint"] == url).expect("the endpoint").clone()
}

#[test]
fn requests_go_over_a_unix_socket_and_its_connections_are_kept() {
    let dir = dir();
    let origin = UnixOrigin::start(&dir.path().join("app.sock"), "app");
    let url = origin.url();
    let gateway = gateway(&(to(&format!("\"{url}\""), "") + "host = \"upstream\"\n"));
    let mut client = gateway.client();
    for n in 0..20 {
        assert_eq!(client.get(&format!("/{n}")).text(), format!("app /{n} localhost"));
    }
    assert_eq!(origin.connections(), 1);
    let line = gateway.wait_access("the endpoint in the access log", |line| line["path"] == "/19");
    assert_eq!(line["endpoint"], url.as_str(), "{line}");
    let labels = [("upstream", "u"), ("endpoint", url.as_str()), ("address", url.as_str())];
    assert_eq!(gateway.metric("sluice_endpoint_healthy", &labels), Some(1.0));
    let responses = [("upstream", "u"), ("address", url.as_str()), ("code", "2xx")];
    assert_eq!(gateway.metric("sluice_endpoint_responses_total", &responses), Some(20.0));
    let of_admin = shown(&gateway, &url);
    assert_eq!((&of_admin["address"], &of_admin["state"]), (&url.as_str().into(), &"healthy".into()), "{of_admin}");
    // A reload keeps it, and its connection.
    gateway.reload(&with_base(&(to(&format!("{{ url = \"{url}\", weight = 3 }}"), "") + "host = \"keep\"\n")));
    assert_eq!(client.request("GET", "/", &[("host", "shop.test")], b"").text(), "app / shop.test");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn it_is_balanced_like_others() {
    let dir = dir();
    let [one, two] = ["one", "two"].map(|name| UnixOrigin::start(&dir.path().join(name), name));
    let tcp = Origin::named("tcp");
    let endpoints = format!(
        "{{ url = \"{}\", weight = 2, labels = {{ kind = \"unix\" }} }}, {{ url = \"{}\", labels = {{ kind = \"unix\" }} }}, \"{}\"",
        one.url(),
        two.url(),
        tcp.url()
    );
    let gateway = gateway(&to(&endpoints, ""));
    let mut client = gateway.client();
    let counts = |client: &mut sluice_harness::Client| {
        let mut counts = [0; 3];
        for _ in 0..40 {
            let text = client.get("/").text();
            let at = ["one", "two", "tcp"].iter().position(|name| text.starts_with(name)).expect("a name");
            counts[at] += 1;
        }
        counts
    };
    assert_eq!(counts(&mut client), [20, 10, 10]);
    gateway.reload(&with_base(&(to(&endpoints, "") + "subset = { kind = \"unix\" }\n")));
    let of_subset = counts(&mut client);
    assert_eq!(of_subset[2], 0, "{of_subset:?}");
    // The next priority takes over while nobody listens, and what was tried is in the log.
    let first = format!("\"{}\", {{ url = \"{}\", priority = 1 }}", one.url(), tcp.url());
    gateway.reload(&with_base(&to(&first, "")));
    assert!(client.get("/").text().starts_with("one"));
    let url = one.url();
    drop(one);
    assert_eq!(client.get("/failed").text(), "tcp");
    let line = gateway.wait_access("the failed attempt", |line| line["path"] == "/failed");
    // The connection that was kept was closed, and nobody takes another one.
    let failed = line["failed_attempts"].as_array().and_then(|failed| failed.last()).expect("an attempt");
    assert_eq!((&failed["address"], &failed["outcome"]), (&url.as_str().into(), &"connect".into()), "{line}");
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(reason.starts_with(&format!("connect to {url} failed")), "{reason}");
    let out = gateway.wait_log("the endpoint is out", |line| line["message"] == "the endpoint is out");
    assert_eq!((&out["endpoint"], &out["address"]), (&url.as_str().into(), &url.as_str().into()));
}

#[test]
fn over_http2_by_prior_knowledge() {
    let behind = Gateway::start(
        "[gateway]\nworkers = 1\nreload = false\n[listeners.sock]\nbind = \"unix:h2.sock\"\nprotocols = [\"h2\"]\n[upstreams.echo]\nbuiltin = \"echo\"\n[routes.all]\nmatch = { path = \"/**\" }\nupstream = \"echo\"\n",
    );
    let url = format!("unix:{}", behind.dir().join("h2.sock").display());
    let gateway = gateway(&to(&format!("\"{url}\""), "protocol = \"h2c\""));
    for n in 0..4 {
        let echoed = gateway.request("POST", &format!("/{n}"), &[("host", "shop.test")], b"hello").json();
        assert_eq!(echoed["body"], "hello", "{echoed}");
    }
    let line = behind.wait_access("the request behind", |line| line["path"] == "/3");
    assert_eq!((&line["client"], &line["protocol"]), (&"unix:".into(), &"HTTP/2.0".into()));
}

#[test]
fn checks_go_over_it_and_bring_it_back() {
    let dir = dir();
    let path = dir.path().join("app.sock");
    let url = format!("unix:{}", path.display());
    let health =
        "health = { path = \"/healthz\", interval = \"100ms\", unhealthy_threshold = 1, healthy_threshold = 1 }";
    for health in [health, &health.replace("path = \"/healthz\"", "type = \"tcp\"")] {
        let gateway = gateway(&to(&format!("\"{url}\""), health));
        eventually("a failed check", || {
            gateway.metric("sluice_endpoint_out", &[("address", &url), ("reason", "check-failed")]) == Some(1.0)
        });
        let origin = UnixOrigin::start(&path, "app");
        eventually("a passed check", || gateway.metric("sluice_endpoint_healthy", &[("address", &url)]) == Some(1.0));
        assert!(gateway.get("/").text().starts_with("app / "));
        drop(origin);
        eventually("a failed check", || shown(&gateway, &url)["state"] == "out");
    }
}

#[test]
fn a_watched_file_can_list_it() {
    let dir = dir();
    let origin = UnixOrigin::start(&dir.path().join("app.sock"), "app");
    let list = dir.path().join("endpoints.json");
    std::fs::write(&list, format!("{{\"endpoints\": [\"{}\"]}}", origin.url())).expect("a file");
    let gateway =
        gateway(&format!("[upstreams.u]\ndiscovery = {{ file = \"{}\" }}\n{}", list.display(), route("u", &[])));
    eventually("the endpoint", || gateway.get("/").text().starts_with("app / "));
}

#[test]
fn nginx_behind_a_unix_socket() {
    let Some([nginx]) = need(["nginx"]) else { return };
    let dir = dir();
    let (socket, conf) = (dir.path().join("nginx.sock"), dir.path().join("nginx.conf"));
    let folder = dir.path().display();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off; server {{ listen unix:{}; location / {{ return 200 \"nginx $host\"; }} }} }}\n",
        socket.display()
    );
    std::fs::write(&conf, text).expect("a file");
    let conf = conf.to_str().expect("UTF-8").to_owned();
    let mut server =
        std::process::Command::new(&nginx).args(["-p", &folder.to_string(), "-c", &conf]).spawn().expect("nginx");
    eventually("nginx", || UnixStream::connect(&socket).is_ok());
    let gateway = gateway(&(to(&format!("\"unix:{}\"", socket.display()), "") + "host = \"upstream\"\n"));
    let answers: Vec<String> = (0..5).map(|_| gateway.get("/").text()).collect();
    server.kill().expect("running");
    server.wait().expect("ended");
    assert!(answers.iter().all(|answer| answer == "nginx localhost"), "{answers:?}");
    if let Some([curl]) = need(["curl"]) {
        let arguments = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{}/", gateway.address())];
        assert_eq!(run(&curl, &arguments), "502", "nobody listens there any more");
    }
}

#[test]
fn what_can_not_be_is_refused() {
    let refused = |endpoints: &str, lines: &str| setup().refused(&with_base(&to(endpoints, lines))).stderr;
    let long = format!("\"unix:/{}\"", "x".repeat(107));
    for (endpoints, lines, message) in [
        (
            "\"unix:app.sock\"",
            "",
            "expected an absolute path behind `unix:`, like \"unix:/run/app.sock\", found \"unix:app.sock\"",
        ),
        ("\"unix:\"", "", "expected an absolute path behind `unix:`"),
        ("\"unix:@\"", "", "expected a path behind `unix:`"),
        (&*long, "", "a path behind `unix:` can have 107 bytes"),
        ("\"unix:/a\", \"unix:/a\"", "", "the endpoint unix:/a is listed twice"),
        ("\"unix:/a\"", "protocol = \"h2\"", "`h2` is for https endpoints"),
        ("\"unix:/a\"", "health = { path = \"/\", port = 80 }", "an endpoint that is a Unix socket has none"),
        ("\"unix:/a\"", "health = { type = \"tls\" }", "checks of the type `tls` are for https endpoints"),
    ] {
        let stderr = refused(endpoints, lines);
        assert!(stderr.contains(message), "{endpoints} {lines}: {stderr}");
    }
}
