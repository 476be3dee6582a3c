//! The guests of the benchmarks, and what they are called with.

use std::borrow::Cow;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use serde_json::json;
use sluice::exchange::{Caller, Exchange, KnownConsumer, RequestHead, ResponseHead, ResponseSource, RouteFacts};
use sluice::services::consumers::{ConsumerSet, ConsumerSpec, Credential, key_digest};
use sluice::services::grants::{Grants as ServiceGrants, Origins};
use sluice::services::outbound::{Answers, Call, Incoming, Outbound};
use sluice::services::{Clock, KeySet, ServiceError, Services};
use sluice::wasm::{CallMode, FilterLimits, Grants, HeaderGrant, Hook, Mode, Pool, Program, ProgramSpec, Runtime};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const SECRET: &str = "bench-secret-0123456789abcdef0123456789";
/// Who calls: the only consumer that has a user name.
const CALLER: &str = "acme";
const KEY: &str = "key17";
const PASSWORD: &str = "correct horse battery staple";
const AUTH_SERVICE: &str = "http://auth.bench";

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
    /// Whether it is run as a component though its core module could be called directly.
    call: CallMode,
    authorization: String,
    /// A filter before it has found the caller.
    is_behind_another: bool,
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

/// A service of authorisation that lets everybody pass. Nothing is sent to it.
struct Willing;

impl Outbound for Willing {
    fn send<'a>(
        &'a self,
        calls: Vec<Call>,
        _: Duration,
        _: &'a ServiceGrants,
        _: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>> {
        let answer = || Incoming { status: StatusCode::OK, headers: HeaderMap::new(), body: Vec::new().into() };
        Box::pin(async move { Ok(calls.iter().map(|_| Ok(answer())).collect()) })
    }

    fn keep_fresh(&self, _: &Arc<KeySet>) -> Result<(), ServiceError> {
        Err(ServiceError::Unavailable("there is no network".to_owned()))
    }
}

/// A thousand consumers, one of which calls: with each kind of credential.
fn consumers() -> ConsumerSet {
    let spec = |number: usize| {
        let (name, key) = (format!("consumer-{number}"), format!("key-of-{number}"));
        ConsumerSpec { name, credentials: vec![Credential::Key(key_digest(key.as_bytes()))], ..ConsumerSpec::default() }
    };
    let hash = sluice::services::passwords::hash(PASSWORD.as_bytes());
    let caller = ConsumerSpec {
        name: CALLER.to_owned(),
        plan: Some("gold".to_owned()),
        labels: vec![("status".to_owned(), "active".to_owned()), ("tier".to_owned(), "partner".to_owned())],
        credentials: vec![
            Credential::Key(key_digest(KEY.as_bytes())),
            Credential::certificate("dns:client.example").expect("a kind and a text"),
            Credential::password(CALLER, &hash).expect("a user name and a hash"),
        ],
    };
    let specs: Vec<_> = (0..999).map(spec).chain([caller]).map(Cow::Owned).collect();
    ConsumerSet::new(&specs).expect("consumers that go together")
}

fn services() -> Arc<Services> {
    let services = Services::new(Clock::system(), Arc::new(Willing));
    services.consumers.publish(Arc::new(consumers()));
    // From now on the password is remembered.
    let verified = services.passwords.authenticate_here(&services.consumers, CALLER, PASSWORD.as_bytes());
    assert!(verified.is_some());
    services
}

/// Its instances.
pub(crate) fn pool(runtime: &Arc<Runtime>, guest: &Guest, mode: Mode) -> Pool {
    let granted = ServiceGrants {
        http: Origins::parse([AUTH_SERVICE]).expect("an origin"),
        kv: ["forward-auth".to_owned()].into(),
        kv_quota: 1 << 20,
        consumers: true,
        ..ServiceGrants::default()
    };
    let spec = ProgramSpec {
        name: "bench".into(),
        config: guest.config.clone(),
        mode,
        limits: FilterLimits { wall: Duration::from_secs(60), ..FilterLimits::default() },
        grants: Grants { read: HeaderGrant::All, write: HeaderGrant::All, services: granted, ..Grants::default() },
        plugin: "bench".into(),
        services: services(),
        component: Some(guest.component.as_slice().into()),
    };
    let plugin = runtime.load_for("bench", &guest.component, guest.call).expect("the component");
    Pool::new(Arc::new(Program::new(plugin, spec).expect("the filter")))
}

/// What a listener says of a client's certificate that it has verified.
fn certificate() -> Arc<str> {
    let facts = json!({
        "subject": "CN=client,O=Acme", "issuer": "CN=Acme CA", "serial": "4711", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "not_before": 1_700_000_000, "not_after": 4_000_000_000_u64, "dns_names": ["client.example"], "uris": [], "emails": [], "ip_addresses": [],
        "pem": format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "A".repeat(800)),
    });
    facts.to_string().into()
}

