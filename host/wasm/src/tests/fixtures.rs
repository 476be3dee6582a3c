//! Components that were built for an older version of the interface, committed as they were built: they load, take their config and answer.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use super::*;

/// What is expected of a fixture.
struct Fixture {
    file: &'static str,
    config: &'static str,
    hook: Hook,
    /// What it does to the exchange of [`request`].
    answer: fn(&Exchange, Verdict),
}

fn component(file: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/components/fixtures-0.1.0");
    let file = std::fs::File::open(folder.join(file)).unwrap();
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn request() -> Box<Exchange> {
    let mut exchange = exchange();
    exchange.route = Arc::new(RouteFacts { name: "r".into(), upstreams: vec!["things".into()], snapshot: 0 });
    let headers = &mut exchange.request.headers;
    headers.insert("origin", HeaderValue::from_static("https://app.example.org"));
    headers.insert("x-api-key", HeaderValue::from_static("key17"));
    headers.insert("x-in", HeaderValue::from_static("hello"));
    exchange
}

const FIXTURES: [Fixture; 6] = [
    Fixture {
        file: "cors.wasm.gz",
        config: r#"{"origins":["https://app.example.org"]}"#,
        hook: Hook::OnResponse,
        answer: |exchange, _| {
            let headers = &exchange.response.as_ref().unwrap().headers;
            assert_eq!(headers["access-control-allow-origin"], "https://app.example.org");
        },
    },
    Fixture {
        file: "jwt-auth.wasm.gz",
        config: r#"{"secret":"0123456789abcdef0123456789abcdef","algorithms":["HS256"]}"#,
        hook: Hook::OnRequest,
        answer: |exchange, verdict| {
            assert_eq!(verdict, Verdict::Respond);
            assert_eq!(exchange.draft.as_ref().unwrap().status, 401);
        },
    },
    Fixture {
        file: "rate-limit.wasm.gz",
        config: r#"{"limits":[{"key":"header:x-api-key","amount":10,"window":"1m"}]}"#,
        hook: Hook::OnRequest,
        answer: |_, verdict| assert_eq!(verdict, Verdict::Continue),
    },
    Fixture {
        file: "rust-header.wasm.gz",
        config: r#"{"copy_from":"x-in","copy_to":"x-out","response_header":"x-resp","response_value":"1"}"#,
        hook: Hook::OnRequest,
        answer: |exchange, _| assert_eq!(exchange.request.headers["x-out"], "hello"),
    },
    Fixture {
        file: "traffic-split.wasm.gz",
        config: r#"{"split":[{"upstream":"things","weight":1}]}"#,
        hook: Hook::SelectUpstream,
        answer: |exchange, _| assert_eq!(exchange.selection.upstream.as_deref(), Some("things")),
    },
    Fixture {
        file: "transform.wasm.gz",
        config: r#"{"request":{"headers":{"set":{"x-set":"1"}}}}"#,
        hook: Hook::OnRequest,
        answer: |exchange, _| assert_eq!(exchange.request.headers["x-set"], "1"),
    },
];

#[test]
fn components_of_the_first_version_load_and_answer_in_both_ways() {
    let runtime = runtime();
    for Fixture { file, config, hook, answer } in FIXTURES {
        let (bytes, name) = (component(file), file.trim_end_matches(".wasm.gz"));
        for mode in [CallMode::Auto, CallMode::Component] {
            let plugin = runtime.load_for("guest", &bytes, mode).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(plugin.interface_version(), "0.1.0", "{name}");
            assert_eq!(is_direct(&plugin), mode == CallMode::Auto, "{name}: {:?}", plugin.not_direct());
            assert_eq!(plugin.description().name.as_deref(), Some(name));
            let grants = Grants { read: HeaderGrant::All, write: HeaderGrant::All, ..Grants::default() };
            let spec = ProgramSpec { config: config.into(), grants, ..spec(Mode::Reused, limits()) };
            let program = Program::new(plugin, spec).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(program.warnings(), [""; 0], "{name}");
            let (exchange, verdict) = run(async { Pool::new(Arc::new(program)).call(hook, request(), 0).await });
            answer(&exchange, verdict.unwrap_or_else(|error| panic!("{name}: {error}")));
        }
    }
}
