//! Compression of responses: which ones, for whom, what their heads say, and that nothing waits for it.

use std::io::Read;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sluice_harness::h2::{H2, full};
use sluice_harness::wire::chunk;
use sluice_harness::{Gateway, Origin, Reply, Response};

use crate::support::{gateway, probe, with_base};

/// A route for everything that compresses, with these further lines.
pub(crate) fn route(origin: &Origin, lines: &str) -> String {
    format!(
        "[upstreams.site]\nendpoints = [\"{}\"]\n[routes.site]\nmatch = {{ path = \"/**\" }}\nupstream = \"site\"\n{lines}\n",
        origin.url()
    )
}

/// Text of this length that gets a lot shorter.
pub(crate) fn text(length: usize) -> String {
    let mut text: String = (0..).map(|at| format!("line {at} of some text\n")).take(length / 20 + 1).collect();
    text.truncate(length);
    text
}

fn get(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Response {
    gateway.request("GET", target, headers, b"")
}

/// The content without its coding, as the real decoders see it.
fn decoded(response: &Response) -> String {
    let (mut out, body) = (Vec::new(), &response.body[..]);
    match response.header("content-encoding") {
        None => out.extend_from_slice(body),
        Some("gzip") => drop(flate2::read::GzDecoder::new(body).read_to_end(&mut out).expect("gzip")),
        Some("br") => drop(brotli::Decompressor::new(body, 4096).read_to_end(&mut out).expect("br")),
        Some("zstd") => out = zstd::decode_all(body).expect("zstd"),
        Some(other) => panic!("unexpected coding {other}"),
    }
    String::from_utf8(out).expect("text")
}

fn coding(response: &Response) -> &str {
    response.header("content-encoding").unwrap_or("-")
}

#[test]
fn a_client_gets_the_coding_that_it_likes_best() {
    let body = text(100_000);
    let sent = body.clone();
    let origin = Origin::serve(move |_| Reply::text(sent.clone()));
    let gateway = gateway(&route(&origin, "compression = true"));
    for (accepted, expected) in [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, br", "br"),
        ("gzip", "gzip"),
        ("br;q=0.1, gzip;q=0.2", "gzip"),
        ("*", "zstd"),
        ("gzip;q=0", "-"),
        ("identity", "-"),
        ("deflate", "-"),
    ] {
        let response = get(&gateway, "/", &[("accept-encoding", accepted)]);
        assert_eq!((response.status, coding(&response)), (200, expected), "{accepted}");
        assert!(decoded(&response) == body, "{accepted}");
        assert!(expected == "-" || response.body.len() < body.len() / 3, "{accepted}: {}", response.body.len());
        assert_eq!(response.header("vary"), Some("accept-encoding"), "also of the content as it is");
        assert_eq!(response.header("content-length").is_some(), expected == "-");
    }
    assert_eq!(coding(&gateway.get("/")), "-", "who does not ask for it does not get it");
    let count = |name: &str, label: (&str, &str)| gateway.metric(name, &[("route", "site"), label]);
    assert_eq!(count("sluice_compressed_responses_total", ("encoding", "zstd")), Some(2.0));
    assert_eq!(count("sluice_compression_input_bytes_total", ("encoding", "br")), Some(100_000.0));
    assert!(count("sluice_compression_output_bytes_total", ("encoding", "br")).is_some_and(|bytes| bytes < 40_000.0));
    assert_eq!(count("sluice_compression_skipped_total", ("reason", "not-acceptable")), Some(4.0));
    let line = gateway.wait_access("a compressed one", |line| line["compression"] == "gzip");
    assert_eq!(line["bytes_uncompressed"], 100_000);
    assert!(line["bytes_out"].as_u64().is_some_and(|bytes| bytes < 40_000), "{line}");
}

#[test]
fn it_is_the_same_over_http2_and_for_a_head() {
    let sent = text(50_000);
    let origin = Origin::serve(move |_| Reply::text(sent.clone()).with("etag", "\"one\""));
    let gateway = gateway(&route(&origin, "compression = true"));
    let mut h2 = H2::connect(gateway.address());
    let request = h2.builder("GET", "/").header("accept-encoding", "gzip").body(full("")).expect("a request");
    let answer = h2.send(request);
    assert_eq!(answer.headers.get("content-encoding").map(|value| value.as_bytes()), Some(&b"gzip"[..]));
    assert!(answer.body.len() < 20_000);
    let accept = [("accept-encoding", "gzip")];
    let (got, head) = (get(&gateway, "/", &accept), gateway.request("HEAD", "/", &accept, b""));
    for name in ["content-encoding", "vary", "etag", "content-type"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
    assert_eq!((head.status, &*head.text(), head.header("content-length")), (200, "", None));
    let plain = gateway.request("HEAD", "/", &[], b"");
    assert_eq!((plain.header("content-length"), plain.header("etag")), (Some("50000"), Some("\"one\"")));
}

#[test]
fn what_is_not_worth_it_or_not_allowed_stays_as_it_is() {
    let origin = Origin::serve(|request| {
        let reply = Reply::text(text(5_000));
        match &*request.target {
            "/short" => Reply::text(text(1_000)),
            "/image" => Reply::Full(200, vec![("content-type".into(), "image/png".into())], vec![7; 5_000]),
            "/encoded" => reply.with("content-encoding", "unknown"),
            "/kept" => reply.with("cache-control", "no-transform"),
            "/grpc" => {
                Reply::Full(200, vec![("content-type".into(), "application/grpc-web+json".into())], vec![7; 5_000])
            }
            "/none" => Reply::status(204),
            "/part" => match request.header("range") {
                Some(_) => {
                    let part = text(5_000).into_bytes()[..2_000].to_vec();
                    Reply::Full(206, vec![("content-range".into(), "bytes 0-1999/5000".into())], part)
                }
                None => reply,
            },
            _ => reply,
        }
    });
    let gateway = gateway(&route(&origin, "compression = true"));
    let accept = ("accept-encoding", "gzip");
    for (target, headers, status, why) in [
        ("/short", &[accept][..], 200, "size"),
        ("/image", &[accept], 200, "type"),
        ("/encoded", &[accept], 200, "encoded"),
        ("/kept", &[accept], 200, "no-transform"),
        ("/grpc", &[accept], 200, "grpc"),
        ("/none", &[accept], 204, "status"),
        ("/part", &[accept, ("range", "bytes=0-1999")], 206, "status"),
        ("/text", &[accept, ("range", "bytes=0-1999")], 200, "range"),
        ("/text", &[accept, ("cache-control", "no-transform")], 200, "no-transform"),
        ("/text", &[accept, ("cookie", "session=1")], 200, "credentials"),
        ("/text", &[accept, ("authorization", "Bearer x")], 200, "credentials"),
        ("/text", &[accept, ("x-api-key", "x")], 200, "credentials"),
    ] {
        let count = || gateway.metric("sluice_compression_skipped_total", &[("route", "site"), ("reason", why)]);
        let before = count().unwrap_or(0.0);
        let response = get(&gateway, target, headers);
        assert_eq!(response.status, status, "{target}");
        assert!(matches!(coding(&response), "-" | "unknown"), "{target} {headers:?}");
        assert_eq!(count(), Some(before + 1.0), "{target} {why}");
        let varies = response.header("vary").is_some();
        assert_eq!(varies, target == "/text", "{target}: only what could have been compressed");
    }
    assert_eq!(coding(&get(&gateway, "/text", &[accept])), "gzip");
    assert_eq!(coding(&get(&gateway, "/part", &[accept])), "gzip");
}

#[test]
fn every_key_of_a_route() {
    let origin = Origin::serve(|request| match &*request.target {
        "/json" => Reply::json(&serde_json::Value::from(text(5_000))),
        "/long" => Reply::text(text(100_000)),
        _ => Reply::text(text(5_000)),
    });
    let all = [("accept-encoding", "gzip, br, zstd")];
    let encodings = gateway(&route(&origin, "compression = { encodings = [\"gzip\", \"br\"] }"));
    assert_eq!(coding(&get(&encodings, "/", &all)), "gzip");
    assert_eq!(coding(&get(&encodings, "/", &[("accept-encoding", "zstd")])), "-");
    let size = gateway(&route(&origin, "compression = { min_size = 5001 }"));
    assert_eq!((coding(&get(&size, "/", &all)), coding(&get(&size, "/json", &all))), ("-", "zstd"));
    let types = gateway(&route(&origin, "compression = { types = [\"application/*\"] }"));
    assert_eq!((coding(&get(&types, "/", &all)), coding(&get(&types, "/json", &all))), ("-", "zstd"));
    let credentials = gateway(&route(&origin, "compression = { credentials = true }"));
    let cookie = [("accept-encoding", "br"), ("cookie", "a=b")];
    assert_eq!(coding(&get(&credentials, "/", &cookie)), "br");
    for (name, level, other) in
        [("zstd", "zstd = 1", "zstd = 19"), ("br", "br = 0", "br = 11"), ("gzip", "gzip = 1", "gzip = 9")]
    {
        let size = |level: &str| {
            let keys = format!("compression = {{ adaptive = false, levels = {{ {level} }} }}");
            let response = get(&gateway(&route(&origin, &keys)), "/long", &[("accept-encoding", name)]);
            assert!(decoded(&response) == text(100_000));
            response.body.len()
        };
        let (most, least) = (size(level), size(other));
        assert!(most > least, "{name}: {most} {least}");
    }
}

#[test]
fn routes_share_what_they_do_not_say() {
    let origin = Origin::serve(|_| Reply::text(text(5_000)));
    let url = origin.url();
    let rest = |keys: &str| {
        format!(
            "{keys}\n[upstreams.site]\nendpoints = [\"{url}\"]\n\
             [routes.on]\nmatch = {{ path = \"/on\" }}\nupstream = \"site\"\ncompression = true\n\
             [routes.own]\nmatch = {{ path = \"/own\" }}\nupstream = \"site\"\ncompression = {{ min_size = 1 }}\n\
             [routes.off]\nmatch = {{ path = \"/off\" }}\nupstream = \"site\"\ncompression = false\n\
             [routes.unset]\nmatch = {{ path = \"/unset\" }}\nupstream = \"site\"\n"
        )
    };
    let codings = |keys: &str| {
        let gateway = gateway(&rest(keys));
        ["/on", "/own", "/off", "/unset"].map(|target| {
            let response = get(&gateway, target, &[("accept-encoding", "gzip, br, zstd")]);
            coding(&response).to_owned()
        })
    };
    assert_eq!(codings(""), ["zstd", "zstd", "-", "-"]);
    let process = "[compression]\nencodings = [\"br\"]\nmin_size = \"1MiB\"";
    assert_eq!(codings(process), ["-", "br", "-", "-"], "the table of the process is no switch");
    assert_eq!(codings("[defaults.route]\ncompression = true"), ["zstd", "zstd", "-", "zstd"]);
    let defaults = "[defaults.route]\ncompression = { encodings = [\"gzip\"] }";
    assert_eq!(codings(defaults), ["gzip", "gzip", "-", "gzip"], "tables are merged");
}

#[test]
fn a_weak_tag_is_validated_by_the_upstream() {
    let origin = Origin::serve(|request| {
        let has = |name: &str| request.header(name).is_some_and(|tags| tags.split(", ").any(|tag| tag == "\"one\""));
        let reply = match (has("if-none-match"), request.header("if-match").is_some() && !has("if-match")) {
            (true, _) => Reply::status(304),
            (_, true) => Reply::status(412),
            _ => Reply::text(text(5_000)),
        };
        reply.with("etag", "\"one\"")
    });
    let gateway = gateway(&route(&origin, "compression = true"));
    let accept = ("accept-encoding", "gzip");
    let first = get(&gateway, "/", &[accept]);
    assert_eq!((coding(&first), first.header("etag")), ("gzip", Some("W/\"one\"")));
    // An upstream that compares texts finds its own one, too.
    let again = get(&gateway, "/", &[accept, ("if-none-match", "W/\"one\"")]);
    assert_eq!((again.status, again.header("etag")), (304, Some("W/\"one\"")));
    assert_eq!(again.header("vary"), Some("accept-encoding"));
    assert_eq!(origin.last().header("if-none-match"), Some("W/\"one\", \"one\""));
    let plain = get(&gateway, "/", &[("if-none-match", "\"one\"")]);
    assert_eq!((plain.status, plain.header("etag")), (304, Some("\"one\"")));
    // A strong comparison (RFC 9110 §13.1.1) of a weak tag would never hold.
    let change = |tag: &str| gateway.request("PUT", "/", &[("if-match", tag)], b"new").status;
    assert_eq!((change("W/\"one\""), change("\"one\""), change("W/\"two\"")), (200, 200, 412));
    // A weak tag never matches for a range (§13.1.5): the client gets the whole.
    get(&gateway, "/", &[accept, ("range", "bytes=0-9"), ("if-range", "W/\"one\"")]);
    assert_eq!(origin.last().header("if-range"), Some("W/\"one\""));
}

/// Takes the coding off the parts of a stream as they come.
enum StreamDecoder {
    Gzip(flate2::Decompress),
    Zstd(zstd::stream::raw::Decoder<'static>),
}

impl StreamDecoder {
    fn new(coding: &str) -> StreamDecoder {
        match coding {
            "gzip" => StreamDecoder::Gzip(flate2::Decompress::new_gzip(15)),
            _ => StreamDecoder::Zstd(zstd::stream::raw::Decoder::new().expect("a decoder")),
        }
    }

    fn decode(&mut self, part: &[u8], out: &mut Vec<u8>) {
        match self {
            StreamDecoder::Gzip(decoder) => {
                decoder.decompress_vec(part, out, flate2::FlushDecompress::Sync).expect("gzip");
            }
            StreamDecoder::Zstd(decoder) => {
                let mut buffer = [0; 4096];
                let step = zstd::stream::raw::Operation::run_on_buffers(decoder, part, &mut buffer).expect("zstd");
                assert_eq!(step.bytes_read, part.len());
                out.extend_from_slice(&buffer[..step.bytes_written]);
            }
        }
    }
}

#[test]
fn an_event_leaves_within_two_milliseconds() {
    // What browsers get first, and what all can read.
    ["zstd", "gzip"].into_iter().for_each(an_event_leaves_within_two_milliseconds_with);
}

fn an_event_leaves_within_two_milliseconds_with(coding: &str) {
    let (send, events) = mpsc::channel::<()>();
    let events = std::sync::Mutex::new(events);
    let event = "data: something happened somewhere\n\n";
    let origin = Origin::serve(move |_| {
        let (_, next) = mpsc::channel();
        let events = std::mem::replace(&mut *events.lock().expect("a lock"), next);
        Reply::script(move |conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
            while events.recv().is_ok() {
                conn.write(chunk(event.as_bytes()));
            }
            conn.write("0\r\n\r\n");
        })
    });
    let gateway = gateway(&route(&origin, "compression = true"));
    let mut client = gateway.client();
    client.send(format!("GET / HTTP/1.1\r\nhost: x\r\naccept-encoding: {coding}\r\n\r\n"));
    let mut decoder = StreamDecoder::new(coding);
    let mut times = Vec::new();
    let mut head = None;
    for _ in 0..50 {
        let begun = Instant::now();
        send.send(()).expect("the origin waits");
        if head.is_none() {
            head = Some(client.read_head());
        }
        let mut got = Vec::with_capacity(4096);
        while got.len() < event.len() {
            let part = client.read_chunk().expect("a chunk");
            decoder.decode(&part, &mut got);
        }
        times.push(begun.elapsed());
        assert_eq!(got, event.as_bytes());
    }
    assert_eq!(head.as_ref().and_then(|head| head.header("content-encoding")), Some(coding));
    times.sort();
    // The machine may be busy: half of them say what the gateway does by itself.
    assert!(times[times.len() / 2] <= Duration::from_millis(2), "{coding} {times:?}");
    drop(send);
    assert!(client.read_chunk().is_some_and(|end| !end.is_empty()), "the end of {coding}");
    assert_eq!(client.read_chunk(), None);
}

#[test]
fn a_slow_reader_holds_the_upstream_back_and_the_memory_is_counted() {
    const PART: usize = 64 << 10;
    let (send, written) = mpsc::channel();
    let origin = Origin::serve(move |_| {
        let send = send.clone();
        Reply::script(move |conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n");
            // Random, so that as much comes out as goes in.
            let mut state = 1_u64;
            for _ in 0..2000 {
                let part: Vec<u8> = (0..PART)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (state >> 56) as u8
                    })
                    .collect();
                if conn.try_write(chunk(&part)).is_err() {
                    return;
                }
                let _ = send.send(());
            }
        })
    });
    let gateway = gateway(&route(&origin, "compression = { encodings = [\"gzip\"], levels = { gzip = 1 } }"));
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n\r\n");
    assert_eq!(client.read_head().header("content-encoding"), Some("gzip"));
    let mut parts = 0;
    while written.recv_timeout(Duration::from_secs(2)).is_ok() {
        parts += 1;
    }
    assert!(parts < 1900, "{parts} parts went through without a reader");
    assert!(gateway.metric("sluice_buffered_bytes", &[]).is_some_and(|bytes| (1.0..8e6).contains(&bytes)));
    drop(client);
    sluice_harness::eventually("the memory is given back", || {
        gateway.metric("sluice_buffered_bytes", &[]) == Some(0.0)
    });
}

