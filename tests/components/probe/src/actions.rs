//! The actions of the probe. Each is an object: `do` says what, `to` names the header of the current message that gets
//! the result (an error of the host as its name and text), `if-header` skips the action for requests without that header.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::hint::black_box;

use serde_json::{Value, json};

use crate::bindings::sluice::filter::{
    clock, context, crypto, interest, kv, limiter, log, metrics, random, request, response, route, secrets, state,
    types,
};

/// How the actions of a hook ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Continue,
    Respond,
    Nonsense,
}

thread_local! {
    static CONFIG: RefCell<Value> = const { RefCell::new(Value::Null) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static PANICS: Cell<bool> = const { Cell::new(false) };
}

const HOOKS: [&str; 10] = [
    "on-request",
    "on-request-body",
    "select-upstream",
    "on-request-chunk",
    "on-response",
    "on-response-body",
    "on-response-chunk",
    "on-response-event",
    "on-response-trailers",
    "on-complete",
];

pub(crate) fn description() -> String {
    json!({"name": "probe", "version": "0.1.0", "hooks": HOOKS, "description": "does what its config says"}).to_string()
}

/// Takes the config, declares the interests that follow from it, and runs the actions of `configure`.
pub(crate) fn configure(text: &str) -> Result<Outcome, String> {
    let config: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let obedient = config["obey"].as_bool().unwrap_or(false);
    for hook in HOOKS {
        if config[hook].is_null() && !obedient {
            interest::hook(hook, false).map_err(|e| format!("{hook}: {e:?}"))?;
        }
    }
    let limit = config["body-limit"].as_u64().unwrap_or(1 << 20);
    let types: Vec<String> =
        config["body-types"].as_array().into_iter().flatten().filter_map(|t| t.as_str().map(String::from)).collect();
    if !config["on-request-body"].is_null() && config["ask"].is_null() || obedient {
        interest::request_body(limit, &types).map_err(|e| format!("body-limit: {e:?}"))?;
    }
    if !config["on-response-body"].is_null() && config["ask"].is_null() || obedient {
        interest::response_body(limit, &types).map_err(|e| format!("body-limit: {e:?}"))?;
    }
    let types = |key: &str| -> Vec<String> {
        config[key].as_array().into_iter().flatten().filter_map(|t| t.as_str().map(String::from)).collect()
    };
    if !config["on-request-chunk"].is_null() {
        interest::request_chunks(&types("chunk-types")).map_err(|e| format!("chunk-types: {e:?}"))?;
    }
    if !config["on-response-chunk"].is_null() {
        interest::response_chunks(&types("chunk-types")).map_err(|e| format!("chunk-types: {e:?}"))?;
    }
    if !config["on-response-event"].is_null() {
        interest::response_events(&types("event-types")).map_err(|e| format!("event-types: {e:?}"))?;
    }
    let actions = config["configure"].clone();
    CONFIG.set(config);
    for action in actions.as_array().into_iter().flatten() {
        match text_of(action, "do") {
            "refuse" => return Err(text_of(action, "message").to_string()),
            "key-set" => {
                let source = action["source"].to_string();
                let set = crypto::key_set(&source).map_err(|e| format!("configure: {e:?}"))?;
                log::log(log::Level::Info, &format!("key set {set}"));
            }
            _ => {
                if act("configure", action) == Some(Outcome::Nonsense) {
                    return Ok(Outcome::Nonsense);
                }
            }
        }
    }
    Ok(Outcome::Continue)
}

/// Runs the actions of a hook. With `"obey": true` the request's header `x-probe: <hook>=<action>` comes first.
pub(crate) fn run(hook: &str) -> Outcome {
    CALLS.set(CALLS.get() + 1);
    let (obedient, actions) = CONFIG.with_borrow(|c| (c["obey"] == true, c[hook].clone()));
    if obedient && let Ok(Some(order)) = request::header("x-probe") {
        for (at, what) in order.split(',').filter_map(|o| o.split_once('=')) {
            if at == hook {
                // Half-made work, to be seen by nobody when the call fails.
                match hook {
                    "on-request" | "on-request-body" | "on-response" | "on-response-body" => {
                        set_header(hook, "x-half", "1").unwrap()
                    }
                    _ => {}
                }
                let action = match what.split_once('@') {
                    Some((name, url)) => json!({"do": name, "url": url}),
                    None => json!({"do": what}),
                };
                if let Some(outcome) = act(hook, &action) {
                    return outcome;
                }
            }
        }
    }
    for action in actions.as_array().into_iter().flatten() {
        if let Some(needed) = action["if-header"].as_str()
            && !matches!(request::header(needed), Ok(Some(_)))
        {
            continue;
        }
        if sees_pieces(hook) {
            if !crate::pieces::is_for(action) {
                continue;
            }
            if crate::pieces::act(text_of(action, "do"), action).is_some() {
                continue;
            }
        }
        if let Some(outcome) = act(hook, action) {
            return outcome;
        }
    }
    Outcome::Continue
}

fn sees_pieces(hook: &str) -> bool {
    matches!(hook, "on-request-chunk" | "on-response-chunk" | "on-response-event")
}

fn text_of<'a>(action: &'a Value, key: &str) -> &'a str {
    action[key].as_str().unwrap_or("")
}

