//! Pipelines of small guests: order, answers, failures, bodies.

mod groups;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::*;
use crate::exchange::{Exchange, RequestHead, ResponseHead, ResponseSource, RouteFacts};
use crate::services::Clock;
use crate::services::outbound::Offline;
use crate::wasm::RuntimeOptions;

const CONTINUE: &str = "i32.const 0";
const PUT: &str = "(call $set-method (i32.const 16) (i32.const 3) (i32.const 64))";
const RESPOND: &str = "i32.const 1";
const TRAP: &str = "(call $set-method (i32.const 16) (i32.const 3) (i32.const 64)) unreachable";

/// A component whose hooks have these bodies.
fn guest(hooks: &[(Hook, &str)]) -> Vec<u8> {
    let named: Vec<_> = hooks.iter().map(|(hook, body)| (hook.name(), *body)).collect();
    sluice_harness::guest::guest(&named, false)
}

fn exchange() -> Box<Exchange> {
    let request = RequestHead {
        method: Method::GET,
        scheme: http::uri::Scheme::HTTP,
        authority: "example.org".parse().unwrap(),
        target: "/".parse().unwrap(),
        version: http::Version::HTTP_11,
        headers: http::HeaderMap::new(),
    };
    let route = Arc::new(RouteFacts { name: "r".into(), upstreams: vec![], snapshot: 0 });
    let id = http::HeaderValue::from_static("id");
    let mut exchange = Exchange::new(id, [127, 0, 0, 1].into(), request, route);
    exchange.response = Some(Box::new(ResponseHead::new(ResponseSource::Upstream, StatusCode::OK)));
    exchange
}

struct Maker {
    runtime: Arc<Runtime>,
    services: Arc<Services>,
}

impl Maker {
    fn new() -> Maker {
        let options = RuntimeOptions { instances: 50, ..RuntimeOptions::default() };
        Maker { runtime: Runtime::new(options).unwrap(), services: Services::new(Clock::system(), Arc::new(Offline)) }
    }

    fn filter(&self, name: &str, failure: FailurePolicy, hooks: &[(Hook, &str)]) -> Arc<Filter> {
        self.filter_in(Mode::Reused, name, failure, hooks)
    }

    fn filter_in(&self, mode: Mode, name: &str, failure: FailurePolicy, hooks: &[(Hook, &str)]) -> Arc<Filter> {
        Filter::new(FilterSpec {
            name: name.into(),
            plugin: self.runtime.load(&guest(hooks)).unwrap(),
            plugin_name: name.into(),
            config: "{}".into(),
            failure,
            mode,
            limits: FilterLimits::default(),
            grants: Grants::default(),
            services: self.services.clone(),
            component: None,
        })
        .unwrap()
    }
}

