//! The access log: one line for each finished exchange on standard output, as JSON or, for people, as a console line.
//! The path is logged without its query, since queries carry tokens and personal data.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write as _};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{StatusCode, Version};

use super::metrics::{Metrics, Side};
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

/// Who made the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer<'a> {
    Upstream,
    /// The filter of this name.
    Filter(&'a str),
    Gateway,
    /// Nobody: the client left before.
    Nobody,
}

/// Where the time went. What did not happen is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// From the request head to the last byte.
    pub total: Duration,
    pub request_filters: Option<Duration>,
    pub connect: Option<Duration>,
    /// From sending upstream to the response head.
    pub first_byte: Option<Duration>,
    /// From the response head to the last byte.
    pub response: Option<Duration>,
}

/// A finished exchange. Texts that come from the client are bytes: they are made safe here.
#[derive(Debug, Clone)]
pub struct AccessRecord<'a> {
    /// When the request head was in.
    pub time: SystemTime,
    pub request_id: &'a [u8],
    pub client: IpAddr,
    pub method: &'a str,
    pub authority: &'a str,
    /// As the client sent it, without the query.
    pub path: &'a str,
    pub protocol: Version,
    /// `None` when nothing was sent.
    pub status: Option<StatusCode>,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// How often an endpoint was asked; shown when that was more than once.
    pub attempts: usize,
    /// Body bytes from and to the client.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub timings: Timings,
    pub consumer: Option<&'a str>,
    pub answered_by: Answerer<'a>,
    /// The guilty side and what went wrong.
    pub error: Option<(Side, &'a str)>,
    /// The exchange ended before its last byte.
    pub aborted: bool,
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

impl AccessRecord<'_> {
    fn json(&self, out: &mut Vec<u8>, second: &(u64, String)) {
        let _ = write!(out, "{{\"time\":\"{}.{:03}Z\"", second.1, self.millis());
        text(out, "request_id", Some(self.request_id));
        let _ = write!(out, ",\"client\":\"{}\"", self.client);
        text(out, "method", Some(self.method.as_bytes()));
        text(out, "authority", Some(self.authority.as_bytes()));
        text(out, "path", Some(self.path.as_bytes()));
        let _ = write!(out, ",\"protocol\":\"{:?}\"", self.protocol);
        match self.status {
            Some(status) => {
                let _ = write!(out, ",\"status\":{}", status.as_u16());
            }
            None => out.extend_from_slice(b",\"status\":null"),
        }
        text(out, "route", self.route.map(str::as_bytes));
        text(out, "upstream", self.upstream.map(str::as_bytes));
        text(out, "endpoint", self.endpoint.map(str::as_bytes));
        if self.attempts > 1 {
            let _ = write!(out, ",\"attempts\":{}", self.attempts);
        }
        let _ = write!(out, ",\"bytes_in\":{},\"bytes_out\":{}", self.bytes_in, self.bytes_out);
        let timings = &self.timings;
        for (name, time) in [
            ("duration_ms", Some(timings.total)),
            ("request_filters_ms", timings.request_filters),
            ("connect_ms", timings.connect),
            ("first_byte_ms", timings.first_byte),
            ("response_ms", timings.response),
        ] {
            if let Some(time) = time {
                let micros = time.as_micros();
                let _ = write!(out, ",\"{name}\":{}.{:03}", micros / 1000, micros % 1000);
            }
        }
        text(out, "consumer", self.consumer.map(str::as_bytes));
        match self.answered_by {
            Answerer::Upstream => out.extend_from_slice(b",\"answered_by\":\"upstream\""),
            Answerer::Gateway => out.extend_from_slice(b",\"answered_by\":\"gateway\""),
            Answerer::Nobody => {}
            Answerer::Filter(name) => {
                out.extend_from_slice(b",\"answered_by\":\"filter:");
                escape(out, name.as_bytes());
                out.push(b'"');
            }
        }
        if let Some((side, kind)) = self.error {
            text(out, "error_side", Some(side.name().as_bytes()));
            text(out, "error", Some(kind.as_bytes()));
        }
        let _ = write!(out, ",\"aborted\":{}}}", self.aborted);
    }

    fn console(&self, out: &mut Vec<u8>, second: &(u64, String), colour: bool) {
        let clock = second.1.split('T').nth(1).unwrap_or("");
        let _ = write!(out, "{clock}.{:03} ", self.millis());
        let code = self.status.map_or(0, |status| status.as_u16());
        let (on, off) = match (colour, code / 100) {
            (false, _) => ("", ""),
            (true, 2) => ("\x1b[32m", "\x1b[0m"),
            (true, 1 | 3) => ("\x1b[36m", "\x1b[0m"),
            (true, 4) => ("\x1b[33m", "\x1b[0m"),
            (true, _) => ("\x1b[31m", "\x1b[0m"),
        };
        match self.status {
            Some(_) => {
                let _ = write!(out, "{on}{code}{off} ");
            }
            None => {
                let _ = write!(out, "{on}---{off} ");
            }
        }
        let _ = write!(out, "{:>8.1} ms  {:<6} ", self.timings.total.as_secs_f64() * 1000.0, Plain(self.method));
        escape(out, self.authority.as_bytes());
        escape(out, self.path.as_bytes());
        let (route, upstream, endpoint) =
            (self.route.unwrap_or("-"), self.upstream.unwrap_or("-"), self.endpoint.unwrap_or("-"));
        let _ = write!(out, "  {} > {} > {}", Plain(route), Plain(upstream), Plain(endpoint));
        if self.attempts > 1 {
            let _ = write!(out, " ({} attempts)", self.attempts);
        }
        let _ = write!(out, "  {} B in, {} B out  {}", self.bytes_in, self.bytes_out, self.client);
        match self.answered_by {
            Answerer::Upstream | Answerer::Nobody => {}
            Answerer::Gateway => out.extend_from_slice(b"  by gateway"),
            Answerer::Filter(name) => {
                let _ = write!(out, "  by filter {}", Plain(name));
            }
        }
        if let Some(consumer) = self.consumer {
            out.extend_from_slice(b"  consumer ");
            escape(out, consumer.as_bytes());
        }
        if let Some((side, kind)) = self.error {
            let _ = write!(out, "  {on}{}: {}{off}", side.name(), Plain(kind));
        }
        if self.aborted {
            out.extend_from_slice(b"  aborted");
        }
        out.extend_from_slice(b"  ");
        escape(out, self.request_id);
    }

    fn millis(&self) -> u32 {
        self.time.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_millis()
    }
}