#[test]
fn without_memory_a_response_goes_out_as_it_is() {
    let origin = Origin::serve(|_| Reply::text(text(200_000)));
    let config = with_base(&route(&origin, "compression = true"));
    let gateway = Gateway::start(&config.replace("workers = 1", "workers = 1\nmax_buffered_memory = \"64KiB\""));
    let response = get(&gateway, "/", &[("accept-encoding", "gzip")]);
    assert_eq!((coding(&response), response.header("vary")), ("-", Some("accept-encoding")));
    assert_eq!(response.text(), text(200_000));
    let skipped = gateway.metric("sluice_compression_skipped_total", &[("route", "site"), ("reason", "memory")]);
    assert_eq!(skipped, Some(1.0));
}

#[test]
fn filters_see_what_the_upstream_has_sent() {
    let origin = Origin::serve(|_| Reply::text(text(5_000)));
    let config =
        serde_json::json!({"on-response-body": [{"do": "body-length", "to": "x-length"}, {"do": "upper-body"}]});
    let lines = "compression = true\npipeline = [\"a\"]";
    let gateway = gateway(&(route(&origin, lines) + &probe("a", config)));
    let response = get(&gateway, "/", &[("accept-encoding", "zstd")]);
    assert_eq!((response.header("x-length"), coding(&response)), (Some("5000"), "zstd"));
    assert_eq!(decoded(&response), text(5_000).to_uppercase());
}

