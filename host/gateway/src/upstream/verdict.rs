//! What a response tells behind its head: its body may break off, and gRPC has its status in trailers. Whoever judges an endpoint or an upstream
//! by its responses follows the body of each that was good so far. A client that leaves drops the body, and tells nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Body as _;

use super::attempt::{UpstreamResponse, failure_of};
use super::attempt_log::Answer;
use super::circuit::Outcome;
use super::error::UpstreamErrorKind;
use super::health::outliers::{Failure, Stage};
use super::limits::{CircuitPass, EndpointPermit, upstream_breaker};
use super::outgoing::{OutgoingRequest, Upload};
use super::pool::Pool;
use super::spec::Upstream;
use crate::coarse;
use crate::config::model::CircuitBreaker;
use crate::http::body::{Body, BodyError, BodyErrorKind, Watch};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The status of gRPC in a head or in trailers.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The status of HTTP that Envoy's outlier detection takes a status of gRPC for, of those that speak against a server: `UNKNOWN`,
/// `DEADLINE_EXCEEDED`, `INTERNAL` and `UNAVAILABLE`.
pub(super) fn http_status_of(grpc: u8) -> Option<u16> {
    match grpc {
        2 | 13 => Some(500),
        4 => Some(504),
        14 => Some(503),
        _ => None,
    }
}

/// Whether a response of gRPC has still to say how the call has ended.
pub(super) fn awaits_grpc_status(response: &UpstreamResponse) -> bool {
    let headers = &response.head.headers;
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    headers.get(CONTENT_TYPE).is_some_and(is_grpc)
        && !headers.contains_key(GRPC_STATUS)
        && response.head.status.is_success()
        && !response.body.is_end_stream()
}

/// Who judges by responses.
trait Judge: 'static {
    /// A call of gRPC, whose head says nothing, has brought a message.
    fn serves(&mut self);
    /// The response has failed behind its head.
    fn failed(&mut self, failure: Failure, stage: Stage);
    /// It has come to its end.
    fn ended_well(&mut self);
}

/// Follows the body of a response.
struct Follower<J> {
    judge: J,
    is_grpc: bool,
    /// What it is taken for: as long as that is not known, it has told nothing.
    stage: Stage,
    failure: Option<Failure>,
    /// The body of the request. Where that has failed, the server may break off because of it.
    upload: Option<Rc<Upload>>,
}

impl<J: Judge> Follower<J> {
    fn is_decided(&self) -> bool {
        self.stage == Stage::Body
    }

    fn serves(&mut self) {
        if !self.is_decided() {
            self.stage = Stage::Body;
            self.judge.serves();
        }
    }
}

impl<J: Judge> Watch for Follower<J> {
    fn data(&mut self, _: usize) {
        self.serves();
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.is_grpc {
            self.failure = grpc_status(trailers).and_then(Failure::of_grpc);
        }
    }

    fn end(&mut self, outcome: Result<(), &BodyError>) {
        let failure = match outcome.map_err(BodyError::kind) {
            Ok(()) => self.failure,
            Err(BodyErrorKind::UpstreamAborted | BodyErrorKind::Protocol) => {
                let is_clients = self.upload.as_ref().is_some_and(|upload| upload.failed.get().is_some());
                match is_clients {
                    true => return,
                    false => Some(Failure::Body),
                }
            }
            Err(
                BodyErrorKind::ClientAborted
                | BodyErrorKind::TooLarge
                | BodyErrorKind::IdleTimeout
                | BodyErrorKind::Outlived
                | BodyErrorKind::BudgetExhausted
                | BodyErrorKind::Filter
                | BodyErrorKind::Coding,
            ) => return,
        };
        match failure {
            Some(failure) => self.judge.failed(failure, self.stage),
            None => {
                self.serves();
                self.judge.ended_well();
            }
        }
    }
}

