//! The folder without a gateway around it: what answers for a path, and how its content is read.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::Body as _;
use tempfile::TempDir;

use super::*;
use crate::http::buffer::collect;

/// A folder `public` with these files, beside a secret.
fn folder(files: &[(&str, &str)]) -> (TempDir, Files) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("public");
    fs::create_dir(&root).unwrap();
    fs::write(directory.path().join("secret"), "secret").unwrap();
    for (name, content) in files {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), content).unwrap();
    }
    let index = vec!["index.html".to_owned()];
    (directory, Files { root, index, fallback: None, not_found: None, precompressed: Vec::new() })
}

/// Makes a file old enough for a strong tag.
fn settle(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

const BUDGET: usize = 1 << 20;

type Fields<'a> = &'a [(&'static str, &'a str)];

struct Got {
    status: u16,
    head: http::HeaderMap,
    body: Bytes,
}

impl Got {
    fn field(&self, name: &str) -> &str {
        self.head.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn request(method: Method, path: &str, fields: Fields<'_>) -> Request<Body> {
    let mut request = Request::new(Body::Empty);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in fields {
        request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    request
}

async fn ask(folder: &Files, method: Method, path: &str, fields: Fields<'_>) -> Got {
    let budget = MemoryBudget::new(BUDGET);
    let answer = answer(&Arc::new(folder.clone()), &request(method, path, fields), &budget).await.unwrap();
    let (parts, mut body) = answer.into_parts();
    let promised = body.exact_size();
    let body = collect(&mut body, 1 << 20, &MemoryBudget::new(BUDGET)).await.unwrap();
    assert_eq!(promised, Some(body.len() as u64), "{path}");
    Got { status: parts.status.as_u16(), head: parts.headers, body }
}

async fn get(folder: &Files, path: &str) -> (u16, Bytes) {
    let got = ask(folder, Method::GET, path, &[]).await;
    (got.status, got.body)
}

/// The status, and the content of a 200.
async fn text(folder: &Files, path: &str) -> String {
    match get(folder, path).await {
        (200, body) => String::from_utf8(body.to_vec()).unwrap(),
        (status, _) => status.to_string(),
    }
}

#[tokio::test(flavor = "local")]
async fn a_path_finds_its_file() {
    let (_directory, mut site) =
        folder(&[("a.txt", "a"), ("docs/index.html", "docs"), ("docs/b.txt", "b"), ("empty/x", ""), ("e.txt", "")]);
    for (path, expected) in [
        ("/a.txt", "a"),
        ("/docs/", "docs"),
        ("/docs", "301"),
        ("/docs/b.txt", "b"),
        ("/%61.txt", "a"),
        ("/a.txt/", "404"),
        ("/a.txt/x", "404"),
        ("/none", "404"),
        ("/", "404"),
        ("/empty", "404"),
        ("/empty/", "404"),
        ("/e.txt", ""),
        ("//a.txt", "404"),
        ("/docs//b.txt", "404"),
    ] {
        assert_eq!(text(&site, path).await, expected, "{path}");
    }
    site.index = vec!["none.html".into(), "b.txt".into()];
    assert_eq!(text(&site, "/docs/").await, "b", "the first that is there");
    site.index = Vec::new();
    assert_eq!(text(&site, "/docs/").await, "404");
    assert_eq!(text(&site, "/docs").await, "404", "nothing tells that there is a folder");
}

#[tokio::test(flavor = "local")]
async fn a_folder_is_redirected_beside_itself() {
    let (_directory, site) = folder(&[("docs/a:b/index.html", ""), ("index.html", "")]);
    let redirect = ask(&site, Method::GET, "/docs/a:b?x=//evil.example&y", &[]).await;
    assert_eq!((redirect.status, redirect.field("location")), (301, "./a:b/?x=//evil.example&y"));
    assert_eq!(redirect.field("content-length"), "0");
}

#[tokio::test(flavor = "local")]
async fn the_fallback_and_the_page_for_a_404() {
    let (_directory, mut site) = folder(&[("index.html", "app"), ("404.html", "nothing"), (".well-known/x", "x")]);
    site.not_found = FilePath::parse("/404.html");
    assert_eq!(get(&site, "/none").await, (404, Bytes::from("nothing")));
    assert_eq!(get(&site, "/.env").await, (404, Bytes::from("nothing")));
    let page = ask(&site, Method::GET, "/none", &[("if-none-match", "*"), ("range", "bytes=0-1")]).await;
    assert_eq!((page.status, page.field("content-type")), (404, "text/html; charset=utf-8"));
    assert!(!page.head.contains_key("etag") && !page.head.contains_key("accept-ranges"));
    site.fallback = FilePath::parse("/index.html");
    for path in ["/none", "/none/", "/a/b/c"] {
        assert_eq!(text(&site, path).await, "app", "{path}");
    }
    for path in ["/.env", "/a/.git/config", "/..%2Fsecret", "/.well-known/none", "//none"] {
        assert_eq!(text(&site, path).await, "404", "{path}");
    }
    assert_eq!(text(&site, "/.well-known/x").await, "x");
    site.fallback = FilePath::parse("/none.html");
    assert_eq!(get(&site, "/none").await, (404, Bytes::from("nothing")), "a fallback that is not there");
}

#[tokio::test(flavor = "local")]
async fn links_lead_within_the_folder_only() {
    let (directory, site) = folder(&[("a.txt", "a"), ("docs/b.txt", "b"), ("..data/c.txt", "c")]);
    let link = |to: &str, name: &str| symlink(to, site.root.join(name)).unwrap();
    let secret = directory.path().join("secret");
    link("a.txt", "inside");
    link("docs", "folder");
    link("../a.txt", "docs/up");
    link("..data/c.txt", "mounted");
    link("../secret", "relative");
    link(secret.to_str().unwrap(), "absolute");
    link("relative", "twice");
    link("..", "parent");
    link("/", "slash");
    link("/proc/self/root", "magic");
    link("/proc/self/cwd", "cwd");
    link("circle", "circle");
    link(site.root.join("a.txt").to_str().unwrap(), "absolute-inside");
    for (path, expected) in [
        ("/inside", "a"),
        ("/folder/b.txt", "b"),
        ("/docs/up", "a"),
        // As Kubernetes mounts a ConfigMap.
        ("/mounted", "c"),
        ("/..data/c.txt", "404"),
        ("/relative", "404"),
        ("/absolute", "404"),
        ("/twice", "404"),
        ("/parent/secret", "404"),
        ("/parent/public/a.txt", "404"),
        ("/slash/etc/passwd", "404"),
        ("/magic/etc/passwd", "404"),
        ("/cwd/Cargo.toml", "404"),
        ("/circle", "404"),
        ("/absolute-inside", "404"),
    ] {
        assert_eq!(text(&site, path).await, expected, "{path}");
    }
    let mut site = site;
    symlink(&site.root, directory.path().join("current")).unwrap();
    site.root = directory.path().join("current");
    assert_eq!(text(&site, "/a.txt").await, "a", "the folder itself can be a link");
    site.root = directory.path().join("secret");
    assert!(check(&site).is_err(), "a file is no folder");
    site.root = directory.path().join("none");
    let error = check(&site).unwrap_err().to_string();
    assert!(error.starts_with("the folder `") && error.contains("No such file"), "{error}");
}

#[tokio::test(flavor = "local")]
async fn only_regular_files_are_sent() {
    let (_directory, site) = folder(&[("a.txt", "a")]);
    assert!(Command::new("mkfifo").arg(site.root.join("fifo")).status().unwrap().success());
    let _socket = UnixListener::bind(site.root.join("socket")).unwrap();
    for path in ["/fifo", "/socket", "/fifo/", "/socket/x"] {
        assert_eq!(text(&site, path).await, "404", "{path}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_race_with_links_reads_nothing_from_outside() {
    let (directory, site) = folder(&[("a/secret", "public")]);
    symlink(directory.path(), site.root.join("link")).unwrap();
    symlink("..", site.root.join("up")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let (root, stop) = (site.root.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                for other in ["link", "up"] {
                    let _ = fs::rename(root.join("a"), root.join("b"));
                    let _ = fs::rename(root.join(other), root.join("a"));
                    let _ = fs::rename(root.join("a"), root.join(other));
                    let _ = fs::rename(root.join("b"), root.join("a"));
                }
            }
        }
    });
    let (mut found, folder) = (0, Arc::new(site));
    for _ in 0..20_000 {
        let budget = MemoryBudget::new(BUDGET);
        let Ok(response) = answer(&folder, &request(Method::GET, "/a/secret", &[]), &budget).await else { continue };
        if response.status() == StatusCode::OK {
            let body = collect(&mut response.into_body(), 100, &budget).await.unwrap();
            assert_eq!(body, "public");
            found += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    assert!(found > 0);
}

#[tokio::test(flavor = "local")]
async fn conditions_and_ranges() {
    let (_directory, site) = folder(&[("a.txt", "hello world")]);
    settle(&site.root.join("a.txt"));
    let whole = ask(&site, Method::GET, "/a.txt", &[]).await;
    let (tag, modified) = (whole.field("etag").to_owned(), whole.field("last-modified").to_owned());
    assert!(tag.starts_with('"'), "{tag}");
    let fields = ["content-type", "content-length", "accept-ranges", "vary"].map(|name| whole.field(name).to_owned());
    assert_eq!(fields, ["text/plain; charset=utf-8", "11", "bytes", ""]);
    let table: [(Fields, u16, &str); 13] = [
        (&[("if-none-match", &tag)], 304, ""),
        (&[("if-none-match", "\"other\"")], 200, "hello world"),
        (&[("if-modified-since", &modified)], 304, ""),
        (&[("if-match", &tag)], 200, "hello world"),
        (&[("if-match", "\"other\"")], 412, "Precondition Failed"),
        (&[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], 412, "Precondition Failed"),
        (&[("range", "bytes=0-4")], 206, "hello"),
        (&[("range", "bytes=-5"), ("if-range", &tag)], 206, "world"),
        (&[("range", "bytes=-5"), ("if-range", &modified)], 206, "world"),
        (&[("range", "bytes=-5"), ("if-range", "\"other\"")], 200, "hello world"),
        (&[("range", "bytes=11-")], 416, "Range Not Satisfiable"),
        (&[("range", "bytes=0-4"), ("if-none-match", &tag)], 304, ""),
        (&[("range", "lines=1")], 200, "hello world"),
    ];
    for (fields, status, expected) in table {
        let got = ask(&site, Method::GET, "/a.txt", fields).await;
        let body = String::from_utf8(got.body.to_vec()).unwrap();
        assert!(got.status == status && body.contains(expected), "{fields:?}: {} {body}", got.status);
        let head = ask(&site, Method::HEAD, "/a.txt", fields).await;
        assert_eq!(head.body, "");
        if status != 206 && status != 416 {
            assert_eq!(
                (head.status, head.field("content-length")),
                (status, got.field("content-length")),
                "{fields:?}"
            );
        }
    }
    let range = ask(&site, Method::GET, "/a.txt", &[("range", "bytes=99-")]).await;
    assert_eq!(range.field("content-range"), "bytes */11");
    assert_eq!(ask(&site, Method::POST, "/a.txt", &[]).await.field("allow"), "GET, HEAD");

    // A content that replaces another one has another tag, also with the size and the time of the first.
    let time = fs::metadata(site.root.join("a.txt")).unwrap().modified().unwrap();
    fs::write(site.root.join("new"), "HELLO world").unwrap();
    fs::File::options().write(true).open(site.root.join("new")).unwrap().set_modified(time).unwrap();
    fs::rename(site.root.join("new"), site.root.join("a.txt")).unwrap();
    let other = ask(&site, Method::GET, "/a.txt", &[]).await;
    assert_eq!(other.field("last-modified"), modified);
    assert_ne!(other.field("etag"), tag);
    // And one that may change again at the same time has a weak one.
    fs::write(site.root.join("a.txt"), "x").unwrap();
    let young = ask(&site, Method::GET, "/a.txt", &[]).await;
    assert!(young.field("etag").starts_with("W/\""), "{}", young.field("etag"));
    let part = ask(&site, Method::GET, "/a.txt", &[("range", "bytes=0-"), ("if-range", young.field("etag"))]).await;
    assert_eq!(part.status, 200);
}

#[tokio::test(flavor = "local")]
async fn dates_that_http_cannot_say_are_left_out() {
    let (_directory, site) = folder(&[("a", ""), ("b", ""), ("c", "")]);
    let set = |name: &str, time| {
        fs::File::options().write(true).open(site.root.join(name)).unwrap().set_modified(time).is_ok()
    };
    set("a", SystemTime::UNIX_EPOCH - Duration::from_secs(1));
    let future = set("b", SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
    assert!(!ask(&site, Method::GET, "/a", &[]).await.head.contains_key("last-modified"));
    let got = ask(&site, Method::GET, "/b", &[]).await;
    assert_eq!(got.field("last-modified"), got.field("date"), "never later than now");
    assert!(got.field("etag").starts_with("W/") || !future);
}

#[tokio::test(flavor = "local")]
async fn several_ranges_are_parts_and_floods_get_the_whole() {
    let content: String = (0..20_000).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let (_directory, site) = folder(&[("a.txt", &content)]);
    let got = ask(&site, Method::GET, "/a.txt", &[("range", "bytes=0-1,1000-1001,-2")]).await;
    assert_eq!(got.status, 206);
    let body = String::from_utf8(got.body.to_vec()).unwrap();
    assert!(got.field("content-type").starts_with("multipart/byteranges; boundary="));
    for part in [(0, 1), (1000, 1001), (19_998, 19_999)] {
        let head = format!("Content-Range: bytes {}-{}/20000\r\n\r\n{}\r\n", part.0, part.1, &content[part.0..=part.1]);
        assert!(body.contains(&head), "{head} in {body}");
    }
    let flood: Vec<String> = (0..10_000).map(|i| format!("{}-{}", i * 2, i * 2)).collect();
    let flood = ask(&site, Method::GET, "/a.txt", &[("range", &format!("bytes={}", flood.join(",")))]).await;
    assert_eq!((flood.status, flood.body.len()), (200, content.len()));
}

#[tokio::test(flavor = "local")]
async fn files_beside_others_are_sent_to_who_accepts_them() {
    use crate::http::coding::Coding::{Brotli, Gzip};
    let (_directory, mut site) = folder(&[
        ("app.js", "plain"),
        ("app.js.br", "br"),
        ("app.js.gz", "gzip"),
        ("b.txt", "only"),
        ("c.txt.br", "alone"),
        ("index.html", "i"),
        ("index.html.gz", "i-gzip"),
    ]);
    site.precompressed = vec![Brotli, Gzip];
    for (path, accepted, content, coding) in [
        ("/app.js", "gzip, br", "br", "br"),
        ("/app.js", "br;q=0.1, gzip", "gzip", "gzip"),
        ("/app.js", "zstd", "plain", ""),
        ("/app.js", "", "plain", ""),
        ("/b.txt", "br", "only", ""),
        ("/", "br, gzip", "i-gzip", "gzip"),
        ("/app.js.br", "br", "br", ""),
    ] {
        let got = ask(&site, Method::GET, path, &[("accept-encoding", accepted)]).await;
        assert_eq!((&got.body[..], got.field("content-encoding")), (content.as_bytes(), coding), "{path} {accepted}");
        assert_eq!(got.field("vary"), "accept-encoding", "{path}");
    }
    assert_eq!(text(&site, "/c.txt").await, "404", "there has to be a file without a coding");
    let tag = async |accepted| {
        ask(&site, Method::GET, "/app.js", &[("accept-encoding", accepted)]).await.field("etag").to_owned()
    };
    assert_ne!(tag("br").await, tag("gzip").await);
    let typed = ask(&site, Method::GET, "/app.js", &[("accept-encoding", "br")]).await;
    assert_eq!(typed.field("content-type"), "text/javascript; charset=utf-8");
    let part = ask(&site, Method::GET, "/app.js", &[("accept-encoding", "br"), ("range", "bytes=0-0")]).await;
    assert_eq!((part.status, &part.body[..], part.field("content-range")), (206, &b"b"[..], "bytes 0-0/2"));
}

/// Reads a body to its end, or to its error.
async fn drain(body: &mut Body) -> Result<u64, BodyError> {
    let mut length = 0;
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await {
        length += frame?.into_data().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}

const LARGE: usize = 1 << 20;

async fn large(folder: &Files, budget: &MemoryBudget) -> Body {
    let answer = answer(&Arc::new(folder.clone()), &request(Method::GET, "/large", &[]), budget).await.unwrap();
    assert_eq!(answer.headers()["content-length"], LARGE.to_string());
    answer.into_body()
}

#[tokio::test(flavor = "local")]
async fn a_file_that_changes_while_it_is_sent() {
    let (_directory, site) = folder(&[("large", &"x".repeat(LARGE))]);
    let (path, budget) = (site.root.join("large"), MemoryBudget::new(BUDGET));
    // Replaced, or taken away: the one that was opened is sent.
    let mut body = large(&site, &budget).await;
    fs::remove_file(&path).unwrap();
    assert_eq!(drain(&mut body).await.unwrap(), LARGE as u64);
    // Longer: no more than was promised.
    fs::write(&path, "x".repeat(LARGE)).unwrap();
    let mut body = large(&site, &budget).await;
    fs::write(&path, "y".repeat(LARGE + 1)).unwrap();
    assert_eq!(drain(&mut body).await.unwrap(), LARGE as u64);
    // Shorter: broken off, and only once.
    fs::write(&path, "x".repeat(LARGE)).unwrap();
    let mut body = large(&site, &budget).await;
    fs::write(&path, "z".repeat(LARGE / 2)).unwrap();
    let error = drain(&mut body).await.unwrap_err();
    assert!(matches!(error, BodyError::UpstreamAborted(_)), "{error:?}");
    assert_eq!(drain(&mut body).await.unwrap(), 0);
    drop(body);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(flavor = "local")]
async fn others_have_their_turn_while_a_file_is_sent() {
    let (_directory, site) = folder(&[("large", &"x".repeat(LARGE))]);
    let budget = MemoryBudget::new(BUDGET);
    let mut body = large(&site, &budget).await;
    let (mut turns, mut length) = (0, 0);
    while length < LARGE {
        turns += 1;
        let mut turn = 0;
        std::future::poll_fn(|cx| {
            while let std::task::Poll::Ready(piece) = std::pin::Pin::new(&mut body).poll_frame(cx) {
                let Some(piece) = piece else { break };
                turn += piece.unwrap().into_data().unwrap().len();
            }
            std::task::Poll::Ready(())
        })
        .await;
        assert!(turn <= 256 << 10, "{turn} bytes at once");
        length += turn;
        tokio::task::yield_now().await;
    }
    assert!(turns >= 4 && length == LARGE);
}

#[tokio::test(flavor = "local")]
async fn pieces_are_in_the_account_and_leave_half_of_it() {
    let (_directory, site) = folder(&[("large", &"x".repeat(LARGE))]);
    let budget = MemoryBudget::new(BUDGET);
    let mut kept = Vec::new();
    // Slow readers: each has one piece.
    for _ in 0..300 {
        let mut body = large(&site, &budget).await;
        let poll = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut body).poll_frame(cx) {
                std::task::Poll::Ready(piece) => piece,
                std::task::Poll::Pending => None,
            })
        });
        let piece = poll.await;
        kept.push((body, piece));
        assert!(budget.used() <= BUDGET / 2, "{}", budget.used());
    }
    let served = kept.iter().filter(|(_, piece)| piece.is_some()).count();
    assert!(served > 40, "{served} have a piece");
    // One that has to wait goes on when there is memory again.
    let (mut waiting, _) = kept.pop().unwrap();
    drop(kept);
    assert_eq!(drain(&mut waiting).await.unwrap(), LARGE as u64);
    drop(waiting);
    assert_eq!(budget.used(), 0);
}
