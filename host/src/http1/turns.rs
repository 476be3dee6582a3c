//! Writes what waits its turn on connections to servers: one task of the worker for all of them. The task of a request is deep, and
//! has nothing to do before the response comes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Weak;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::unconstrained;

use super::io::Transport;

#[derive(Default)]
struct Turns {
    /// What is to be written, and whom to tell where it could not be.
    waiting: Vec<(Weak<RefCell<Transport>>, Waker)>,
    /// The writing task, while it waits for work.
    idle: Option<Waker>,
    /// Whether there is one.
    running: bool,
}

thread_local! {
    static TURNS: RefCell<Turns> = RefCell::default();
}

/// Has it written when everything that is ready now was seen to, and `owner` woken if that fails. `false`: there is nothing to write
/// through. Must be called within a local runtime.
pub(super) fn write_later(transport: &Weak<RefCell<Transport>>, owner: &Waker) -> bool {
    if transport.strong_count() == 0 {
        return false;
    }
    if !TURNS.with_borrow(|turns| turns.running) {
        tokio::task::spawn_local(unconstrained(write(Running)));
    }
    let idle = TURNS.with_borrow_mut(|turns| {
        turns.running = true;
        turns.waiting.push((transport.clone(), owner.clone()));
        turns.idle.take()
    });
    if let Some(idle) = idle {
        idle.wake();
    }
    true
}

/// Says that nobody writes any more, also when the runtime is dropped under the task.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        let _ = TURNS.try_with(|turns| {
            let left = turns.try_borrow_mut().map(|mut turns| std::mem::take(&mut *turns));
            // Outside the borrow: a waker may own a task whose drop comes back here.
            drop(left);
        });
    }
}

async fn write(_running: Running) {
    let mut turn = Vec::new();
    poll_fn(|cx| {
        TURNS.with_borrow_mut(|turns| {
            std::mem::swap(&mut turns.waiting, &mut turn);
            turns.idle = Some(cx.waker().clone());
        });
        for (transport, owner) in turn.drain(..) {
            let has_to_look = transport
                .upgrade()
                .is_some_and(|transport| transport.borrow_mut().take_turn(&mut Context::from_waker(&owner)));
            if has_to_look {
                owner.wake();
            }
        }
        Poll::<()>::Pending
    })
    .await;
}
