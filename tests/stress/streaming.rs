//! Many large transfers to slow readers need no memory to speak of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;
use sluice_harness::load::scaled;
use sluice_harness::{Client, Gateway, Origin, Reply, eventually};

use crate::support::{probe, route, setup, with_base};
use crate::{alone, tell};

const MIB: usize = 1 << 20;

/// Sends as many bytes as the target says (`/1048576`), and no faster than they are taken.
fn tap() -> Origin {
    Origin::serve(|r| {
        let length: usize = r.target[1..].parse().expect("a length as the path");
        Reply::script(move |conn| {
            conn.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"));
            let piece = vec![b'x'; 64 << 10];
            let mut left = length;
            while left > 0 && conn.try_write(&piece[..left.min(piece.len())]).is_ok() {
                left -= left.min(piece.len());
            }
        })
    })
}

#[test]
fn fifty_large_downloads_by_slow_readers() {
    let _alone = alone();
    let readers = 50;
    let length = scaled("SLUICE_TEST_TRANSFER_MIB", 100) * MIB;
    let origin = tap();
    let gateway = Gateway::start(&with_base(&route(&origin.url(), &[])));
    // A first round makes what is made once: pools, buffers of the allocator.
    let mut warm = gateway.client();
    assert_eq!(warm.get(&format!("/{MIB}")).body.len(), MIB);
    let before = gateway.resident();
    let clients: Vec<Client> = (0..readers)
        .map(|_| {
            let mut client = gateway.client();
            let raw = client.format("GET", &format!("/{length}"), &[], b"");
            client.send(raw);
            client.read_head();
            client
        })
        .collect();
    eventually("all transfers under way", || origin.open() >= readers);
    // All stand now with full sockets and nobody reading: this is when a gateway that buffers would hold gigabytes.
    let stalled = gateway.resident();
    let most = Arc::new(AtomicU64::new(stalled));
    thread::scope(|scope| {
        for mut client in clients {
            let (most, gateway) = (most.clone(), &gateway);
            scope.spawn(move || {
                let mut left = length;
                let mut since = 0;
                while left > 0 {
                    // A piece at a time, all readers taking turns on the machine's few cores.
                    let got = client.read_some(16 << 10).expect("the rest of the body").len();
                    assert!(got > 0, "{left} bytes are missing");
                    left -= got;
                    since += got;
                    if since > 4 * MIB {
                        since = 0;
                        most.fetch_max(gateway.resident(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let grown = most.load(Ordering::Relaxed).saturating_sub(before);
    tell(&format!("{readers} downloads of {} MiB: memory grew by {} KiB", length / MIB, grown / 1024));
    assert!(grown < 8 * MIB as u64, "memory grew by {} KiB", grown / 1024);
}

/// The full run, of a gigabyte: `SLUICE_TEST_TRANSFER_MIB=1024`.
#[test]
fn a_large_download_through_a_filter_of_chunks() {
    let _alone = alone();
    let length = scaled("SLUICE_TEST_TRANSFER_MIB", 100) * MIB;
    let origin = tap();
    let doing = |what: &str| route(&origin.url(), &["a"]) + &probe("a", json!({"on-response-chunk": [{"do": what}]}));
    let time = |toml: &str| {
        let gateway = setup().start(&with_base(toml));
        let mut client = gateway.client();
        assert_eq!(client.get(&format!("/{MIB}")).body.len(), MIB);
        let before = gateway.resident();
        let begun = Instant::now();
        let raw = client.format("GET", &format!("/{length}"), &[], b"");
        client.send(raw);
        let is_chunked = client.read_head().header("content-length").is_none();
        let (mut left, mut most, mut since) = (length, before, 0);
        while left > 0 {
            let got = match is_chunked {
                true => client.read_chunk().expect("a piece").len(),
                false => client.read_some(16 << 10).expect("the rest of the body").len(),
            };
            assert!(got > 0, "{left} bytes are missing");
            left -= got;
            since += got;
            if since > 16 * MIB {
                since = 0;
                most = most.max(gateway.resident());
            }
        }
        (begun.elapsed(), most.saturating_sub(before))
    };
    let (plain, _) = time(&route(&origin.url(), &[]));
    // The one takes each piece and gives it back, the other looks at each byte, too.
    for what in ["echo-piece", "upper-piece"] {
        let (filtered, grown) = time(&doing(what));
        tell(&format!(
            "{} MiB through a filter of chunks ({what}): {filtered:?}, without it {plain:?}; memory grew by {} KiB",
            length / MIB,
            grown / 1024
        ));
        assert!(grown < 8 * MIB as u64, "memory grew by {} KiB", grown / 1024);
    }
}

#[test]
fn large_uploads_to_a_slow_origin() {
    let _alone = alone();
    let writers = 10;
    let length = scaled("SLUICE_TEST_TRANSFER_MIB", 100) * MIB / 5;
    let origin = Origin::scripted();
    let toml = with_base(&format!("{}limits = {{ body = \"unlimited\" }}\n", route(&origin.url(), &[])));
    let gateway = Gateway::start(&toml);
    let before = gateway.resident();
    thread::scope(|scope| {
        for _ in 0..writers {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut client = gateway.client();
                client.send(format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"));
                let piece = vec![b'x'; 64 << 10];
                let mut left = length;
                while left > 0 {
                    client.send(&piece[..left.min(piece.len())]);
                    left -= left.min(piece.len());
                }
                assert_eq!(client.read_response("POST").status, 200);
            });
        }
        for _ in 0..writers {
            let mut conn = origin.accept();
            let gateway = &gateway;
            scope.spawn(move || {
                let head = conn.read_head();
                assert_eq!(head.header("content-length"), Some(length.to_string().as_str()));
                let mut left = length;
                while left > 0 {
                    let got = conn.read_some(16 << 10).expect("the body").len();
                    assert!(got > 0, "{left} bytes are missing");
                    left -= got;
                }
                let grown = gateway.resident().saturating_sub(before);
                assert!(grown < 8 * MIB as u64, "memory grew by {} KiB", grown / 1024);
                conn.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            });
        }
    });
}
