//! From a request to its endpoint: path, method, token; then the handler, where it may run.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, request};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::endpoint::{Call, Endpoint, Handler};
use super::problem::Problem;
use super::{Context, Page};
use crate::http::forwarded::ClientAddress;

/// The largest body of a request.
const MAX_BODY: usize = 64 * 1024;
/// For the whole of it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Router {
    endpoints: Vec<Endpoint>,
    /// The endpoints of each path, as indices.
    paths: matchit::Router<Vec<usize>>,
    context: Arc<Context>,
}

impl Router {
    pub(super) fn new(endpoints: Vec<Endpoint>, context: Context) -> Self {
        let mut paths = matchit::Router::<Vec<usize>>::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let same = |other: &usize| endpoints[*other].path == endpoint.path;
            if (0..index).any(|other| same(&other)) {
                continue;
            }
            paths
                .insert(endpoint.path, (index..endpoints.len()).filter(same).collect())
                .expect("the paths of the table don't contradict each other");
        }
        Router { endpoints, paths, context: Arc::new(context) }
    }

    /// Answers a request. Its body is read only where the endpoint takes one, and behind the token.
    pub(super) async fn answer<B>(
        &self,
        request: &request::Parts,
        body: B,
        client: ClientAddress,
    ) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        let result = match self.find(&request.method, request.uri.path()) {
            Ok((endpoint, name)) => {
                let name = match self.endpoints[endpoint].parameters {
                    [] => name.into_owned(),
                    _ => request.uri.query().unwrap_or_default().to_owned(),
                };
                self.call(endpoint, name, &request.headers, body, client).await
            }
            Err(problem) => Err(problem),
        };
        let mut response = match result {
            Ok(Page { status, kind, body }) => {
                let mut response = Response::new(Full::new(body));
                *response.status_mut() = status;
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                response
            }
            Err(problem) => problem.into_response(),
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// The endpoint, by index, and the name in its path.
    fn find<'p>(&self, method: &Method, path: &'p str) -> Result<(usize, Cow<'p, str>), Problem> {
        let found = self.paths.at(path).map_err(|_| Problem::no_endpoint(path))?;
        // A name may have any characters, and those of a URL do not stand for themselves in a path.
        let name = match found.params.get("name") {
            Some(name) => percent_decode_str(name).decode_utf8().map_err(|_| Problem::no_endpoint(path))?,
            None => Cow::Borrowed(""),
        };
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        let fits = |index: &&usize| self.endpoints[**index].method == *wanted;
        match found.value.iter().find(fits) {
            Some(index) => Ok((*index, name)),
            None => Err(Problem::method(&self.allowed(found.value))),
        }
    }

    fn allowed(&self, endpoints: &[usize]) -> String {
        let mut methods = Vec::new();
        for endpoint in endpoints.iter().map(|index| &self.endpoints[*index]) {
            methods.push(endpoint.method.as_str());
            if endpoint.method == Method::GET {
                methods.push("HEAD");
            }
        }
        methods.join(", ")
    }

    async fn call<B>(
        &self,
        index: usize,
        name: String,
        headers: &HeaderMap,
        body: B,
        client: ClientAddress,
    ) -> Result<Page, Problem>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        match &self.endpoints[index].handler {
            Handler::Quick(handler) => Ok(handler(&self.context)),
            Handler::Rendered(handler) => {
                let (handler, context) = (Arc::clone(handler), Arc::clone(&self.context));
                // A set, since it takes back what has not begun when the client goes away.
                let mut rendering = JoinSet::new();
                rendering.spawn_blocking(move || handler(&context, &name));
                match rendering.join_next().await {
                    Some(Ok(page)) => page,
                    Some(Err(_)) | None => {
                        self.context.metrics.background_panics.add(1);
                        Err(Problem::internal("the answer can't be made; the log says why"))
                    }
                }
            }
            Handler::Change(handler) => {
                self.authorize(headers)?;
                let body = match &self.endpoints[index].request {
                    None => Bytes::new(),
                    Some(_) => read(body).await?,
                };
                let (control, config_file) = (self.context.control.clone(), self.context.config_file.clone());
                handler(Call { control, config_file, name, body, client }).await
            }
        }
    }

    /// Whether the request has the token of the running configuration.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let config = self.context.control.config();
        let Some(token) = config.admin.as_ref().and_then(|admin| admin.token.as_ref()) else {
            return Err(Problem::no_token_configured());
        };
        let Some(sent) = headers.get(AUTHORIZATION).and_then(bearer) else {
            return Err(Problem::unauthorized(false));
        };
        // Of hashes, which have one length, so that not even that of the token can be measured.
        let hash = |text: &[u8]| digest(&SHA256, text);
        verify_slices_are_equal(hash(sent).as_ref(), hash(token.expose().as_bytes()).as_ref())
            .map_err(|_| Problem::unauthorized(true))
    }
}

/// A whole body, within bounds.
async fn read<B>(body: B) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let whole = Limited::new(body, MAX_BODY).collect();
    match timeout(BODY_TIMEOUT, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(MAX_BODY)),
        Ok(Err(error)) => Err(Problem::bad_request(format!("the body broke off: {error}"))),
        Err(_) => Err(Problem::bad_request(format!("the body was not in after {BODY_TIMEOUT:?}"))),
    }
}

/// The token of an `Authorization` field (RFC 6750 §2.1); the scheme has no case (RFC 9110 §11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
