//! The hooks as the canonical ABI wants them, each with its own way to answer nonsense.

use crate::actions::{self, Outcome};

/// An address that no guest of these tests has.
const NOWHERE: u32 = 0xffff_fff0;

#[link(wasm_import_module = "sluice:filter/log@0.1.1")]
unsafe extern "C" {
    #[link_name = "log"]
    fn raw_log(level: i32, text: u32, length: u32);
}

/// What a hook without an answer can do wrong: hand the host a string outside of memory.
fn bad_argument() {
    // SAFETY: the host checks the range and traps; this memory is never touched here.
    unsafe { raw_log(2, NOWHERE, 64) }
}

fn verdict(hook: &str) -> i32 {
    match actions::run(hook) {
        Outcome::Continue => 0,
        Outcome::Respond => 1,
        Outcome::Nonsense => 77,
    }
}

fn observe(hook: &str) {
    if let Outcome::Nonsense = actions::run(hook) {
        bad_argument();
    }
}

/// Where a hook that returns more than one number leaves them: [case or address, address, length].
static mut ANSWER: [u32; 3] = [0; 3];

fn answer(words: [u32; 3]) -> *const u32 {
    // SAFETY: a guest has one thread, and the host has read the last answer.
    unsafe {
        ANSWER = words;
        &raw const ANSWER as *const u32
    }
}

fn leak(text: String) -> (u32, u32) {
    let text = text.leak();
    (text.as_ptr() as u32, text.len() as u32)
}

#[unsafe(export_name = "sluice:filter/describe@0.1.1#describe")]
extern "C" fn describe() -> *const u32 {
    let (address, length) = leak(actions::description());
    answer([address, length, 0])
}

/// # Safety
/// The host hands over a string that it allocated through `cabi_realloc`.
#[unsafe(export_name = "sluice:filter/configure@0.1.1#configure")]
unsafe extern "C" fn configure(text: *mut u8, length: usize) -> *const u32 {
    // SAFETY: see above.
    let config = unsafe { String::from_raw_parts(text, length, length) };
    match actions::configure(&config) {
        Ok(Outcome::Nonsense) => answer([9, NOWHERE, 64]),
        Ok(_) => answer([0, 0, 0]),
        Err(message) => {
            let (address, length) = leak(message);
            answer([1, address, length])
        }
    }
}

#[unsafe(export_name = "sluice:filter/on-request@0.1.1#on-request")]
extern "C" fn on_request() -> i32 {
    verdict("on-request")
}

#[unsafe(export_name = "sluice:filter/on-request-body@0.1.1#on-request-body")]
extern "C" fn on_request_body() -> i32 {
    verdict("on-request-body")
}

#[unsafe(export_name = "sluice:filter/select-upstream@0.1.1#select-upstream")]
extern "C" fn select_upstream() {
    observe("select-upstream");
}

#[unsafe(export_name = "sluice:filter/on-request-chunk@0.1.1#on-request-chunk")]
extern "C" fn on_request_chunk() {
    observe("on-request-chunk");
}

#[unsafe(export_name = "sluice:filter/on-response-chunk@0.1.1#on-response-chunk")]
extern "C" fn on_response_chunk() {
    observe("on-response-chunk");
}

#[unsafe(export_name = "sluice:filter/on-response-event@0.1.1#on-response-event")]
extern "C" fn on_response_event() {
    observe("on-response-event");
}

#[unsafe(export_name = "sluice:filter/on-response@0.1.1#on-response")]
extern "C" fn on_response() -> i32 {
    verdict("on-response")
}

#[unsafe(export_name = "sluice:filter/on-response-body@0.1.1#on-response-body")]
extern "C" fn on_response_body() -> i32 {
    verdict("on-response-body")
}

#[unsafe(export_name = "sluice:filter/on-response-trailers@0.1.1#on-response-trailers")]
extern "C" fn on_response_trailers() {
    observe("on-response-trailers");
}

#[unsafe(export_name = "sluice:filter/on-complete@0.1.1#on-complete")]
extern "C" fn on_complete() {
    observe("on-complete");
}