fn on_the_way_out(hook: &str) -> bool {
    matches!(hook, "on-response" | "on-response-body" | "on-response-trailers")
}

fn set_header(hook: &str, name: &str, value: &str) -> Result<(), types::Error> {
    if on_the_way_out(hook) { response::set_header(name, value) } else { request::set_header(name, value) }
}

/// Makes the changes in `edits`, each a list: a name, and a value to set or else nothing to remove it.
fn edit_headers(hook: &str, action: &Value) -> Result<(), types::Error> {
    let change = |value: &Value| match value.as_str() {
        Some(value) => types::HeaderChange::Set(value.into()),
        None => types::HeaderChange::Remove,
    };
    let edit =
        |edit: &Value| types::HeaderEdit { name: edit[0].as_str().unwrap_or("").into(), change: change(&edit[1]) };
    let edits: Vec<_> = action["edits"].as_array().into_iter().flatten().map(edit).collect();
    if on_the_way_out(hook) { response::edit_headers(&edits) } else { request::edit_headers(&edits) }
}

/// Leaves a result where the test can see it.
fn leave(hook: &str, action: &Value, result: Result<String, types::Error>) {
    let text = match result {
        Ok(text) => text,
        Err(error) => describe(&error),
    };
    match hook {
        "on-complete" | "configure" | "select-upstream" | "on-request-chunk" | "on-response-chunk"
        | "on-response-event" => log::log(log::Level::Info, &format!("{}: {text}", text_of(action, "to"))),
        "on-response-trailers" => response::set_trailer(text_of(action, "to"), &text).unwrap(),
        _ => set_header(hook, text_of(action, "to"), &text).unwrap(),
    }
}

/// The name of the case, and its text.
pub(crate) fn describe(error: &types::Error) -> String {
    match error {
        types::Error::WrongHook => "wrong-hook".into(),
        types::Error::NotGranted(what) => format!("not-granted: {what}"),
        types::Error::Invalid(what) => format!("invalid: {what}"),
        types::Error::TooLarge(limit) => format!("too-large: {limit}"),
        types::Error::Unavailable(what) => format!("unavailable: {what}"),
        types::Error::Timeout => "timeout".into(),
        types::Error::Other(what) => format!("other: {what}"),
    }
}

fn shown<T: Debug>(result: Result<T, types::Error>) -> Result<String, types::Error> {
    result.map(|v| format!("{v:?}"))
}

fn optional(result: Result<Option<String>, types::Error>) -> Result<String, types::Error> {
    result.map(|v| v.unwrap_or_else(|| "none".into()))
}

fn whole_body(hook: &str) -> Vec<u8> {
    if on_the_way_out(hook) {
        response::body(0, response::body_length().unwrap()).unwrap()
    } else {
        request::body(0, request::body_length().unwrap()).unwrap()
    }
}

fn set_body(hook: &str, body: &[u8]) {
    if on_the_way_out(hook) { response::set_body(body).unwrap() } else { request::set_body(body).unwrap() }
}

