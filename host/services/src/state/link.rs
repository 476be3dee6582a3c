//! The connection of one thread to a store. A worker's requests share it, so their calls are pipelined by the way; no call crosses to another
//! thread. A task of the thread makes it when the first call is made, makes it again after a failure, and waits longer after each attempt, so
//! that a store that comes back is not stormed: requests never connect themselves, and while there is no connection they know at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connect::Connection;
use super::store::{CallError, Store};

/// The first pause after a failed attempt; each further one doubles it.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a connection is asked whether it is still there.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Calls in a row without an answer after which the store counts as away. One may be an accident of the machine.
const TIMEOUTS: u32 = 3;

/// How the connection of this thread stands.
#[derive(Clone)]
pub(super) enum Status {
    /// The first attempt goes on.
    Starting,
    Up(Usable),
    Down,
}

/// A connection, and which of this thread it is: calls on a former one say nothing of it.
#[derive(Clone)]
pub(super) struct Usable {
    pub(super) connection: Connection,
    number: u64,
}

/// The connection of a thread.
pub(super) struct Link {
    status: watch::Sender<Status>,
    /// Calls in a row without an answer.
    timeouts: AtomicU32,
    waiting: AtomicUsize,
    /// The number of the last connection that was found to be broken.
    broken: watch::Sender<u64>,
}

/// A call that waits.
pub(super) struct Waiting {
    link: Arc<Link>,
    store: Arc<Store>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.link.waiting.fetch_sub(1, Ordering::Relaxed);
        self.store.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    static LINKS: RefCell<HashMap<u64, Arc<Link>>> = RefCell::default();
}

impl Link {
    /// That of this thread, which has an event loop; it is made when it is asked for first.
    pub(super) fn here(store: &Arc<Store>) -> Arc<Link> {
        LINKS.with_borrow_mut(|links| {
            if let Some(known) = links.get(&store.id()) {
                return Arc::clone(known);
            }
            let (status, broken) = (watch::channel(Status::Starting).0, watch::channel(0).0);
            let link = Arc::new(Link { status, timeouts: AtomicU32::new(0), waiting: AtomicUsize::new(0), broken });
            tokio::spawn(keep(Arc::clone(&link), Arc::downgrade(store), store.id(), store.closed()));
            links.insert(store.id(), Arc::clone(&link));
            link
        })
    }

    /// A place among the calls that wait. Each worker has its own, so that a store that hangs is known to be away before its filters are busy.
    pub(super) fn enter(self: &Arc<Self>, store: &Arc<Store>) -> Result<Waiting, CallError> {
        let most = store.spec().max_waiting;
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(CallError::Busy(most));
        }
        store.waiting.fetch_add(1, Ordering::Relaxed);
        Ok(Waiting { link: Arc::clone(self), store: Arc::clone(store) })
    }

    /// The connection; waits for the first attempt to make it. None: the store is away.
    pub(super) async fn connection(&self) -> Option<Usable> {
        let mut status = self.status.subscribe();
        loop {
            match &*status.borrow_and_update() {
                Status::Up(usable) => return Some(usable.clone()),
                Status::Down => return None,
                Status::Starting => {}
            }
            status.changed().await.ok()?;
        }
    }

    /// Waits until there is a connection. Not at all if the store is closed.
    pub(super) async fn until_up(&self) {
        let mut status = self.status.subscribe();
        let _ = status.wait_for(|status| matches!(status, Status::Up(_))).await;
    }

    /// An answer has come.
    pub(super) fn answered(&self) {
        // Read first: workers write nothing while all is well.
        if self.timeouts.load(Ordering::Relaxed) != 0 {
            self.timeouts.store(0, Ordering::Relaxed);
        }
    }

    /// No answer has come in time.
    pub(super) fn timed_out(&self, on: &Usable) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS {
            self.is_broken(on);
        }
    }

    /// The connection can't be used any more, or leads to the wrong server.
    pub(super) fn is_broken(&self, on: &Usable) {
        self.broken.send_if_modified(|number| {
            let is_news = *number < on.number;
            *number = on.number.max(*number);
            is_news
        });
    }
}

/// Makes the connection and makes it again, until the store is closed.
async fn keep(link: Arc<Link>, store: Weak<Store>, id: u64, mut closed: watch::Receiver<()>) {
    let (mut pause, mut number) = (FIRST_PAUSE, 0);
    while let Some(open) = store.upgrade() {
        let attempt = tokio::select! {
            attempt = connect(&open) => attempt,
            _ = closed.changed() => break,
        };
        match attempt {
            Ok(connection) => {
                open.is_back();
                let made = Instant::now();
                number += 1;
                link.timeouts.store(0, Ordering::Relaxed);
                let (counted, within) = (open.count_connection(), open.spec().connect_timeout);
                // The task must not keep the store open while it waits.
                drop(open);
                link.status.send_replace(Status::Up(Usable { connection: connection.clone(), number }));
                tokio::select! {
                    () = until_broken(&link, number, connection, within) => {}
                    _ = closed.changed() => break,
                }
                drop(counted);
                link.status.send_replace(Status::Down);
                if made.elapsed() >= LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
            }
            Err(why) => {
                open.is_away(&why);
                drop(open);
                link.status.send_replace(Status::Down);
            }
        }
        // Also where a connection was made and did not last: it would be made again for each call.
        tokio::select! {
            () = sleep(with_jitter(pause)) => {}
            _ = closed.changed() => break,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    LINKS.with_borrow_mut(|links| links.remove(&id));
}

/// Waits until a call has found the connection to be broken. It is asked itself from time to time, so that no call finds one that has died in silence.
async fn until_broken(link: &Link, number: u64, mut connection: Connection, within: Duration) {
    let mut broken = link.broken.subscribe();
    loop {
        tokio::select! {
            _ = broken.wait_for(|broken| *broken >= number) => return,
            () = sleep(LOOK_EVERY) => {}
        }
        if connection.is_cluster() {
            continue;
        }
        if !matches!(timeout(within, connection.send(&redis::cmd("PING"))).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// A connection that answers.
pub(super) async fn connect(store: &Store) -> Result<Connection, String> {
    let within = store.spec().connect_timeout;
    let made = async {
        let mut connection = store.connector().connect(store.spec()).await.map_err(|error| error.to_string())?;
        // That to a cluster has just asked for its slots, and a question to all nodes would need all of them.
        if !connection.is_cluster() {
            connection.send(&redis::cmd("PING")).await.map_err(|error| error.to_string())?;
        }
        Ok(connection)
    };
    timeout(within, made).await.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}

/// Between a half and the whole of it: gateways that have lost the store at the same time come back one by one.
pub(super) fn with_jitter(pause: Duration) -> Duration {
    let share = f64::from(u16::from_le_bytes(crate::random::bytes_32().first_chunk().copied().unwrap_or_default()))
        / f64::from(u16::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}
