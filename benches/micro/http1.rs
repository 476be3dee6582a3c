//! Heads of HTTP/1 read and written, and a chunked body read: what every exchange pays twice.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Version};
use sluice::http1::{self, Chunked, Framing, Limits, Message, Piece};

/// That of the gateway's binary: a head is a handful of allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LIMITS: Limits = Limits { bytes: 64 * 1024, fields: 100 };

const BUFFER: usize = 8 * 1024;

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

const TOOL: &[u8] =
    b"GET /api/users/4711?full=1 HTTP/1.1\r\nHost: api.example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

const BROWSER: &[u8] = b"GET /shop/items/4711/reviews?page=2&sort=date HTTP/1.1\r\n\
Host: www.example.org\r\n\
Connection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
sec-ch-ua-mobile: ?0\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
Upgrade-Insecure-Requests: 1\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Dest: document\r\n\
Referer: https://www.example.org/shop/items/4711\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cookie: session=5f3a9c1e7b2d4f60; theme=dark; consent=1730368800\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: origin\r\n\
Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
Content-Type: application/json; charset=utf-8\r\n\
Content-Length: 1024\r\n\
Cache-Control: max-age=60\r\n\
ETag: \"5f3a9c1e7b2d4f60\"\r\n\
Vary: accept-encoding\r\n\r\n";

fn request_headers(bytes: &[u8]) -> HeaderMap {
    let head = http1::read_request(&mut BytesMut::from(bytes), LIMITS).expect("a good head").expect("a whole head");
    head.parts.headers
}

/// As a connection does it: bytes come into a buffer that is used again once the head before is gone. Filling it and
/// letting go of the head count.
fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("http1_read");
    for (name, bytes) in [("tool", TOOL), ("browser", BROWSER)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            let mut buffer = BytesMut::with_capacity(BUFFER);
            b.iter(|| {
                buffer.reserve(BUFFER);
                buffer.extend_from_slice(black_box(bytes));
                http1::read_request(&mut buffer, LIMITS)
            });
        });
    }
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response", |b| {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        b.iter(|| {
            buffer.reserve(BUFFER);
            buffer.extend_from_slice(black_box(RESPONSE));
            http1::read_response(&mut buffer, LIMITS, &Method::GET)
        });
    });
    // What an attacker pays a packet for each time: a head of almost the limit to which one byte was added.
    group.bench_function("unfinished_60k", |b| {
        let mut head = TOOL.strip_suffix(b"\r\n").expect("the empty line").to_vec();
        head.extend_from_slice(b"x: ");
        head.resize(60 * 1024, b'a');
        let mut buffer = BytesMut::from(&*head);
        b.iter(|| http1::read_request(black_box(&mut buffer), LIMITS).map(|head| head.is_none()));
    });
    group.finish();

    let mut group = c.benchmark_group("http1_write");
    let target = PathAndQuery::from_static("/shop/items/4711/reviews?page=2&sort=date");
    for (name, bytes) in [("tool", TOOL), ("browser", BROWSER)] {
        let headers = request_headers(bytes);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            let mut out = BytesMut::with_capacity(8192);
            b.iter(|| {
                out.clear();
                http1::request_head(&mut out, &Method::GET, &target, black_box(&headers), Framing::None);
                out.len()
            });
        });
    }
    let head = http1::read_response(&mut BytesMut::from(RESPONSE), LIMITS, &Method::GET);
    let headers = head.expect("a good head").expect("a whole head").headers;
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response", |b| {
        let mut out = BytesMut::with_capacity(8192);
        b.iter(|| {
            out.clear();
            let (version, body) = (Version::HTTP_11, Framing::Length(1024));
            http1::response_head(&mut out, version, StatusCode::OK, black_box(&headers), body, true, DATE);
            out.len()
        });
    });
    group.finish();
}

fn chunks(c: &mut Criterion) {
    let mut body = BytesMut::new();
    for _ in 0..64 {
        http1::chunk_head(&mut body, 1024);
        body.extend_from_slice(&[b'x'; 1024]);
        body.extend_from_slice(b"\r\n");
    }
    http1::last_chunk(&mut body, None);
    let mut group = c.benchmark_group("http1_chunked");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("64x1k", |b| {
        b.iter_batched_ref(
            || BytesMut::from(&*body),
            |buffer| {
                let mut chunked = Chunked::new(LIMITS, Message::Request);
                let mut bytes = 0;
                while let Some(Piece::Data(data)) = chunked.next(buffer).expect("a good body") {
                    bytes += data.len();
                }
                bytes
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, heads, chunks);
criterion_main!(benches);
