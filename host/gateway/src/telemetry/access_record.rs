//! What the access log says of an exchange: its members, as JSON and as a console line for people.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{StatusCode, Version};

use super::metrics::ErrorSource;

/// Failed attempts that one line shows: an upstream may have thousands of endpoints.
const MAX_FAILED: usize = 16;
/// In place of the client's address where it has none, as filters see it.
const NO_ADDRESS: &str = "unix:";
/// Bytes of a `User-Agent` that a line shows.
const MAX_USER_AGENT: usize = 256;

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

/// An attempt that brought no response.
#[derive(Debug, Clone)]
pub struct FailedAttempt<'a> {
    pub upstream: &'a str,
    pub endpoint: Option<&'a str>,
    pub address: Option<String>,
    /// As the metrics name it.
    pub outcome: &'a str,
    /// In words.
    pub reason: &'a str,
}

/// A finished exchange. Texts that come from the client are bytes: they are made safe here.
#[derive(Debug, Clone)]
pub struct AccessRecord<'a> {
    /// When the request head was in.
    pub time: SystemTime,
    pub request_id: &'a [u8],
    /// `None` where it came over a Unix socket.
    pub client: Option<IpAddr>,
    pub method: &'a str,
    pub authority: &'a str,
    /// As the client sent it, without the query.
    pub path: &'a str,
    pub protocol: Version,
    pub tls_version: Option<&'a str>,
    /// Of W3C Trace Context.
    pub trace_id: Option<&'a str>,
    pub user_agent: Option<&'a [u8]>,
    /// `None` when nothing was sent.
    pub status: Option<StatusCode>,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// How often an endpoint was asked; shown when that was more than once.
    pub attempts: usize,
    /// The attempts that brought no response, oldest first.
    pub failed_attempts: Vec<FailedAttempt<'a>>,
    /// Body bytes from and to the client.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub timings: Timings,
    pub consumer: Option<&'a str>,
    pub answered_by: Answerer<'a>,
    /// Why the response was given, as a filter has said.
    pub reason: Option<&'a str>,
    /// The status of gRPC.
    pub grpc_status: Option<u8>,
    /// The guilty side and what went wrong.
    pub error: Option<(ErrorSource, &'a str)>,
    /// The filter that the error is about.
    pub error_filter: Option<&'a str>,
    /// What the cache of the route did.
    pub cache: Option<&'static str>,
    /// The content coding that the gateway has put on the response, and the bytes of its content without it.
    pub compressed: Option<(&'static str, u64)>,
    /// The faults that were injected.
    pub faults: &'a [&'static str],
    /// The exchange ended before its last byte.
    pub aborted: bool,
}

impl AccessRecord<'_> {
    pub(super) fn json(&self, out: &mut Vec<u8>, second: &(u64, String)) {
        let _ = write!(out, "{{\"time\":\"{}.{:03}Z\"", second.1, self.millis());
        text(out, "request_id", Some(self.request_id));
        let _ = match self.client {
            Some(client) => write!(out, ",\"client\":\"{client}\""),
            None => write!(out, ",\"client\":\"{NO_ADDRESS}\""),
        };
        text(out, "method", Some(self.method.as_bytes()));
        text(out, "authority", Some(self.authority.as_bytes()));
        text(out, "path", Some(self.path.as_bytes()));
        let _ = write!(out, ",\"protocol\":\"{:?}\"", self.protocol);
        text(out, "tls_version", self.tls_version.map(str::as_bytes));
        text(out, "trace_id", self.trace_id.map(str::as_bytes));
        text(out, "user_agent", self.user_agent.map(|agent| agent.get(..MAX_USER_AGENT).unwrap_or(agent)));
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
        self.failures(out);
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
        text(out, "reason", self.reason.map(str::as_bytes));
        if let Some(status) = self.grpc_status {
            let _ = write!(out, ",\"grpc_status\":{status}");
        }
        if let Some((side, kind)) = self.error {
            text(out, "error_side", Some(side.name().as_bytes()));
            text(out, "error", Some(kind.as_bytes()));
        }
        text(out, "cache", self.cache.map(str::as_bytes));
        if let Some((encoding, bytes)) = self.compressed {
            // A word of ours, without a quote.
            let _ = write!(out, ",\"compression\":\"{encoding}\",\"bytes_uncompressed\":{bytes}");
        }
        text(out, "error_filter", self.error_filter.map(str::as_bytes));
        if !self.faults.is_empty() {
            // Words of ours, without a quote.
            let _ = write!(out, ",\"faults\":[\"{}\"]", self.faults.join("\",\""));
        }
        let _ = write!(out, ",\"aborted\":{}}}", self.aborted);
    }

    fn failures(&self, out: &mut Vec<u8>) {
        for (index, failed) in self.failed_attempts.iter().take(MAX_FAILED).enumerate() {
            out.extend_from_slice(if index == 0 { b",\"failed_attempts\":[{" } else { b",{" });
            let _ = write!(out, "\"upstream\":\"{}\"", Plain(failed.upstream));
            text(out, "endpoint", failed.endpoint.map(str::as_bytes));
            text(out, "address", failed.address.as_deref().map(str::as_bytes));
            text(out, "outcome", Some(failed.outcome.as_bytes()));
            text(out, "reason", Some(failed.reason.as_bytes()));
            out.push(b'}');
        }
        if !self.failed_attempts.is_empty() {
            out.push(b']');
        }
    }

    pub(super) fn console(&self, out: &mut Vec<u8>, second: &(u64, String), colour: bool) {
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
        for failed in self.failed_attempts.iter().take(MAX_FAILED) {
            let _ = write!(out, "  failed: {} {}", Plain(failed.endpoint.unwrap_or(failed.upstream)), failed.outcome);
        }
        let _ = write!(out, "  {} B in, {} B out  ", self.bytes_in, self.bytes_out);
        let _ = match self.client {
            Some(client) => write!(out, "{client}"),
            None => write!(out, "{NO_ADDRESS}"),
        };
        match self.answered_by {
            Answerer::Upstream | Answerer::Nobody => {}
            Answerer::Gateway => out.extend_from_slice(b"  by gateway"),
            Answerer::Filter(name) => {
                let _ = write!(out, "  by filter {}", Plain(name));
            }
        }
        if let Some(reason) = self.reason {
            let _ = write!(out, " ({})", Plain(reason));
        }
        if let Some(cache) = self.cache {
            let _ = write!(out, "  cache {cache}");
        }
        if let Some((encoding, bytes)) = self.compressed {
            let _ = write!(out, "  {encoding} of {bytes} B");
        }
        if let Some(status) = self.grpc_status {
            let _ = write!(out, "  grpc {status}");
        }
        if let Some(consumer) = self.consumer {
            out.extend_from_slice(b"  consumer ");
            escape(out, consumer.as_bytes());
        }
        if let Some((side, kind)) = self.error {
            let _ = write!(out, "  {on}{}: {}", side.name(), Plain(kind));
            if let Some(filter) = self.error_filter {
                let _ = write!(out, " (filter {})", Plain(filter));
            }
            out.extend_from_slice(off.as_bytes());
        }
        if !self.faults.is_empty() {
            let _ = write!(out, "  injected: {}", self.faults.join(", "));
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
