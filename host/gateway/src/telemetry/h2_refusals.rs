//! What the HTTP/2 library refuses by itself. It resets the stream of a malformed request and answers one that is too large, and tells
//! nobody but its debug log. So its reasons are taken from there, and go to the connection that is being polled.

use std::cell::{Cell, RefCell};
use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

/// The modules that read requests.
const SOURCES: [&str; 3] = ["h2::server", "h2::proto::streams", "h2::codec::framed_read"];
/// Reasons that one poll of a connection notes; the library ends a connection with many of them.
const MOST: usize = 64;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static REASONS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Whether a place in the library tells of a refusal. Frames that come in are told at the same level, but as fields.
pub(super) fn reports(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::DEBUG
        && metadata.is_event()
        && SOURCES.iter().any(|source| metadata.target().starts_with(source))
        && metadata.fields().iter().all(|field| field.name() == "message")
}

/// Notes the reason for the connection that is being polled on this thread, if it is one of a client.
pub(super) fn note(event: &Event<'_>) {
    if !WATCHING.get() {
        return;
    }
    REASONS.with_borrow_mut(|reasons| {
        if reasons.len() < MOST {
            let mut reason = Reason::default();
            event.record(&mut reason);
            reasons.push(reason.0);
        }
    });
}

/// Polls the connection of a client and hands over the reasons of what was refused meanwhile.
pub fn watch<T>(poll: impl FnOnce() -> T, refused: impl FnMut(String)) -> T {
    WATCHING.set(true);
    let polled = poll();
    WATCHING.set(false);
    let reasons = REASONS.with_borrow_mut(|reasons| (!reasons.is_empty()).then(|| std::mem::take(reasons)));
    reasons.into_iter().flatten().for_each(refused);
    polled
}

#[derive(Default)]
struct Reason(String);

impl Visit for Reason {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.0 = format!("{value:?}");
    }
}
