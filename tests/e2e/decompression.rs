//! Bodies of requests that have a content coding: taken off for an upstream or a filter, within limits.

use std::io::Read;

use sluice_harness::{Origin, Reply};

use crate::compression::{route, text};
use crate::support::{gateway, probe};

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::bufread::GzEncoder::new(content, flate2::Compression::new(6)).read_to_end(&mut out).expect("gzip");
    out
}

#[test]
fn an_upstream_gets_requests_without_their_coding() {
    let origin = Origin::serve(|request| Reply::text(request.text()));
    let decodes = gateway(&route(&origin, "decompress_requests = true"));
    let body = text(20_000);
    let zstd = zstd::encode_all(body.as_bytes(), 3).expect("zstd");
    for (coding, sent) in
        [("gzip", gzip(body.as_bytes())), ("zstd", zstd.clone()), ("gzip, zstd", zstd_of(&gzip(body.as_bytes())))]
    {
        let headers = [("content-encoding", coding), ("content-digest", "sha-256=:AA==:")];
        assert!(decodes.request("POST", "/", &headers, &sent).text() == body, "{coding}");
        let seen = origin.last();
        assert_eq!((seen.header("content-encoding"), seen.header("content-length")), (None, Some("20000")));
        assert_eq!(seen.header("content-digest"), None);
    }
    for (coding, sent) in [("gzip", &b"no gzip"[..]), ("compress", b"x"), ("zstd", &zstd[..100])] {
        let response = decodes.request("POST", "/", &[("content-encoding", coding)], sent);
        assert_eq!(response.status, 415, "{coding}");
    }
    assert_eq!(decodes.request("POST", "/", &[], b"plain").text(), "plain");
    let kept = [("content-encoding", "zstd"), ("cache-control", "no-transform")];
    decodes.request("POST", "/", &kept, &zstd);
    assert_eq!((origin.last().header("content-encoding"), &origin.last().body), (Some("zstd"), &zstd));
    let passes = gateway(&route(&origin, ""));
    passes.request("POST", "/", &[("content-encoding", "zstd")], &zstd);
    assert_eq!((origin.last().header("content-encoding"), &origin.last().body), (Some("zstd"), &zstd));
}

fn zstd_of(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).expect("zstd")
}

/// A few kilobytes that would fill the memory of the gateway or of the upstream.
#[test]
fn decompression_bombs_are_refused() {
    let origin = Origin::serve(|_| Reply::text("fine"));
    let bomb = vec![0; 64 << 20];
    let mut brotli = Vec::new();
    let params = brotli::enc::BrotliEncoderParams { quality: 5, ..Default::default() };
    brotli::BrotliCompress(&mut &bomb[..], &mut brotli, &params).expect("br");
    // A frame that asks for a window of 128 MiB, with nothing in it (RFC 8878 §3.1.1.1.2, RFC 9659).
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00].to_vec();
    let lines = "limits = { body = \"1MiB\" }\n";
    let upstream = gateway(&route(&origin, &format!("{lines}decompress_requests = true")));
    let config = serde_json::json!({"on-request-body": [{"do": "body-length", "to": "x-length"}]});
    let filter = gateway(&(route(&origin, &format!("{lines}pipeline = [\"a\"]")) + &probe("a", config)));
    for gateway in [&upstream, &filter] {
        gateway.request("POST", "/", &[("content-encoding", "gzip")], &gzip(b"warm"));
        let before = gateway.peak_resident();
        for (coding, sent, status) in [
            ("gzip", gzip(&bomb), 413),
            ("br", brotli.clone(), 413),
            ("zstd", zstd_of(&bomb), 413),
            ("gzip, gzip", gzip(&gzip(&bomb)), 413),
            ("zstd", window.clone(), 415),
            ("gzip, gzip, gzip, gzip, gzip", b"x".to_vec(), 415),
        ] {
            assert!(sent.len() < 200_000);
            let response = gateway.request("POST", "/", &[("content-encoding", coding)], &sent);
            assert_eq!(response.status, status, "{coding}");
        }
        let grown = gateway.peak_resident().saturating_sub(before);
        assert!(grown < 40 << 20, "{grown} bytes more");
        assert_eq!(gateway.metric("sluice_buffered_bytes", &[]), Some(0.0));
    }
    assert_eq!(origin.count(), 2);
}
