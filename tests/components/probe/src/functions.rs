//! Every function of the interface by its name, with arguments from the config: `["request.set-header", "x-a", "1"]`. What it answers
//! becomes text.

use std::cell::RefCell;
use std::fmt::Debug;

use serde_json::Value;

use crate::actions::describe;
use crate::bindings::sluice::filter::types::{Error, Field, HeaderChange, HeaderEdit};
use crate::bindings::sluice::filter::{
    cache, chunk, clock, concurrency, consumers, context, crypto, interest, kv, limiter, log, metrics, random, request,
    response, route, secrets, state,
};

thread_local! {
    /// The last bytes that a function answered: what was signed is verified.
    static LAST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Text over so many bytes is shortened.
const SHOWN: usize = 160;

/// Calls these functions, one after the other.
pub(crate) fn call_all(calls: &Value) -> String {
    let calls = calls.as_array().into_iter().flatten();
    let answers = calls.map(|call| {
        let name = call[0].as_str().unwrap();
        let (word, text) = match answer(name, &With(&call.as_array().unwrap()[1..])) {
            Ok(text) => ("ok", text),
            Err(error) => ("error", describe(&error)),
        };
        format!("{name} {word} {}", shortened(&text))
    });
    answers.collect::<Vec<_>>().join(" | ")
}

/// The text, or its length, a hash of it (FNV-1a) and its beginning.
fn shortened(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.into();
    }
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{} bytes {hash:016x}: {}", text.len(), text.chars().take(SHOWN / 4).collect::<String>())
}

/// The arguments of a call.
struct With<'a>(&'a [Value]);

impl With<'_> {
    fn at(&self, number: usize) -> &Value {
        self.0.get(number).unwrap_or(&Value::Null)
    }

    fn text(&self, number: usize) -> String {
        text(self.at(number))
    }

    /// `false` and what is missing are none.
    fn is_there(&self, number: usize) -> bool {
        !matches!(self.at(number), Value::Null | Value::Bool(false))
    }

    fn maybe_text(&self, number: usize) -> Option<String> {
        self.is_there(number).then(|| self.text(number))
    }

    fn bytes(&self, number: usize) -> Vec<u8> {
        bytes(self.at(number))
    }

    fn maybe_bytes(&self, number: usize) -> Option<Vec<u8>> {
        self.is_there(number).then(|| self.bytes(number))
    }

    fn number(&self, number: usize) -> u64 {
        self.at(number).as_u64().unwrap()
    }

    fn short(&self, number: usize) -> u32 {
        u32::try_from(self.number(number)).unwrap()
    }

    fn float(&self, number: usize) -> f64 {
        self.at(number).as_f64().unwrap()
    }

    fn texts(&self, number: usize) -> Vec<String> {
        texts(self.at(number))
    }

    fn edits(&self, number: usize) -> Vec<HeaderEdit> {
        let change = |edit: &Value| match edit[0].as_str().unwrap() {
            "set" => HeaderChange::Set(text(&edit[2])),
            "append" => HeaderChange::Append(text(&edit[2])),
            _ => HeaderChange::Remove,
        };
        let all = self.at(number).as_array().into_iter().flatten();
        all.map(|edit| HeaderEdit { name: text(&edit[1]), change: change(edit) }).collect()
    }

    fn labels(&self, number: usize) -> Vec<metrics::Label> {
        let all = self.at(number).as_array().into_iter().flatten();
        all.map(|label| metrics::Label { name: text(&label[0]), value: text(&label[1]) }).collect()
    }

    fn value(&self, number: usize) -> context::Value {
        let value = &self.at(number)[1];
        match self.at(number)[0].as_str().unwrap() {
            "text" => context::Value::Text(text(value)),
            "integer" => context::Value::Integer(value.as_i64().unwrap()),
            "float" => context::Value::Float(value.as_f64().unwrap()),
            "boolean" => context::Value::Boolean(value.as_bool().unwrap()),
            "texts" => context::Value::Texts(texts(value)),
            _ => context::Value::Json(text(value)),
        }
    }

    fn limits(&self, number: usize) -> Vec<limiter::Limit> {
        let limit = |limit: &Value| limiter::Limit {
            key: text(&limit[0]),
            algorithm: match limit[1].as_str().unwrap() {
                "token-bucket" => limiter::Algorithm::TokenBucket,
                "leaky-bucket" => limiter::Algorithm::LeakyBucket,
                "sliding-window" => limiter::Algorithm::SlidingWindow,
                _ => limiter::Algorithm::FixedWindow,
            },
            amount: limit[2].as_u64().unwrap(),
            window_ms: limit[3].as_u64().unwrap(),
            burst: limit[4].as_u64().unwrap(),
        };
        self.at(number).as_array().into_iter().flatten().map(limit).collect()
    }

    fn places(&self, number: usize) -> Vec<concurrency::PlaceLimit> {
        let place = |place: &Value| concurrency::PlaceLimit {
            key: text(&place[0]),
            amount: place[1].as_u64().unwrap().try_into().unwrap(),
        };
        self.at(number).as_array().into_iter().flatten().map(place).collect()
    }

    fn level(&self, number: usize) -> log::Level {
        match self.at(number).as_str().unwrap() {
            "trace" => log::Level::Trace,
            "debug" => log::Level::Debug,
            "info" => log::Level::Info,
            "warn" => log::Level::Warn,
            _ => log::Level::Error,
        }
    }
}

