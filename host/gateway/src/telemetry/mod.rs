//! What the gateway tells about itself: metrics, the access log and the operational log. Known to every module, knows none.

mod access_log;
mod access_record;
mod cells;
mod h2_refusals;
mod log;
mod log_limit;
mod metrics;
mod process;
mod scrape;
mod sink;
mod tls;

pub use access_log::{AccessLog, AccessLogBuffer, AccessLogFormat};
pub use access_record::{AccessRecord, Answerer, FailedAttempt, Timings};
pub use h2_refusals::{H2Refusal, H2RefusalKind, watch as watch_h2_refusals};
pub use log::{LogLevel, OperationalLog, start_operational_log};
pub use metrics::{ErrorSource, ListenerCounters, Metrics, RouteId, UpstreamId, WorkerMetrics};
pub use sluice_services::Exposition;
pub use tls::{ServerName, TlsCounters, TlsHandshake};
