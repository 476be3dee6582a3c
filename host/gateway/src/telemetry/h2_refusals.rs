//! What the HTTP/2 library refuses by itself. It resets the stream of a malformed request and answers one that is too large, and tells
//! nobody but its debug log. So its reasons are taken from there, and go to the connection that is being polled.
//!
//! The same log tells of connections that end and of requests that were handed on before; those are counted and logged elsewhere. Only
//! the text tells them apart. `tests/e2e/http2.rs` has the library say each text that is known here.

use std::cell::{Cell, RefCell};
use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

/// The modules that read requests.
const SOURCES: [&str; 3] = ["h2::server", "h2::proto::streams", "h2::codec::framed_read"];
/// How the library begins what it says of a malformed request. The last has no mark of a stream error.
const MALFORMED: [&str; 10] = [
    "stream error PROTOCOL_ERROR -- invalid HEADERS dependency ID",
    "stream error PROTOCOL_ERROR -- malformed header block",
    "stream error PROTOCOL_ERROR -- malformed CONTINUATION frame",
    "stream error PROTOCOL_ERROR -- could not parse content-length",
    "stream error PROTOCOL_ERROR -- conflicting content-length headers",
    "stream error PROTOCOL_ERROR -- recv_headers with END_STREAM: content-length is not zero",
    "stream error PROTOCOL_ERROR -- cannot use :protocol",
    "stream error PROTOCOL_ERROR -- cannot use :status",
    "stream error PROTOCOL_ERROR -- error building request",
    "malformed headers: ",
];
const TOO_LARGE: &str = "stream error REQUEST_HEADER_FIELDS_TOO_LARGE -- recv_headers: frame is over size";
/// Refusals that one poll of a connection notes; the library ends a connection with many of them.
const MOST: usize = 64;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static REFUSALS: RefCell<Vec<H2Refusal>> = const { RefCell::new(Vec::new()) };
}

/// A request that the library has refused before it became one.
#[derive(Debug)]
pub struct H2Refusal {
    pub kind: H2RefusalKind,
    /// In the words of the library.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum H2RefusalKind {
    /// Its stream is reset.
    Malformed,
    /// The library has answered it with 431.
    TooLarge,
}

impl H2RefusalKind {
    /// `None`: the text tells of something else than a refused request.
    fn of(text: &str) -> Option<Self> {
        if MALFORMED.iter().any(|start| text.starts_with(start)) {
            return Some(H2RefusalKind::Malformed);
        }
        text.starts_with(TOO_LARGE).then_some(H2RefusalKind::TooLarge)
    }
}

/// Whether a place in the library may tell of a refusal. Frames that come in are told at the same level, but as fields.
pub(super) fn reports(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::DEBUG
        && metadata.is_event()
        && SOURCES.iter().any(|source| metadata.target().starts_with(source))
        && metadata.fields().iter().all(|field| field.name() == "message")
}

/// Notes a refusal for the connection that is being polled on this thread, if it is one of a client.
pub(super) fn note(event: &Event<'_>) {
    if !WATCHING.get() {
        return;
    }
    let mut text = Text::default();
    event.record(&mut text);
    let Text(reason) = text;
    if let Some(kind) = H2RefusalKind::of(&reason) {
        REFUSALS.with_borrow_mut(|refusals| {
            if refusals.len() < MOST {
                refusals.push(H2Refusal { kind, reason });
            }
        });
    }
}

/// Polls the connection of a client and hands over what was refused meanwhile.
pub fn watch<T>(poll: impl FnOnce() -> T, mut refused: impl FnMut(&T, H2Refusal)) -> T {
    let watching = Watching::begin();
    let polled = poll();
    let refusals = REFUSALS.with_borrow_mut(|refusals| (!refusals.is_empty()).then(|| std::mem::take(refusals)));
    drop(watching);
    refusals.into_iter().flatten().for_each(|refusal| refused(&polled, refusal));
    polled
}

/// The watch over one poll. It ends with a panic too: what this thread polls next is no part of that connection.
struct Watching;

impl Watching {
    fn begin() -> Self {
        WATCHING.set(true);
        Watching
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        WATCHING.set(false);
        REFUSALS.with_borrow_mut(Vec::clear);
    }
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.0 = format!("{value:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn refuse(reason: &str) {
        REFUSALS.with_borrow_mut(|refusals| {
            refusals.push(H2Refusal { kind: H2RefusalKind::Malformed, reason: reason.into() });
        });
    }

    #[test]
    fn a_panic_in_one_connection_leaves_nothing_to_the_next() {
        let poll = || {
            refuse("of the first");
            panic!("in the library");
        };
        let panicked = catch_unwind(AssertUnwindSafe(|| watch(poll, |(), _| {})));
        assert!(panicked.is_err());
        assert!(!WATCHING.get());
        let mut seen = Vec::new();
        watch(|| refuse("of the second"), |(), refusal| seen.push(refusal.reason));
        assert_eq!(seen, ["of the second"]);
        assert!(!WATCHING.get());
    }

    #[test]
    fn only_refused_requests_are_told() {
        let kind = H2RefusalKind::of;
        assert_eq!(kind("malformed headers: missing scheme"), Some(H2RefusalKind::Malformed));
        assert_eq!(kind(&format!("{TOO_LARGE}; stream=StreamId(1)")), Some(H2RefusalKind::TooLarge));
        for other in [
            "connection error PROTOCOL_ERROR -- read_preface: invalid preface;",
            "connection error PROTOCOL_ERROR -- failed to load PING frame; err=InvalidPayloadLength;",
            "stream error PROTOCOL_ERROR -- recv_data: content-length overflow; stream=StreamId(1);",
            "stream error PROTOCOL_ERROR -- recv_headers: trailers frame was not EOS; stream=StreamId(1);",
            "recv_data for old stream=StreamId(1), sending STREAM_CLOSED",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
    }
}
