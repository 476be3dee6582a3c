//! What becomes of values and leased limits while the store is away or refuses them, for each word of `on_unavailable`. Limits that the store
//! decides are in `state`, places in `concurrency`.

use serde_json::json;
use sluice_harness::redis::Redis;
use sluice_harness::{Gateway, Origin, eventually};

use super::state::limiting;
use crate::support::{gateway, probe};

const WORDS: [&str; 3] = ["local", "open", "closed"];

/// A gateway whose routes do one thing each with the value `k`.
fn keeping(origin: &Origin, redis: &Redis, word: &str) -> Gateway {
    let mut toml = format!(
        "[state.shared]\nredis = [\"{}\"]\nprefix = \"{word}:\"\ntimeout = \"1s\"\non_unavailable = \"{word}\"\n\
         [plugins.probe]\nstate = \"shared\"\nlimits.wall = \"8s\"\n",
        redis.url()
    );
    for (name, call) in [
        ("get", json!(["kv.get", "s", "k"])),
        ("set", json!(["kv.set", "s", "k", "x"])),
        ("delete", json!(["kv.delete", "s", "k"])),
        ("swap", json!(["kv.compare-and-swap", "s", "k", false, "y"])),
        ("reserve", json!(["kv.get-or-reserve", "s", "r", 60_000])),
    ] {
        let calls = json!({ "on-request": [{ "do": "functions", "calls": [call], "to": "x-answers" }] });
        toml += &format!(
            "[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"{}\"\npipeline = [\"{name}\"]\n",
            origin.url()
        );
        toml += &(probe(name, calls) + "grants = { kv = [\"s\"] }\n");
    }
    gateway(&toml)
}

fn is_away(gateway: &Gateway, path: &str) {
    eventually("it is known to be away", || {
        gateway.get(path);
        gateway.metric("sluice_state_connections", &[("state", "shared")]) == Some(0.0)
    });
}

fn is_back(gateway: &Gateway) {
    eventually("it is found again", || {
        gateway.metric("sluice_state_connections", &[("state", "shared")]).is_some_and(|threads| threads > 0.0)
    });
}

#[test]
fn values_while_the_server_is_away_are_as_on_unavailable_says() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let gateways = WORDS.map(|word| keeping(&origin, &redis, word));
    let [local, open, closed] = &gateways;
    let said = |gateway: &Gateway, what: &str| {
        assert_eq!(gateway.get(&format!("/{what}")).status, 200, "{what}");
        let said = origin.last().header("x-answers").expect("an answer").to_owned();
        said.split_once(' ').expect("its name and what it says").1.to_owned()
    };
    for gateway in &gateways {
        assert_eq!([said(gateway, "set"), said(gateway, "get")], ["ok ()", "ok Some([120])"]);
    }
    redis.kill();
    gateways.iter().for_each(|gateway| is_away(gateway, "/get"));

    // It keeps for itself, from nothing on.
    assert_eq!(said(local, "get"), "ok None");
    assert_eq!([said(local, "set"), said(local, "get")], ["ok ()", "ok Some([120])"]);
    assert_eq!(said(local, "swap"), "ok false");
    let (first, second) = (said(local, "reserve"), said(local, "reserve"));
    assert_ne!(first, second, "one of two reserves");
    // Nothing is there and nothing is kept.
    assert_eq!([said(open, "set"), said(open, "get")], ["ok ()", "ok None"]);
    assert_eq!([said(open, "swap"), said(open, "delete")], ["ok true", "ok false"]);
    assert_eq!([said(open, "reserve"), said(open, "reserve")], [first.clone(), first]);
    for what in ["get", "set", "delete", "swap", "reserve"] {
        let said = said(closed, what);
        assert!(said.starts_with("error unavailable: state `shared`"), "{what}: {said}");
    }

    assert!(redis.start_again());
    gateways.iter().for_each(is_back);
    assert_eq!(redis.ask(&["DBSIZE"]).trim(), "0", "what was kept meanwhile stays where it was");
    // The next time begins with nothing, too: in between, others may have changed what is in the store.
    redis.kill();
    gateways.iter().for_each(|gateway| is_away(gateway, "/reserve"));
    assert_eq!(said(local, "get"), "ok None");
}

