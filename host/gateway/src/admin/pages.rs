//! What is no part of the API: health, readiness, metrics, the list of endpoints and the API's document.

use bytes::Bytes;
use http::StatusCode;

use super::endpoints::endpoints;
use super::{Context, Page, TEXT, openapi};
use crate::control::Phase;

pub(super) fn index(_: &Context) -> Bytes {
    let endpoints = endpoints();
    let width = endpoints.iter().map(|endpoint| endpoint.path.len()).max().unwrap_or_default();
    let line = |method, path, summary| format!("{method:<4} {path:<width$}  {summary}\n");
    let lines = endpoints.iter().map(|endpoint| line(endpoint.method.as_str(), endpoint.path, endpoint.summary));
    format!("Sluice\n\n{}", lines.collect::<String>()).into()
}

pub(super) fn health(_: &Context) -> Page {
    Page { status: StatusCode::OK, kind: TEXT, body: Bytes::from_static(b"ok\n") }
}

pub(super) fn readiness(context: &Context) -> Page {
    let phase = context.control.phase();
    if phase == Phase::Serving {
        let ready_when_expired = context.control.config().admin.as_ref().is_some_and(|admin| admin.ready_when_expired);
        let validities = context.control.snapshot().validities.load_full();
        if let Some(listener) = validities.expired_listener().filter(|_| !ready_when_expired) {
            let body = format!("all certificates of listener `{listener}` have expired\n").into();
            return Page { status: StatusCode::SERVICE_UNAVAILABLE, kind: TEXT, body };
        }
    }
    let status = if phase == Phase::Serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Page { status, kind: TEXT, body: format!("{}\n", phase.name()).into() }
}

pub(super) fn metrics(context: &Context) -> Bytes {
    context.metrics.render().into()
}

pub(super) fn openapi(_: &Context) -> Bytes {
    openapi::document(&endpoints()).to_string().into()
}
