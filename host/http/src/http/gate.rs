//! Holds a request body back until the upstream has asked for it (`Expect: 100-continue`, RFC 9110 §10.1.1).

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

/// Closed at first; opens once.
#[derive(Debug, Default)]
pub struct Gate {
    state: RefCell<State>,
}

#[derive(Debug)]
enum State {
    Closed(Option<Waker>),
    Open,
}

impl Default for State {
    fn default() -> Self {
        State::Closed(None)
    }
}

impl Gate {
    /// Lets the body through.
    pub fn open(&self) {
        if let State::Closed(Some(waker)) = self.state.replace(State::Open) {
            waker.wake();
        }
    }

    /// Whether it has not been opened yet.
    pub fn is_closed(&self) -> bool {
        matches!(*self.state.borrow(), State::Closed(_))
    }

    /// Ready when it is open.
    pub(super) fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        match &mut *self.state.borrow_mut() {
            State::Closed(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Open => Poll::Ready(()),
        }
    }
}
