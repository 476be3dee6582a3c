use serde_json::{Value, json};
use sluice_filter::testing::{Exchange, Harness, KnownConsumer, ResponseMessage, config_keys, wrong_defaults};

use super::*;

fn filter(limits: Value) -> Harness<RateLimit> {
    Harness::new(json!({ "limits": limits })).unwrap()
}

fn allowed(filter: &Harness<RateLimit>, mut exchange: Exchange) -> bool {
    filter.on_request(&mut exchange).unwrap() == Verdict::Continue
}

#[test]
fn counts_each_caller() {
    let limits = json!([{"key": "header:X-Api-Key", "amount": 2, "window": "1m", "algorithm": "fixed-window"}]);
    let grants = json!({"read_headers": ["x-api-key"]});
    let filter = Harness::<RateLimit>::with_grants(json!({ "limits": limits }), grants).unwrap();
    let with = |key: &str| Exchange::get("/").header("x-api-key", key);
    assert!(allowed(&filter, with("a")) && allowed(&filter, with("a")) && !allowed(&filter, with("a")));
    assert!(allowed(&filter, with("b")));
    assert!(allowed(&filter, Exchange::get("/")), "a request without the key is not counted");
}

#[test]
fn refuses_and_tells_when_to_come_back() {
    let filter = filter(json!([{"name": "burst", "key": "ip", "amount": 2, "window": "10s"}]));
    let mut exchange = Exchange::get("/");
    assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
    exchange.respond(ResponseMessage::new(200));
    assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
    let headers = &exchange.response.headers;
    assert_eq!(headers.get("ratelimit-policy"), Some("\"burst\";q=2;w=10"));
    assert_eq!(headers.get("ratelimit"), Some("\"burst\";r=1;t=5"));
    assert_eq!(headers.get("x-ratelimit-limit"), Some("2"));
    assert_eq!(headers.get("x-ratelimit-remaining"), Some("1"));
    assert!(allowed(&filter, Exchange::get("/")));
    let mut refused = Exchange::get("/");
    assert_eq!(filter.on_request(&mut refused), Ok(Verdict::Respond));
    assert_eq!(refused.response.status, 429);
    assert_eq!(refused.response.headers.get("retry-after"), Some("5"));
    assert_eq!(refused.response.headers.get("x-ratelimit-remaining"), Some("0"));
    filter.advance(std::time::Duration::from_secs(5));
    assert!(allowed(&filter, Exchange::get("/")));
}

#[test]
fn several_limits_are_all_or_nothing() {
    let filter = filter(json!([
        {"name": "each", "key": "ip", "amount": 1, "window": "1m", "algorithm": "sliding-window"},
        {"name": "all", "key": "global", "amount": 3, "window": "1h", "algorithm": "fixed-window"},
    ]));
    let from = |address: &str| {
        let mut exchange = Exchange::get("/");
        exchange.request.client_address = address.to_owned();
        exchange
    };
    assert!(allowed(&filter, from("192.0.2.1")));
    for _ in 0..5 {
        assert!(!allowed(&filter, from("192.0.2.1")), "refused by its own limit, and not counted by the other");
    }
    assert!(allowed(&filter, from("2001:db8::1")));
    assert!(!allowed(&filter, from("2001:db8::2")), "the same /64");
    assert!(allowed(&filter, from("192.0.2.2")));
    assert!(!allowed(&filter, from("192.0.2.3")));
}

#[test]
fn keys_combine() {
    let filter =
        filter(json!([{"key": ["route", "consumer", "claim:org.id", "header:x-tenant"], "amount": 1, "window": "1m"}]));
    let of = |consumer: &str, tenant: &str, org: i64| {
        let mut exchange = Exchange::get("/").header("x-tenant", tenant);
        exchange.consumer = Some(consumer.to_owned());
        let claims = context::Value::Json(json!({"org": {"id": org}}).to_string());
        exchange.context.insert("auth.claims".to_owned(), (claims, "auth".to_owned()));
        exchange
    };
    assert!(allowed(&filter, of("a", "b", 1)));
    assert!(!allowed(&filter, of("a", "b", 1)));
    assert!(allowed(&filter, of("a", "c", 1)));
    assert!(allowed(&filter, of("a", "b", 2)));
    assert!(allowed(&filter, Exchange::get("/")), "nobody's: not counted");
}

