//! The admin listener, from its table of endpoints to slow clients.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::endpoint::Endpoint;
use super::endpoints::endpoints;
use super::server::Limits;
use super::*;
use crate::background::BackgroundThread;
use crate::certs::CertStore;
use crate::config;
use crate::consumers::ConsumerFiles;
use crate::control::{Refused, ReloadReport, RunningState, start_loader};
use crate::filter::Runtime;
use crate::http::buffer::MemoryBudget;
use crate::outbound::{OutboundClient, Tls};
use crate::services::{Clock, Services};
use crate::snapshot::SnapshotBuilder;
use crate::upstream::{EndpointRegistry, Resolver, Sources};
use crate::wasm::RuntimeOptions;

const LONG: Duration = Duration::from_secs(20);
const TOKEN: &str = "a-token-of-some-length";
const CONFIG: &str = "[listeners.http]\nbind = \"127.0.0.1:0\"\n\
    [upstreams.name]\nendpoints = [{ url = \"http://127.0.0.1:81\", weight = 3, priority = 1, labels = { zone = \"b\" } }]\n\
    [upstreams.blue]\nbuiltin = \"echo\"\n[upstreams.green]\nbuiltin = \"echo\"\n\
    [routes.name]\nmatch = { path = \"/name\" }\nupstreams = { blue = 100, green = 0 }\n\
    [routes.other]\nmatch = { path = \"/other\" }\nupstream = \"http://127.0.0.1:82\"\n";
const FILTERED: &str = "[filters.shared]\nplugin = \"cors\"\nconfig = { origins = [\"https://a.test\"] }\n\
    [routes.all]\nmatch = { path = \"/**\", methods = [\"GET\"] }\nupstream = \"name\"\npipeline = [\"shared\"]\n";

/// A gateway without workers, whose reloads are refused while `refuse` says why.
struct Fixture {
    context: Context,
    background: Background,
    refuse: Arc<Mutex<Option<String>>>,
    _thread: BackgroundThread,
    _directory: tempfile::TempDir,
}

fn fixture(admin: &str) -> Fixture {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, format!("{CONFIG}{admin}")).expect("a file");
    let metrics = Metrics::new();
    let (background, thread) = Background::start(Arc::clone(&metrics)).expect("a thread");
    let outbound =
        OutboundClient::new(Tls::system(), Resolver::new(&[], None), background.clone(), MemoryBudget::new(1 << 20));
    let services = Services::new(Clock::system(), outbound.clone());
    let builder = SnapshotBuilder {
        runtime: Runtime::new(RuntimeOptions { instances: 10, ..RuntimeOptions::default() }).expect("a runtime"),
        consumers: ConsumerFiles::new(Arc::clone(&services)),
        services,
        certs: CertStore::default(),
        metrics: Arc::clone(&metrics),
        outbound,
        endpoints: EndpointRegistry::new(),
        cache: Arc::default(),
        sources: Sources::none(),
    };
    let loaded = config::load(&path).expect("a configuration");
    let snapshot = builder.build(&loaded, None).expect("a snapshot");
    let running = RunningState {
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
        config: Arc::new(ArcSwap::from_pointee(loaded.config)),
        overload: crate::server::Overload::new(Default::default()),
        changes: Arc::default(),
    };
    let refuse = Arc::<Mutex<Option<String>>>::default();
    let why = Arc::clone(&refuse);
    let loader =
        start_loader(None, &background, Arc::clone(&metrics), Arc::default(), move |_| match &*why.lock().unwrap() {
            Some(why) => Err(Refused(vec![why.clone()])),
            None => Ok((ReloadReport { restart_needed: vec!["gateway.workers".into()], ..Default::default() }, vec![])),
        })
        .expect("a thread");
    let control = Control::new(running, loader);
    let context = Context { control, metrics, config_file: path, started: SystemTime::now() };
    Fixture { context, background, refuse, _thread: thread, _directory: directory }
}

fn with_token() -> Fixture {
    fixture(&format!("[admin]\nbind = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n"))
}

async fn ask(router: &Router, method: &Method, path: &str, token: Option<&str>) -> (Response<()>, Vec<u8>) {
    send(router, method, path, token, "").await
}

async fn send(
    router: &Router,
    method: &Method,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> (Response<()>, Vec<u8>) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let (head, body) = router.answer(&head, Full::from(body.to_owned()), Ipv4Addr::LOCALHOST.into()).await.into_parts();
    let body = Full::collect(body).await.expect("bytes").to_bytes().to_vec();
    (Response::from_parts(head, ()), body)
}

fn header(head: &Response<()>, name: http::HeaderName) -> &str {
    head.headers()[name].to_str().expect("text")
}

