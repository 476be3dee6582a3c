//! The actions of the hooks that see pieces of a body. With `if-piece`, an action is for pieces that have this text; with `if-last`, for the
//! last one.

use serde_json::Value;

use crate::actions::{Outcome, describe};
use crate::bindings::sluice::filter::{chunk, log, state, types};

/// Whether the action is for this piece.
pub(crate) fn is_for(action: &Value) -> bool {
    let has_text = |text: &str| String::from_utf8_lossy(&whole()).contains(text);
    action["if-piece"].as_str().is_none_or(has_text)
        && action["if-last"].as_bool().is_none_or(|last| last == chunk::is_last().unwrap())
}

/// One action, if it is one of these.
pub(crate) fn act(name: &str, action: &Value) -> Option<Outcome> {
    let value = action["value"].as_str().unwrap_or("");
    match name {
        "echo-piece" => chunk::replace(&whole()).unwrap(),
        "upper-piece" => chunk::replace(&whole().to_ascii_uppercase()).unwrap(),
        "replace-piece" => chunk::replace(value.as_bytes()).unwrap(),
        // Shows where a piece begins and ends, and which is the last.
        "mark-piece" => {
            let end: &[u8] = if chunk::is_last().unwrap() { b"!]" } else { b"]" };
            chunk::replace(&[b"[", &*whole(), end].concat()).unwrap();
        }
        "hold-piece" if chunk::is_last().unwrap() => {}
        "hold-piece" => {
            let tail = action["tail"].as_u64().unwrap_or(u64::MAX).min(chunk::length().unwrap());
            or_fail(chunk::hold(tail));
        }
        "end-piece" => chunk::end().unwrap(),
        "pass-rest" => chunk::pass_rest().unwrap(),
        "multiply-piece" => or_fail(chunk::replace(&whole().repeat(action["times"].as_u64().unwrap() as usize))),
        // What is kept from piece to piece is in the slot: the instance may be another one.
        "count-piece" => {
            let count = state::get().unwrap().map_or(0, |bytes| bytes[0]) + 1;
            state::set(&[count]).unwrap();
            if chunk::is_last().unwrap() {
                chunk::replace(&[&*whole(), count.to_string().as_bytes()].concat()).unwrap();
            }
        }
        "show-event" => {
            let part = |part: Result<Option<String>, types::Error>| part.unwrap().unwrap_or_else(|| "-".into());
            let shown = format!(
                "{}|{}|{}\n",
                part(chunk::event_name()),
                part(chunk::event_id()),
                part(chunk::event_data()).replace('\n', "/")
            );
            chunk::replace(shown.as_bytes()).unwrap();
        }
        "upper-event" => {
            if let Some(data) = chunk::event_data().unwrap() {
                chunk::set_event_data(&data.to_uppercase()).unwrap();
            }
        }
        _ => return None,
    }
    Some(Outcome::Continue)
}

fn whole() -> Vec<u8> {
    chunk::read(0, u64::MAX).unwrap()
}

fn or_fail(result: Result<(), types::Error>) {
    if let Err(error) = result {
        log::fail(&describe(&error));
    }
}