/// A string, or a string and how often it is repeated.
fn text(value: &Value) -> String {
    match value {
        Value::Array(parts) => parts[0].as_str().unwrap().repeat(parts[1].as_u64().unwrap() as usize),
        other => other.as_str().unwrap().into(),
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// The bytes of a text, or numbers, or (`true`) the last bytes that a function answered.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Bool(_) => LAST.with_borrow(Vec::clone),
        Value::Array(parts) if parts.iter().all(Value::is_u64) => {
            parts.iter().map(|part| part.as_u64().unwrap() as u8).collect()
        }
        other => text(other).into_bytes(),
    }
}

type Answer = Result<String, Error>;

fn shown<T: Debug>(answer: Result<T, Error>) -> Answer {
    answer.map(|value| format!("{value:?}"))
}

/// The same, and the bytes are kept.
fn kept(answer: Result<Vec<u8>, Error>) -> Answer {
    if let Ok(bytes) = &answer {
        LAST.set(bytes.clone());
    }
    shown(answer)
}

/// All fields but those that differ from request to request.
fn fields(answer: Result<Vec<Field>, Error>) -> Answer {
    let text = |field: Field| format!("{}={:?}", field.name, field.value);
    answer.map(|all| {
        all.into_iter()
            .filter(|field| !["x-request-id", "traceparent", "date"].contains(&&*field.name))
            .map(text)
            .collect::<Vec<_>>()
            .join(",")
    })
}

fn answer(function: &str, with: &With<'_>) -> Answer {
    let Some((interface, name)) = function.split_once('.') else { panic!("`{function}` is no function") };
    match interface {
        "interest" => interests(name, with),
        "request" => requests(name, with),
        "response" => responses(name, with),
        "route" => routes(name, with),
        "state" | "context" | "consumers" | "cache" | "chunk" => facts(function, with),
        "log" | "clock" | "random" => guests(function, with),
        "crypto" => cryptography(name, with),
        _ => services(function, with),
    }
}

fn unknown(function: &str) -> ! {
    panic!("the probe does not know the function `{function}`")
}

fn interests(name: &str, with: &With<'_>) -> Answer {
    shown(match name {
        "hook" => interest::hook(&with.text(0), true),
        "request-body" => interest::request_body(with.number(0), &with.texts(1)),
        "response-body" => interest::response_body(with.number(0), &with.texts(1)),
        "request-chunks" => interest::request_chunks(&with.texts(0)),
        "response-chunks" => interest::response_chunks(&with.texts(0)),
        "response-events" => interest::response_events(&with.texts(0)),
        "needs" => interest::needs(&with.text(0)),
        _ => unknown(name),
    })
}