/// One action; an outcome ends the hook.
fn act(hook: &str, action: &Value) -> Option<Outcome> {
    let name = text_of(action, "name");
    let value = text_of(action, "value");
    match text_of(action, "do") {
        // What a filter should never do.
        "trap" => core::arch::wasm32::unreachable(),
        "panic" => panic!("the probe panics"),
        "spin" => spin(action["ms"].as_u64()),
        "memory" => {
            while core::arch::wasm32::memory_grow::<0>(64) != usize::MAX {}
            panic!("no more memory");
        }
        "nonsense" => return Some(Outcome::Nonsense),
        "fail" => log::fail(if value.is_empty() { "told to" } else { value }),
        #[cfg(feature = "waiting")]
        "call" => call(hook, action),

        // Heads.
        "set-header" => set_header(hook, name, value).unwrap(),
        "try-set-header" => leave(hook, action, set_header(hook, name, value).map(|()| "done".into())),
        "append-header" if on_the_way_out(hook) => response::append_header(name, value).unwrap(),
        "append-header" => request::append_header(name, value).unwrap(),
        "remove-header" if on_the_way_out(hook) => response::remove_header(name).unwrap(),
        "remove-header" => request::remove_header(name).unwrap(),
        "edit-headers" => leave(hook, action, edit_headers(hook, action).map(|()| "done".into())),
        "request-header" => leave(hook, action, optional(request::header(name))),
        "response-header" => leave(hook, action, optional(response::header(name))),
        "headers" => leave(
            hook,
            action,
            request::headers().map(|all| all.into_iter().map(|h| h.name).collect::<Vec<_>>().join(" ")),
        ),
        "set-path" => request::set_path(value).unwrap(),
        "set-query" => request::set_query(Some(value)).unwrap(),
        "set-method" => request::set_method(value).unwrap(),
        "method" => leave(hook, action, request::method()),
        "path" => leave(hook, action, request::path()),
        "client-address" => leave(hook, action, request::client_address()),
        "client-certificate" => leave(hook, action, optional(request::client_certificate())),
        "param" => leave(hook, action, optional(route::param(name))),
        "route" => leave(hook, action, route::name()),
        "set-status" => response::set_status(action["status"].as_u64().unwrap_or(200) as u16).unwrap(),
        "set-reason" => response::set_reason(value).unwrap(),
        "origin" => leave(hook, action, shown(response::origin())),
        "status" => leave(hook, action, response::status().map(|s| s.to_string())),
        "respond" => {
            response::set_status(action["status"].as_u64().unwrap_or(200) as u16).unwrap();
            for (name, value) in action["headers"].as_object().into_iter().flatten() {
                response::set_header(name, value.as_str().unwrap()).unwrap();
            }
            if let Some(body) = action["body"].as_str() {
                response::set_body(body.as_bytes()).unwrap();
            }
            if let Some(reason) = action["reason"].as_str() {
                response::set_reason(reason).unwrap();
            }
            return Some(Outcome::Respond);
        }

        // Bodies and trailers.
        "want-body" if hook == "on-response" => response::want_body(action["max"].as_u64().unwrap()).unwrap(),
        "want-body" => request::want_body(action["max"].as_u64().unwrap()).unwrap(),
        "want-response-body" => response::want_body(action["max"].as_u64().unwrap()).unwrap(),
        "set-body" => set_body(hook, value.as_bytes()),
        "upper-body" => set_body(hook, &whole_body(hook).to_ascii_uppercase()),
        "body" => leave(hook, action, Ok(String::from_utf8_lossy(&whole_body(hook)).into_owned())),
        "body-length" => leave(hook, action, Ok(whole_body(hook).len().to_string())),
        "trailer" => leave(hook, action, optional(response::trailer(name))),
        "set-trailer" => response::set_trailer(name, value).unwrap(),

        // What is kept.
        "state-set" => {
            let from = request::header(text_of(action, "from")).unwrap().unwrap_or_else(|| value.into());
            state::set(from.as_bytes()).unwrap();
        }
        "state-get" => leave(
            hook,
            action,
            state::get().map(|s| s.map_or("none".into(), |s| String::from_utf8_lossy(&s).into_owned())),
        ),
        "context-set" => context::set(name, &context::Value::Text(value.into())).unwrap(),
        "fill-context" => {
            let value = "x".repeat(action["bytes"].as_u64().unwrap() as usize);
            for number in 0..action["values"].as_u64().unwrap() {
                context::set(&format!("k{number}"), &context::Value::Text(value.clone())).unwrap();
            }
        }
        "context-get" => leave(hook, action, shown(context::get(name))),
        "context-writer" => leave(hook, action, optional(context::writer(name))),
        "set-consumer" => context::set_consumer(value).unwrap(),
        "consumer" => leave(hook, action, optional(context::consumer())),
        "calls" => leave(hook, action, Ok(CALLS.get().to_string())),
        "kv-set" => leave(hook, action, shown(kv::set(text_of(action, "space"), name, value.as_bytes(), None))),
        "kv-get" => leave(
            hook,
            action,
            kv::get(text_of(action, "space"), name)
                .map(|v| v.map_or("none".into(), |v| String::from_utf8_lossy(&v).into_owned())),
        ),
        "limit" => return limit(hook, action),
        "secret" => leave(hook, action, secrets::get(name)),
        "random" => leave(hook, action, random::bytes(4).map(|b| b.len().to_string())),
        "hash" => leave(hook, action, crypto::hash("sha-256", value.as_bytes()).map(|h| h.len().to_string())),
        "count" => leave(hook, action, shown(metrics::count(name, &[], 1))),
        "log" => log::log(log::Level::Info, value),
        "print" => println!("{value}"),
        "summary" => leave(hook, action, route::summary()),

        // The choice of an upstream.
        "endpoints" => leave(hook, action, shown(route::endpoints())),
        "choose-upstream" => leave(hook, action, shown(route::choose_upstream(value))),
        // The first of these names, and the next one for each failure.
        "fail-over" => {
            let failures = route::failures().unwrap().len();
            let name = value.split(' ').take(failures + 1).last();
            // Its trial is at no route, which has no upstreams.
            let _ = route::choose_upstream(name.unwrap());
        }
        "choose-endpoint" => {
            let chosen = request::header(text_of(action, "from")).unwrap().unwrap_or_else(|| value.into());
            leave(hook, action, shown(route::choose_endpoints(&[chosen])));
        }
        "choose-label" => {
            let all = route::endpoints().unwrap();
            let fits = |e: &&route::Endpoint| {
                route::endpoint_label(&e.upstream, &e.address, name).unwrap().as_deref() == Some(value)
            };
            let chosen: Vec<String> = all.iter().filter(fits).map(|e| e.address.clone()).collect();
            route::choose_endpoints(&chosen).unwrap();
        }
        "choose-another" => {
            let failed: Vec<String> = route::failures().unwrap().into_iter().map(|f| f.address).collect();
            let all = route::endpoints().unwrap();
            let other = all.iter().find(|e| !failed.contains(&e.address)).unwrap();
            route::choose_endpoints(&[other.address.clone()]).unwrap();
        }
        "state-of-endpoint" => leave(hook, action, shown(route::state_of_endpoint(name, value))),
        "retries" => leave(hook, action, shown(route::retries())),
        "failed-attempts" => leave(hook, action, shown(route::failed_attempts())),
        "no-retry" => leave(hook, action, shown(route::no_retry())),
        "hash-key" => route::hash_key(&request::header(name).unwrap().unwrap_or_default()).unwrap(),
        "failures" => leave(hook, action, route::failures().map(|f| f.len().to_string())),

        // Any function of the interface, by its name, with any arguments.
        "functions" => leave(hook, action, Ok(crate::functions::call_all(&action["calls"]))),
        unknown => panic!("the probe does not know `{unknown}`"),
    }
    None
}