/// A document of 600 bytes, in which two rules of three find something.
const DOCUMENT: &str = r#"{"id":12345678901234567890,"name":"Ada Lovelace","password":"correct horse","address":{"street":"12 St James's Square",
"city":"London","password":"x"},"orders":[{"id":1,"total":12.50,"note":"paid by 4111 1111 1111 1111"},{"id":2,"total":7,"note":"to be sent on Monday"},
{"id":3,"total":99.99,"note":null}],"about":"A text of some length, such as people write when they are asked about what they like: it has words and nothing","more":"that a rule is about. There are many of them in most documents, and each is searched for everything.","active":true}"#;

/// A request as browsers send them, and its response.
pub(crate) fn exchange(guest: &Guest) -> Box<Exchange> {
    let mut headers = HeaderMap::new();
    for n in 0..11 {
        let name: http::HeaderName = format!("x-header-{n}").parse().expect("a name");
        headers.insert(name, HeaderValue::from_static("a value of the usual length"));
    }
    headers.insert("x-bench-in", HeaderValue::from_static("hello"));
    headers.insert("authorization", guest.authorization.parse().expect("a value"));
    headers.insert("origin", HeaderValue::from_static("https://app.example.org"));
    headers.insert("x-api-key", HeaderValue::from_static(KEY));
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
    exchange.client_certificate = Some(certificate());
    if guest.is_behind_another {
        let consumer = Arc::clone(consumers().named(CALLER).expect("the caller"));
        let known = Some(KnownConsumer { consumer, method: "key".into() });
        exchange.context.set_caller(Some(Caller { name: CALLER.into(), known }));
    }
    let mut response = ResponseHead::new(ResponseSource::Upstream, StatusCode::OK);
    if guest.hooks.contains(&Hook::OnResponseBody) {
        response.body = Some(DOCUMENT.into());
    }
    exchange.response = Some(Box::new(response));
    exchange
}

/// An empty hook, called in both ways, the header filter of examples/, and the shipped plugins as they are commonly used.
pub(crate) fn guests() -> Vec<Guest> {
    let guest = |name, component, config: &str, hooks| Guest {
        name,
        component,
        config: config.to_owned(),
        hooks,
        call: CallMode::Auto,
        authorization: token(),
        is_behind_another: false,
    };
    let request: &[Hook] = &[Hook::OnRequest];
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
    // As in its README, with a second rule that lets the caller pass.
    let rules = r#"{"rules":[{"name":"blocked","effect":"deny","if":{"labels":{"status":"blocked"}}},
        {"name":"read","effect":"allow","if":{"methods":["GET"],"plans":["gold","silver"]}}]}"#;
    let private =
        r#"{"rules":[{"pointers":["/**/password"],"action":"remove"},{"detect":"card"},{"pattern":"INT-[0-9]{4,8}"}]}"#;
    let prefixes: String = (0..10_000).map(|net| format!("10.{}.{}.0/25\n", net / 256, net % 256)).collect();
    let basic = format!("Basic {}", STANDARD.encode(format!("{CALLER}:{PASSWORD}")));
    let ask =
        json!({ "url": format!("{AUTH_SERVICE}/check"), "cache": { "key": ["header:authorization"], "ttl": "1d" } });
    vec![
        guest("empty", empty(), "{}", request),
        Guest { call: CallMode::Component, ..guest("empty, as a component", empty(), "{}", request) },
        guest("header", built("rust-header"), header, both),
        guest("jwt-auth", built("jwt-auth"), &auth, request),
        guest("rate-limit", built("rate-limit"), limit, request),
        guest("transform", built("transform"), shape, both),
        guest("cors", built("cors"), r#"{"origins":["https://app.example.org"]}"#, both),
        guest("traffic-split", built("traffic-split"), split, &[Hook::SelectUpstream]),
        guest("api-key", built("api-key"), "{}", request),
        Guest { authorization: basic, ..guest("basic-auth", built("basic-auth"), "{}", request) },
        guest("mtls-auth", built("mtls-auth"), "{}", request),
        Guest { is_behind_another: true, ..guest("acl", built("acl"), rules, request) },
        guest("ip-filter", built("ip-filter"), &json!({ "deny": prefixes }).to_string(), request),
        guest("redact", built("redact"), private, &[Hook::OnRequest, Hook::OnResponseBody]),
        guest("forward-auth", built("forward-auth"), &ask.to_string(), request),
    ]
}