#[test]
fn trailers_stay_and_their_digests_go() {
    let origin = Origin::serve(|_| {
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n");
            conn.write(chunk(text(5_000).as_bytes()));
            conn.write("0\r\nx-sum: 7\r\ncontent-digest: sha-256=:AA==:\r\n\r\n");
        })
    });
    let gateway = gateway(&route(&origin, "compression = true"));
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\nte: trailers\r\naccept-encoding: gzip\r\n\r\n");
    let response = client.read_response("GET");
    assert_eq!(decoded(&response), text(5_000));
    assert_eq!(response.trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[test]
fn the_level_falls_while_a_worker_is_busy() {
    let body = text(400_000);
    let origin = Origin::serve(move |_| Reply::text(body.clone()));
    let sizes = |adaptive: bool| {
        let keys =
            format!("compression = {{ adaptive = {adaptive}, encodings = [\"gzip\"], levels = {{ gzip = 9 }} }}");
        let gateway = gateway(&route(&origin, &keys));
        let mut client = gateway.client();
        let until = Instant::now() + Duration::from_secs(20);
        let mut size = || client.request("GET", "/", &[("accept-encoding", "gzip")], b"").body.len();
        let first = size();
        let stop = std::sync::atomic::AtomicBool::new(false);
        // Four clients that never pause take all of the one worker.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (stop, mut client) = (&stop, gateway.client());
                scope.spawn(move || {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        client.request("GET", "/", &[("accept-encoding", "gzip")], b"");
                    }
                });
            }
            let (mut last, mut turns) = (first, 0);
            while last == first && Instant::now() < until && (adaptive || turns < 20) {
                (last, turns) = (size(), turns + 1);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            (first, last)
        })
    };
    let (first, last) = sizes(true);
    assert!(last > first, "{first} {last}");
    let (first, last) = sizes(false);
    assert_eq!(first, last);
}