fn spin(ms: Option<u64>) {
    let end = ms.map(|ms| clock::monotonic_ns() + ms * 1_000_000);
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
        if n.is_multiple_of(4096) && end.is_some_and(|end| clock::monotonic_ns() > end) {
            return;
        }
    }
}

fn limit(hook: &str, action: &Value) -> Option<Outcome> {
    let algorithm = match text_of(action, "algorithm") {
        "token-bucket" => limiter::Algorithm::TokenBucket,
        "leaky-bucket" => limiter::Algorithm::LeakyBucket,
        "sliding-window" => limiter::Algorithm::SlidingWindow,
        _ => limiter::Algorithm::FixedWindow,
    };
    let limit = limiter::Limit {
        key: text_of(action, "key").into(),
        algorithm,
        amount: action["amount"].as_u64().unwrap(),
        window_ms: action["window-ms"].as_u64().unwrap(),
        burst: 0,
    };
    let standing = limiter::take(&[limit], 1).unwrap().remove(0);
    if standing.allowed {
        return None;
    }
    let _ = hook;
    response::set_status(429).unwrap();
    Some(Outcome::Respond)
}

/// Calls `url`, or all `urls` at the same time.
#[cfg(feature = "waiting")]
fn call(hook: &str, action: &Value) {
    use crate::bindings::sluice::filter::http;
    let urls: Vec<&str> = match action["urls"].as_array() {
        Some(urls) => urls.iter().filter_map(Value::as_str).collect(),
        None => vec![text_of(action, "url")],
    };
    let method = action["method"].as_str().unwrap_or("GET");
    let outgoing = |url: &&str| http::Outgoing {
        method: method.into(),
        url: (*url).into(),
        headers: Vec::new(),
        body: text_of(action, "body").into(),
    };
    let requests: Vec<_> = urls.iter().map(outgoing).collect();
    let answers = http::send(&requests, action["timeout-ms"].as_u64().unwrap_or(60_000) as u32);
    let shown = |answer: Result<http::Incoming, types::Error>| match answer {
        // As one line: it becomes the value of a header.
        Ok(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body).replace('\n', " ")),
        Err(error) => describe(&error),
    };
    if !text_of(action, "to").is_empty() {
        let all = answers.map(|all| all.into_iter().map(shown).collect::<Vec<_>>().join(" | "));
        leave(hook, action, all);
    }
}