fn local(filters: Vec<Arc<Filter>>) -> Rc<LocalPipeline> {
    WorkerFilters::new(1 << 20)
        .pipeline(&Pipeline::new(&filters.into_iter().map(Step::Filter).collect::<Vec<_>>()).unwrap())
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

struct Body(&'static [u8], u32);

impl BodySource for Body {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    async fn buffer(&mut self, max_bytes: u64) -> Result<Bytes, BodySourceError> {
        self.1 += 1;
        if self.0.len() as u64 > max_bytes {
            Err(BodySourceError::TooLarge(max_bytes))
        } else {
            Ok(Bytes::from_static(self.0))
        }
    }
}

/// Status `code`, then continue.
fn status(code: u16) -> String {
    format!("(call $set-status (i32.const {code}) (i32.const 64)) i32.const 0")
}

#[test]
fn an_answer_passes_the_filters_before_it_in_reverse() {
    let maker = Maker::new();
    let closed = FailurePolicy::Closed;
    let first = maker.filter("first", closed, &[(Hook::OnRequest, CONTINUE), (Hook::OnResponse, &status(201))]);
    let second = maker.filter("second", closed, &[(Hook::OnResponse, &status(202))]);
    let draft = format!("(call $set-status (i32.const 418) (i32.const 64)) {RESPOND}");
    let third = maker.filter("third", closed, &[(Hook::OnRequest, &draft), (Hook::OnResponse, "unreachable")]);
    let fourth = maker.filter("fourth", closed, &[(Hook::OnRequest, "unreachable"), (Hook::OnResponse, "unreachable")]);
    let pipeline = local(vec![first, second, third, fourth]);
    run(async {
        let mut traversal = Traversal::new(exchange());
        let outcome = pipeline.on_request(&mut traversal, &mut Body(b"", 0)).await;
        let exchange = traversal.exchange();
        assert!(matches!(outcome, RequestOutcome::Respond { by: 2 }), "{outcome:?}");
        let response = exchange.response.as_ref().unwrap();
        assert_eq!((response.status, response.origin), (StatusCode::IM_A_TEAPOT, ResponseSource::Filter));
        assert!(exchange.response_body_replaced && response.body.is_some());
        let outcome = pipeline.on_response(&mut traversal, &mut Body(b"", 0)).await;
        assert!(matches!(outcome, ResponseOutcome::Continue), "{outcome:?}");
        assert_eq!(
            traversal.exchange().response.take().unwrap().status,
            StatusCode::CREATED,
            "`first` comes last on the way out"
        );
    });
}

#[test]
fn a_failure_is_an_error_when_closed_and_nothing_when_open() {
    let maker = Maker::new();
    let edit = format!("{PUT} i32.const 0");
    for (policy, passes) in [(FailurePolicy::Closed, false), (FailurePolicy::Open, true)] {
        let filters = vec![
            maker.filter("edit", FailurePolicy::Closed, &[(Hook::OnResponse, &status(299))]),
            maker.filter("fails", policy, &[(Hook::OnRequest, TRAP), (Hook::OnResponse, "unreachable")]),
            maker.filter("after", FailurePolicy::Closed, &[(Hook::OnRequest, CONTINUE)]),
        ];
        let pipeline = local(filters);
        run(async {
            let mut traversal = Traversal::new(exchange());
            let outcome = pipeline.on_request(&mut traversal, &mut Body(b"", 0)).await;
            let exchange = traversal.exchange();
            assert_eq!(exchange.request.method, Method::GET, "half-made edits are gone");
            match outcome {
                RequestOutcome::Continue => assert!(passes && traversal.is_absent(1)),
                RequestOutcome::Failed(failure) => assert!(!passes && &*failure.filter == "fails"),
                other => panic!("{other:?}"),
            }
            let outcome = pipeline.on_response(&mut traversal, &mut Body(b"", 0)).await;
            assert!(matches!(outcome, ResponseOutcome::Continue), "the filter that failed takes no part: {outcome:?}");
            assert_eq!(traversal.exchange().response.take().unwrap().status.as_u16(), 299);
        });
    }
    let pipeline = local(vec![maker.filter("edit", FailurePolicy::Closed, &[(Hook::OnRequest, &edit)])]);
    run(async {
        let mut traversal = Traversal::new(exchange());
        pipeline.on_request(&mut traversal, &mut Body(b"", 0)).await;
        assert_eq!(traversal.exchange().request.method, Method::PUT, "edits of a good call stay");
    });
}

#[test]
fn after_a_failure_on_the_way_out_the_error_passes_the_filters_that_are_left() {
    let maker = Maker::new();
    let filters = vec![
        maker.filter("first", FailurePolicy::Closed, &[(Hook::OnResponse, &status(201))]),
        maker.filter("fails", FailurePolicy::Closed, &[(Hook::OnResponse, "unreachable")]),
    ];
    let pipeline = local(filters);
    run(async {
        let mut traversal = Traversal::new(exchange());
        pipeline.on_request(&mut traversal, &mut Body(b"", 0)).await;
        let outcome = pipeline.on_response(&mut traversal, &mut Body(b"", 0)).await;
        assert!(matches!(outcome, ResponseOutcome::Failed(failure) if &*failure.filter == "fails"));
        let outcome = pipeline.on_response(&mut traversal, &mut Body(b"", 0)).await;
        assert!(matches!(outcome, ResponseOutcome::Continue));
        assert_eq!(traversal.exchange().response.take().unwrap().status, StatusCode::CREATED);
    });
}

#[test]
fn a_body_is_buffered_once_and_only_when_asked_for() {
    let maker = Maker::new();
    let want = |max| format!("(call $want-body (i64.const {max}) (i32.const 64)) i32.const 0");
    let asks = |name: &str, max| {
        maker.filter(name, FailurePolicy::Closed, &[(Hook::OnRequest, &want(max)), (Hook::OnRequestBody, CONTINUE)])
    };
    let never = maker.filter("never", FailurePolicy::Closed, &[(Hook::OnRequestBody, "unreachable")]);
    let calls = |filters: Vec<Arc<Filter>>| {
        let pipeline = local(filters);
        run(async {
            let mut body = Body(b"0123456789", 0);
            let mut traversal = Traversal::new(exchange());
            let outcome = pipeline.on_request(&mut traversal, &mut body).await;
            (traversal.exchange().request_body.clone(), outcome, body.1)
        })
    };
    let (body, outcome, buffered) = calls(vec![never.clone()]);
    assert!(body.is_none() && matches!(outcome, RequestOutcome::Continue) && buffered == 0);
    let (body, outcome, buffered) = calls(vec![asks("a", 100), asks("b", 100), never]);
    assert!(matches!(outcome, RequestOutcome::Continue), "{outcome:?}");
    assert_eq!((body.unwrap().len(), buffered), (10, 1));
    let (_, outcome, _) = calls(vec![asks("a", 100), asks("small", 9)]);
    assert!(
        matches!(outcome, RequestOutcome::Body(BodyFailure { error: BodySourceError::TooLarge(9), .. })),
        "{outcome:?}"
    );
}

#[test]
fn a_filter_can_replace_a_response() {
    let maker = Maker::new();
    let pipeline = local(vec![maker.filter("cover", FailurePolicy::Closed, &[(Hook::OnResponse, RESPOND)])]);
    run(async {
        let mut traversal = Traversal::new(exchange());
        pipeline.on_request(&mut traversal, &mut Body(b"", 0)).await;
        pipeline.on_response(&mut traversal, &mut Body(b"secret", 0)).await;
        let response = traversal.exchange().response.take().unwrap();
        assert!(traversal.exchange().response_body_replaced && response.origin == ResponseSource::Filter);
        assert_eq!(response.body.unwrap(), Bytes::new());
    });
}

#[test]
fn finished_exchanges_are_queued_and_dropped_when_there_are_too_many() {
    let maker = Maker::new();
    let observer = maker.filter("observer", FailurePolicy::Closed, &[(Hook::OnComplete, "i32.const 0")]);
    let pipeline = local(vec![observer.clone()]);
    run(async {
        let mut traversal = Traversal::new(exchange());
        let metrics = crate::telemetry::Metrics::new();
        let queue = CompleteQueue::new(2, metrics.worker());
        queue.push(&pipeline, Traversal::new(exchange()));
        pipeline.on_request(&mut traversal, &mut Body(b"", 0)).await;
        for _ in 0..3 {
            queue.push(&pipeline, Traversal { exchange: Some(exchange()), ..traversal });
        }
        assert!(metrics.render().contains("\nsluice_completions_dropped_total 1\n"));
        queue.drain().await;
        assert_eq!(observer.stats().hooks[Hook::OnComplete as usize].calls, 2, "the first was seen by nobody");
    });
}
