//! Heads of HTTP/1 read and written, and a chunked body read: what every exchange pays twice.

#[path = "shared/heads.rs"]
mod heads;

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use heads::{BROWSER, DATE, LIMITS, RESPONSE, TOOL};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Version};
use sluice::http1::{self, Chunked, Framing, Message, Piece};

/// That of the gateway's binary: a head is a handful of allocations.
#[global_allocator]
static ALLOCATOR: sluice::allocator::Allocator = sluice::allocator::Allocator;

const BUFFER: usize = 8 * 1024;

fn request_headers(bytes: &[u8]) -> HeaderMap {
    let head = http1::read_request(&mut BytesMut::from(bytes), LIMITS).expect("a good head").expect("a whole head");
    head.parts.headers
}

/// As a connection does it: bytes come into a buffer that is used again once the head before is gone. Filling it and
/// letting go of the head count.
fn read_and_written(c: &mut Criterion) {
    let _keeping = sluice::allocator::Keeping::new();
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
            http1::read_response(&mut buffer, LIMITS, &Method::GET, http1::Tolerance::default())
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
    let head = http1::read_response(&mut BytesMut::from(RESPONSE), LIMITS, &Method::GET, http1::Tolerance::default());
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

criterion_group!(benches, read_and_written, chunks);
criterion_main!(benches);
