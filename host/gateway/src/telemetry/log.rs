//! The operational log: `tracing` events on standard error, as lines for people on a terminal and as JSON otherwise.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use super::h2_refusals;
use super::log_limit::LogLimit;
use super::metrics::Metrics;
use super::sink::Sink;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The running operational log.
pub struct OperationalLog {
    filter: reload::Handle<Enabled, Registry>,
    limit: LogLimit,
    sink: Sink,
}

impl OperationalLog {
    /// Changes the level.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and it lives as long as the process.
        let _ = self.filter.reload(Enabled(targets(level)));
    }

    /// Writes how many lines were dropped since the last time, if any were.
    pub fn summarize(&self) {
        self.limit.summarize();
    }

    /// Waits until all lines are written, at most `patience`. Call it before the process ends.
    pub fn flush(&self, patience: Duration) {
        self.sink.flush(patience);
    }
}

/// Installs the log for the whole process. Fails when another one is installed already or no thread can be started.
pub fn start_operational_log(level: LogLevel, metrics: Arc<Metrics>) -> Result<OperationalLog, String> {
    let sink = Sink::start("log", std::io::stderr(), {
        let metrics = Arc::clone(&metrics);
        move |_| metrics.log_dropped.add(1)
    })
    .map_err(|error| format!("cannot start the log writer: {error}"))?;
    let (filter, handle) = reload::Layer::new(Enabled(targets(level)));
    let limit = LogLimit::new(Arc::clone(&metrics));
    let lines =
        tracing_subscriber::fmt::layer().with_writer(Lines { sink: sink.clone(), metrics }).log_internal_errors(false);
    let lines = if std::io::stderr().is_terminal() {
        lines.with_ansi(true).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(limit.clone())
        .with(lines)
        .try_init()
        .map_err(|error| format!("cannot install the operational log: {error}"))?;
    // A panic is a bug of the gateway, caught at the edge of its task; it belongs into the log in the log's own form.
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("unknown");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, panic = message, "panic");
    }));
    Ok(OperationalLog { filter: handle, limit, sink })
}

/// Which events are looked at: those that are written, and those that tell what the HTTP/2 library has refused.
struct Enabled(Targets);

impl<S: Subscriber> Layer<S> for Enabled {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if h2_refusals::reports(metadata) {
            return Interest::always();
        }
        Layer::<S>::register_callsite(&self.0, metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        h2_refusals::reports(metadata) || Layer::<S>::enabled(&self.0, metadata, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.0).map(|level| level.max(LevelFilter::DEBUG))
    }
}

/// Our own modules at the level that was asked for; dependencies speak only when something is wrong.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_target("sluice", level).with_default(level.min(LevelFilter::WARN))
}

#[derive(Clone)]
struct Lines {
    sink: Sink,
    metrics: Arc<Metrics>,
}

/// One event; the formatter hands it over in one piece.
struct Line<'a> {
    lines: &'a Lines,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.lines.sink.send(bytes.to_vec()).is_err() {
            self.lines.metrics.log_dropped.add(1);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn dependencies_are_quieter_than_the_gateway() {
        let filter = targets(LogLevel::Debug);
        assert!(filter.would_enable("sluice::server", &Level::DEBUG));
        assert!(!filter.would_enable("hyper", &Level::INFO));
        assert!(filter.would_enable("hyper", &Level::WARN));
        assert!(!targets(LogLevel::Error).would_enable("hyper", &Level::WARN));
    }
}
