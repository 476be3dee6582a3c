//! The compiling process. It takes the compiler's memory with it when it ends (some hundred times the size of the component), and its death
//! is an error of the plugin. It has a bound of memory, time and threads. A load that waits for it can be interrupted; the process goes
//! on, and the next load that needs the same code takes its result.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::info;

use crate::load::compile::CompilerCommand;

/// How often memory, time and interruptions are looked at.
const CHECK: Duration = Duration::from_millis(20);
/// When it is first said that a plugin is still being compiled, and how often after that.
const FIRST_WORD: Duration = Duration::from_secs(2);
const NEXT_WORDS: Duration = Duration::from_secs(10);
/// What is read of the compiler's complaints.
const MAX_COMPLAINT: u64 = 64 << 10;

/// What one compilation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Resident memory of the process, in bytes.
    pub memory: u64,
    pub timeout: Duration,
    /// Threads of the compiler. Each has memory of its own.
    pub threads: usize,
}

impl Default for CompileLimits {
    fn default() -> Self {
        CompileLimits { memory: 1 << 30, timeout: Duration::from_secs(300), threads: 2 }
    }
}

/// Tells a load that waits for a compilation that there is something newer to load.
#[derive(Debug, Default)]
pub struct Interrupt {
    raised: AtomicBool,
    ignored: AtomicBool,
    heeded: AtomicBool,
}

impl Interrupt {
    /// Interrupts the load that is going on, if it waits for a compilation or will do so.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
    }

    /// Forgets what was raised before.
    pub fn clear(&self) {
        self.raised.store(false, Ordering::Release);
        self.ignored.store(false, Ordering::Release);
        self.heeded.store(false, Ordering::Release);
    }

    /// Lets the load that begins now go on to its end.
    pub fn ignore(&self) {
        self.ignored.store(true, Ordering::Release);
    }

    /// Whether a load has ended because of it.
    pub fn was_heeded(&self) -> bool {
        self.heeded.load(Ordering::Acquire)
    }

    /// Whether a load has to end now. It does so, and leaves everything as it was.
    pub fn heed(&self) -> bool {
        let raised = self.raised.load(Ordering::Acquire) && !self.ignored.load(Ordering::Acquire);
        if raised {
            self.heeded.store(true, Ordering::Release);
        }
        raised
    }
}

/// What is compiled.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// As the log calls it.
    pub(crate) name: &'a str,
    /// Whether a load can be interrupted while it waits for it. Not where the next load would not need the same code.
    pub(crate) can_wait: bool,
}

/// Why a process has compiled nothing.
#[derive(Debug)]
pub(crate) enum ProcessError {
    /// There is no process, or none that can compile anything.
    Unable(String),
    Refused(String),
    Memory(u64),
    Timeout(Duration),
    Interrupted,
}

/// The compiling processes of a runtime.
#[derive(Default)]
pub(crate) struct Compiler {
    limits: Mutex<CompileLimits>,
    pub(crate) interrupt: Arc<Interrupt>,
    /// Of a load that was interrupted.
    left: Mutex<Option<Job>>,
}

/// A compilation. The process is killed when this is dropped.
struct Job {
    hash: [u8; 32],
    limits: CompileLimits,
    begun: Instant,
    result: Receiver<Result<Vec<u8>, ProcessError>>,
    /// The process lives as long as this.
    _alive: Sender<()>,
}

impl Compiler {
    pub(crate) fn set_limits(&self, limits: CompileLimits) {
        *locked(&self.limits) = limits;
    }

    /// Ends a compilation that was left by an interrupted load.
    pub(crate) fn end_left(&self) {
        *locked(&self.left) = None;
    }