#[test]
fn long_values_count_as_any_other() {
    let filter = filter(json!([{"key": ["header:x-a", "header:x-b"], "amount": 1, "window": "1m"}]));
    let of = |a: &str, b: &str| Exchange::get("/").header("x-a", a).header("x-b", b);
    let long = "k".repeat(5000);
    for (a, b) in
        [(&*long, "b"), ("b", &*long), (&*long, &*long), (&long[1..], "b"), (&long[..64], "b"), (&long[..65], "b")]
    {
        assert!(allowed(&filter, of(a, b)), "{} {}", a.len(), b.len());
        assert!(!allowed(&filter, of(a, b)), "{} {}", a.len(), b.len());
    }
}

#[test]
fn a_key_of_many_parts_fits() {
    let names: Vec<String> = (0..40).map(|i| format!("header:x-{i}")).collect();
    let filter = filter(json!([{"key": names, "amount": 1, "window": "1m"}]));
    let of = |last: &str| {
        let exchange = (0..39).fold(Exchange::get("/"), |e, i| e.header(&format!("x-{i}"), &"v".repeat(60)));
        exchange.header("x-39", last)
    };
    assert!(allowed(&filter, of("a")));
    assert!(!allowed(&filter, of("a")));
    assert!(allowed(&filter, of("b")));
}

#[test]
fn a_leaky_bucket_shows_what_passes_at_once() {
    for burst in [0, 2] {
        let filter =
            filter(json!([{"name": "l", "algorithm": "leaky-bucket", "amount": 1, "window": "10s", "burst": burst}]));
        for left in (0..=burst).rev() {
            let mut exchange = Exchange::get("/");
            assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
            exchange.respond(ResponseMessage::new(200));
            assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
            let headers = &exchange.response.headers;
            assert_eq!(headers.get("x-ratelimit-limit"), Some(&*(burst + 1).to_string()));
            assert_eq!(headers.get("x-ratelimit-remaining"), Some(&*left.to_string()));
        }
        let mut refused = Exchange::get("/");
        assert_eq!(filter.on_request(&mut refused), Ok(Verdict::Respond));
        assert_eq!(refused.response.headers.get("ratelimit-policy"), Some(&*format!("\"l\";q={};w=10", burst + 1)));
    }
}

#[test]
fn never_is_no_number_of_seconds() {
    let after = |retry_after_ms| Standing { allowed: false, remaining: 0, reset_ms: 0, retry_after_ms };
    assert_eq!(retry_after(&[after(0), after(1001)]), Some(2));
    assert_eq!(retry_after(&[after(0)]), Some(1));
    assert_eq!(retry_after(&[after(5), after(u64::MAX)]), None);
}

#[test]
fn without_headers_the_response_is_left_alone() {
    let filter = Harness::<RateLimit>::new(json!({"headers": [], "limits": [{"amount": 1}]})).unwrap();
    assert!(!filter.wants("on-response"));
}

#[test]
fn refuses_bad_configs() {
    let refusal = |config: Value| Harness::<RateLimit>::new(config).err().unwrap_or_default();
    assert!(refusal(json!({})).starts_with("limits: expected 1 to 16"));
    assert!(refusal(json!({"limits": [{"amount": 0}]})).starts_with("limits[0].amount: "));
    assert!(refusal(json!({"limits": [{"amount": 1, "window": "1"}]})).starts_with("limits[0].window: "));
    assert!(refusal(json!({"limits": [{"amount": 1, "key": "adress"}]})).starts_with("limits[0].key: unknown key"));
    assert!(
        refusal(json!({"limits": [{"amount": 1, "name": "a"}, {"amount": 1, "name": "a"}]}))
            .starts_with("limits[1].name")
    );
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(config_keys::<RateLimit>(), keys);
}