fn requests(name: &str, with: &With<'_>) -> Answer {
    match name {
        "method" => request::method(),
        "set-method" => shown(request::set_method(&with.text(0))),
        "scheme" => request::scheme(),
        "authority" => request::authority(),
        "path" => request::path(),
        "set-path" => shown(request::set_path(&with.text(0))),
        "query" => shown(request::query()),
        "set-query" => shown(request::set_query(with.maybe_text(0).as_deref())),
        "protocol" => request::protocol(),
        "client-address" => request::client_address(),
        "client-certificate" => shown(request::client_certificate()),
        "id" => request::id().map(|id| id.len().to_string()),
        "header" => shown(request::header(&with.text(0))),
        "header-values" => shown(request::header_values(&with.text(0))),
        "header-bytes" => shown(request::header_bytes(&with.text(0))),
        "headers" => fields(request::headers()),
        "set-header" => shown(request::set_header(&with.text(0), &with.text(1))),
        "set-header-bytes" => shown(request::set_header_bytes(&with.text(0), &with.bytes(1))),
        "append-header" => shown(request::append_header(&with.text(0), &with.text(1))),
        "remove-header" => shown(request::remove_header(&with.text(0))),
        "edit-headers" => shown(request::edit_headers(&with.edits(0))),
        "want-body" => shown(request::want_body(with.number(0))),
        "body-length" => shown(request::body_length()),
        "body" => shown(request::body(with.number(0), with.number(1))),
        "set-body" => shown(request::set_body(&with.bytes(0))),
        _ => unknown(name),
    }
}

fn responses(name: &str, with: &With<'_>) -> Answer {
    match name {
        "origin" => shown(response::origin()),
        "status" => shown(response::status()),
        "set-status" => shown(response::set_status(with.number(0) as u16)),
        "set-reason" => shown(response::set_reason(&with.text(0))),
        "header" => shown(response::header(&with.text(0))),
        "header-values" => shown(response::header_values(&with.text(0))),
        "header-bytes" => shown(response::header_bytes(&with.text(0))),
        "headers" => fields(response::headers()),
        "set-header" => shown(response::set_header(&with.text(0), &with.text(1))),
        "set-header-bytes" => shown(response::set_header_bytes(&with.text(0), &with.bytes(1))),
        "append-header" => shown(response::append_header(&with.text(0), &with.text(1))),
        "remove-header" => shown(response::remove_header(&with.text(0))),
        "edit-headers" => shown(response::edit_headers(&with.edits(0))),
        "want-body" => shown(response::want_body(with.number(0))),
        "body-length" => shown(response::body_length()),
        "body" => shown(response::body(with.number(0), with.number(1))),
        "set-body" => shown(response::set_body(&with.bytes(0))),
        "cache-status" => shown(response::cache_status()),
        "trailer" => shown(response::trailer(&with.text(0))),
        "trailers" => fields(response::trailers()),
        "set-trailer" => shown(response::set_trailer(&with.text(0), &with.text(1))),
        "remove-trailer" => shown(response::remove_trailer(&with.text(0))),
        _ => unknown(name),
    }
}

fn routes(name: &str, with: &With<'_>) -> Answer {
    match name {
        "name" => route::name(),
        "param" => shown(route::param(&with.text(0))),
        "upstreams" => shown(route::upstreams()),
        "endpoints" => route::endpoints().map(|all| {
            let minute = 60_000_000;
            let text = |e: route::Endpoint| {
                let quick = e.latency_us < minute;
                format!("{} {} {} {} {} {quick}", e.upstream, e.address, e.weight, e.healthy, e.active)
            };
            all.into_iter().map(text).collect::<Vec<_>>().join(",")
        }),
        "endpoint-label" => shown(route::endpoint_label(&with.text(0), &with.text(1), &with.text(2))),
        "state-of-endpoint" => shown(route::state_of_endpoint(&with.text(0), &with.text(1)).map(|state| {
            // Times differ.
            state.map(|state| (state.out, state.requests))
        })),
        "failures" => shown(route::failures()),
        "failed-attempts" => shown(route::failed_attempts()),
        "retries" => shown(route::retries()),
        "no-retry" => shown(route::no_retry()),
        "choose-upstream" => shown(route::choose_upstream(&with.text(0))),
        "choose-endpoints" => shown(route::choose_endpoints(&with.texts(0))),
        "hash-key" => shown(route::hash_key(&with.text(0))),
        // Ids and times differ.
        "summary" => route::summary().map(|text| {
            let members: Value = serde_json::from_str(&text).unwrap();
            members.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(",")
        }),
        _ => unknown(name),
    }
}

