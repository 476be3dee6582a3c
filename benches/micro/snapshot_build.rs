//! Reading a configuration and building the snapshot that serves it: from nothing, and beside one that is running, as a reload does.

use std::fmt::Write;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sluice::background::Background;
use sluice::certs::CertStore;
use sluice::config;
use sluice::consumers::ConsumerFiles;
use sluice::filter::Runtime;
use sluice::outbound::{OutboundClient, Tls};
use sluice::services::outbound::Offline;
use sluice::services::{Clock, Services};
use sluice::snapshot::SnapshotBuilder;
use sluice::telemetry::Metrics;
use sluice::upstream::{EndpointRegistry, Resolver, Sources};
use sluice::wasm::RuntimeOptions;

/// Routes over a few upstreams, behind two shipped filters.
fn written(routes: usize) -> String {
    let mut toml = String::from(
        r#"
[listeners.http]
bind = "127.0.0.1:0"
[upstreams.things]
builtin = "echo"
[filters.cors]
config = { origins = ["https://app.example.com"] }
[filters.limit]
plugin = "rate-limit"
config = { limits = [{ amount = 100, window = "1s" }] }
[pipelines]
default = ["cors", "limit"]
"#,
    );
    for n in 0..routes {
        writeln!(toml, "[routes.r{n}]\nmatch = {{ path = \"/service-{n}/**\" }}\nupstream = \"things\"")
            .expect("a string");
    }
    toml
}

fn build(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let options =
        RuntimeOptions { instances: 100, cache: Some(folder.path().join("cache")), ..RuntimeOptions::default() };
    let (background, _thread) = Background::start(Metrics::new()).expect("a thread");
    let services = Services::new(Clock::system(), Arc::new(Offline));
    let builder = SnapshotBuilder {
        runtime: Runtime::new(options).expect("the runtime"),
        consumers: ConsumerFiles::new(Arc::clone(&services)),
        services,
        certs: CertStore::default(),
        metrics: Metrics::new(),
        outbound: OutboundClient::new(
            Tls::system(),
            Resolver::new(&[], None),
            background,
            RuntimeOptions::default().budget,
        ),
        endpoints: EndpointRegistry::new(),
        cache: Arc::default(),
        sources: Sources::none(),
    };
    let mut group = c.benchmark_group("snapshot_build");
    group.sample_size(20);
    for routes in [10, 1_000] {
        let file = folder.path().join(format!("{routes}.toml"));
        std::fs::write(&file, written(routes)).expect("a file");
        let load = || config::load(&file).expect("the configuration");
        let running = builder.build(&load(), None).expect("a snapshot");
        group.bench_function(BenchmarkId::new("read", routes), |b| b.iter(load));
        group.bench_function(BenchmarkId::new("start", routes), |b| {
            let loaded = load();
            b.iter(|| builder.build(&loaded, None).expect("a snapshot"));
        });
        group.bench_function(BenchmarkId::new("reload", routes), |b| {
            let loaded = load();
            b.iter(|| builder.build(&loaded, Some(&running)).expect("a snapshot"));
        });
    }
    group.finish();
}

criterion_group!(benches, build);
criterion_main!(benches);
