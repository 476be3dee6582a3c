//! The defaults of the keys, as `gateway.toml` and the reference show them; tests compare them. There is no second set: what is built
//! without a configuration takes these, too.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{Method, StatusCode};
use sluice_cache::policy::SetCookie;

use super::model::{
    Balance, ByteSize, CircuitScope, ClientAuthMode, Criticality, EndpointScheme, FailurePolicy, FileMode,
    HashAlgorithm, KeyType, Levels, LookupFamily, Protocol, RetryCondition, RetryConditions, SameSite, SubsetFallback,
    TlsVersion, TrialPolicy,
};
use super::state::{LimitsWord, Mode as StateMode};
use crate::http::coding::Coding;
use crate::services::state::{Away, Values};
use crate::telemetry::{AccessLogFormat, LogLevel};
use crate::wasm::{CallMode, Mode};

const fn kib(n: u64) -> ByteSize {
    ByteSize(n << 10)
}

const fn mib(n: u64) -> ByteSize {
    ByteSize(n << 20)
}

// [gateway]; `workers` is the number of cores, and `compile` is `CompileLimits::default()`.
pub const SHUTDOWN_DELAY: Option<Duration> = None;
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
pub const PLUGIN_DIR: &str = "plugins";
pub const MAX_BUFFERED_MEMORY: ByteSize = mib(256);
pub const MAX_FILTERED_BODIES: ByteSize = mib(8);
pub const MAX_CONNECTIONS: u32 = 10_000;
pub const OVERLOAD_MAX_MEMORY: Option<ByteSize> = None;
pub const OVERLOAD_MAX_EVENT_LOOP_DELAY: Option<Duration> = None;
pub const RELOAD: bool = true;
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// Of a name server whose address says none (RFC 1035 §4.2).
pub const NAMESERVER_PORT: u16 = 53;

// files of [upstreams.NAME]
pub const FILES_INDEX: &str = "index.html";

// [state.NAME]
pub const STATE_MODE: StateMode = StateMode::Single;
pub const STATE_DATABASE: i64 = 0;
/// A round trip within a data centre takes a fiftieth of it.
pub const STATE_TIMEOUT: Duration = Duration::from_millis(50);
pub const STATE_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Below the instances of a filter, or it would be busy before the state counts as away.
pub const STATE_MAX_WAITING: usize = 48;
pub const STATE_ON_UNAVAILABLE: Away = Away::Local;
pub const STATE_PREFIX: &str = "sluice:";
// state of [plugins.NAME]
pub const STATE_LIMITS: LimitsWord = LimitsWord::Exact;
pub const STATE_LEASE: u64 = 100;
pub const STATE_VALUES: Values = Values::Shared;

// [listeners.NAME]
pub const HTTP1: bool = true;
pub const H2: bool = true;
pub const MIN_TLS: TlsVersion = TlsVersion::Tls12;
pub const MAX_TLS: TlsVersion = TlsVersion::Tls13;
pub const SESSION_TICKETS: bool = true;
/// A key is taken for twice as long. Longer is not worth it: who resumes seldom saves little.
pub const TICKET_ROTATION: Duration = Duration::from_secs(6 * 3600);
pub const HSTS_INCLUDE_SUBDOMAINS: bool = false;
pub const HSTS_PRELOAD: bool = false;
pub const CLIENT_AUTH: ClientAuthMode = ClientAuthMode::Required;
pub const FORWARD_CLIENT_CERTIFICATE: bool = false;
pub const MAX_CONNECTION_AGE_GRACE: Duration = Duration::from_secs(30);
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The group of the process may connect, and others may not.
pub const UNIX_SOCKET_MODE: FileMode = FileMode(0o660);
pub const PROXY_PROTOCOL_TIMEOUT: Duration = Duration::from_secs(5);
pub const HEAD_LIMIT: ByteSize = kib(32);
pub const HEADERS_LIMIT: u32 = 100;
pub const STREAMS_LIMIT: u32 = 100;
/// The method and the body stay, and browsers remember it.
pub const HTTPS_REDIRECT_STATUS: StatusCode = StatusCode::PERMANENT_REDIRECT;
/// Where an authority looks whether a host is its owner's (RFC 8555 §8.3). It asks without TLS: there may be no certificate yet.
pub const HTTPS_REDIRECT_EXCEPT: &str = "/.well-known/acme-challenge/**";

// [admin]
pub const READY_WHEN_EXPIRED: bool = false;

