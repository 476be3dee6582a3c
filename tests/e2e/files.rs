//! A folder of files as an upstream, through real sockets.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::json;
use sluice_harness::gateway::Setup;
use sluice_harness::h2::{H2, full};
use sluice_harness::tools::need;
use sluice_harness::{Gateway, eventually};

use crate::support::{BASE, probe, route, setup, with_base};

/// A site with an index, a folder and an asset with compressed siblings.
pub(crate) fn site() -> Setup {
    setup()
        .file("public/index.html", "<h1>home</h1>")
        .file("public/docs/index.html", "<h1>docs</h1>")
        .file("public/app.js", "let plain;")
        .file("public/app.js.br", "as br")
        .file("public/app.js.gz", "as gzip")
        .file("public/404.html", "nothing here")
        .file("secret.txt", "secret")
}

/// An upstream `site` with these lines, for everything.
pub(crate) fn serving(lines: &str) -> String {
    with_base(&format!("{}[upstreams.site]\n{lines}\n", route("site", &[])))
}

/// A file in the folder, old enough for a strong tag.
fn put(gateway: &Gateway, name: &str, content: &[u8]) {
    gateway.write(&format!("public/{name}"), content);
    let file = fs::File::options().write(true).open(gateway.dir().join("public").join(name)).expect("the file");
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("a time");
}

#[test]
fn a_folder_is_served() {
    let gateway = site().start(&serving("files = \"public\""));
    put(&gateway, "index.html", b"<h1>home</h1>");
    let mut client = gateway.client();
    let home = client.get("/");
    assert_eq!((home.status, &*home.text()), (200, "<h1>home</h1>"));
    for (name, value) in
        [("content-type", "text/html; charset=utf-8"), ("content-length", "13"), ("accept-ranges", "bytes")]
    {
        assert_eq!(home.header(name), Some(value), "{:?}", home.head);
    }
    let tag = home.header("etag").expect("a tag").to_owned();
    let modified = home.header("last-modified").expect("a time").to_owned();
    for condition in [("if-none-match", &*tag), ("if-modified-since", &*modified)] {
        let same = client.request("GET", "/index.html", &[condition], b"");
        assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(&*tag)));
    }
    assert_eq!(client.request("GET", "/", &[("if-match", "\"other\"")], b"").status, 412);
    let head = client.request("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("13"), 0));
    let post = client.request("POST", "/", &[], b"a body");
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    let none = gateway.get("/none");
    assert_eq!((none.status, none.header("content-type")), (404, Some("application/problem+json")));
    let log = gateway.wait_access("the exchange", |line| line["status"] == 304);
    assert!(log.to_string().contains("\"files\""), "the endpoint: {log}");
    let state: serde_json::Value = gateway.admin("/api/v1/upstreams/site").json();
    assert!(state["files"].as_str().is_some_and(|root| root.ends_with("public")), "{state}");
}

#[test]
fn a_folder_below_a_prefix_is_redirected_to_its_slash() {
    let lines = "rewrite = { strip_prefix = \"/static\" }\n[upstreams.site]\nfiles = { root = \"public\" }\n";
    let toml = format!("[routes.all]\nmatch = {{ path = \"/static/**\" }}\nupstream = \"site\"\n{lines}");
    let gateway = site().start(&with_base(&toml));
    let redirect = gateway.get("/static/docs?page=2");
    assert_eq!((redirect.status, redirect.header("location")), (301, Some("./docs/?page=2")));
    assert_eq!(gateway.get("/static/docs/").text(), "<h1>docs</h1>");
    // As a browser resolves it.
    let Some([curl]) = need(["curl"]) else { return };
    let url = format!("http://{}/static/docs?page=2", gateway.address());
    let text = sluice_harness::tools::run(&curl, &["-s", "-L", "-w", " %{url_effective}", &url]);
    assert!(text.starts_with("<h1>docs</h1>") && text.ends_with("/static/docs/?page=2"), "{text}");
}

