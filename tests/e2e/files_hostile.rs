//! What must not happen with a folder that everybody can ask for files: somebody gets what is not in it, or what is hidden in it, or takes the
//! gateway's memory, descriptors or threads. Each test is a class.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use sluice_harness::Gateway;
use sluice_harness::h2::{H2, full};

use crate::files::{serving, site};
use crate::support::{probe, route, with_base};

fn gateway() -> Gateway {
    site().start(&serving("files = \"public\""))
}

/// The status and the text of a target that is sent as it is.
fn raw(gateway: &Gateway, target: &str) -> (u16, String) {
    let answer = gateway.raw(format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"));
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
}

/// None of these gets the secret, or an error of the gateway's.
#[track_caller]
fn refused(gateway: &Gateway, targets: &[&str]) {
    for target in targets {
        let (status, answer) = raw(gateway, target);
        assert!([400, 404].contains(&status), "{target}: {answer}");
        assert!(!answer.contains("secret") && !answer.contains("root:"), "{target}: {answer}");
    }
}

#[test]
fn file_traversal_by_dot_segments() {
    let gateway = gateway();
    refused(
        &gateway,
        &[
            "/../secret.txt",
            "/docs/../../secret.txt",
            "/../../../../../../etc/passwd",
            "/./../secret.txt",
            "/docs/..%00/secret.txt",
            "/...//secret.txt",
            "/..;/secret.txt",
            "/.../secret.txt",
            "/docs/....//....//secret.txt",
        ],
    );
    assert_eq!(raw(&gateway, "/docs/../index.html").0, 200, "within the folder it is a path like any other");
}

#[test]
fn file_traversal_by_encodings() {
    let gateway = gateway();
    refused(
        &gateway,
        &[
            "/%2e%2e/secret.txt",
            "/%2E%2e/secret.txt",
            "/.%2e/secret.txt",
            "/%2e%2e%2fsecret.txt",
            "/..%2fsecret.txt",
            "/docs%2f..%2f..%2fsecret.txt",
            "/%252e%252e/secret.txt",
            "/%252e%252e%252fsecret.txt",
            "/%c0%ae%c0%ae/secret.txt",
            "/%e0%80%ae%e0%80%ae/secret.txt",
            "/%uff0e%uff0e/secret.txt",
            "/%EF%BC%8E%EF%BC%8E/secret.txt",
            "/%2e%2e%5csecret.txt",
            "/..%5c..%5csecret.txt",
            "/..\\secret.txt",
            "/%2f%2e%2e/secret.txt",
            "/docs%2findex.html",
            "/docs%5cindex.html",
        ],
    );
}

#[test]
fn file_traversal_by_absolute_paths_and_schemes() {
    let gateway = gateway();
    let secret = gateway.dir().join("secret.txt").display().to_string();
    refused(
        &gateway,
        &[
            &secret,
            &format!("/{secret}"),
            &format!("//{secret}"),
            "//etc/passwd",
            "/%2fetc/passwd",
            "/file:///etc/passwd",
            "/proc/self/environ",
            "/dev/zero",
            "/C:/windows",
        ],
    );
}

#[test]
fn file_traversal_by_zero_bytes_and_controls() {
    let gateway = gateway();
    refused(
        &gateway,
        &[
            "/index.html%00",
            "/index.html%00.png",
            "/%00",
            "/index.html%0a",
            "/index.html%0d%0ax-a:%201",
            "/index.html%7f",
            "/index.html%09",
        ],
    );
}

#[test]
fn file_traversal_by_names_that_are_hidden() {
    let gateway = gateway();
    for name in [".env", ".git/config", "docs/.htpasswd", ".well-known/.env", "a/.well-known/x"] {
        gateway.write(&format!("public/{name}"), "secret");
    }
    gateway.write("public/.well-known/x", "for all");
    refused(
        &gateway,
        &[
            "/.env",
            "/%2eenv",
            "/%2Eenv",
            "/.git/config",
            "/.git%2fconfig",
            "/docs/.htpasswd",
            "/docs/%2ehtpasswd",
            "/.well-known/.env",
            "/a/.well-known/x",
            "/.well-known/../.env",
            "/.git/",
            "/.git",
        ],
    );
    assert_eq!(gateway.get("/.well-known/x").text(), "for all");
}

#[test]
fn file_traversal_by_links() {
    let gateway = gateway();
    let public = gateway.dir().join("public");
    symlink("../secret.txt", public.join("relative")).expect("a link");
    symlink(gateway.dir().join("secret.txt"), public.join("absolute")).expect("a link");
    symlink("..", public.join("up")).expect("a link");
    symlink("/", public.join("whole")).expect("a link");
    symlink("/proc/self/fd", public.join("fd")).expect("a link");
    symlink("relative", public.join("twice")).expect("a link");
    symlink("relative", public.join("app.css.br")).expect("a link");
    symlink("../secret.txt", public.join("docs/index.htm")).expect("a link");
    gateway.write("public/app.css", "css");
    refused(
        &gateway,
        &[
            "/relative",
            "/absolute",
            "/up/secret.txt",
            "/up/public/index.html",
            "/whole/etc/passwd",
            "/fd/0",
            "/twice",
            "/docs/index.htm",
            "/app.css.br",
        ],
    );
    gateway.reload(&serving(
        "files = { root = \"public\", precompressed = [\"br\"], index = [\"index.htm\"], fallback = \"/relative\", not_found = \"/absolute\" }",
    ));
    let css = gateway.request("GET", "/app.css", &[("accept-encoding", "br")], b"");
    assert_eq!((css.status, &*css.text()), (200, "css"), "a sibling that leads out is none");
    refused(&gateway, &["/docs/", "/docs", "/none"]);
}

#[test]
fn file_traversal_by_a_race_of_links() {
    let gateway = gateway();
    let public = gateway.dir().join("public");
    fs::create_dir(public.join("a")).expect("a folder");
    fs::write(public.join("a/secret.txt"), "open").expect("a file");
    symlink("..", public.join("link")).expect("a link");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapping = thread::spawn({
        let (public, stop) = (public, stop.clone());
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (from, to) in [("a", "b"), ("link", "a"), ("a", "link"), ("b", "a")] {
                    fs::rename(public.join(from), public.join(to)).expect("renamed");
                }
            }
        }
    });
    let mut client = gateway.client();
    let mut found = 0;
    for _ in 0..2_000 {
        let got = client.get("/a/secret.txt");
        assert!(got.status == 200 && got.text() == "open" || got.status == 404, "{got:?}");
        found += usize::from(got.status == 200);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapping.join().expect("renames");
    assert!(found > 0);
}

