//! The guests of the benchmarks, and what they are called with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, Version};
use sluice::exchange::{Exchange, RequestHead, ResponseHead, ResponseSource, RouteFacts};
use sluice::services::outbound::Offline;
use sluice::services::{Clock, Services};
use sluice::wasm::{FilterLimits, Grants, HeaderGrant, Hook, Mode, Pool, Program, ProgramSpec, Runtime};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const SECRET: &str = "bench-secret-0123456789abcdef0123456789";

/// A component whose `on-request` does nothing.
fn empty() -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit")).expect("the WIT package");
    let world = "package bench:guest; world guest { export sluice:filter/on-request@0.1.1; }";
    let package = resolve.push_str("guest.wit", world).expect("a world");
    let world = resolve.select_world(&[package], Some("guest")).expect("the world");
    let text = r#"(module
        (memory (export "memory") 1)
        (func (export "sluice:filter/on-request@0.1.1#on-request") (result i32) i32.const 0))"#;
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

/// A component and how it is called.
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) component: Vec<u8>,
    pub(crate) config: String,
    pub(crate) hooks: &'static [Hook],
}

/// A bearer token that is good for long.
fn token() -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let head = encode(br#"{"alg": "HS256", "typ": "JWT", "kid": "k1"}"#);
    let claims = encode(br#"{"iss": "bench", "sub": "user17", "aud": "bench", "iat": 1700000000, "exp": 4000000000}"#);
    let signed = format!("{head}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    format!("Bearer {signed}.{}", encode(signature.as_ref()))
}

/// Its instances.
pub(crate) fn pool(runtime: &Arc<Runtime>, guest: &Guest, mode: Mode) -> Pool {
    let spec = ProgramSpec {
        name: "bench".into(),
        config: guest.config.clone(),
        mode,
        limits: FilterLimits { wall: Duration::from_secs(60), ..FilterLimits::default() },
        grants: Grants { read: HeaderGrant::All, write: HeaderGrant::All, ..Grants::default() },
        plugin: "bench".into(),
        services: Services::new(Clock::system(), Arc::new(Offline)),
        component: Some(guest.component.as_slice().into()),
    };
    let plugin = runtime.load(&guest.component).expect("the component");
    Pool::new(Arc::new(Program::new(plugin, spec).expect("the filter")))
}

/// A request as browsers send them, and its response.
pub(crate) fn exchange() -> Box<Exchange> {
    let mut headers = HeaderMap::new();
    for n in 0..11 {
        let name: http::HeaderName = format!("x-header-{n}").parse().expect("a name");
        headers.insert(name, HeaderValue::from_static("a value of the usual length"));
    }
    headers.insert("x-bench-in", HeaderValue::from_static("hello"));
    headers.insert("authorization", token().parse().expect("a value"));
    headers.insert("origin", HeaderValue::from_static("https://app.example.org"));
    headers.insert("x-api-key", HeaderValue::from_static("key17"));
    let request = RequestHead {
        method: Method::GET,
        scheme: http::uri::Scheme::HTTP,
        authority: "example.org".parse().expect("an authority"),
        target: "/api/v1/things?page=2".parse().expect("a target"),
        version: Version::HTTP_11,
        headers,
    };
    let route =
        Arc::new(RouteFacts { name: "all".into(), upstreams: vec!["things".into(), "more".into()], snapshot: 0 });
    let mut exchange =
        Exchange::new(HeaderValue::from_static("0123456789abcdef"), [127, 0, 0, 1].into(), request, route);
    exchange.states.resize(1, None);
    exchange.response = Some(Box::new(ResponseHead::new(ResponseSource::Upstream, http::StatusCode::OK)));
    exchange
}

/// An empty hook, the header filter of examples/, and the shipped plugins as they are commonly used.
pub(crate) fn guests() -> Vec<Guest> {
    let guest = |name, component, config: &str, hooks| Guest { name, component, config: config.to_owned(), hooks };
    let both: &[Hook] = &[Hook::OnRequest, Hook::OnResponse];
    let header =
        r#"{"copy_from":"x-bench-in","copy_to":"x-filter-req","response_header":"x-filter-resp","response_value":"1"}"#;
    let auth = format!(
        r#"{{"secret":"{SECRET}","algorithms":["HS256"],"issuer":"bench","headers":{{"x-user":"sub"}},
            "forward_token":false,"context":false,"remember_tokens":0}}"#
    );
    let limit = r#"{"limits":[{"key":"header:x-api-key","amount":1000000000,"window":"1s"}],"headers":[]}"#;
    let shape = r#"{"request":{"headers":{"remove":["x-remove-me"]}},
        "response":{"headers":{"set":{"x-gw":"1"},"remove":["x-upstream-secret"]}}}"#;
    let split =
        r#"{"split":[{"upstream":"things","weight":9},{"upstream":"more","weight":1}],"by":"header:x-api-key"}"#;
    vec![
        guest("empty", empty(), "{}", &[Hook::OnRequest]),
        guest("header", built("rust-header"), header, both),
        guest("jwt-auth", built("jwt-auth"), &auth, &[Hook::OnRequest]),
        guest("rate-limit", built("rate-limit"), limit, &[Hook::OnRequest]),
        guest("transform", built("transform"), shape, both),
        guest("cors", built("cors"), r#"{"origins":["https://app.example.org"]}"#, both),
        guest("traffic-split", built("traffic-split"), split, &[Hook::SelectUpstream]),
    ]
}
