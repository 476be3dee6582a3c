//! Applies the outcome of a call to the exchange: keeps or rolls back its edits, sets a filter's response, applies the failure policy.

use bytes::Bytes;
use http::StatusCode;
use tracing::warn;

use super::{BodySourceError, FailurePolicy, Filter};
use crate::exchange::{Exchange, ResponseHead, ResponseSource, Undo};
use crate::wasm::{FilterError, Hook, Verdict};

/// How the pipeline goes on.
#[derive(Debug)]
pub(super) enum CallOutcome {
    Continue,
    /// `exchange.response` is now the filter's.
    Respond,
    /// The filter failed and the policy passes over it.
    Absent,
    /// The filter failed and the exchange with it.
    Failed(FilterError),
}

/// Ends a call.
pub(super) fn settle(
    filter: &Filter,
    hook: Hook,
    exchange: &mut Exchange,
    result: Result<Verdict, FilterError>,
) -> CallOutcome {
    let outcome = settle_since(0, filter, hook, exchange, result);
    exchange.commit();
    outcome
}

/// Ends a call that began when the journal had the length `mark`, and keeps the journal: its edits can still be taken back.
#[inline]
pub(super) fn settle_since(
    mark: usize,
    filter: &Filter,
    hook: Hook,
    exchange: &mut Exchange,
    result: Result<Verdict, FilterError>,
) -> CallOutcome {
    match result {
        Ok(Verdict::Continue) => {
            exchange.draft = None;
            CallOutcome::Continue
        }
        Ok(Verdict::Respond) => {
            if hook.is_request() {
                answer(exchange);
            } else {
                replace(exchange);
            }
            CallOutcome::Respond
        }
        Err(error) => {
            exchange.draft = None;
            exchange.take_back(mark);
            log(filter, hook, exchange, &error);
            match filter.failure() {
                FailurePolicy::Open => CallOutcome::Absent,
                FailurePolicy::Closed => CallOutcome::Failed(error),
            }
        }
    }
}

/// The draft becomes the response.
fn answer(exchange: &mut Exchange) {
    let mut response =
        exchange.draft.take().unwrap_or_else(|| Box::new(ResponseHead::new(ResponseSource::Filter, StatusCode::OK)));
    response.body.get_or_insert_default();
    exchange.response = Some(response);
    exchange.response_body_replaced = true;
}

/// The response becomes the filter's: its head as edited, its body as set in this call, or empty.
fn replace(exchange: &mut Exchange) {
    let body_set = exchange.journal.iter().any(|undo| matches!(undo, Undo::ResponseBody(..)));
    if !body_set {
        exchange.set_response_body(Bytes::new());
        if let Some(response) = &mut exchange.response {
            // It described the dropped body.
            response.headers.remove(http::header::CONTENT_ENCODING);
        }
    }
    if let Some(response) = &mut exchange.response {
        response.origin = ResponseSource::Filter;
        response.trailers = None;
    }
}

/// Writes about a response whose body the filter did not get.
pub(super) fn log_unread(filter: &Filter, hook: Hook, passed_over: bool, error: &BodySourceError) {
    if may_log(filter) {
        warn!(filter = %filter.name(), %hook, passed_over, "the filter did not get the body that it asked for: {error}");
    }
}

fn may_log(filter: &Filter) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    filter.failure_log.allow(now.as_micros() as u64)
}

fn log(filter: &Filter, hook: Hook, exchange: &Exchange, error: &FilterError) {
    if may_log(filter) {
        warn!(
            filter = %filter.name(),
            %hook,
            kind = error.kind().name(),
            request_id = %String::from_utf8_lossy(exchange.id.as_bytes()),
            passed_over = filter.failure() == FailurePolicy::Open,
            "the filter gave no verdict: it {error}"
        );
    }
}