#[test]
fn a_stored_response_is_coded_once_and_off_the_worker() {
    let body = text(300_000);
    let sent = body.clone();
    let origin =
        Origin::serve(move |_| Reply::text(sent.clone()).with("cache-control", "max-age=60").with("etag", "\"one\""));
    let keys = "cache = {}\ncompression = { adaptive = false, levels = { br = 9 } }";
    let gateway = gateway(&route(&origin, keys));
    let accept = [("accept-encoding", "br")];
    // The first one streams through, and is coded on its way.
    let first = get(&gateway, "/", &accept);
    assert_eq!((coding(&first), first.header("content-length")), ("br", None));
    // The form is made for the second one, and the third one gets it with its length.
    assert_eq!(coding(&get(&gateway, "/", &accept)), "br");
    let worker_ms = |gateway: &Gateway| thread_cpu(gateway.pid(), "worker");
    let before = worker_ms(&gateway);
    for _ in 0..200 {
        let hit = get(&gateway, "/", &accept);
        assert_eq!(hit.header("content-length"), Some(&*hit.body.len().to_string()));
        assert_eq!(hit.header("etag"), Some("W/\"one\""));
        assert!(decoded(&hit) == body);
    }
    let spent = worker_ms(&gateway).saturating_sub(before);
    // 200 times some 20 ms, if each hit were coded.
    assert!(spent < Duration::from_secs(1), "{spent:?}");
    assert_eq!(origin.count(), 1);
    assert!(gateway.metric("sluice_cache_encoded_bytes", &[]).is_some_and(|bytes| (1.0..300_000.0).contains(&bytes)));
    // Other clients get what is stored.
    assert_eq!(gateway.get("/").text(), body);
    assert_eq!(get(&gateway, "/", &[("range", "bytes=0-4")]).text(), body[..5]);
    assert_eq!(coding(&get(&gateway, "/", &[("accept-encoding", "gzip")])), "gzip");
    // A condition is for what is stored.
    let again = get(&gateway, "/", &[("accept-encoding", "br"), ("if-none-match", "W/\"one\"")]);
    assert_eq!((again.status, again.header("etag")), (304, Some("W/\"one\"")));
}