// [pipelines] and the pipelines of routes
/// What a filter answers to a caller without valid credentials (RFC 9110 §15.5.2).
pub const TRY_NEXT_ON: u16 = 401;
pub const ANY_OF_OPTIONAL: bool = false;

// [routes.NAME]
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
pub const MAX_STREAM_DURATION: Option<Duration> = None;
pub const BODY_LIMIT: ByteSize = mib(10);
pub const UPGRADE: bool = true;
pub const DECOMPRESS_REQUESTS: bool = false;
pub const PRIORITY: i64 = 0;
pub const CRITICALITY: Criticality = Criticality::Standard;
pub const REDIRECT_STATUS: StatusCode = StatusCode::FOUND;
pub const RESPOND_STATUS: StatusCode = StatusCode::OK;

// [routes.NAME.retry] and [routes.NAME.deadline]
pub const RETRY_ATTEMPTS: u32 = 3;
pub const RETRY_ON: RetryConditions = RetryConditions::of(&[
    RetryCondition::ConnectFailure,
    RetryCondition::RefusedStream,
    RetryCondition::Reset,
    RetryCondition::GatewayError,
    RetryCondition::RetriableStatusCodes,
]);
pub const PER_TRY_TIMEOUT: Option<Duration> = None;
pub const BACKOFF_BASE: Duration = Duration::from_millis(25);
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
pub const RETRY_BUDGET_PERCENT: u32 = 20;
pub const RETRY_BUDGET_MIN_PER_SECOND: u32 = 3;
pub const RETRY_BODY: ByteSize = kib(64);
pub const RETRY_NON_IDEMPOTENT: bool = false;
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);
pub const GRPC_DEADLINE: bool = false;
pub const TRUST_DEADLINE_HEADER: bool = false;

pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(10);
pub const MIRROR_MAX_REQUESTS: u32 = 100;
pub const MIRROR_MAX_BODY: ByteSize = mib(1);

// [cache] and [routes.NAME.cache]; `normalise` is `Normalise::default()`.
pub const CACHE_MEMORY: ByteSize = mib(64);
/// A value of some hundred KiB takes the connection for less than a millisecond.
pub const CACHE_STATE_MAX_OBJECT: ByteSize = kib(256);
pub const CACHE_MAX_OBJECT: ByteSize = mib(1);
/// Longer than most responses take, and shorter than most clients wait.
pub const CACHE_COLLAPSE_TIMEOUT: Option<Duration> = Some(Duration::from_secs(1));
pub const CACHE_STATUS_FIELD: bool = true;
/// They are for caches and their operators, and tell how a site is made.
pub const CACHE_TAG_FIELDS: bool = false;
pub const CACHE_CONSUMER: bool = false;
/// RFC 9111 §4.2.2: a typical setting.
pub const CACHE_HEURISTIC_PERCENT: u8 = 10;
pub const CACHE_HEURISTIC_MAX: Duration = Duration::from_secs(86_400);
/// Errors of the client that another request would get as well.
pub const CACHE_NEGATIVE_STATUSES: [u16; 4] = [404, 405, 410, 451];
pub const CACHE_TTL_WITH_CREDENTIALS: bool = false;
pub const CACHE_SET_COOKIE: SetCookie = SetCookie::Refuse;
pub const CACHE_REQUEST_DIRECTIVES: bool = false;
pub const CACHE_AGE_FROM_DATE: bool = false;

// [compression] and [routes.NAME.compression]
pub const COMPRESSION_ENCODINGS: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
/// What fits into a packet anyhow.
pub const COMPRESSION_MIN_SIZE: ByteSize = kib(1);
pub const COMPRESSION_CREDENTIALS: bool = false;
pub const COMPRESSION_ADAPTIVE: bool = true;
/// Above these, each further percent costs much more time.
pub const COMPRESSION_LEVELS: Levels = Levels { zstd: 3, br: 4, gzip: 4 };
pub const COMPRESSION_TYPES: [&str; 20] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/xml",
    "application/*+xml",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/x-ndjson",
    "application/yaml",
    "application/wasm",
    "application/rtf",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "font/collection",
    "image/svg+xml",
    "image/bmp",
    "image/x-icon",
    "image/vnd.microsoft.icon",
];