#[test]
fn file_traversal_over_http2() {
    let gateway = gateway();
    let mut client = H2::connect(gateway.address());
    for target in ["/%2e%2e/secret.txt", "/..%2fsecret.txt", "/.env", "/docs%5c..%5csecret.txt", "/index.html%0a"] {
        let request = client.builder("GET", target).body(full("")).expect("a request");
        let got = client.send(request);
        assert!([400, 404].contains(&got.status) && !got.text().contains("secret"), "{target}: {got:?}");
    }
}

#[test]
fn file_traversal_by_a_path_that_a_filter_makes() {
    for path in ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/.env", "/docs/../../secret.txt"] {
        let filter = probe("a", serde_json::json!({"on-request": [{"do": "set-path", "value": path}]}));
        let toml = format!("{}[upstreams.site]\nfiles = \"public\"\n{filter}", route("site", &["a"]));
        let gateway = site().start(&with_base(&toml));
        let got = gateway.get("/");
        assert!(!got.text().contains("secret\n") && got.text() != "secret", "{path}: {got:?}");
        assert!([200, 400, 404, 500].contains(&got.status), "{path}: {got:?}");
    }
}

#[test]
fn what_is_no_regular_file_is_not_opened_for_long() {
    let gateway = gateway();
    let public = gateway.dir().join("public");
    assert!(Command::new("mkfifo").arg(public.join("fifo")).status().expect("mkfifo").success());
    let _socket = UnixListener::bind(public.join("socket")).expect("a socket");
    let mut client = gateway.client();
    for _ in 0..100 {
        assert_eq!(client.get("/fifo").status, 404);
        assert_eq!(client.get("/socket").status, 404);
    }
    // Where it may make one: a device.
    let zero = public.join("zero");
    let made = Command::new("mknod").arg(&zero).args(["c", "1", "5"]).output().expect("mknod").status.success();
    if made {
        assert_eq!(client.get("/zero").status, 404);
    }
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_flood_of_ranges_gets_the_file_once() {
    let gateway = gateway();
    let content = vec![b'x'; 1 << 20];
    gateway.write("public/long", &content);
    for ranges in [
        (0..3_000).map(|i| format!("{i}-")).collect::<Vec<_>>(),
        vec!["0-".to_owned(); 3_000],
        (0..3_000).map(|i| format!("{}-{}", i * 300, i * 300)).collect(),
    ] {
        let got = gateway.request("GET", "/long", &[("range", &format!("bytes={}", ranges.join(",")))], b"");
        assert!(
            [200, 431].contains(&got.status) && got.body.len() <= content.len(),
            "{} {}",
            got.status,
            got.body.len()
        );
    }
    // As many as are heeded, all of them large: they overlap, so they are one.
    let most = vec!["0-1048575"; 16].join(",");
    let got = gateway.request("GET", "/long", &[("range", &format!("bytes={most}"))], b"");
    assert_eq!((got.status, got.body.len()), (206, content.len()));
}

#[test]
fn a_redirect_leads_to_no_other_site() {
    let gateway = gateway();
    gateway.write("public/evil.example/index.html", "x");
    gateway.write("public/http:/index.html", "x");
    for target in ["//evil.example", "/%2fevil.example", "/%5cevil.example", "/http:", "/evil.example", "/docs"] {
        let (status, answer) = raw(&gateway, target);
        if status == 301 {
            let location = answer.lines().find_map(|line| line.strip_prefix("location: ")).expect("a location");
            assert!(location.starts_with("./") && !location[2..].starts_with('/'), "{target}: {location}");
        }
    }
}

#[test]
fn a_folder_that_goes_while_it_is_served_breaks_nothing() {
    let gateway = gateway();
    let large = fs::File::create(gateway.dir().join("public/large")).expect("a file");
    large.set_len(32 << 20).expect("a size");
    let mut begun: Vec<_> = (0..20)
        .map(|_| {
            let mut client = gateway.client();
            client.send("GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            assert_eq!(client.read_head().second_word(), "200");
            client
        })
        .collect();
    fs::remove_dir_all(gateway.dir().join("public")).expect("removed");
    assert_eq!(gateway.get("/").status, 503);
    for client in &mut begun {
        assert_eq!(client.read_to_close().len(), 32 << 20, "what was opened is sent to its end");
    }
    gateway.write("public/index.html", "back");
    assert_eq!(gateway.get("/").text(), "back");
}

#[test]
fn clients_that_leave_keep_no_descriptor() {
    let gateway = gateway();
    let large = fs::File::create(gateway.dir().join("public/large")).expect("a file");
    large.set_len(64 << 20).expect("a size");
    let open = || fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("descriptors").count();
    gateway.get("/");
    let before = open();
    for _ in 0..20 {
        let mut clients: Vec<_> = (0..20).map(|_| gateway.client()).collect();
        for client in &mut clients {
            client.send("GET /large HTTP/1.1\r\nhost: a\r\n\r\n");
            client.read_head();
        }
    }
    sluice_harness::eventually("all are closed", || open() <= before + 4);
    assert_eq!(gateway.get("/").status, 200);
}
