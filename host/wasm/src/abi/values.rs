//! The enums of our interfaces, and the records and variants that functions answer.

use super::layout::{enumeration, record, variant};
use crate::bindings::{
    Error, Field, Verdict, concurrency, consumers, context, crypto, http, kv, limiter, log, response, route,
};

enumeration!(Verdict { Continue "continue", Respond "respond", });
enumeration!(log::Level { Trace "trace", Debug "debug", Info "info", Warn "warn", Error "error", });
enumeration!(response::Source { Upstream "upstream", Filter "filter", Gateway "gateway", });
enumeration!(limiter::Algorithm {
    TokenBucket "token-bucket",
    LeakyBucket "leaky-bucket",
    FixedWindow "fixed-window",
    SlidingWindow "sliding-window",
});
enumeration!(crypto::Verification { Valid "valid", Invalid "invalid", UnknownKey "unknown-key", });
enumeration!(crypto::TokenRefusal {
    NotCompact "not-compact",
    BadHeader "bad-header",
    Critical "critical",
    WrongType "wrong-type",
    WrongAlgorithm "wrong-algorithm",
    UnknownKey "unknown-key",
    BadSignature "bad-signature",
    BadPayload "bad-payload",
});

variant!(Error {
    0 WrongHook "wrong-hook",
    1 NotGranted(text: String) "not-granted",
    2 Invalid(text: String) "invalid",
    3 TooLarge(limit: u64) "too-large",
    4 Unavailable(text: String) "unavailable",
    5 Timeout "timeout",
    6 Other(text: String) "other",
});
variant!(context::Value {
    0 Text(text: String) "text",
    1 Integer(number: i64) "integer",
    2 Float(number: f64) "float",
    3 Boolean(truth: bool) "boolean",
    4 Texts(texts: Vec<String>) "texts",
    5 Json(json: String) "json",
});
variant!(kv::Reservation {
    0 Found(value: Vec<u8>) "found",
    1 Reserved "reserved",
    2 Pending "pending",
});

record!(Field { name: String = "name", value: String = "value" });
record!(consumers::ConsumerClaims { consumer: String = "consumer", payload: String = "payload" });
variant!(consumers::ConsumerToken {
    0 Good(claims: consumers::ConsumerClaims) "good",
    1 Refused(refusal: crypto::TokenRefusal) "refused",
    2 UnknownIssuer "unknown-issuer",
    3 WrongAudience "wrong-audience",
});
record!(consumers::ConsumerLabel { name: String = "name", value: String = "value" });
record!(route::Endpoint {
    upstream: String = "upstream",
    address: String = "address",
    weight: u32 = "weight",
    healthy: bool = "healthy",
    active: u32 = "active",
    latency_us: u64 = "latency-us",
});
record!(route::Failure { upstream: String = "upstream", address: String = "address", reason: String = "reason" });
record!(route::EndpointState { out: Vec<String> = "out", requests: u32 = "requests", ewma_us: u64 = "ewma-us" });
record!(route::FailedAttempt {
    upstream: String = "upstream",
    address: String = "address",
    kind: String = "kind",
    reason: String = "reason",
    status: Option<u16> = "status",
    sent: bool = "sent",
});
record!(route::RetryState { attempt: u32 = "attempt", left: u32 = "left", budget: Option<u32> = "budget" });
record!(limiter::Standing {
    allowed: bool = "allowed",
    remaining: u64 = "remaining",
    reset_ms: u64 = "reset-ms",
    retry_after_ms: u64 = "retry-after-ms",
});
record!(concurrency::Admission {
    full: Option<u32> = "full",
    standings: Vec<limiter::Standing> = "standings",
});
record!(http::Incoming { status: u16 = "status", headers: Vec<Field> = "headers", body: Vec<u8> = "body", });