#[test]
fn says_which_headers_its_keys_are_made_of() {
    let filter = filter(json!([
        {"name": "a", "key": ["header:X-Api-Key", "route"], "amount": 1, "window": "1m"},
        {"name": "b", "key": "ip", "amount": 1, "window": "1m"},
    ]));
    assert_eq!(filter.needs(), Some(json!({"read_headers": ["x-api-key"]})));
    let refusal = |key: &str| {
        let limits = json!([{"key": key, "amount": 1, "window": "1m"}]);
        Harness::<RateLimit>::new(json!({ "limits": limits })).err().unwrap_or_default()
    };
    let host = "limits[0].key: no filter sees the field `host`";
    assert_eq!(refusal("header:Host"), host);
    assert_eq!(refusal("header:a b"), "limits[0].key: `a b` is not a header name");
    assert_eq!(refusal("header:"), "limits[0].key: `` is not a header name");
}

fn of_plan(plan: &str) -> Exchange {
    let mut exchange = Exchange::get("/");
    exchange.consumer = Some(format!("a {plan} customer"));
    exchange.known_consumer = Some(KnownConsumer { plan: Some(plan.to_owned()), ..KnownConsumer::default() });
    exchange
}

#[test]
fn a_plan_has_an_amount_of_its_own() {
    let limits = json!([{"key": "consumer", "amount": 1, "window": "1m", "algorithm": "fixed-window",
        "plans": {"gold": 3, "staff": "unlimited"}}]);
    let filter = filter(limits);
    assert_eq!(filter.needs().unwrap()["authentication"], json!(true));
    let passed = |plan: &str| (0..10).filter(|_| allowed(&filter, of_plan(plan))).count();
    assert_eq!((passed("gold"), passed("staff"), passed("bronze")), (3, 10, 1));
    let mut shown = of_plan("gold");
    filter.advance(std::time::Duration::from_secs(60));
    assert!(filter.on_request(&mut shown).unwrap() == Verdict::Continue);
    shown.respond(ResponseMessage::new(200));
    filter.on_response(&mut shown).unwrap();
    assert_eq!(shown.response.headers.get("ratelimit-policy"), Some("\"default\";q=3;w=60"));
    assert_eq!(shown.response.headers.get("x-ratelimit-limit"), Some("3"));
    let refused = |plans: Value| {
        let limits = json!({"limits": [{"amount": 1, "plans": plans}]});
        Harness::<RateLimit>::new(limits).err().unwrap_or_default()
    };
    assert!(refused(json!({"gold": 0})).starts_with("limits[0].plans"));
    assert!(refused(json!({"gold": "much"})).contains("unlimited"));
}

fn concurrent(lines: Value) -> Harness<RateLimit> {
    Harness::new(json!({ "concurrency": [lines] })).unwrap()
}

#[test]
fn a_place_is_free_when_the_exchange_ends() {
    let filter = concurrent(json!({"name": "c", "amount": 2}));
    let (mut one, mut other) = (Exchange::get("/"), Exchange::get("/"));
    assert_eq!(filter.on_request(&mut one), Ok(Verdict::Continue));
    assert_eq!(filter.on_request(&mut other), Ok(Verdict::Continue));
    let mut refused = Exchange::get("/");
    assert_eq!(filter.on_request(&mut refused), Ok(Verdict::Respond));
    assert_eq!((refused.response.status, refused.response.headers.get("retry-after")), (429, Some("1")));
    drop(refused);
    assert!(!allowed(&filter, Exchange::get("/")), "who was refused has no place to give back");
    drop(one);
    let mut next = Exchange::get("/");
    assert_eq!(filter.on_request(&mut next), Ok(Verdict::Continue));
    assert!(!allowed(&filter, Exchange::get("/")), "one place is free for one exchange");
}