/// Has a judge follow a response that is good so far.
fn follow(response: &mut UpstreamResponse, request: &OutgoingRequest<'_>, judge: impl Judge) {
    if response.body.is_end_stream() || response.upgraded.is_some() {
        return;
    }
    let headers = &response.head.headers;
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let stage = if awaits_grpc_status(response) { Stage::Head } else { Stage::Body };
    let follower = Follower { judge, is_grpc, stage, failure: None, upload: request.upload.clone() };
    let body = std::mem::take(&mut response.body);
    // In a layer of its own: filters may edit the trailers, and timeouts end the body, in the next one.
    response.body = Body::stream(body.watched(Box::new(follower)));
}

/// The endpoint's outlier detection, circuit and latency.
struct OfEndpoint {
    upstream: Arc<Upstream>,
    pool: Rc<Pool>,
    permit: Option<Rc<EndpointPermit>>,
    begun: Instant,
}

impl Judge for OfEndpoint {
    fn serves(&mut self) {
        if self.upstream.outliers().is_some() {
            self.pool.record().well();
        }
        if let (Some(permit), Some(breaker)) = (&self.permit, self.upstream.spec().endpoint_breaker()) {
            permit.note(breaker, Some(Outcome::Success));
        }
    }

    fn failed(&mut self, failure: Failure, stage: Stage) {
        let record = self.pool.record();
        if self.upstream.is_balanced_by_latency() {
            record.ewma().note_failure(self.begun.elapsed(), coarse::now_ms());
        }
        if let Some(outliers) = self.upstream.outliers() {
            self.pool.failed_request(failure);
            outliers.failed(self.upstream.set(), record, failure, stage);
        }
        if let (Some(permit), Some(breaker)) = (&self.permit, self.upstream.spec().endpoint_breaker()) {
            let outcome = Outcome::of_failure(breaker, failure);
            match stage {
                Stage::Head => permit.note(breaker, Some(outcome)),
                Stage::Body => permit.note_late(breaker, outcome),
            }
        }
    }

    fn ended_well(&mut self) {
        if self.upstream.outliers().is_some() {
            self.pool.record().ended_well();
        }
    }
}

/// Has the endpoint of a response judged by what comes behind a good head, where anybody judges it.
pub(super) fn follow_for_endpoint(
    response: &mut UpstreamResponse,
    request: &OutgoingRequest<'_>,
    (upstream, pool): (&Arc<Upstream>, &Rc<Pool>),
    begun: Instant,
) {
    let permit = request.permit.as_ref().filter(|_| upstream.spec().endpoint_breaker().is_some());
    if permit.is_none() && upstream.outliers().is_none() && !upstream.is_balanced_by_latency() {
        return;
    }
    if failure_of(response).is_some() {
        return;
    }
    let (upstream, pool, permit) = (Arc::clone(upstream), Rc::clone(pool), permit.cloned());
    follow(response, request, OfEndpoint { upstream, pool, permit, begun });
}

/// The circuit of the upstream as a whole.
struct OfUpstream {
    upstream: Arc<Upstream>,
    /// Until the circuit was told.
    pass: Option<CircuitPass>,
}

impl Judge for OfUpstream {
    fn serves(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.upstream.note_circuit(pass, Some(Outcome::Success));
        }
    }

    fn failed(&mut self, failure: Failure, _: Stage) {
        let Some(breaker) = self.upstream.breaker() else { return };
        let outcome = Outcome::of_failure(breaker, failure);
        match self.pass.take() {
            Some(pass) => self.upstream.note_circuit(pass, Some(outcome)),
            None => self.upstream.note_circuit_late(outcome),
        }
    }

    fn ended_well(&mut self) {}
}

impl Upstream {
    /// Notes how a request has ended that its circuit has let pass, with an answer that is not passed on, or without one.
    pub fn note_end(&self, pass: CircuitPass, outcome: Result<Answer, UpstreamErrorKind>) {
        let outcome = self.breaker().and_then(|breaker| Outcome::of(breaker, outcome));
        self.note_circuit(pass, outcome);
    }

    /// The settings of the circuit of the upstream as a whole, if it has one.
    fn breaker(&self) -> Option<&CircuitBreaker> {
        upstream_breaker(self.spec())
    }

    fn note_circuit(&self, pass: CircuitPass, outcome: Option<Outcome>) {
        if let Some(breaker) = self.breaker() {
            pass.note(breaker, outcome);
        }
    }