fn facts(function: &str, with: &With<'_>) -> Answer {
    match function {
        "cache.set-key-part" => shown(cache::set_key_part(&with.text(0), &with.text(1))),
        "cache.add-tag" => shown(cache::add_tag(&with.text(0))),
        "cache.set-freshness" => {
            let maybe = |number| with.is_there(number).then(|| with.number(number));
            shown(cache::set_freshness(with.number(0), maybe(1), maybe(2)))
        }
        "cache.no-store" => shown(cache::no_store()),
        "chunk.length" => shown(chunk::length()),
        "chunk.read" => shown(chunk::read(with.number(0), with.number(1))),
        "chunk.is-last" => shown(chunk::is_last()),
        "chunk.replace" => shown(chunk::replace(&with.bytes(0))),
        "chunk.hold" => shown(chunk::hold(with.number(0))),
        "chunk.end" => shown(chunk::end()),
        "chunk.pass-rest" => shown(chunk::pass_rest()),
        "chunk.event-name" => shown(chunk::event_name()),
        "chunk.event-id" => shown(chunk::event_id()),
        "chunk.event-data" => shown(chunk::event_data()),
        "chunk.set-event-data" => shown(chunk::set_event_data(&with.text(0))),
        "state.get" => shown(state::get()),
        "state.set" => shown(state::set(&with.bytes(0))),
        "context.get" => shown(context::get(&with.text(0))),
        "context.get-path" => shown(context::get_path(&with.text(0), &with.texts(1))),
        "context.set" => shown(context::set(&with.text(0), &with.value(1))),
        "context.writer" => shown(context::writer(&with.text(0))),
        "consumers.authenticate" => shown(consumers::authenticate(&with.text(0), &with.text(1))),
        "consumers.recall-password" => shown(consumers::recall_password(&with.text(0), &with.bytes(1))),
        "consumers.vouch" => shown(consumers::vouch(&with.text(0), &with.text(1))),
        "consumers.token-verifier" => shown(consumers::token_verifier(&consumers::ConsumerTokenRules {
            algorithms: with.texts(0),
            typ: with.maybe_text(1),
        })),
        "consumers.verify-token" => shown(consumers::verify_token(with.short(0), &with.bytes(1))),
        "consumers.known" => shown(consumers::known()),
        "consumers.plan" => shown(consumers::plan()),
        "consumers.label" => shown(consumers::label(&with.text(0))),
        "consumers.labels" => shown(consumers::labels()),
        "consumers.method" => shown(consumers::method()),
        "context.consumer" => shown(context::consumer()),
        "context.set-consumer" => shown(context::set_consumer(&with.text(0))),
        _ => unknown(function),
    }
}

fn guests(function: &str, with: &With<'_>) -> Answer {
    match function {
        "log.log" => {
            log::log(with.level(0), &with.text(1));
            shown(Ok(()))
        }
        "log.enabled" => shown(Ok(log::enabled(with.level(0)))),
        "log.fail" => {
            log::fail(&with.text(0));
            shown(Ok(()))
        }
        // Later than the year 2001, and before 2286.
        "clock.now-us" => shown(Ok((1_000_000_000_000_000..10_000_000_000_000_000).contains(&clock::now_us()))),
        "clock.monotonic-ns" => shown(Ok(clock::monotonic_ns() <= clock::monotonic_ns())),
        "random.bytes" => shown(random::bytes(with.short(0)).map(|bytes| bytes.len())),
        "random.number" => shown(random::number().and_then(|number| Ok(number == random::number()?))),
        _ => unknown(function),
    }
}

