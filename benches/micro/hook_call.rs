//! What a call into a filter costs: an empty hook and the header filter of examples/, on reused and fresh instances; and the
//! shipped policies of a common pipeline, on reused ones.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, Version};
use sluice::exchange::{Exchange, Origin, RequestHead, ResponseHead, RouteFacts};
use sluice::services::{Clock, Services};
use sluice::wasm::{
    FilterLimits, Grants, HeaderGrant, Hook, Mode, Pool, Program, ProgramSpec, Runtime, RuntimeOptions, Verdict,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const SECRET: &str = "bench-secret-0123456789abcdef0123456789";

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

/// A filter of the workspace, as the build script left it.
fn built(name: &str) -> Vec<u8> {
    let bench = std::env::current_exe().expect("the path of the bench");
    let target: PathBuf = bench.ancestors().nth(3).expect("target/<profile>/deps/<bench>").into();
    let file = target.join("plugins").join(name).with_extension("wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Its name, the component, its config, and in which hooks and modes it is called.
type Guest<'a> = (&'a str, Vec<u8>, &'a str, &'a [Hook], &'a [Mode]);

/// A bearer token that is good for long.
fn token() -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let head = encode(br#"{"alg": "HS256", "typ": "JWT", "kid": "k1"}"#);
    let claims = encode(br#"{"iss": "bench", "sub": "user17", "aud": "bench", "iat": 1700000000, "exp": 4000000000}"#);
    let signed = format!("{head}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    format!("Bearer {signed}.{}", encode(signature.as_ref()))
}

fn pool(runtime: &Arc<Runtime>, component: &[u8], config: &str, mode: Mode) -> Pool {
    let spec = ProgramSpec {
        name: "bench".into(),
        config: config.into(),
        mode,
        limits: FilterLimits { wall: Duration::from_secs(60), ..FilterLimits::default() },
        grants: Grants { read: HeaderGrant::All, write: HeaderGrant::All, ..Grants::default() },
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
    headers.insert("authorization", token().parse().expect("a value"));
    headers.insert("x-api-key", HeaderValue::from_static("key17"));
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
    let auth = format!(
        r#"{{"secret":"{SECRET}","algorithms":["HS256"],"issuer":"bench","headers":{{"x-user":"sub"}},
            "forward_token":false,"context":false}}"#
    );
    let limit = r#"{"limits":[{"key":"header:x-api-key","amount":1000000000,"window":"1s"}],"headers":[]}"#;
    let shape = r#"{"request":{"headers":{"remove":["x-remove-me"]}},
        "response":{"headers":{"set":{"x-gw":"1"},"remove":["x-upstream-secret"]}}}"#;
    let both: &[Mode] = &[Mode::Reused, Mode::Fresh];
    let reused: &[Mode] = &[Mode::Reused];
    let guests: [Guest<'_>; 5] = [
        ("empty", empty(), "{}", &[Hook::OnRequest], both),
        ("header", built("rust-header"), config, &[Hook::OnRequest, Hook::OnResponse], both),
        ("jwt-auth", built("jwt-auth"), &auth, &[Hook::OnRequest], reused),
        ("rate-limit", built("rate-limit"), limit, &[Hook::OnRequest], reused),
        ("transform", built("transform"), shape, &[Hook::OnRequest, Hook::OnResponse], reused),
    ];
    let local = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = c.benchmark_group("hook_call");
    for (name, component, config, hooks, modes) in guests {
        for &mode in modes {
            let word = if mode == Mode::Reused { "reused" } else { "fresh" };
            let pool = pool(&runtime, &component, config, mode);
            for hook in hooks {
                group.bench_function(format!("{name}/{hook}/{word}"), |b| {
                    b.iter_custom(|times| {
                        local.block_on(async {
                            let mut exchange = exchange();
                            let start = Instant::now();
                            for _ in 0..times {
                                let result;
                                (exchange, result) = pool.call(*hook, exchange, 0).await;
                                assert_eq!(result.expect("a verdict"), Verdict::Continue);
                                // So that each call finds what the first one found.
                                exchange.roll_back();
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