#[test]
fn a_place_is_held_as_long_as_its_exchange_takes() {
    let filter = concurrent(json!({"amount": 1}));
    let mut long = Exchange::get("/");
    assert_eq!(filter.on_request(&mut long), Ok(Verdict::Continue));
    filter.advance(std::time::Duration::from_secs(100_000));
    assert!(!allowed(&filter, Exchange::get("/")));
}

#[test]
fn who_is_over_its_rate_keeps_no_place() {
    let config = json!({"concurrency": [{"amount": 5}], "limits": [{"amount": 1, "window": "10s"}]});
    let filter = Harness::<RateLimit>::new(config).unwrap();
    let mut first = Exchange::get("/");
    assert_eq!(filter.on_request(&mut first), Ok(Verdict::Continue));
    let mut refused: Vec<Exchange> = (0..20).map(|_| Exchange::get("/")).collect();
    assert!(refused.iter_mut().all(|one| filter.on_request(one) == Ok(Verdict::Respond)), "refused for their rate");
    filter.advance(std::time::Duration::from_secs(10));
    assert!(allowed(&filter, Exchange::get("/")), "and none of them has a place");
    first.respond(ResponseMessage::new(200));
    filter.on_response(&mut first).unwrap();
    assert_eq!(first.response.headers.get("x-ratelimit-limit"), Some("1"));
}

#[test]
fn who_finds_no_place_counts_in_no_rate() {
    let config =
        json!({"concurrency": [{"amount": 1}], "limits": [{"amount": 2, "window": "1d", "algorithm": "fixed-window"}]});
    let filter = Harness::<RateLimit>::new(config).unwrap();
    let mut first = Exchange::get("/");
    assert_eq!(filter.on_request(&mut first), Ok(Verdict::Continue));
    assert!((0..20).all(|_| !allowed(&filter, Exchange::get("/"))), "no place");
    drop(first);
    assert!(allowed(&filter, Exchange::get("/")), "one of the rate is left");
    assert!(!allowed(&filter, Exchange::get("/")));
}

#[test]
fn places_go_by_plan_and_by_caller() {
    let filter = concurrent(json!({"key": "consumer", "amount": 1, "plans": {"gold": 2, "staff": "unlimited"}}));
    let taken = |plan: &str| {
        let mut exchanges: Vec<Exchange> = (0..5).map(|_| of_plan(plan)).collect();
        exchanges.iter_mut().filter_map(|one| (filter.on_request(one) == Ok(Verdict::Continue)).then_some(())).count()
    };
    assert_eq!((taken("gold"), taken("staff"), taken("bronze")), (2, 5, 1));
    for (config, at) in [
        (json!({"concurrency": [{"amount": 0}]}), "concurrency[0].amount"),
        (json!({"concurrency": [{"amount": 100_001}]}), "concurrency[0].amount"),
        (json!({"concurrency": [{"amount": 1, "lease": "1m"}]}), "concurrency[0].lease"),
        (
            json!({"concurrency": [{"amount": 1, "name": "a"}], "limits": [{"amount": 1, "name": "a"}]}),
            "concurrency[0].name",
        ),
        (json!({"concurrency": []}), "limits"),
    ] {
        let refused = Harness::<RateLimit>::new(config).err().unwrap_or_default();
        assert!(refused.starts_with(at), "{at}: {refused}");
    }
}

fn costing(cost: Value) -> Harness<RateLimit> {
    let limits = json!([{"amount": 10, "window": "1m", "algorithm": "fixed-window"}]);
    Harness::new(json!({"limits": limits, "cost": cost})).unwrap()
}

