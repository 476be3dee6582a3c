//! The access log: one line for each finished exchange on standard output, as JSON or, for people, as a console line.
//! The path is logged without its query, since queries carry tokens and personal data.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::access_record::AccessRecord;
use super::metrics::Metrics;
use super::sink::Sink;

/// A buffer of this size goes to the writer at once.
const CHUNK: usize = 16 * 1024;
/// What a worker keeps while the writer is busy; lines beyond it are dropped and counted.
const MAX_BACKLOG: usize = 1024 * 1024;
/// How long a line may wait in a worker's buffer.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    Off,
    Json,
    Console,
    /// Console on a terminal, JSON otherwise.
    Auto,
}

/// The access log of the process.
pub struct AccessLog {
    sink: Sink,
    format: AtomicU8,
    terminal: bool,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Starts the writer on standard output.
    pub fn start(format: AccessLogFormat, metrics: Arc<Metrics>) -> std::io::Result<Arc<Self>> {
        let terminal = std::io::stdout().is_terminal();
        Self::start_on(std::io::stdout(), terminal, format, metrics)
    }

    fn start_on(
        out: impl std::io::Write + Send + 'static,
        terminal: bool,
        format: AccessLogFormat,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Arc<Self>> {
        let count = Arc::clone(&metrics);
        let sink = Sink::start("access-log", out, move |chunk| count.access_log_dropped.add(lines(chunk)))?;
        let log = AccessLog { sink, format: AtomicU8::new(format as u8), terminal, metrics };
        Ok(Arc::new(log))
    }

    /// Changes the format; takes effect with the next line.
    pub fn set_format(&self, format: AccessLogFormat) {
        self.format.store(format as u8, Relaxed);
    }

    /// A worker's buffer.
    pub fn worker(self: &Arc<Self>) -> Rc<AccessLogBuffer> {
        Rc::new(AccessLogBuffer {
            log: Arc::clone(self),
            lines: RefCell::default(),
            flush_planned: Cell::new(false),
            second: RefCell::new((u64::MAX, String::new())),
        })
    }

    /// Waits until all lines that the workers handed over are written, at most `patience`.
    pub fn flush(&self, patience: Duration) {
        self.sink.flush(patience);
    }

    fn format(&self) -> AccessLogFormat {
        let configured = self.format.load(Relaxed);
        for format in [AccessLogFormat::Off, AccessLogFormat::Json, AccessLogFormat::Console] {
            if configured == format as u8 {
                return format;
            }
        }
        if self.terminal { AccessLogFormat::Console } else { AccessLogFormat::Json }
    }
}

/// The lines of one worker that wait for the writer, for at most a tenth of a second. Dropping it hands them over.
pub struct AccessLogBuffer {
    log: Arc<AccessLog>,
    lines: RefCell<Vec<u8>>,
    flush_planned: Cell<bool>,
    /// The last second that was written as text.
    second: RefCell<(u64, String)>,
}

impl AccessLogBuffer {
    /// Whether lines are wanted at all; ask before gathering a record.
    pub fn is_on(&self) -> bool {
        self.log.format.load(Relaxed) != AccessLogFormat::Off as u8
    }

    /// Writes a line. Must be called inside the worker's runtime.
    pub fn write(self: &Rc<Self>, record: &AccessRecord<'_>) {
        let format = self.log.format();
        if format == AccessLogFormat::Off {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        if lines.len() > MAX_BACKLOG {
            self.log.metrics.access_log_dropped.add(1);
        } else {
            let second = self.second(record.time);
            match format {
                AccessLogFormat::Console => record.console(&mut lines, &second, self.log.terminal),
                _ => record.json(&mut lines, &second),
            }
            lines.push(b'\n');
        }
        let full = lines.len() >= CHUNK;
        drop(lines);
        if full {
            self.flush();
        } else if !self.flush_planned.replace(true) {
            let buffer = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(FLUSH_AFTER).await;
                buffer.flush_planned.set(false);
                buffer.flush();
            });
        }
    }

    /// The members of a record as a JSON object, as `route.summary` gives them to filters.
    pub fn summary(&self, record: &AccessRecord<'_>) -> String {
        let mut json = Vec::with_capacity(512);
        record.json(&mut json, &self.second(record.time));
        String::from_utf8_lossy(&json).into_owned()
    }

    /// Hands the lines to the writer; keeps them when its queue is full.
    pub fn flush(&self) {
        let mut lines = self.lines.borrow_mut();
        if lines.is_empty() {
            return;
        }
        let next = Vec::with_capacity(lines.capacity().min(2 * CHUNK));
        if let Err(back) = self.log.sink.send(std::mem::replace(&mut lines, next)) {
            *lines = back;
        }
    }

    fn second(&self, time: SystemTime) -> std::cell::Ref<'_, (u64, String)> {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.second.borrow().0 != seconds {
            let text = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
            let text = text.map(|time| time.to_string().trim_end_matches('Z').to_owned()).unwrap_or_default();
            *self.second.borrow_mut() = (seconds, text);
        }
        self.second.borrow()
    }
}

impl Drop for AccessLogBuffer {
    fn drop(&mut self) {
        let lines = self.lines.take();
        if !lines.is_empty()
            && let Err(lost) = self.log.sink.send(lines)
        {
            self.log.metrics.access_log_dropped.add(self::lines(&lost));
        }
    }
}

