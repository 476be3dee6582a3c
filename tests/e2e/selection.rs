//! What `select-upstream` filters see of endpoints and attempts, and what they may say of retries.

use serde_json::{Value, json};
use sluice_harness::origin::nobody;
use sluice_harness::{Origin, Reply};

use crate::support::{gateway, probe, route};

#[test]
fn a_filter_sees_why_an_endpoint_is_out() {
    let origin = Origin::named("alive");
    let dead = nobody();
    let config = json!({"select-upstream": [
        {"do": "state-of-endpoint", "name": "pair", "value": dead.to_string(), "to": "dead"},
        {"do": "state-of-endpoint", "name": "pair", "value": "127.0.0.1:1", "to": "unknown"},
        {"do": "choose-endpoint", "from": "x-none", "value": dead.to_string()},
    ]});
    let toml = format!("[upstreams.pair]\nendpoints = [\"http://{dead}\", \"{}\"]\n", origin.url());
    let gateway = gateway(&(toml + &route("pair", &["f"]) + &probe("f", config)));
    assert_eq!(gateway.get("/").status, 502, "the only endpoint of the choice is dead");
    gateway
        .wait_log("well before it was tried", |line| line.to_string().contains("dead: Some(EndpointState { out: []"));
    assert_eq!(gateway.get("/").status, 502);
    gateway.wait_log("out after that", |line| {
        line.to_string().contains("dead: Some(EndpointState { out: [\\\"unreachable")
    });
    gateway.wait_log("not of this route", |line| line.to_string().contains("unknown: None"));
}

#[test]
fn a_filter_sees_how_attempts_failed() {
    let origin = Origin::named("alive");
    let config = json!({"select-upstream": [
        {"do": "retries", "to": "next"},
        {"do": "failed-attempts", "to": "failed"},
        {"do": "choose-another"},
    ]});
    let toml = format!("[upstreams.pair]\nendpoints = [\"http://{}\", \"{}\"]\n", nobody(), origin.url());
    let gateway = gateway(&(toml + &route("pair", &["f"]) + &probe("f", config)));
    assert_eq!(gateway.get("/").text(), "alive");
    gateway.wait_log("the first attempt", |line| line.to_string().contains("next: RetryState { attempt: 1, left: 0"));
    gateway.wait_log("the second one", |line| line.to_string().contains("next: RetryState { attempt: 2, left: 0"));
    gateway.wait_log("what the first came to", |line| {
        let line = line.to_string();
        line.contains("failed: [FailedAttempt {") && line.contains("connect") && line.contains("sent: false")
    });
}

#[test]
fn a_filter_can_say_that_the_next_attempt_is_the_last() {
    let origin = Origin::serve(|_| Reply::status(503));
    let seen = |more: Value| {
        let asked = origin.count();
        let config = json!({"select-upstream": [{"do": "retries", "to": "next"}, more]});
        let routed = route(&origin.url(), &["f"]) + "retry = { attempts = 3, backoff = { base = \"1ms\" } }\n";
        let gateway = gateway(&(routed + &probe("f", config)));
        assert_eq!(gateway.get("/").status, 503);
        gateway.wait_log("what is left of the attempts", |line| {
            line.to_string().contains("next: RetryState { attempt: 1, left: 2, budget: Some(3) }")
        });
        origin.count() - asked
    };
    assert_eq!(seen(json!({"do": "failed-attempts", "to": "failed"})), 3);
    assert_eq!(seen(json!({"do": "no-retry", "to": "none"})), 1);
}