/// Text of our own configuration or of the HTTP grammar, still escaped for safety.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut escaped = Vec::with_capacity(self.0.len());
        escape(&mut escaped, self.0.as_bytes());
        f.pad(&String::from_utf8_lossy(&escaped))
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    if let Some(value) = value {
        let _ = write!(out, ",\"{name}\":\"");
        escape(out, value);
        out.push(b'"');
    }
}

/// Escapes for a JSON string. Control characters of all kinds go out as `\u00XX`, so that a terminal is safe as well;
/// bytes that are not UTF-8 become U+FFFD.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let harmless = |b: &u8| (0x20..0x7f).contains(b) && *b != b'"' && *b != b'\\';
    if value.iter().all(harmless) {
        out.extend_from_slice(value);
        return;
    }
    for c in String::from_utf8_lossy(value).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            // U+2028 to U+202E and U+2066 to U+2069 break or turn lines in viewers.
            c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn lines(chunk: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', chunk).count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::cells::lock;
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
            client: IpAddr::from([192, 0, 2, 1]),
            method: "GET",
            authority: "example.org",
            path: "/a",
            protocol: Version::HTTP_2,
            status: Some(StatusCode::OK),
            route: Some("all"),
            upstream: Some("echo"),
            endpoint: None,
            attempts: 1,
            bytes_in: 0,
            bytes_out: 12,
            timings: Timings { total: Duration::from_micros(1234), ..Timings::default() },
            consumer: None,
            answered_by: Answerer::Upstream,
            error: None,
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
        record.error = Some((Side::Client, "too-many-requests"));
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
    fn hostile_text_stays_inside_its_string() {
        let mut record = record();
        record.request_id = b"a\"b\\c\r\n\x1b[31m\xff\x7f";
        record.path = "/\u{9b}31m\u{202e}\u{e9}";
        for format in [AccessLogFormat::Json, AccessLogFormat::Console] {
            let line = written(format, &record);
            assert_eq!(line.lines().count(), 1);
            assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line}");
            if format == AccessLogFormat::Json {
                let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                assert_eq!(json["request_id"], "a\"b\\c\r\n\u{1b}[31m\u{fffd}\u{7f}");
                assert_eq!(json["path"], "/\u{9b}31m\u{202e}\u{e9}");
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