async fn get_json(router: &Router, path: &str) -> Value {
    let (head, body) = ask(router, &Method::GET, path, None).await;
    assert_eq!((head.status(), header(&head, CONTENT_TYPE)), (StatusCode::OK, "application/json"), "{path}");
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test]
async fn every_endpoint_answers_as_documented() {
    let fixture = with_token();
    fixture.context.control.serving();
    let router = Router::new(endpoints(), fixture.context);
    let document = get_json(&router, "/api/v1/openapi.json").await;
    let mut documented = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            documented += 1;
            let method: Method = method.to_ascii_uppercase().parse().expect("a method");
            let bearer = operation["security"].is_array().then(|| format!("Bearer {TOKEN}"));
            let example = &operation["requestBody"]["content"]["application/json"]["example"];
            let sent = if example.is_null() { String::new() } else { example.to_string() };
            let required = |parameter: &&Value| parameter["in"] == "query" && parameter["required"] == true;
            let parameters = operation["parameters"].as_array().expect("a list").iter().filter(required);
            let pairs = parameters.map(|it| (it["name"].as_str().unwrap(), it["schema"]["example"].as_str().unwrap()));
            let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
            let target = format!("{}?{query}", path.replace("{name}", "name"));
            let (head, body) = send(&router, &method, &target, bearer.as_deref(), &sent).await;
            assert_eq!(head.status(), StatusCode::OK, "{method} {path}");
            let kind = header(&head, CONTENT_TYPE);
            let schema = &operation["responses"]["200"]["content"][kind]["schema"];
            assert!(schema.is_object(), "{method} {path} is not documented as {kind}: {operation}");
            if let Some(name) = schema["$ref"].as_str().and_then(|to| to.strip_prefix("#/components/schemas/")) {
                let value: Value = serde_json::from_slice(&body).expect("JSON");
                let described = document["components"]["schemas"][name]["properties"].as_object().expect("properties");
                let answered: BTreeSet<&String> = value.as_object().expect("an object").keys().collect();
                assert_eq!(answered, described.keys().collect(), "{method} {path}");
            }
        }
    }
    assert_eq!(documented, endpoints().len());
}

#[test]
fn the_document_is_consistent() {
    let document = openapi::document(&endpoints());
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for operation in operations.as_object().expect("operations").values() {
            assert!(ids.insert(operation["operationId"].as_str().expect("an id")), "{operation}");
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.values().all(|response| response["description"].is_string()), "{path}");
            let parameters = operation["parameters"].as_array().expect("a list").iter();
            let parameters: Vec<_> = parameters.filter(|it| it["in"] == "path").map(|it| &it["name"]).collect();
            let named: Vec<_> = path.split(['{', '}']).skip(1).step_by(2).collect();
            assert_eq!(parameters, named, "{path}");
        }
    }
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                assert!(!members.contains_key("$defs"), "{value}");
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("inside the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn the_running_configuration_is_shown() {
    // The loader's work, which needs a thread without a runtime.
    let fixture = fixture(FILTERED);
    let router = Router::new(endpoints(), fixture.context);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let status = get_json(&router, "/api/v1/status").await;
        let shown = (&status["phase"], &status["generation"], &status["routes"], &status["last_reload"]);
        assert_eq!(shown, (&"starting".into(), &1.into(), &3.into(), &Value::Null));
        let routes = get_json(&router, "/api/v1/routes").await;
        let all = routes["routes"].as_array().and_then(|routes| routes.iter().find(|route| route["name"] == "all"));
        let all = all.expect("the route");
        assert_eq!(all["action"], serde_json::json!({ "forward": [{ "upstream": "name", "weight": 1 }] }));
        assert_eq!((&all["matches"][0]["path"], &all["filters"][0]), (&"/**".into(), &"shared".into()));
        let upstream = get_json(&router, "/api/v1/upstreams/name").await;
        let endpoint =
            serde_json::json!({ "url": "http://127.0.0.1:81", "weight": 3, "priority": 1, "labels": { "zone": "b" } });
        assert_eq!((&upstream["name"], &upstream["endpoints"][0]), (&"name".into(), &endpoint));
        let address = &upstream["addresses"][0];
        assert_eq!(
            (&address["endpoint"], &address["state"]),
            (&"127.0.0.1:81".into(), &"healthy".into()),
            "{upstream}"
        );
        // The name of an upstream that a route writes as a URL.
        let anonymous = get_json(&router, "/api/v1/upstreams/http:%2F%2F127.0.0.1:82").await;
        assert_eq!(anonymous["endpoints"][0]["url"], "http://127.0.0.1:82");
        assert_eq!(ask(&router, &Method::GET, "/api/v1/upstreams/none", None).await.0.status(), StatusCode::NOT_FOUND);
        let plugins = get_json(&router, "/api/v1/plugins").await;
        assert_eq!(
            (&plugins["plugins"][0]["name"], &plugins["plugins"][0]["filters"][0]),
            (&"cors".into(), &"shared".into())
        );
        let filters = get_json(&router, "/api/v1/filters").await;
        assert_eq!(
            (&filters["filters"][0]["name"], &filters["filters"][0]["on_error"]),
            (&"shared".into(), &"closed".into())
        );
    });
}

