//! Fetches that go on without a client: their clients have left, or have got a stale response. A worker has a bounded number of them, so that
//! clients that ask and leave cannot fill its memory with fetches that the upstream does not answer.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::task::AbortHandle;

use super::fetch::Fetched;

/// The fetches of a worker that wait for the upstream without a client.
const MOST: usize = 128;

/// How many there are.
#[derive(Default)]
pub(in crate::proxy) struct Detached(Cell<usize>);

impl Detached {
    pub(super) fn is_full(&self) -> bool {
        self.0.get() >= MOST
    }
}

/// The place of a fetch that goes on without a client, until its end.
struct Place {
    detached: Rc<Detached>,
    is_taken: Cell<bool>,
}

impl Place {
    /// False if all places are taken.
    fn take(&self) -> bool {
        if self.detached.is_full() {
            return false;
        }
        self.detached.0.set(self.detached.0.get() + 1);
        self.is_taken.set(true);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_taken.get() {
            self.detached.0.set(self.detached.0.get() - 1);
        }
    }
}

/// A fetch whose client waits for its answer. Dropped before that, it goes on by itself if there is a place for it, and ends otherwise:
/// other requests that wait for it begin anew.
pub(super) struct Attended {
    fetched: oneshot::Receiver<Fetched>,
    task: AbortHandle,
    /// None once the answer is there.
    place: Option<Rc<Place>>,
}

impl Attended {
    pub(super) fn begin(
        detached: &Rc<Detached>,
        fetch: impl Future<Output = ()> + 'static,
        fetched: oneshot::Receiver<Fetched>,
    ) -> Attended {
        let place = Rc::new(Place { detached: Rc::clone(detached), is_taken: Cell::new(false) });
        let of_task = Rc::clone(&place);
        let task = tokio::task::spawn_local(async move {
            fetch.await;
            drop(of_task);
        });
        Attended { fetched, task: task.abort_handle(), place: Some(place) }
    }
}

impl Future for Attended {
    type Output = Result<Fetched, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.fetched).poll(cx);
        if polled.is_ready() {
            self.place = None;
        }
        polled
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        if let Some(place) = &self.place
            && !self.task.is_finished()
            && !place.take()
        {
            self.task.abort();
        }
    }
}
