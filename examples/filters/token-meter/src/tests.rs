use serde_json::json;
use sluice_filter::testing::{Exchange, Harness, ResponseMessage};

use super::*;

fn meter(tokens: u64) -> Harness<TokenMeter> {
    Harness::new(json!({ "tokens": tokens, "window": "1h", "models": ["small", "claude"] })).expect("a config")
}

/// An answer to a consumer; the second is whether the request is let through.
fn answer(meter: &Harness<TokenMeter>, consumer: &str, events: &str) -> bool {
    let mut exchange = Exchange::new("POST", "/v1/chat/completions");
    exchange.consumer = Some(consumer.to_owned());
    if meter.on_request(&mut exchange) == Ok(Verdict::Respond) {
        assert_eq!((exchange.response.status, exchange.response.reason.as_deref()), (429, Some("tokens-spent")));
        assert!(exchange.response.headers.get("retry-after").is_some());
        return false;
    }
    exchange.respond(ResponseMessage::new(200).header("content-type", "text/event-stream"));
    let sent = meter.response_events(&mut exchange, events).expect("no failure");
    assert_eq!(sent.concat(), events.as_bytes(), "nothing is changed");
    true
}

fn counted(meter: &Harness<TokenMeter>, consumer: &str, model: &str, kind: &str) -> Option<f64> {
    let labels = [("consumer", consumer), ("model", model), ("kind", kind)];
    let labels = labels.map(|(name, value)| format!("{name}=\"{value}\"")).join(",");
    meter.metric(&format!("tokens_total{{{labels}}}"))
}

#[test]
fn the_last_event_says_how_many_tokens_there_were() {
    let meter = meter(100);
    let events = "data: {\"model\":\"small\",\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n\
        data: {\"model\":\"small\",\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n\
        data: {\"model\":\"small\",\"choices\":[{\"delta\":{\"content\":\"lo\"}}]}\n\n\
        data: {\"model\":\"small\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n\
        data: [DONE]\n\n";
    assert!(answer(&meter, "ada", events));
    assert_eq!(counted(&meter, "ada", "small", "prompt"), Some(7.0));
    assert_eq!(counted(&meter, "ada", "small", "completion"), Some(3.0));
}

#[test]
fn without_usage_each_piece_of_text_is_a_token() {
    let meter = meter(100);
    let piece = "data: {\"model\":\"unknown\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    assert!(answer(&meter, "ada", &piece.repeat(5)));
    assert_eq!(counted(&meter, "ada", "other", "completion"), Some(5.0));
    assert_eq!(counted(&meter, "ada", "other", "prompt"), None);
}

#[test]
fn anthropics_events_say_it_in_two_places() {
    let meter = meter(100);
    let events = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude\",\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\".\"}}\n\n\
        event: ping\ndata: {\"type\":\"ping\"}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    assert!(answer(&meter, "ada", events));
    assert_eq!(counted(&meter, "ada", "claude", "prompt"), Some(25.0));
    assert_eq!(counted(&meter, "ada", "claude", "completion"), Some(2.0));
}

#[test]
fn a_budget_that_is_spent_refuses_the_next_request_of_this_consumer_only() {
    let meter = meter(10);
    let usage = "data: {\"model\":\"small\",\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":4}}\n\n";
    assert!(answer(&meter, "ada", usage));
    assert!(answer(&meter, "ada", usage), "two are left, and an answer that takes more is not cut");
    assert!(!answer(&meter, "ada", usage));
    assert!(answer(&meter, "bob", usage));
    meter.advance(std::time::Duration::from_secs(3600));
    assert!(answer(&meter, "ada", usage));
    assert_eq!(meter.metric("refused_total{consumer=\"ada\"}"), Some(1.0));
}

#[test]
fn an_answer_that_does_not_stream_counts_too() {
    let meter = meter(100);
    let mut exchange = Exchange::new("POST", "/");
    let mut response = ResponseMessage::new(200).header("content-type", "application/json");
    response.body = br#"{"model":"small","choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":2,"completion_tokens":9}}"#.to_vec();
    exchange.respond(response);
    assert_eq!(meter.on_response_body(&mut exchange), Ok(Verdict::Continue));
    assert_eq!(counted(&meter, "nobody", "small", "completion"), Some(9.0));
}