#[test]
fn a_request_costs_what_the_config_says() {
    let passed = |filter: &Harness<RateLimit>, request: &dyn Fn() -> Exchange| {
        (0..20).filter(|_| allowed(filter, request())).count()
    };
    assert_eq!(passed(&costing(json!(3)), &|| Exchange::get("/")), 3);
    let header = || costing(json!("header:X-Cost"));
    assert_eq!(header().needs().unwrap()["read_headers"], json!(["x-cost"]));
    for (value, times) in
        [("5", 2), ("1", 10), ("0", 10), ("-1", 10), ("much", 10), ("99999999999999999999", 10), ("11", 0)]
    {
        assert_eq!(passed(&header(), &|| Exchange::get("/").header("x-cost", value)), times, "{value}");
    }
    let body = || costing(json!({"of": "body", "per": "1KiB", "unknown": "4KiB"}));
    let post = |length: Option<&str>| {
        let mut exchange = Exchange::get("/");
        exchange.request.method = "POST".to_owned();
        length.into_iter().fold(exchange, |exchange, length| exchange.header("content-length", length))
    };
    assert_eq!(passed(&body(), &|| Exchange::get("/")), 10, "no body");
    assert_eq!(passed(&body(), &|| post(Some("0"))), 10);
    assert_eq!(passed(&body(), &|| post(Some("1025"))), 5, "a rest counts as a whole one");
    assert_eq!(passed(&body(), &|| post(None)), 2, "a length that is left out saves nothing");
}

#[test]
fn a_response_costs_what_is_left_at_most() {
    let limits = json!([{"amount": 10, "window": "1m", "algorithm": "fixed-window"}]);
    let config = json!({"limits": limits, "response_cost": "header:x-cost"});
    let filter = Harness::<RateLimit>::new(config).unwrap();
    let pass = |cost: &str| {
        let mut exchange = Exchange::get("/");
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        exchange.respond(ResponseMessage::new(200).header("x-cost", cost));
        filter.on_response(&mut exchange).unwrap();
        exchange.response.headers.get("x-ratelimit-remaining").map(str::to_owned)
    };
    assert_eq!(pass("4").as_deref(), Some("5"));
    assert_eq!(pass("1000").as_deref(), Some("0"));
    assert!(!allowed(&filter, Exchange::get("/")));
}

#[test]
fn a_dry_run_refuses_nobody_and_counts() {
    let config = json!({"limits": [{"name": "n", "amount": 2, "window": "1m"}], "dry_run": true});
    let filter = Harness::<RateLimit>::new(config).unwrap();
    assert!(!filter.wants("on-response"), "clients see nothing of it");
    assert!((0..5).all(|_| allowed(&filter, Exchange::get("/"))));
    assert_eq!(filter.metric("would_refuse_total{limit=\"n\"}"), Some(3.0));
}

#[test]
fn costs_that_are_none_are_refused() {
    let refusal = |cost: Value| {
        Harness::<RateLimit>::new(json!({"limits": [{"amount": 1}], "cost": cost})).err().unwrap_or_default()
    };
    for cost in [
        json!(0),
        json!(-1),
        json!("header:"),
        json!("weight"),
        json!({"of": "body", "per": 0}),
        json!({"per": 1}),
        json!(true),
    ] {
        let refused = refusal(cost.clone());
        assert!(refused.starts_with("cost"), "{cost}: {refused}");
    }
}

fn with_claims(claims: &Value) -> Exchange {
    let mut exchange = Exchange::get("/");
    exchange.context.insert("auth.claims".to_owned(), (context::Value::Json(claims.to_string()), "auth".to_owned()));
    exchange
}