    /// What the process makes of these bytes, of which the hash is given.
    pub(crate) fn run(
        &self,
        command: CompilerCommand,
        subject: Subject<'_>,
        bytes: &[u8],
        hash: &[u8; 32],
    ) -> Result<Vec<u8>, ProcessError> {
        let limits = *locked(&self.limits);
        // One with other limits could fail for what is allowed now, and take what is not.
        let left = locked(&self.left).take().filter(|job| job.hash == *hash && job.limits == limits);
        let job = match left {
            Some(job) => job,
            None => Job::start(command, limits, bytes, hash)?,
        };
        let mut say = FIRST_WORD;
        let result = loop {
            match job.result.recv_timeout(CHECK) {
                Ok(result) => break result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Err(ProcessError::Unable("its thread has ended".into())),
            }
            if subject.can_wait && self.interrupt.heed() {
                *locked(&self.left) = Some(job);
                return Err(ProcessError::Interrupted);
            }
            if job.begun.elapsed() >= say {
                say += NEXT_WORDS;
                info!(what = subject.name, seconds = job.begun.elapsed().as_secs(), "still compiling");
            }
        };
        if job.begun.elapsed() >= FIRST_WORD {
            info!(what = subject.name, took_ms = job.begun.elapsed().as_millis() as u64, "compiling has ended");
        }
        result
    }
}

impl Job {
    fn start(
        [program, argument]: CompilerCommand,
        limits: CompileLimits,
        bytes: &[u8],
        hash: &[u8; 32],
    ) -> Result<Job, ProcessError> {
        let mut command = Command::new(program);
        command.arg(argument).env("RAYON_NUM_THREADS", limits.threads.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| ProcessError::Unable(error.to_string()))?;
        // If the machine runs out of memory, this process is what the kernel should end. Where that can't be said, it decides by size.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), "1000");
        let (alive, ended) = mpsc::channel();
        let (sender, result) = mpsc::channel();
        let bytes = bytes.to_vec();
        let supervised = std::thread::Builder::new().name("compiler".into()).spawn(move || {
            // Nobody listens any more when the load has ended otherwise.
            let _ = sender.send(supervise(child, limits, bytes, &ended));
        });
        supervised.map_err(|error| ProcessError::Unable(error.to_string()))?;
        Ok(Job { hash: *hash, limits, begun: Instant::now(), result, _alive: alive })
    }
}

/// Feeds a process and waits for its end; ends it when it takes too much, or when nobody wants it any more.
fn supervise(
    mut child: Child,
    limits: CompileLimits,
    bytes: Vec<u8>,
    wanted: &Receiver<()>,
) -> Result<Vec<u8>, ProcessError> {
    let begun = Instant::now();
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(ProcessError::Unable("it has no pipes".into()));
    };
    // The pipe stays open until the process has ended, so that it can tell when the gateway is gone.
    let (hold, held) = mpsc::channel::<()>();
    let fed = std::thread::Builder::new().name("compiler input".into()).spawn(move || {
        // What the process does not read it does not need: its status says why.
        let _ = stdin.write_all(&(bytes.len() as u64).to_le_bytes()).and_then(|()| stdin.write_all(&bytes));
        drop(bytes);
        let _ = held.recv();
    });
    let (sender, output) = mpsc::channel();
    let read = std::thread::Builder::new().name("compiler output".into()).spawn(move || {
        let (mut compiled, mut complaint) = (Vec::new(), Vec::new());
        let read =
            stdout.read_to_end(&mut compiled).and_then(|_| stderr.take(MAX_COMPLAINT).read_to_end(&mut complaint));
        let _ = sender.send(read.map(|_| (compiled, complaint)));
    });
    let ended = match (fed, read) {
        (Ok(_), Ok(_)) => loop {
            match output.recv_timeout(CHECK) {
                Ok(Ok(read)) => break Ok(read),
                Ok(Err(error)) => break Err(ProcessError::Unable(error.to_string())),
                Err(RecvTimeoutError::Disconnected) => break Err(ProcessError::Unable("its output is lost".into())),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if resident(child.id()) > limits.memory {
                break Err(ProcessError::Memory(limits.memory));
            }
            if begun.elapsed() > limits.timeout {
                break Err(ProcessError::Timeout(limits.timeout));
            }
            if wanted.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                break Err(ProcessError::Interrupted);
            }
        },
        (Err(error), _) | (_, Err(error)) => Err(ProcessError::Unable(error.to_string())),
    };
    if ended.is_err() {
        // Fails when it has ended by itself.
        let _ = child.kill();
    }
    drop(hold);
    let status = child.wait().map_err(|error| ProcessError::Unable(error.to_string()))?;
    let (compiled, complaint) = ended?;
    of_status(status, compiled, &String::from_utf8_lossy(&complaint))
}