#[tokio::test]
async fn changes_need_the_token() {
    let fixture = with_token();
    let router = Router::new(endpoints(), fixture.context);
    // The scheme has no case.
    let good = format!("bearer {TOKEN}");
    let post = async |token| ask(&router, &Method::POST, "/api/v1/reload", token).await;
    let (head, body) = post(None).await;
    assert_eq!(
        (head.status(), header(&head, WWW_AUTHENTICATE)),
        (StatusCode::UNAUTHORIZED, "Bearer realm=\"sluice admin\"")
    );
    assert_eq!(header(&head, CONTENT_TYPE), "application/problem+json");
    let problem: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((&problem["status"], &problem["title"]), (&401.into(), &"Unauthorized".into()));
    for wrong in ["Bearer nonsense", "Bearer ", "Basic YTpi", TOKEN, "Bearer a-token-of-some-lengti"] {
        assert_eq!(post(Some(wrong)).await.0.status(), StatusCode::UNAUTHORIZED, "{wrong}");
    }
    let (head, body) = post(Some(&good)).await;
    let reload: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((head.status(), &reload["result"]), (StatusCode::OK, &"ok".into()), "{reload}");
    assert_eq!(reload["restart_needed"][0], "gateway.workers");
    assert_eq!(get_json(&router, "/api/v1/status").await["generation"], 2);

    *fixture.refuse.lock().unwrap() = Some("gateway.toml:1:1: broken".into());
    let (head, body) = post(Some(&good)).await;
    let problem: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        (head.status(), &problem["errors"][0]),
        (StatusCode::UNPROCESSABLE_ENTITY, &"gateway.toml:1:1: broken".into())
    );
    // Whoever may read it need not see what the file says.
    let status = get_json(&router, "/api/v1/status").await;
    let last = &status["last_reload"];
    assert_eq!(
        (&status["generation"], &last["result"], &last["error_count"]),
        (&2.into(), &"refused".into(), &1.into())
    );
    assert!(!status.to_string().contains("broken"), "{status}");
}

#[tokio::test]
async fn weights_that_make_no_sense_are_refused() {
    let router = Router::new(endpoints(), with_token().context);
    let good = format!("Bearer {TOKEN}");
    let long = format!("{{\"weights\": {{}}, \"save\": {}true}}", " ".repeat(70_000));
    for (route, body, status, says) in [
        ("name", "", 400, "EOF"),
        ("name", "{\"weights\": {\"blue\": -1}}", 400, "-1"),
        ("name", "{\"weights\": {}, \"saved\": true}", 400, "`saved`"),
        ("name", &long, 413, "65536"),
        ("none", "{\"weights\": {}}", 404, "`none`"),
        ("other", "{\"weights\": {}}", 422, "`upstreams`"),
        ("name", "{\"weights\": {\"blue\": 1}}", 422, "`green`"),
        ("name", "{\"weights\": {\"blue\": 1, \"green\": 1, \"red\": 1}}", 422, "`green`"),
        ("name", "{\"weights\": {\"blue\": 0, \"green\": 0}}", 422, "above 0"),
        ("name", "{\"weights\": {\"blue\": 1000001, \"green\": 0}}", 422, "1000000"),
    ] {
        let path = format!("/api/v1/routes/{route}/weights");
        let (head, answer) = send(&router, &Method::PUT, &path, Some(&good), body).await;
        let answer = String::from_utf8(answer).expect("text");
        assert!(head.status() == status && answer.contains(says), "{route} {body:.60}: {} {answer}", head.status());
    }
    let (head, _) = send(&router, &Method::PUT, "/api/v1/routes/name/weights", None, "{").await;
    assert_eq!(head.status(), StatusCode::UNAUTHORIZED, "the token comes before the body");
}