#[test]
fn a_claim_is_counted_whatever_its_name_and_value() {
    let keys = [json!("claim:https://example.com/tenant"), json!({"claim": ["https://example.com/tenant"]})];
    for key in keys {
        let filter = filter(json!([{"key": key, "amount": 1, "window": "1m"}]));
        assert_eq!(filter.needs().unwrap()["authentication"], json!(true));
        let values = [
            json!("a"),
            json!(["a", "b"]),
            json!(["a,b"]),
            json!(["a", 1]),
            json!(7.5),
            json!(9_223_372_036_854_775_808_u64),
            json!(9_223_372_036_854_775_809_u64),
            json!(1e30),
            json!(true),
            json!({"id": 1}),
            json!([]),
            json!("\n\u{0}"),
            json!("x".repeat(2000)),
        ];
        for value in values {
            let with = || with_claims(&json!({"https://example.com/tenant": value}));
            assert!(allowed(&filter, with()), "{value}: one of its own");
            assert!(!allowed(&filter, with()), "{value}");
        }
    }
    // One number, written in two ways.
    let filter = filter(json!([{"key": "claim:org.id", "amount": 1, "window": "1m"}]));
    assert!(allowed(&filter, with_claims(&json!({"org": {"id": 7}}))));
    assert!(!allowed(&filter, with_claims(&json!({"org": {"id": 7.0}}))));
    assert!(allowed(&filter, with_claims(&json!({"org": {"id": null}}))), "null is no value");
}

#[test]
fn a_header_is_counted_whatever_its_bytes() {
    let grants = json!({"read_headers": ["x-api-key", "cookie"]});
    for (key, name) in [("header:x-api-key", "x-api-key"), ("cookie:k", "cookie")] {
        let limits = json!({"limits": [{"key": key, "amount": 1, "window": "1m"}]});
        let filter = Harness::<RateLimit>::with_grants(limits, grants.clone()).unwrap();
        for value in [b"k=caf\xe9".as_slice(), b"k=\xff", b"k=a", "k=\u{e9}".as_bytes(), &b"k=\xfe".repeat(2000)] {
            let with = || {
                let mut exchange = Exchange::get("/");
                exchange.request.headers.append(name, value);
                exchange
            };
            assert!(allowed(&filter, with()), "{key}: {value:?}");
            assert!(!allowed(&filter, with()), "{key}: {value:?}");
        }
    }
}

#[test]
fn a_key_that_is_there_twice_counts_for_each_value() {
    let grants = json!({"read_headers": ["x-key", "x-more", "cookie"]});
    let limiting = |key: Value| {
        let limits = json!({"limits": [{"key": key, "amount": 2, "window": "1m", "algorithm": "fixed-window"}]});
        Harness::<RateLimit>::with_grants(limits, grants.clone()).unwrap()
    };
    let with = |name: &str, values: &[&str]| {
        let mut exchange = Exchange::get("/");
        values.iter().for_each(|value| exchange.request.headers.append(name, *value));
        exchange
    };
    for (key, name) in [("header:x-key", "x-key"), ("cookie:k", "cookie")] {
        let filter = limiting(json!(key));
        assert!(allowed(&filter, with(name, &["k=new1", "k=real"])), "{key}");
        assert!(allowed(&filter, with(name, &["k=real", "k=real"])), "{key}: one value twice is one");
        assert!(!allowed(&filter, with(name, &["k=new2", "k=real"])), "{key}: whichever value is first");
        assert!(!allowed(&filter, with(name, &["k=real", "k=new2"])), "{key}");
        assert!(allowed(&filter, with(name, &["k=new1"])), "{key}: a refused request has counted nothing");
        assert!(!allowed(&filter, with(name, &["k=new1"])), "{key}");
    }
    let filter = limiting(json!("cookie:k"));
    assert!(allowed(&filter, with("cookie", &["k=1; k=real"])) && allowed(&filter, with("cookie", &["k=2; k=real"])));
    assert!(!allowed(&filter, with("cookie", &["k=3; k=real"])), "in one field");
    let filter = limiting(json!(["header:x-key", "ip", "header:x-more"]));
    let both = |keys: &[&str], more: &[&str]| {
        let mut exchange = with("x-key", keys);
        more.iter().for_each(|value| exchange.request.headers.append("x-more", *value));
        exchange
    };
    assert!(allowed(&filter, both(&["a", "b"], &["c", "d"])) && allowed(&filter, both(&["b"], &["d"])));
    assert!(!allowed(&filter, both(&["b", "x"], &["y", "d"])), "of all combinations one is used up");
}