fn of_status(status: ExitStatus, compiled: Vec<u8>, complaint: &str) -> Result<Vec<u8>, ProcessError> {
    let complaint = complaint.trim();
    match status.code() {
        Some(0) => Ok(compiled),
        Some(code) if code == i32::from(super::compile::UNABLE) => Err(ProcessError::Unable(complaint.to_owned())),
        Some(_) => Err(ProcessError::Refused(complaint.to_owned())),
        None => Err(ProcessError::Refused(format!("the compiler did not survive it ({status})"))),
    }
}

/// The resident memory of a process in bytes; 0 where that can't be told.
fn resident(process: u32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{process}/statm")).ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'_> = Subject { name: "a plugin", can_wait: true };
    /// A compiler that never ends, but for the reader of what it does not write.
    const STUCK: CompilerCommand = ["sleep", "600"];

    fn compiler(limits: CompileLimits) -> Compiler {
        let compiler = Compiler::default();
        compiler.set_limits(limits);
        compiler
    }

    /// More than a pipe holds.
    fn bytes() -> Vec<u8> {
        vec![0; 1 << 20]
    }

    #[test]
    fn a_compilation_that_takes_too_long_is_ended() {
        let timeout = Duration::from_millis(50);
        let compiler = compiler(CompileLimits { timeout, ..CompileLimits::default() });
        let result = compiler.run(STUCK, SUBJECT, &bytes(), &[0; 32]);
        assert!(matches!(result, Err(ProcessError::Timeout(found)) if found == timeout), "{result:?}");
    }

    #[test]
    fn a_compilation_that_takes_too_much_memory_is_ended() {
        let compiler = compiler(CompileLimits { memory: 16 << 20, ..CompileLimits::default() });
        // It keeps one line, which has no end.
        let result = compiler.run(["tail", "/dev/zero"], SUBJECT, &bytes(), &[0; 32]);
        assert!(matches!(result, Err(ProcessError::Memory(found)) if found == 16 << 20), "{result:?}");
    }

    #[test]
    fn an_interrupted_compilation_goes_on_for_the_next_load_that_needs_it() {
        let compiler = compiler(CompileLimits::default());
        let begun = || locked(&compiler.left).as_ref().map(|job| job.begun);
        compiler.interrupt.raise();
        for hash in [1, 1, 2] {
            let before = begun().filter(|_| hash == 1);
            let result = compiler.run(STUCK, SUBJECT, &bytes(), &[hash; 32]);
            assert!(matches!(result, Err(ProcessError::Interrupted)), "{result:?}");
            assert!(compiler.interrupt.was_heeded());
            assert!(before.is_none_or(|before| begun() == Some(before)), "the same process");
        }
        let before = begun();
        compiler.set_limits(CompileLimits { timeout: Duration::from_secs(60), ..CompileLimits::default() });
        assert!(compiler.run(STUCK, SUBJECT, &bytes(), &[2; 32]).is_err());
        assert!(before.is_some() && begun().is_some() && begun() != before, "another one for other limits");
        compiler.end_left();
        assert_eq!(begun(), None);
    }

    #[test]
    fn what_nobody_can_wait_for_again_is_not_interrupted() {
        let compiler = compiler(CompileLimits { timeout: Duration::from_millis(50), ..CompileLimits::default() });
        compiler.interrupt.raise();
        let subject = Subject { can_wait: false, ..SUBJECT };
        let result = compiler.run(STUCK, subject, &bytes(), &[0; 32]);
        assert!(matches!(result, Err(ProcessError::Timeout(_))), "{result:?}");
        assert!(!compiler.interrupt.was_heeded());
    }
}