#[test]
fn what_a_folder_answers_with() {
    let lines = "files = { root = \"public\", index = [\"none.html\", \"404.html\"], fallback = \"/app.js\", not_found = \"/404.html\" }";
    let gateway = site().start(&serving(lines));
    assert_eq!(gateway.get("/docs/").text(), "let plain;", "no index, so the fallback");
    assert_eq!(gateway.get("/").text(), "nothing here");
    assert_eq!(gateway.get("/a/b").text(), "let plain;");
    let hidden = gateway.get("/.env");
    assert_eq!((hidden.status, &*hidden.text()), (404, "nothing here"));
    gateway.reload(&serving("files = { root = \"public\", index = [] }"));
    assert_eq!(gateway.get("/docs/").status, 404);
    gateway.write("public/.well-known/security.txt", "Contact: x");
    assert_eq!(gateway.get("/.well-known/security.txt").text(), "Contact: x");
}

#[test]
fn compressed_files_lie_beside_others() {
    let gateway = site().start(&serving("files = { root = \"public\", precompressed = [\"br\", \"gzip\"] }"));
    for (accepted, content, coding) in [
        ("gzip, br", "as br", Some("br")),
        ("gzip", "as gzip", Some("gzip")),
        ("br;q=0, gzip;q=0.5", "as gzip", Some("gzip")),
        ("deflate", "let plain;", None),
    ] {
        let got = gateway.request("GET", "/app.js", &[("accept-encoding", accepted)], b"");
        assert_eq!((&*got.text(), got.header("content-encoding")), (content, coding), "{accepted}");
        assert_eq!(got.header("vary"), Some("accept-encoding"));
        assert_eq!(got.header("content-type"), Some("text/javascript; charset=utf-8"));
    }
}