#[test]
fn more_values_than_can_be_counted_are_refused() {
    let limits =
        json!([{"key": "header:x-key", "amount": 9, "window": "1m"}, {"name": "ip", "amount": 9, "window": "1m"}]);
    let with = |count: usize| {
        let mut exchange = Exchange::get("/");
        (0..count).for_each(|i| exchange.request.headers.append("x-key", format!("v{i}")));
        exchange
    };
    let filter = filter(limits.clone());
    assert!(allowed(&filter, with(15)));
    for count in [16, 17, 90] {
        let mut exchange = with(count);
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Respond));
        assert_eq!((exchange.response.status, exchange.response.reason.as_deref()), (400, Some("too-many-values")));
    }
    let dry = Harness::<RateLimit>::new(json!({"limits": limits, "dry_run": true})).unwrap();
    assert!(allowed(&dry, with(90)), "a dry run refuses nobody");
    let places = json!({"concurrency": [{"key": "header:x-key", "amount": 9}]});
    let filter = Harness::<RateLimit>::new(places).unwrap();
    assert!(allowed(&filter, with(16)) && !allowed(&filter, with(17)));
}

#[test]
fn a_place_is_taken_for_each_value_of_a_key() {
    let filter = Harness::<RateLimit>::new(json!({"concurrency": [{"key": "header:x-key", "amount": 1}]})).unwrap();
    let with = |values: &[&str]| {
        let mut exchange = Exchange::get("/");
        values.iter().for_each(|value| exchange.request.headers.append("x-key", *value));
        exchange
    };
    let mut first = with(&["new", "real"]);
    assert_eq!(filter.on_request(&mut first), Ok(Verdict::Continue));
    assert!(!allowed(&filter, with(&["other", "real"])));
}

#[test]
fn a_response_counts_for_each_value_and_shows_the_least_that_is_left() {
    let limits = json!([{"key": "header:x-key", "amount": 9, "window": "1d", "algorithm": "fixed-window"}]);
    let filter = Harness::<RateLimit>::new(json!({"limits": limits, "response_cost": 3})).unwrap();
    let left = |values: &[&str]| {
        let mut exchange = Exchange::get("/");
        values.iter().for_each(|value| exchange.request.headers.append("x-key", *value));
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        exchange.respond(ResponseMessage::new(200));
        filter.on_response(&mut exchange).unwrap();
        exchange.response.headers.get("x-ratelimit-remaining").map(str::to_owned)
    };
    assert_eq!(left(&["a"]).as_deref(), Some("5"));
    assert_eq!(left(&["a", "b"]).as_deref(), Some("1"));
    assert_eq!(left(&["b"]).as_deref(), Some("1"), "b has counted both");
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(
        wrong_defaults::<RateLimit>(
            &json!({"limits": [{"amount": 1}], "concurrency": [{"amount": 1}], "cost": {"of": "body"}, "response_cost": {"of": "body"}})
        ),
        Vec::<String>::new()
    );
}

/// The refusal of the second request, where the first one passes.
fn second(config: Value) -> Exchange {
    let filter = Harness::<RateLimit>::new(config).unwrap();
    assert!(allowed(&filter, Exchange::get("/")));
    let mut refused = Exchange::get("/");
    assert_eq!(filter.on_request(&mut refused), Ok(Verdict::Respond));
    refused
}