#[test]
fn what_is_no_value_is_said() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let gateway = keeping(&origin, &redis, "closed");
    redis.ask(&["SET", "closed:probe:kv:1:s:k", "without the mark of a value"]);
    assert_eq!(gateway.get("/get").status, 200);
    let said = origin.last().header("x-answers").expect("an answer").to_owned();
    assert!(said.contains("error unavailable"), "{said}");
    gateway.wait_log("what it has answered", |line| line.to_string().contains("what is no value"));
}

#[test]
fn leased_limits_of_a_server_that_refuses_or_is_gone_are_as_on_unavailable_says() {
    let plugin = "state = { name = \"shared\", limits = \"leased\", lease = 100, values = \"local\" }";
    let owes_nothing =
        |gateway: &Gateway| gateway.metric("sluice_state_unreported_limits", &[("state", "shared")]) == Some(0.0);
    for how in ["full", "killed"] {
        let Some(mut redis) = Redis::start(&[]) else { return };
        let origin = Origin::named("o");
        let gateways = WORDS.map(|word| {
            let state = format!("redis = [\"{}\"]\nprefix = \"{word}:\"\non_unavailable = \"{word}\"", redis.url());
            gateway(&limiting(&origin, &state, plugin, 5))
        });
        let [local, open, closed] = &gateways;
        for gateway in &gateways {
            assert_eq!(gateway.get("/").status, 200);
            eventually("it is told", || owes_nothing(gateway));
        }
        match how {
            // It answers, with an error of its own that says nothing of the key.
            "full" => assert!(redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).contains("OK")),
            _ => redis.kill(),
        }
        eventually("closed refuses", || closed.get("/").status == 503);
        closed.wait_access("the reason", |line| line["reason"] == "limits-unavailable");
        eventually("open lets all through", || (0..10).all(|_| open.get("/").status == 200));
        eventually("local goes on from what it knows", || local.get("/").status == 429);
        match how {
            "full" => assert!(redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).contains("OK")),
            _ => assert!(redis.start_again()),
        }
        eventually("it is found again", || closed.get("/").status != 503);
        eventually("what is owed is told", || gateways.iter().all(owes_nothing));
        // A server that was killed has lost what it had been told before.
        if how == "full" {
            assert_eq!(local.get("/").status, 429, "nothing was forgotten");
        }
    }
}

/// Its counters expire meanwhile, and it takes nothing that it could tell.
#[test]
fn a_closed_leased_limit_stays_closed_while_the_server_refuses() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let plugin = "state = { name = \"shared\", limits = \"leased\", lease = 100, values = \"local\" }";
    let state = format!("redis = [\"{}\"]\non_unavailable = \"closed\"", redis.url());
    let toml = limiting(&origin, &state, plugin, 5);
    let short = toml.replace("window = \"7d\"", "window = \"50ms\"");
    assert_ne!(short, toml);
    let gateway = gateway(&short);
    assert_eq!(gateway.get("/").status, 200);
    assert!(redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).contains("OK"));
    eventually("it refuses", || gateway.get("/").status == 503);
    let refused = || gateway.metric("sluice_state_calls_total", &[("state", "shared"), ("outcome", "error")]);
    let before = refused().expect("a count");
    // Pauses between them grow from 10 ms, so these take many windows.
    eventually("it is asked again", || {
        assert_eq!(gateway.get("/").status, 503);
        refused() >= Some(before + 6.0)
    });
    assert!(redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).contains("OK"));
    eventually("it is found again", || gateway.get("/").status == 200);
}

#[test]
fn a_reservation_that_is_asked_for_twice_is_the_caller_s() {
    const SCRIPT: &str = include_str!("../../host/services/src/state/reserve.lua");
    let Some(redis) = Redis::start(&[]) else { return };
    let reserve = |call: &str| redis.ask(&["EVAL", SCRIPT, "1", "k", "60000", call]).trim().to_owned();
    let first = reserve("r1");
    assert_eq!(reserve("r1"), first, "the same call again, as in a cluster whose connection ended");
    assert_eq!(reserve("r2"), "r1", "another one has to wait");
    assert_eq!(redis.ask(&["GET", "k"]).trim(), "r1");
    redis.ask(&["SET", "k", "vx"]);
    assert_eq!([reserve("r1"), reserve("r2")], ["vx", "vx"]);
}