    /// Notes that a request has failed whose success its circuit was told of.
    fn note_circuit_late(&self, outcome: Outcome) {
        if let Some((state, breaker)) = self.state().zip(self.breaker()) {
            state.note_late(breaker, outcome);
        }
    }

    /// Tells the circuit of the upstream how a request has ended that it has let pass: with this answer, which is passed on.
    pub fn note_answer(
        self: &Arc<Self>,
        pass: CircuitPass,
        response: &mut UpstreamResponse,
        request: &OutgoingRequest<'_>,
    ) {
        let Some(breaker) = self.breaker() else { return };
        let outcome = Outcome::of(breaker, Ok(Answer::of(&response.head)));
        let mut judge = OfUpstream { upstream: Arc::clone(self), pass: Some(pass) };
        if !awaits_grpc_status(response) {
            if let Some(pass) = judge.pass.take() {
                self.note_circuit(pass, outcome);
            }
            if outcome != Some(Outcome::Success) {
                return;
            }
        }
        follow(response, request, judge);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use http::{Request, StatusCode};
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::exchange::{ResponseHead, ResponseSource};
    use crate::http::buffer::MemoryBudget;
    use crate::upstream::Timeouts;

    /// Writes down what it is told.
    #[derive(Clone, Default)]
    struct Notes(Rc<RefCell<Vec<String>>>);

    impl Judge for Notes {
        fn serves(&mut self) {
            self.0.borrow_mut().push("serves".to_owned());
        }

        fn failed(&mut self, failure: Failure, stage: Stage) {
            self.0.borrow_mut().push(format!("{failure} ({stage:?})"));
        }

        fn ended_well(&mut self) {
            self.0.borrow_mut().push("ended well".to_owned());
        }
    }

    fn trailers(status: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(status))])
    }

    /// What is noted of a response with this type and body, of which so many frames are read.
    async fn noted(media_type: &'static str, body: Body, frames: usize) -> Vec<String> {
        let timeouts = Timeouts { connect: Duration::ZERO, first_byte: Duration::ZERO, until: None, whole: None };
        let budget = MemoryBudget::new(1 << 20);
        let request = OutgoingRequest::new(Box::new(Request::new(Body::Empty)), timeouts, &budget);
        let mut head = Box::new(ResponseHead::new(ResponseSource::Upstream, StatusCode::OK));
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        let mut response = UpstreamResponse { head, body, upgraded: None };
        let notes = Notes::default();
        follow(&mut response, &request, notes.clone());
        // What filters make of the trailers is not the server's word.
        let mut body = response.body.with_trailers_hook(|_| async { Ok(trailers("0")) });
        for _ in 0..frames {
            _ = body.frame().await;
        }
        drop(body);
        notes.0.take()
    }

    #[tokio::test(flavor = "local")]
    async fn what_a_body_tells() {
        let grpc = |data: &'static str, status| Body::with_trailers(data, Some(trailers(status)));
        let (ok, failed) = ("serves", "UNAVAILABLE of gRPC");
        assert_eq!(noted("application/grpc", grpc("x", "0"), 9).await, [ok, "ended well"]);
        assert_eq!(noted("application/grpc", grpc("", "0"), 9).await, [ok, "ended well"]);
        assert_eq!(noted("application/grpc+proto", grpc("", "14"), 9).await, [format!("{failed} (Head)")]);
        assert_eq!(noted("application/grpc", grpc("x", "14"), 9).await, [ok.to_owned(), format!("{failed} (Body)")]);
        assert_eq!(noted("application/grpc", grpc("x", "5"), 9).await, [ok, "ended well"], "the caller's error");
        assert_eq!(noted("application/grpc", grpc("x", "14"), 1).await, [ok], "the client has left");
        assert_eq!(noted("text/plain", grpc("x", "14"), 9).await, ["ended well"], "no gRPC");
        let broken = || Body::full("half").limited(3);
        assert_eq!(noted("text/plain", broken(), 9).await, Vec::<String>::new(), "a limit of the gateway's own");
    }
}