#[test]
fn ranges_of_a_file() {
    let gateway = site().start(&serving("files = \"public\""));
    put(&gateway, "letters", b"abcdefghijklmnopqrstuvwxyz");
    let range = |value: &str| gateway.request("GET", "/letters", &[("range", value)], b"");
    let part = range("bytes=2-4");
    assert_eq!((part.status, &*part.text()), (206, "cde"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/26"));
    let none = range("bytes=26-");
    assert_eq!((none.status, none.header("content-range")), (416, Some("bytes */26")));
    put(&gateway, "long", &b"0123456789".repeat(100_000));
    let several = gateway.request("GET", "/long", &[("range", "bytes=0-9,500000-500009")], b"");
    assert_eq!(several.status, 206);
    assert_eq!(several.text().matches("\r\n\r\n0123456789\r\n").count(), 2, "{}", several.text());
    // A download that goes on where it broke off.
    let tag = gateway.get("/long").header("etag").expect("a tag").to_owned();
    let rest = gateway.request("GET", "/long", &[("range", "bytes=999990-"), ("if-range", &tag)], b"");
    assert_eq!((rest.status, &*rest.text()), (206, "0123456789"));
    let changed = gateway.request("GET", "/long", &[("range", "bytes=999990-"), ("if-range", "\"x\"")], b"");
    assert_eq!((changed.status, changed.body.len()), (200, 1_000_000));
}

#[test]
fn files_over_http2() {
    let gateway = site().start(&serving("files = { root = \"public\", precompressed = [\"br\"] }"));
    put(&gateway, "long", &b"0123456789".repeat(100_000));
    let mut client = H2::connect(gateway.address());
    let request = |client: &H2, target: &str| {
        client.builder("GET", target).header("accept-encoding", "br").body(full("")).unwrap()
    };
    let long = request(&client, "/long");
    let long = client.send(long);
    assert_eq!((long.status, long.body.len(), long.header("content-length")), (200, 1_000_000, Some("1000000")));
    let app = request(&client, "/app.js");
    let app = client.send(app);
    assert_eq!((&*app.text(), app.header("content-encoding")), ("as br", Some("br")));
    let many = (0..50).map(|_| request(&client, "/long")).collect();
    for answer in client.send_all(many) {
        assert_eq!(answer.expect("an answer").body.len(), 1_000_000);
    }
}

#[test]
fn filters_and_the_cache_see_files_as_any_response() {
    let toml = format!(
        "[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"site\"\npipeline = [\"a\"]\ncache = {{ ttl = \"1m\" }}\n\
         [upstreams.site]\nfiles = \"public\"\n{}",
        probe(
            "a",
            json!({"on-response-body": [{"do": "set-body", "value": "by a filter"}], "on-response": [{"do": "set-header", "name": "x-a", "value": "1"}]})
        )
    );
    let gateway = site().start(&with_base(&toml));
    for _ in 0..2 {
        let got = gateway.get("/app.js");
        assert_eq!((got.header("x-a"), &*got.text()), (Some("1"), "by a filter"), "{got:?}");
    }
    assert_eq!(gateway.metric("sluice_cache_objects", &[]), Some(1.0));
    assert!(gateway.get("/app.js").header("age").is_some());
}

#[test]
fn a_large_file_flows_through_little_memory() {
    let gateway = site().start(&serving("files = \"public\""));
    const SIZE: u64 = 256 << 20;
    let file = fs::File::create(gateway.dir().join("public/large")).expect("a file");
    file.set_len(SIZE).expect("a size");
    gateway.get("/");
    let before = gateway.peak_resident();
    let mut client = gateway.client();
    client.send("GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert_eq!(client.read_head().header("content-length"), Some(&*SIZE.to_string()));
    assert_eq!(client.read_to_close().len() as u64, SIZE);
    let more = gateway.peak_resident().saturating_sub(before);
    assert!(more < 16 << 20, "{more} bytes more");
}

#[test]
fn a_file_that_is_replaced_is_sent_to_its_end_and_one_that_shrinks_breaks_off() {
    let gateway = site().start(&serving("files = \"public\""));
    const SIZE: usize = 32 << 20;
    let begun = |name: &str| {
        put(&gateway, name, &vec![b'x'; SIZE]);
        let mut client = gateway.client();
        client.send(format!("GET /{name} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"));
        assert_eq!(client.read_head().second_word(), "200");
        client
    };
    let mut replaced = begun("replaced");
    put(&gateway, "replaced", b"short");
    let body = replaced.read_to_close();
    assert!(body.len() == SIZE && body.iter().all(|byte| *byte == b'x'));
    assert_eq!(gateway.get("/replaced").text(), "short");

    let mut truncated = begun("truncated");
    fs::File::options().write(true).open(gateway.dir().join("public/truncated")).unwrap().set_len(1000).unwrap();
    let body = truncated.read_to_close();
    assert!(body.len() < SIZE, "never padded to the length that was promised");
    gateway.wait_access("a body that broke off", |line| {
        line["path"] == "/truncated" && line.to_string().contains("upstream-reset")
    });
}

#[test]
fn a_folder_that_is_not_there_is_an_error_with_its_place() {
    let refused = setup().refused(&serving("files = \"public\""));
    let line = BASE.lines().count() + 6;
    let expected = format!("gateway.toml:{line}:9: upstreams.site.files: the folder `");
    assert!(refused.stderr.contains(&expected), "{expected} in {}", refused.stderr);
    let check = setup().command_output(&serving("files = { root = \"public\" }"), &["check"]);
    assert!(!check.status.success() && check.stderr.contains("upstreams.site.files"), "{}", check.stderr);
    for (lines, message) in [
        ("files = { index = [\"a\"] }", "the key `root` is missing"),
        ("files = 1", "expected the path of a folder, or a table with `root`"),
        ("files = { root = \"public\", fallback = \"index.html\" }", "expected the path of a file in the folder"),
        ("files = { root = \"public\", fallback = \"/a/\" }", "expected the path of a file in the folder"),
        ("files = { root = \"public\", not_found = \"/.404\" }", "expected the path of a file in the folder"),
        ("files = { root = \"public\", index = [\"a/b\"] }", "expected the name of a file"),
        ("files = { root = \"public\", precompressed = [\"deflate\"] }", "\"zstd\" or \"br\" or \"gzip\""),
        ("files = { root = \"public\", precompressed = [\"br\", \"br\"] }", "each once"),
        ("files = \"public\"\nbuiltin = \"echo\"", "needs exactly one of"),
        ("files = \"public\"\nbalance = \"random\"", "`balance` means nothing to a `files` upstream"),
    ] {
        let refused = site().refused(&serving(lines));
        assert!(refused.stderr.contains(message), "{lines}: {}", refused.stderr);
    }
}

#[test]
fn a_folder_that_a_deployment_replaces_is_followed_without_a_reload() {
    let setup = setup().file("one/index.html", "one").file("two/index.html", "two");
    let gateway = setup.file("current/index.html", "none").start(&serving("files = \"current\""));
    let link = |to: &str| {
        let (new, current) = (gateway.dir().join("new"), gateway.dir().join("current"));
        std::os::unix::fs::symlink(to, &new).expect("a link");
        fs::rename(new, current).expect("renamed");
    };
    fs::remove_dir_all(gateway.dir().join("current")).expect("removed");
    // The folder is away: not the client's fault, and never a 404 that a cache would keep.
    let away = gateway.get("/");
    assert_eq!((away.status, away.header("retry-after")), (503, Some("1")));
    gateway.wait_access("the reason", |line| line.to_string().contains("files-unreadable"));
    for name in ["one", "two", "one"] {
        link(name);
        assert_eq!(gateway.get("/").text(), name);
    }
    // Under load, none is anything but one of the two.
    let mut client = gateway.client();
    for round in 0..200 {
        link(if round % 2 == 0 { "one" } else { "two" });
        let got = client.get("/");
        assert!(got.status == 200 && ["one", "two"].contains(&&*got.text()), "{got:?}");
    }
}

#[test]
fn too_many_open_files_are_a_503_until_there_is_room() {
    let Some([prlimit]) = need(["prlimit"]) else { return };
    let gateway = site().start(&serving("files = \"public\""));
    let mut client = gateway.client();
    assert_eq!(client.get("/").status, 200);
    let limit = |files: &str| {
        sluice_harness::tools::run(&prlimit, &["--pid", &gateway.pid().to_string(), &format!("--nofile={files}:")]);
    };
    limit("4");
    let full = client.get("/");
    assert_eq!((full.status, full.header("retry-after")), (503, Some("1")));
    limit("1024");
    assert_eq!(client.get("/").status, 200);
    gateway.wait_log("the reason", |line| line.to_string().contains("Too many open files"));
}

#[test]
fn slow_readers_keep_little_each_and_hold_nobody_up() {
    let base = BASE.replace("[gateway]\n", "[gateway]\nmax_buffered_memory = \"8MiB\"\n");
    let gateway = site().start(&format!("{base}{}[upstreams.site]\nfiles = \"public\"\n", route("site", &[])));
    let file = fs::File::create(gateway.dir().join("public/large")).expect("a file");
    file.set_len(64 << 20).expect("a size");
    let mut slow: Vec<_> = (0..200)
        .map(|_| {
            let mut client = gateway.client();
            client.send("GET /large HTTP/1.1\r\nhost: a\r\n\r\n");
            client
        })
        .collect();
    for client in &mut slow {
        assert_eq!(client.read_head().second_word(), "200");
    }
    // Others are served meanwhile, and who goes on reading gets on.
    for _ in 0..20 {
        assert_eq!(gateway.get("/").status, 200);
    }
    let buffered = || gateway.metric("sluice_buffered_bytes", &[]).unwrap_or_default();
    assert!(buffered() <= (4 << 20) as f64, "{} bytes", buffered());
    let mut first = slow.swap_remove(0);
    assert_eq!(first.read_exact(4 << 20).len(), 4 << 20, "it goes on");
    drop((first, slow));
    eventually("all memory is given back", || buffered() == 0.0);
}
