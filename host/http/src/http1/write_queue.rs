//! One task per worker flushes the deferred writes of all upstream connections. Waking the task of each request instead would poll its
//! deep future for nothing: it has nothing to do before the response arrives.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Weak;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::unconstrained;

use super::io::Transport;

#[derive(Default)]
struct WriteQueue {
    /// The transports to flush, and the task to wake where a write fails or blocks.
    waiting: Vec<(Weak<RefCell<Transport>>, Waker)>,
    /// The writing task, while it waits for work.
    idle: Option<Waker>,
    /// Whether the writing task exists.
    running: bool,
}

thread_local! {
    static QUEUE: RefCell<WriteQueue> = RefCell::default();
}

/// Queues a write for after all tasks that are ready now; wakes `owner` if it fails. Returns `false` if the transport is gone. Must be
/// called within a local runtime.
pub(super) fn write_later(transport: &Weak<RefCell<Transport>>, owner: &Waker) -> bool {
    if transport.strong_count() == 0 {
        return false;
    }
    if !QUEUE.with_borrow(|queue| queue.running) {
        tokio::task::spawn_local(unconstrained(write(WriterGuard)));
    }
    let idle = QUEUE.with_borrow_mut(|queue| {
        queue.running = true;
        queue.waiting.push((transport.clone(), owner.clone()));
        queue.idle.take()
    });
    if let Some(idle) = idle {
        idle.wake();
    }
    true
}

/// Marks the writing task as gone when it ends, also when the runtime drops it.
struct WriterGuard;

impl Drop for WriterGuard {
    fn drop(&mut self) {
        let _ = QUEUE.try_with(|queue| {
            let left = queue.try_borrow_mut().map(|mut queue| std::mem::take(&mut *queue));
            // Dropped outside the borrow: a waker may own a task whose drop enters this queue again.
            drop(left);
        });
    }
}

async fn write(_running: WriterGuard) {
    let mut batch = Vec::new();
    poll_fn(|cx| {
        QUEUE.with_borrow_mut(|queue| {
            std::mem::swap(&mut queue.waiting, &mut batch);
            queue.idle = Some(cx.waker().clone());
        });
        for (transport, owner) in batch.drain(..) {
            let has_to_look = transport
                .upgrade()
                .is_some_and(|transport| transport.borrow_mut().write_deferred(&mut Context::from_waker(&owner)));
            if has_to_look {
                owner.wake();
            }
        }
        Poll::<()>::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::http::body::Body;
    use crate::http1::{Connection, Keeper, NoReply, Reply, SendError, Tolerance};

    struct Nobody;

    impl Keeper for Nobody {
        fn keep(self, _: Connection) {}
    }

    #[tokio::test(flavor = "local")]
    async fn a_request_is_written_while_its_task_sleeps() {
        let (ours, mut theirs) = duplex(4096);
        let mut request = Request::get("/").body(Body::Empty).unwrap();
        let mut sent = Box::pin(Connection::new(ours).send(&mut request, None, None, Tolerance::default(), Nobody));
        // Polled once, and not again before the answer is there.
        poll_fn(|cx| Poll::Ready(sent.as_mut().poll(cx).is_pending().then_some(()))).await.expect("no answer yet");
        let mut head = [0; 64];
        let length = theirs.read(&mut head).await.unwrap();
        assert_eq!(&head[..length], b"GET / HTTP/1.1\r\n\r\n");
        theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert!(matches!(sent.await, Ok(Reply::Response(response)) if response.status() == 204));
    }

    #[tokio::test(flavor = "local")]
    async fn what_comes_before_a_request_is_no_answer_and_nothing_is_written() {
        for make in [|| Body::Empty, || Body::full("body")] {
            for goodbye in ["", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"] {
                let (ours, mut theirs) = duplex(4096);
                let connection = Connection::new(ours);
                theirs.write_all(goodbye.as_bytes()).await.unwrap();
                theirs.shutdown().await.unwrap();
                let mut request = Request::post("/").body(make()).unwrap();
                let sent = connection.send(&mut request, None, None, Tolerance::default(), Nobody).await;
                let Err(NoReply { error, unsent, .. }) = sent else { panic!("an answer to nothing") };
                assert!(matches!(error, SendError::Closed) && unsent, "{error:?}");
                assert_eq!(theirs.read(&mut [0; 64]).await.unwrap(), 0);
                assert_eq!(request.body().exact_size(), make().exact_size());
            }
        }
    }
}
