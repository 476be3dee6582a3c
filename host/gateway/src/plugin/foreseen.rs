//! The network of a case: the answers that it foresees. What a filter may call is checked as for a call that is sent.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::config::model::cases::{CaseAnswer, CaseFailure, CaseHeaders};
use crate::outbound;
use crate::services::keyset::{self, Get};
use crate::services::outbound::{Answers, Call, Incoming, MAX_REQUESTS, Outbound};
use crate::services::{Grants, KeySet, ServiceError};

/// Answers calls.
pub(super) struct Foreseen {
    answers: Vec<CaseAnswer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that were given, by their index.
    given: Vec<usize>,
    made: Vec<String>,
    unforeseen: Vec<String>,
}

impl Foreseen {
    pub(super) fn new(answers: Vec<CaseAnswer>) -> Arc<Foreseen> {
        Arc::new(Foreseen { answers, state: Mutex::default() })
    }

    /// The calls since they were last taken, and those that nobody has foreseen.
    pub(super) fn take(&self) -> (Vec<String>, Vec<String>) {
        let mut state = self.state();
        (std::mem::take(&mut state.made), std::mem::take(&mut state.unforeseen))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, call: &Call, grants: &Grants, max_body: usize) -> Result<Incoming, ServiceError> {
        outbound::check(call, grants)?;
        let mut line = format!("{} {}", call.method, call.url);
        if !call.body.is_empty() {
            line.push(' ');
            line.push_str(&String::from_utf8_lossy(&call.body));
        }
        self.state().made.push(line);
        self.answer(&call.method, &call.url, max_body)
    }

    fn answer(&self, method: &str, url: &str, max_body: usize) -> Result<Incoming, ServiceError> {
        // As the answer has it: `https://a.example` is `https://a.example/`.
        let url = url::Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.to_string());
        let mut state = self.state();
        let fits = |answer: &CaseAnswer| answer.method == method && answer.url == url;
        let fitting = || (0..self.answers.len()).filter(|at| self.answers.get(*at).is_some_and(fits));
        let Some(at) = fitting().find(|at| !state.given.contains(at)).or_else(|| fitting().next_back()) else {
            state.unforeseen.push(format!("{method} {url}"));
            return Err(ServiceError::Unavailable(format!("the case has no answer to {method} {url}")));
        };
        state.given.push(at);
        drop(state);
        match self.answers.get(at).map(|answer| &answer.result) {
            Some(Ok(reply)) if reply.body.len() > max_body => Err(ServiceError::TooLarge(max_body as u64)),
            Some(Ok(reply)) => Ok(Incoming {
                status: reply.status,
                headers: header_map(&reply.headers),
                body: Bytes::from(reply.body.clone()),
            }),
            Some(Err(CaseFailure::Timeout)) => Err(ServiceError::Timeout),
            Some(Err(CaseFailure::Unavailable)) | None => {
                Err(ServiceError::Unavailable(format!("{url}: the case says that it can't be reached")))
            }
        }
    }
}

impl Outbound for Foreseen {
    fn send<'a>(
        &'a self,
        calls: Vec<Call>,
        _: Duration,
        grants: &'a Grants,
        max_body: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>> {
        Box::pin(async move {
            if calls.len() > MAX_REQUESTS {
                return Err(ServiceError::TooLarge(MAX_REQUESTS as u64));
            }
            Ok(calls.iter().map(|call| self.call(call, grants, max_body)).collect())
        })
    }

    /// Fetches the set once, at this moment: its answers are there, so its life gets as far as its first wait in one step.
    fn keep_fresh(&self, set: &Arc<KeySet>) -> Result<(), ServiceError> {
        let get = async |get: Get| self.answer("GET", get.url.as_str(), get.max_body);
        let life = pin!(keyset::keep_fresh(Arc::downgrade(set), get));
        // It has not ended: it waits for the time of its next fetch.
        let _ = life.poll(&mut Context::from_waker(Waker::noop()));
        Ok(())
    }
}

/// Fields as a message has them. The reader has checked names and values.
pub(super) fn header_map(headers: &CaseHeaders) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, values) in headers {
        let Ok(name) = name.parse::<http::HeaderName>() else { continue };
        for value in values.iter().filter_map(|value| value.parse().ok()) {
            map.append(name.clone(), value);
        }
    }
    map
}
