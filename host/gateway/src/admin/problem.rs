//! Errors of the admin API as problem details (RFC 9457).

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use schemars::JsonSchema;
use serde::Serialize;

pub(super) const CONTENT: &str = "application/problem+json";

/// Why a request failed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Problem {
    /// The status in words.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// What is wrong and what is expected.
    detail: String,
    /// One line for each error of a configuration that was refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
    #[serde(skip)]
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Problem { title, status: status.as_u16(), detail: detail.into(), errors: Vec::new(), header: None }
    }

    pub(super) fn no_endpoint(path: &str) -> Self {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no endpoint `{path}`; `/` lists them"))
    }

    pub(super) fn unknown(what: &str, name: &str) -> Self {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no {what} `{name}`"))
    }

    /// The path is there, but not for this method. `allowed` are those for which it is.
    pub(super) fn method(allowed: &str) -> Self {
        let allow = HeaderValue::from_str(allowed).ok().map(|value| Box::new((ALLOW, value)));
        Problem { header: allow, ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed} can be used")) }
    }

    /// The token is missing or wrong (RFC 6750 §3).
    pub(super) fn unauthorized(sent: bool) -> Self {
        let (detail, challenge) = if sent {
            ("the bearer token is wrong", "Bearer realm=\"sluice admin\", error=\"invalid_token\"")
        } else {
            ("a bearer token is needed: `Authorization: Bearer …`", "Bearer realm=\"sluice admin\"")
        };
        let header = Some(Box::new((WWW_AUTHENTICATE, HeaderValue::from_static(challenge))));
        Problem { header, ..Problem::new(StatusCode::UNAUTHORIZED, detail) }
    }

    pub(super) fn no_token_configured() -> Self {
        let detail = "nothing can be changed here, since the configuration has no token: set the key `token` of the table `[admin]`";
        Problem::new(StatusCode::FORBIDDEN, detail)
    }

    pub(super) fn refused(errors: Vec<String>) -> Self {
        let detail = "the configuration is refused; the running one stays";
        Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// The request itself is wrong.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} bytes"))
    }

    /// The request makes no sense for the thing that it names.
    pub(super) fn unprocessable(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// What is there is not what the request starts from.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::CONFLICT, detail)
    }

    /// A bug of the gateway, or a part of it that has ended.
    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    pub(super) fn into_response(self) -> Response<Full<bytes::Bytes>> {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
        response.headers_mut().extend(self.header.map(|header| *header));
        response
    }
}
