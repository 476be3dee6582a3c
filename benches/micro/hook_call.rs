//! What a call into a filter costs: an empty hook and the header filter of examples/, on reused and fresh instances.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, Version};
use sluice::exchange::{Exchange, Origin, RequestHead, ResponseHead, RouteFacts};
use sluice::services::{Clock, Services};
use sluice::wasm::{FilterLimits, Grants, Hook, Mode, Pool, Program, ProgramSpec, Runtime, RuntimeOptions};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A component whose `on-request` does nothing.
fn empty() -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit")).expect("the WIT package");
    let world = "package bench:guest; world guest { export sluice:filter/on-request@0.1.0; }";
    let package = resolve.push_str("guest.wit", world).expect("a world");
    let world = resolve.select_world(&[package], Some("guest")).expect("the world");
    let text = r#"(module
        (memory (export "memory") 1)
        (func (export "sluice:filter/on-request@0.1.0#on-request") (result i32) i32.const 0))"#;
    let mut module = wat::parse_str(text).expect("a module");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("metadata");
    ComponentEncoder::default().module(&module).expect("a module").encode().expect("a component")
}

/// The header filter, as the build script left it.
fn header() -> Vec<u8> {
    let bench = std::env::current_exe().expect("the path of the bench");
    let target: PathBuf = bench.ancestors().nth(3).expect("target/<profile>/deps/<bench>").into();
    let file = target.join("plugins/rust-header.wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn pool(runtime: &Arc<Runtime>, component: &[u8], config: &str, mode: Mode) -> Pool {
    let spec = ProgramSpec {
        name: "bench".into(),
        config: config.into(),
        mode,
        limits: FilterLimits { wall: Duration::from_secs(60), ..FilterLimits::default() },
        grants: Grants::default(),
        plugin: "bench".into(),
        services: Services::new(Clock::system()),
    };
    let plugin = runtime.load(component).expect("the component");
    Pool::new(Arc::new(Program::new(plugin, spec).expect("the filter")))
}

/// A request as browsers send them, and its response.
fn exchange() -> Box<Exchange> {
    let mut headers = HeaderMap::new();
    for n in 0..11 {
        let name: http::HeaderName = format!("x-header-{n}").parse().expect("a name");
        headers.insert(name, HeaderValue::from_static("a value of the usual length"));
    }
    headers.insert("x-bench-in", HeaderValue::from_static("hello"));
    let request = RequestHead {
        method: Method::GET,
        scheme: http::uri::Scheme::HTTP,
        authority: "example.org".parse().expect("an authority"),
        target: "/api/v1/things?page=2".parse().expect("a target"),
        version: Version::HTTP_11,
        headers,
    };
    let route = Arc::new(RouteFacts { name: "all".into(), upstreams: vec!["things".into()] });
    let client = std::net::IpAddr::from([127, 0, 0, 1]);
    let mut exchange = Exchange::new(HeaderValue::from_static("0123456789abcdef"), client, request, route);
    exchange.states.resize(1, None);
    exchange.response = Some(Box::new(ResponseHead::new(Origin::Upstream, http::StatusCode::OK)));
    exchange
}

fn calls(c: &mut Criterion) {
    let runtime = Runtime::new(RuntimeOptions { instances: 50, ..RuntimeOptions::default() }).expect("the runtime");
    let config =
        r#"{"copy_from":"x-bench-in","copy_to":"x-filter-req","response_header":"x-filter-resp","response_value":"1"}"#;
    let (empty, header) = (empty(), header());
    let guests: [(&str, &[u8], &str, &[Hook]); 2] = [
        ("empty", &empty, "{}", &[Hook::OnRequest]),
        ("header", &header, config, &[Hook::OnRequest, Hook::OnResponse]),
    ];
    let local = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = c.benchmark_group("hook_call");
    for (name, component, config, hooks) in guests {
        for (mode, word) in [(Mode::Reused, "reused"), (Mode::Fresh, "fresh")] {
            let pool = pool(&runtime, component, config, mode);
            for hook in hooks {
                group.bench_function(format!("{name}/{hook}/{word}"), |b| {
                    b.iter_custom(|times| {
                        local.block_on(async {
                            let mut exchange = exchange();
                            let start = Instant::now();
                            for _ in 0..times {
                                let result;
                                (exchange, result) = pool.call(*hook, exchange, 0).await;
                                result.expect("a verdict");
                                exchange.journal.clear();
                            }
                            start.elapsed()
                        })
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