#[test]
fn a_refusal_is_what_the_config_says() {
    let refused = second(json!({"limits": [{"amount": 1}, {"amount": 9}], "status": 503, "message": "later"}));
    let response = &refused.response;
    assert_eq!((response.status, response.reason.as_deref()), (503, Some("over-limit:default")));
    assert!(String::from_utf8_lossy(&response.body).contains("later"));
    assert_eq!(
        response.headers.get("ratelimit-policy"),
        Some("\"default\";q=1;w=1, \"limit1\";q=9;w=1"),
        "the usual names"
    );
    let places = Harness::<RateLimit>::new(json!({"concurrency": [{"amount": 1}], "status": 503})).unwrap();
    let (mut held, mut refused) = (Exchange::get("/"), Exchange::get("/"));
    assert_eq!(
        (places.on_request(&mut held), places.on_request(&mut refused)),
        (Ok(Verdict::Continue), Ok(Verdict::Respond))
    );
    assert_eq!((refused.response.status, refused.response.reason.as_deref()), (503, Some("over-limit:concurrency0")));
}

#[test]
fn a_style_of_fields_can_be_chosen() {
    let refused = second(json!({"limits": [{"amount": 1}], "headers": ["x-ratelimit"]}));
    assert!(refused.response.headers.has("x-ratelimit-limit") && !refused.response.headers.has("ratelimit"));
    let refused = second(json!({"limits": [{"amount": 1}], "headers": ["ratelimit"]}));
    assert!(!refused.response.headers.has("x-ratelimit-limit") && refused.response.headers.has("ratelimit-policy"));
}

#[test]
fn a_request_that_can_never_pass_is_not_told_to_come_back() {
    let filter = costing(json!(11));
    let mut refused = Exchange::get("/");
    assert_eq!(filter.on_request(&mut refused), Ok(Verdict::Respond));
    assert_eq!((refused.response.status, refused.response.headers.get("retry-after")), (429, None));
}

#[test]
fn burst_is_what_passes_at_once_in_every_plan() {
    let limits = json!([{"key": "consumer", "amount": 2, "window": "1h", "burst": 4, "plans": {"gold": 100}}]);
    let filter = filter(limits);
    let passed = |plan: &str| (0..20).filter(|_| allowed(&filter, of_plan(plan))).count();
    assert_eq!((passed("gold"), passed("bronze")), (4, 4));
}

#[test]
fn a_caller_whose_plan_changes_begins_anew() {
    let filter = filter(json!([{"key": "consumer", "amount": 2, "window": "1h", "plans": {"gold": 3}}]));
    let of = |plan: &str| {
        let mut exchange = of_plan(plan);
        exchange.consumer = Some("acme".to_owned());
        exchange
    };
    let passed = |plan: &str| (0..9).filter(|_| allowed(&filter, of(plan))).count();
    assert_eq!([passed("bronze"), passed("bronze"), passed("gold")], [2, 0, 3]);
}

#[test]
fn clients_over_a_unix_socket_are_one_caller() {
    let filter = filter(json!([{"amount": 1, "window": "1m"}]));
    let over_unix = || {
        let mut exchange = Exchange::get("/");
        exchange.request.client_address = "unix:".to_owned();
        exchange
    };
    assert!(allowed(&filter, over_unix()) && !allowed(&filter, over_unix()) && allowed(&filter, Exchange::get("/")));
}

#[test]
fn limits_are_bounded() {
    let refusal = |config: Value| Harness::<RateLimit>::new(config).err().unwrap_or_default();
    let named = |count: usize| (0..count).map(|i| json!({"amount": 1, "name": format!("n{i}")})).collect::<Vec<_>>();
    assert_eq!(refusal(json!({"limits": named(16)})), "");
    assert!(refusal(json!({"limits": named(17)})).starts_with("limits: expected 1 to 16"));
    assert!(refusal(json!({"concurrency": named(5)})).starts_with("concurrency: expected at most 4"));
    assert_eq!(refusal(json!({"limits": [{"amount": 1, "window": "366d"}]})), "");
    for window in ["367d", "0ms"] {
        assert!(
            refusal(json!({"limits": [{"amount": 1, "window": window}]})).starts_with("limits[0].window"),
            "{window}"
        );
    }
    for status in [399, 600] {
        assert!(refusal(json!({"limits": [{"amount": 1}], "status": status})).starts_with("status"), "{status}");
    }
}
