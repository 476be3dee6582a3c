//! What a request does with the record of its endpoint: choose it, count the request, note the response, count back. With two threads on
//! one record it may take 300 ns, with outlier detection too.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sluice::config::model::OutlierDetection;
use sluice::upstream::{EndpointRegistry, EndpointSpec, RecordUse, Resolver, TargetSpec, Upstream, UpstreamSpec};

fn upstream(outlier_detection: Option<OutlierDetection>) -> Arc<Upstream> {
    let endpoint = EndpointSpec::from_url("http://127.0.0.1:1").expect("a URL");
    let spec = UpstreamSpec { outlier_detection, ..UpstreamSpec::new("u", TargetSpec::Endpoints(vec![endpoint])) };
    Arc::new(Upstream::new(spec, &EndpointRegistry::new(), &Resolver::new(&[], None), None).expect("an upstream"))
}

/// Time for so many requests on each of some threads, all on one record.
fn time(upstream: &Arc<Upstream>, threads: usize, requests: u64) -> Duration {
    let together = Barrier::new(threads);
    thread::scope(|scope| {
        let run = || {
            let record = RecordUse::new(upstream);
            together.wait();
            let begun = Instant::now();
            for _ in 0..requests {
                assert!(black_box(&record).request());
            }
            begun.elapsed()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).max().unwrap_or_default()
    })
}

fn endpoint_record(c: &mut Criterion) {
    let mut group = c.benchmark_group("endpoint_record");
    for (name, detection) in [("plain", None), ("with outlier detection", Some(OutlierDetection::default()))] {
        let upstream = upstream(detection);
        for threads in [1, 2] {
            group.bench_function(BenchmarkId::new(name, threads), |b| {
                b.iter_custom(|requests| time(&upstream, threads, requests));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, endpoint_record);
criterion_main!(benches);