fn cryptography(name: &str, with: &With<'_>) -> Answer {
    match name {
        "key-set" => shown(crypto::key_set(&with.text(0))),
        "verify" => shown(crypto::verify(
            with.short(0),
            &with.text(1),
            with.maybe_text(2).as_deref(),
            &with.bytes(3),
            &with.bytes(4),
        )),
        "token-verifier" => shown(crypto::token_verifier(&crypto::TokenRules {
            key_set: with.short(0),
            algorithms: with.texts(1),
            typ: with.maybe_text(2),
            remember: with.short(3),
        })),
        "verify-token" => shown(crypto::verify_token(with.short(0), &with.bytes(1))),
        "verify-bearer" => shown(crypto::verify_bearer(with.short(0))),
        "sign" => kept(crypto::sign(with.short(0), &with.text(1), with.maybe_text(2).as_deref(), &with.bytes(3))),
        "hash" => kept(crypto::hash(&with.text(0), &with.bytes(1))),
        "hmac" => kept(crypto::hmac(&with.text(0), &with.bytes(1), &with.bytes(2))),
        "equal" => shown(crypto::equal(&with.bytes(0), &with.bytes(1))),
        _ => unknown(name),
    }
}

/// The times to come differ by what has passed.
fn standings(all: &[limiter::Standing]) -> String {
    let text =
        |s: &limiter::Standing| format!("{} {} {} {}", s.allowed, s.remaining, s.reset_ms > 0, s.retry_after_ms > 0);
    all.iter().map(text).collect::<Vec<_>>().join(",")
}

fn services(function: &str, with: &With<'_>) -> Answer {
    match function {
        "limiter.take" => limiter::take(&with.limits(0), with.number(1)).map(|all| standings(&all)),
        "concurrency.enter" => concurrency::enter(&with.places(0), &with.limits(1), with.number(2))
            .map(|admission| format!("{:?} {}", admission.full, standings(&admission.standings))),
        "kv.get" => shown(kv::get(&with.text(0), &with.text(1))),
        "kv.set" => shown(kv::set(&with.text(0), &with.text(1), &with.bytes(2), with.at(3).as_u64())),
        "kv.delete" => shown(kv::delete(&with.text(0), &with.text(1))),
        "kv.compare-and-swap" => shown(kv::compare_and_swap(
            &with.text(0),
            &with.text(1),
            with.maybe_bytes(2).as_deref(),
            &with.bytes(3),
            with.at(4).as_u64(),
        )),
        "kv.get-or-reserve" => shown(kv::get_or_reserve(&with.text(0), &with.text(1), with.number(2))),
        #[cfg(feature = "waiting")]
        "http.send" => send(with),
        #[cfg(feature = "waiting")]
        "kv-wait.wait" => shown(crate::bindings::sluice::filter::kv_wait::wait(
            &with.text(0),
            &with.text(1),
            u32::try_from(with.number(2)).unwrap_or(u32::MAX),
        )),
        #[cfg(feature = "waiting")]
        "passwords.authenticate" => {
            shown(crate::bindings::sluice::filter::passwords::authenticate(&with.text(0), &with.bytes(1)))
        }
        "secrets.get" => secrets::get(&with.text(0)),
        "metrics.count" => shown(metrics::count(&with.text(0), &with.labels(1), with.number(2))),
        "metrics.gauge" => shown(metrics::gauge(&with.text(0), &with.labels(1), with.float(2))),
        "metrics.observe" => shown(metrics::observe(&with.text(0), &with.labels(1), with.float(2))),
        _ => unknown(function),
    }
}

/// Requests as lists of method, URL, pairs of header fields, and body.
#[cfg(feature = "waiting")]
fn send(with: &With<'_>) -> Answer {
    use crate::bindings::sluice::filter::http;
    let header = |pair: &Value| Field { name: text(&pair[0]), value: text(&pair[1]) };
    let outgoing = |request: &Value| http::Outgoing {
        method: text(&request[0]),
        url: text(&request[1]),
        headers: request[2].as_array().into_iter().flatten().map(header).collect(),
        body: bytes(&request[3]),
    };
    let all: Vec<_> = with.at(0).as_array().into_iter().flatten().map(outgoing).collect();
    let text = |answer: Result<http::Incoming, Error>| match answer {
        Ok(answer) => format!("{} {:?} {}", answer.status, answer.headers, shortened(&format!("{:?}", answer.body))),
        Err(error) => describe(&error),
    };
    http::send(&all, with.short(1)).map(|answers| answers.into_iter().map(text).collect::<Vec<_>>().join(","))
}
