//! A thread that writes lines to a file descriptor, so that a slow reader never holds up a worker: the queue to it is bounded
//! and what does not fit is dropped and counted.

use std::io::Write;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

/// Chunks that wait for the writer.
const QUEUE: usize = 256;

enum Job {
    Write(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The sending side; clones go to the same thread, which ends with the last of them.
#[derive(Clone)]
pub(super) struct Sink {
    jobs: SyncSender<Job>,
}

impl Sink {
    /// Starts the thread. `lost` is called with each chunk that could not be written.
    pub(super) fn start(
        name: &str,
        out: impl Write + Send + 'static,
        lost: impl Fn(&[u8]) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel(QUEUE);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || write(queue, out, lost))?;
        Ok(Sink { jobs })
    }

    /// Hands a chunk over without waiting, or gives it back when the queue is full.
    pub(super) fn send(&self, chunk: Vec<u8>) -> Result<(), Vec<u8>> {
        match self.jobs.try_send(Job::Write(chunk)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(Job::Write(chunk)) | TrySendError::Disconnected(Job::Write(chunk))) => Err(chunk),
            Err(_) => Err(Vec::new()),
        }
    }

    /// Waits until all that was sent before is written, at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (done, written) = mpsc::sync_channel(1);
        let mut job = Job::Flush(done);
        loop {
            match self.jobs.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    job = back;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Err(_) => return,
            }
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write(queue: Receiver<Job>, mut out: impl Write, lost: impl Fn(&[u8])) {
    for job in queue {
        match job {
            Job::Write(chunk) => {
                // Each chunk is tried: a full disk may have room again, and a closed pipe fails fast.
                if out.write_all(&chunk).and_then(|()| out.flush()).is_err() {
                    lost(&chunk);
                }
            }
            Job::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn flush_waits_for_what_was_sent() {
        let out = Shared::default();
        let sink = Sink::start("test", out.clone(), |_| {}).expect("a thread");
        for _ in 0..10 {
            sink.send(b"line\n".to_vec()).expect("room");
        }
        sink.flush(Duration::from_secs(5));
        assert_eq!(out.0.lock().unwrap().len(), 50);
    }

    #[test]
    fn a_closed_reader_costs_the_lines_and_nothing_else() {
        let lost = Arc::new(Mutex::new(0));
        let count = Arc::clone(&lost);
        let sink = Sink::start("test", Closed, move |chunk| *count.lock().unwrap() += chunk.len()).expect("a thread");
        sink.send(b"line\n".to_vec()).expect("room");
        sink.flush(Duration::from_secs(5));
        assert_eq!(*lost.lock().unwrap(), 5);
    }
}
