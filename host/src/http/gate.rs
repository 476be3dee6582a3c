//! Holds a request body back until the upstream has asked for it (`Expect: 100-continue`, RFC 9110 §10.1.1).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Closed at first; opens or refuses once. Behind a lock only because hyper wants its callback to be `Sync`: it never waits.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed(Option<Waker>),
    Open,
    Refused,
}

impl Default for State {
    fn default() -> Self {
        State::Closed(None)
    }
}

impl Gate {
    /// Lets the body through. Nothing happens after a refusal.
    pub fn open(&self) {
        self.decide(State::Open);
    }

    /// Breaks the body off with `NotWanted`. Nothing happens once it is open.
    pub fn refuse(&self) {
        self.decide(State::Refused);
    }

    /// Whether nothing was decided yet.
    pub fn is_closed(&self) -> bool {
        matches!(*self.lock(), State::Closed(_))
    }

    fn decide(&self, decision: State) {
        let mut state = self.lock();
        if let State::Closed(waker) = &mut *state {
            let waker = waker.take();
            *state = decision;
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Ready when decided: whether the body may pass.
    pub(super) fn poll_open(&self, cx: &Context<'_>) -> Poll<bool> {
        match &mut *self.lock() {
            State::Closed(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Open => Poll::Ready(true),
            State::Refused => Poll::Ready(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
