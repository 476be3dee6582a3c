//! Finding a route among 10, 1,000 and 10,000: the last may cost at most twice the first.

#[path = "shared/routes.rs"]
mod routes;

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::uri::Scheme;
use http::{HeaderMap, Method};
use sluice::route::{Ingress, RequestView};

fn route_match(c: &mut Criterion) {
    let mut group = c.benchmark_group("route_match");
    let headers = HeaderMap::new();
    for count in [10, 1_000, 10_000] {
        let router = routes::router(count);
        let requests = routes::requests(count);
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                at = (at + 1) % requests.len();
                let (host, path) = &requests[at];
                let ingress = &Ingress { listener: "http", scheme: &Scheme::HTTP, sni: None };
                let view = RequestView {
                    ingress,
                    host,
                    path,
                    method: &Method::GET,
                    query: None,
                    headers: &headers,
                    client_ip: Some(IpAddr::from([127, 0, 0, 1])),
                };
                black_box(router.find(black_box(&view)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, route_match);
criterion_main!(benches);