#[tokio::test]
async fn nothing_can_be_changed_without_a_configured_token() {
    for admin in ["", "[admin]\nbind = \"127.0.0.1:0\"\n"] {
        let fixture = fixture(admin);
        let router = Router::new(endpoints(), fixture.context);
        let (head, body) = ask(&router, &Method::POST, "/api/v1/reload", Some("Bearer ")).await;
        assert_eq!(head.status(), StatusCode::FORBIDDEN);
        let text = String::from_utf8(body).expect("text");
        assert!(text.contains("`token`") && text.contains("`[admin]`"), "{text}");
    }
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let fixture = with_token();
    let router = Router::new(endpoints(), fixture.context);
    for (method, path, allow) in [
        (Method::POST, "/metrics", "GET, HEAD"),
        (Method::DELETE, "/api/v1/upstreams/name", "GET, HEAD"),
        (Method::GET, "/api/v1/reload", "POST"),
        (Method::POST, "/api/v1/routes/name/weights", "PUT"),
    ] {
        let (head, _) = ask(&router, &method, path, None).await;
        assert_eq!((head.status(), header(&head, ALLOW)), (StatusCode::METHOD_NOT_ALLOWED, allow), "{path}");
    }
    for path in ["/nothing", "/api/v1", "/api/v1/upstreams/", "/api/v1/upstreams/a/b", "/api/v1/upstreams/%ff", "*"] {
        assert_eq!(ask(&router, &Method::GET, path, None).await.0.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(ask(&router, &Method::HEAD, "/metrics", None).await.0.status(), StatusCode::OK);
}

#[tokio::test]
async fn readiness_follows_the_life_of_the_gateway() {
    let fixture = fixture("");
    let control = fixture.context.control.clone();
    let router = Router::new(endpoints(), fixture.context);
    let get = async |path| {
        let (head, body) = ask(&router, &Method::GET, path, None).await;
        (head.status().as_u16(), String::from_utf8(body).expect("text"))
    };
    assert_eq!(get("/readyz").await, (503, "starting\n".into()));
    control.serving();
    assert_eq!(get("/readyz").await, (200, "serving\n".into()));
    control.shut_down();
    control.serving();
    assert_eq!(get("/readyz").await, (503, "draining\n".into()));
    assert_eq!(get("/healthz").await, (200, "ok\n".into()), "a draining process lives");
}

#[test]
fn a_taken_address_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let Fixture { context, background, .. } = fixture("");
    let error = start(&BindAddress::Ip(address), context, &background).expect_err("taken");
    assert_eq!(error.to_string(), format!("admin listener cannot bind {address}"));
}

/// Serves these endpoints with these limits.
fn serving(fixture: Fixture, endpoints: Vec<Endpoint>, limits: Limits) -> (SocketAddr, BackgroundThread) {
    let (bound, mut listeners) = sockets::bind(&BindAddress::Ip(([127, 0, 0, 1], 0).into()), 1).expect("a free port");
    let BindAddress::Ip(address) = bound.address else { panic!("another kind of address") };
    let router = Arc::new(Router::new(endpoints, fixture.context));
    server::start(listeners.remove(0), router, &fixture.background, limits);
    (address, fixture._thread)
}

fn client(address: SocketAddr, request: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("a connection");
    client.set_read_timeout(Some(LONG)).expect("a socket");
    client.write_all(request.as_bytes()).expect("a request");
    client
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[test]
fn slow_clients_lose_their_place() {
    let limits = Limits { connections: 1, header: Duration::from_millis(50), stall: Duration::from_millis(50) };
    // More than the buffers of two sockets.
    let mut served = endpoints();
    served.push(Endpoint::text("/large", TEXT, "", |_| vec![b'x'; 64 << 20].into()));
    let (address, _thread) = serving(fixture(""), served, limits);
    for (what, request) in [
        ("sends nothing", ""),
        ("does not end its head", "GET /healthz HTTP/1.1\r\nhost"),
        ("is idle", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"),
        ("takes no bytes", "GET /large HTTP/1.1\r\nhost: x\r\n\r\n"),
    ] {
        // It holds the only place until the gateway gives it up.
        let _slow = client(address, request);
        let mut answer = String::new();
        client(address, HEALTH).read_to_string(&mut answer).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{what}: {answer}");
    }
}

#[test]
fn a_long_rendering_holds_up_nothing_else() {
    static RENDERING: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>> = Mutex::new(None);
    let (begun, begins) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    *RENDERING.lock().unwrap() = Some((begun, wait));
    let mut served = endpoints();
    served.push(Endpoint::text("/long", TEXT, "", |_| {
        let (begun, wait) = RENDERING.lock().unwrap().take().expect("one rendering");
        begun.send(()).expect("the test waits");
        wait.recv_timeout(LONG).expect("the word to go on");
        Bytes::from_static(b"rendered")
    }));
    let fixture = fixture("");
    let background = fixture.background.clone();
    let (address, _thread) = serving(fixture, served, server::LIMITS);
    let mut long = client(address, "GET /long HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    begins.recv_timeout(LONG).expect("it renders");
    let mut answer = String::new();
    client(address, HEALTH).read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (ran, runs) = mpsc::channel();
    background.spawn("test", move || async move { ran.send(()).unwrap_or_default() }).detach();
    runs.recv_timeout(LONG).expect("other tasks run");
    go.send(()).expect("it waits");
    let mut answer = String::new();
    long.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("rendered"), "{answer}");
}