fn lines(chunk: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', chunk).count() as u64
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Mutex;

    use http::{StatusCode, Version};

    use super::super::access_record::{Answerer, FailedAttempt, Timings};
    use super::super::cells::lock;
    use super::super::metrics::ErrorSource;
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn record<'a>() -> AccessRecord<'a> {
        AccessRecord {
            time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            request_id: b"r-1",
            client: Some(IpAddr::from([192, 0, 2, 1])),
            method: "GET",
            authority: "example.org",
            path: "/a",
            protocol: Version::HTTP_2,
            tls_version: None,
            trace_id: None,
            user_agent: None,
            status: Some(StatusCode::OK),
            route: Some("all"),
            upstream: Some("echo"),
            endpoint: None,
            attempts: 1,
            failed_attempts: Vec::new(),
            bytes_in: 0,
            bytes_out: 12,
            timings: Timings { total: Duration::from_micros(1234), ..Timings::default() },
            consumer: None,
            answered_by: Answerer::Upstream,
            reason: None,
            grpc_status: None,
            error: None,
            error_filter: None,
            cache: None,
            compressed: None,
            faults: &[],
            aborted: false,
        }
    }

    fn log(format: AccessLogFormat) -> (Shared, Arc<AccessLog>) {
        let out = Shared::default();
        let log = AccessLog::start_on(out.clone(), false, format, Metrics::new()).expect("a thread");
        (out, log)
    }

    fn written(format: AccessLogFormat, record: &AccessRecord<'_>) -> String {
        let (out, log) = log(format);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async { log.worker().write(record) });
        drop(runtime);
        log.flush(Duration::from_secs(5));
        let bytes = lock(&out.0).clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_json_line_has_all_members() {
        let mut record = record();
        record.answered_by = Answerer::Filter("limit");
        record.error = Some((ErrorSource::Client, "too-many-requests"));
        let line = written(AccessLogFormat::Auto, &record);
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json["time"], "2023-11-14T22:13:20.042Z");
        assert_eq!(json["status"], 200);
        assert_eq!(json["duration_ms"], 1.234);
        assert_eq!(json["protocol"], "HTTP/2.0");
        assert_eq!(json["answered_by"], "filter:limit");
        assert_eq!(json["error_side"], "client");
        assert!(line.ends_with("}\n"));
    }

    #[test]
    fn failed_attempts_are_listed_up_to_a_bound() {
        let mut record = record();
        record.failed_attempts = vec![
            FailedAttempt {
                upstream: "echo",
                endpoint: Some("a.test:80"),
                address: Some("192.0.2.7:80".to_owned()),
                outcome: "connect",
                reason: "connection \"refused\"",
            };
            40
        ];
        record.attempts = 41;
        let json: serde_json::Value = serde_json::from_str(&written(AccessLogFormat::Json, &record)).expect("JSON");
        let failed = json["failed_attempts"].as_array().expect("a list");
        assert_eq!((failed.len(), &json["attempts"]), (16, &serde_json::json!(41)));
        let expected = serde_json::json!({
            "upstream": "echo", "endpoint": "a.test:80", "address": "192.0.2.7:80", "outcome": "connect", "reason": "connection \"refused\""
        });
        assert_eq!(failed[0], expected);
        record.failed_attempts.truncate(1);
        let line = written(AccessLogFormat::Console, &record);
        assert!(line.contains(" (41 attempts)  failed: a.test:80 connect  "), "{line}");
    }

    #[test]
    fn hostile_text_stays_inside_its_string() {
        let mut record = record();
        record.request_id = b"a\"b\\c\r\n\x1b[31m\xff\x7f";
        record.path = "/\u{9b}31m\u{202e}\u{e9}";
        let agent = [&b"\"\x1b\xff"[..], &[b'x'; 300]].concat();
        record.user_agent = Some(&agent);
        for format in [AccessLogFormat::Json, AccessLogFormat::Console] {
            let line = written(format, &record);
            assert_eq!(line.lines().count(), 1);
            assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line}");
            if format == AccessLogFormat::Json {
                let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                assert_eq!(json["request_id"], "a\"b\\c\r\n\u{1b}[31m\u{fffd}\u{7f}");
                assert_eq!(json["path"], "/\u{9b}31m\u{202e}\u{e9}");
                let agent = json["user_agent"].as_str().expect("text");
                assert!(agent.starts_with("\"\u{1b}\u{fffd}xx") && agent.len() < 300, "{agent}");
            }
        }
    }

    #[test]
    fn the_console_line_reads_well() {
        let line = written(AccessLogFormat::Console, &record());
        assert_eq!(
            line,
            "22:13:20.042 200      1.2 ms  GET    example.org/a  all > echo > -  0 B in, 12 B out  192.0.2.1  r-1\n"
        );
    }

    #[test]
    fn off_writes_nothing_and_says_so() {
        let (_, log) = log(AccessLogFormat::Off);
        assert!(!log.worker().is_on());
        assert_eq!(written(AccessLogFormat::Off, &record()), "");
        log.set_format(AccessLogFormat::Json);
        assert!(log.worker().is_on());
    }
}