/// The CPU time of the threads whose name begins so.
fn thread_cpu(pid: u32, name: &str) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let ran = |task: std::path::PathBuf| {
        let is_one = std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name));
        let counts = std::fs::read_to_string(task.join("schedstat")).ok().filter(|_| is_one)?;
        counts.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    tasks.filter_map(|task| ran(task.ok()?.path())).sum()
}

#[test]
fn a_stored_response_that_changes_has_another_form() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let origin = Origin::serve(move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Reply::text(format!("{number} {}", text(5_000))).with("cache-control", "max-age=60")
    });
    let gateway = gateway(&route(&origin, "cache = {}\ncompression = true"));
    for version in ["0 line", "2 line", "4 line"] {
        for _ in 0..3 {
            let response = get(&gateway, "/", &[("accept-encoding", "gzip")]);
            assert!(decoded(&response).starts_with(version), "{version}");
        }
        // An unsafe request takes it away, and is counted by the origin.
        gateway.request("POST", "/", &[], b"x");
    }
}

#[test]
fn many_hits_at_once_wait_for_one_form() {
    let body = text(1_000_000);
    let sent = body.clone();
    let origin = Origin::serve(move |_| Reply::text(sent.clone()).with("cache-control", "max-age=60"));
    let keys = "cache = {}\ncompression = { encodings = [\"br\"], levels = { br = 9 }, adaptive = false }";
    let gateway = gateway(&route(&origin, keys));
    gateway.get("/");
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let response = get(&gateway, "/", &[("accept-encoding", "br")]);
                assert_eq!(coding(&response), "br");
                assert!(decoded(&response) == body);
            });
        }
    });
    assert_eq!(origin.count(), 1);
    // One thread has made it once, not each of 32.
    let (coder, workers) = (thread_cpu(gateway.pid(), "compression"), thread_cpu(gateway.pid(), "worker"));
    assert!(coder > Duration::ZERO && workers < 8 * coder, "{coder:?} {workers:?}");
}