// [upstreams.NAME]
pub const BALANCE: Balance = Balance::RoundRobin;
/// Envoy's, as the share that a slow start begins with.
pub const PANIC_THRESHOLD: u32 = 50;
pub const MIN_WEIGHT_PERCENT: u32 = 10;
pub const SUBSET_FALLBACK: SubsetFallback = SubsetFallback::NoFallback;
pub const HASH_ALGORITHM: HashAlgorithm = HashAlgorithm::Maglev;
pub const ZONE_LABEL: &str = "zone";
pub const COOKIE_PATH: &str = "/";
pub const COOKIE_HTTP_ONLY: bool = true;
pub const COOKIE_SAME_SITE: SameSite = SameSite::Lax;
pub const ENDPOINT_PRIORITY: u8 = 0;
pub const PROTOCOL: Protocol = Protocol::Auto;
pub const ENDPOINT_WEIGHT: u32 = 1;
/// Where the agent of this machine listens.
pub const CONSUL_ADDRESS: &str = "http://127.0.0.1:8500";
pub const CONSUL_WAIT: Duration = Duration::from_secs(60);
pub const DISCOVERY_SCHEME: EndpointScheme = EndpointScheme::Http;
pub const VERIFY: bool = true;
pub const MAX_IDLE: u32 = 1024;
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
pub const PING_INTERVAL: Option<Duration> = None;
/// Of connections of upstreams and of listeners.
pub const MAX_CONNECTION_AGE: Option<Duration> = None;
pub const MIN_TTL: Duration = Duration::from_secs(1);
pub const MAX_TTL: Duration = Duration::from_secs(300);
pub const MAX_STALE: Duration = Duration::from_secs(86_400);
pub const LOOKUP_FAMILY: LookupFamily = LookupFamily::All;

// Limits of upstreams and routes.
pub const MAX_PENDING_REQUESTS: u32 = 0;
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

// [upstreams.NAME.circuit_breaker]
pub const CIRCUIT_FAILURES: u32 = 15;
pub const CIRCUIT_OF: u32 = 20;
pub const CIRCUIT_FAILURE_PERCENT: u32 = 50;
pub const CIRCUIT_OPEN: Duration = Duration::from_secs(10);
pub const CIRCUIT_HALF_OPEN: u32 = 3;
/// What gateways and load balancers answer when the service behind them does not. A 500 is often the fault of one request.
pub const CIRCUIT_STATUS_CODES: [u16; 3] = [502, 503, 504];
pub const CIRCUIT_PER: CircuitScope = CircuitScope::Upstream;

// [upstreams.NAME.health]
pub const CHECK_PATH: &str = "/";
pub const CHECK_METHOD: Method = Method::GET;
pub const CHECK_STATUSES: RangeInclusive<u16> = 200..=299;
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);
pub const CHECK_JITTER_PERCENT: u32 = 10;
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
pub const HEALTHY_THRESHOLD: u32 = 2;
pub const UNHEALTHY_THRESHOLD: u32 = 3;

/// Of checks and comparisons: they must not keep the background thread busy.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

// [upstreams.NAME.outlier_detection]; Envoy's, but for the share that may be ejected: upstreams have few endpoints more often than many.
pub const CONSECUTIVE_GATEWAY_ERRORS: u32 = 5;
pub const CONSECUTIVE_5XX: u32 = 0;
pub const OUTLIER_INTERVAL: Duration = Duration::from_secs(10);
pub const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
pub const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
pub const MAX_EJECTION_PERCENT: u32 = 50;
pub const SUCCESS_RATE_MINIMUM_HOSTS: u32 = 5;
pub const SUCCESS_RATE_REQUEST_VOLUME: u32 = 100;
pub const SUCCESS_RATE_STDEV_FACTOR: u32 = 1900;
pub const LATENCY_FACTOR: u32 = 0;

// [plugins.NAME] and [filters.NAME]; limits and numbers of instances are `FilterLimits::default()`.
pub const ON_ERROR: FailurePolicy = FailurePolicy::Closed;
pub const ON_FAILED_TRIAL: TrialPolicy = TrialPolicy::Refuse;
pub const BODY_GRANT: bool = true;
pub const ALLOW_PRIVATE: bool = false;
pub const CONSUMERS_GRANT: bool = false;
pub const KV_QUOTA: ByteSize = mib(16);
pub const PLUGIN_CALL: CallMode = CallMode::Auto;
pub const INSTANCE_MODE: Mode = Mode::Reused;

// [telemetry]
pub const ACCESS_LOG: AccessLogFormat = AccessLogFormat::Auto;
pub const LOG_LEVEL: LogLevel = LogLevel::Info;

// [acme.NAME] and what is ordered.
pub const ACME_KEY_TYPE: KeyType = KeyType::EcdsaP256;
pub const ACME_DNS_TIMEOUT: Duration = Duration::from_secs(120);
pub const ACME_ON_DEMAND_RATE: u32 = 60;
