//! An endpoint: where it is, what it answers with and how it is documented, made from a handler and the handler's types.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;
use super::{Context, JSON, Page};
use crate::control::Control;
use crate::http::forwarded::ClientAddress;

/// What a client can call.
pub(super) struct Endpoint {
    pub(super) method: Method,
    /// A `{name}` in it stands for one segment.
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) handler: Handler,
    pub(super) content: Content,
    /// None: its body is not read.
    pub(super) request: Option<RequestBody>,
    /// What its query may have. The handler gets the query in place of a name.
    pub(super) parameters: &'static [Parameter],
    /// What else than success it may answer, for the document.
    pub(super) problems: Vec<(StatusCode, &'static str)>,
}

type Render = dyn Fn(&Context, &str) -> Result<Page, Problem> + Send + Sync;
type Change = dyn Fn(Call) -> Changing + Send + Sync;
type Changing = Pin<Box<dyn Future<Output = Result<Page, Problem>>>>;

/// A request that changes something, with the token.
pub(super) struct Call {
    pub(super) control: Control,
    pub(super) config_file: PathBuf,
    /// The segment that stands for the path's `{name}`.
    pub(super) name: String,
    /// Empty where the endpoint takes none.
    pub(super) body: Bytes,
    pub(super) client: ClientAddress,
}

/// A parameter of the query, for the document. It is a text.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) example: &'static str,
    pub(super) required: bool,
}

/// What a request has to have in its body, for the document.
pub(super) struct RequestBody {
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    pub(super) example: Value,
}

/// How an answer is made.
pub(super) enum Handler {
    /// At once, on the background thread: it must take microseconds.
    Quick(fn(&Context) -> Page),
    /// On the runtime's blocking thread, since it may take milliseconds. Gets the segment that stands for the path's `{name}`, or the query.
    Rendered(Arc<Render>),
    /// It changes something, so it needs the token; it waits on the background thread.
    Change(Box<Change>),
}

/// The media type of an answer, for the document.
pub(super) enum Content {
    Text(&'static str),
    Json(fn(&mut SchemaGenerator) -> Schema),
}

impl Endpoint {
    /// A `GET` that takes microseconds.
    pub(super) fn quick(path: &'static str, summary: &'static str, handler: fn(&Context) -> Page) -> Self {
        Endpoint::get(path, summary, Handler::Quick(handler), Content::Text(super::TEXT))
    }

    /// A `GET` of a text of this media type.
    pub(super) fn text(
        path: &'static str,
        kind: &'static str,
        summary: &'static str,
        handler: fn(&Context) -> Bytes,
    ) -> Self {
        let render =
            move |context: &Context, _: &str| Ok(Page { status: StatusCode::OK, kind, body: handler(context) });
        Endpoint::get(path, summary, Handler::Rendered(Arc::new(render)), Content::Text(kind))
    }

    /// A `GET` of a value as JSON.
    pub(super) fn json<T: Serialize + JsonSchema + 'static>(
        path: &'static str,
        summary: &'static str,
        handler: fn(&Context) -> T,
    ) -> Self {
        let render = move |context: &Context, _: &str| json(&handler(context));
        Endpoint::get(path, summary, Handler::Rendered(Arc::new(render)), content::<T>())
    }

    /// A `GET` of the thing that the path's `{name}` names, as JSON.
    pub(super) fn json_named<T: Serialize + JsonSchema + 'static>(
        path: &'static str,
        summary: &'static str,
        handler: fn(&Context, &str) -> Result<T, Problem>,
    ) -> Self {
        let render = move |context: &Context, name: &str| json(&handler(context, name)?);
        Endpoint::get(path, summary, Handler::Rendered(Arc::new(render)), content::<T>())
            .problem(StatusCode::NOT_FOUND, "Nothing has this name.")
    }

    /// A `GET` of a value as JSON that depends on the query.
    pub(super) fn json_query<T: Serialize + JsonSchema + 'static>(
        path: &'static str,
        summary: &'static str,
        parameters: &'static [Parameter],
        handler: fn(&Context, &str) -> Result<T, Problem>,
    ) -> Self {
        let render = move |context: &Context, query: &str| json(&handler(context, query)?);
        Endpoint { parameters, ..Endpoint::get(path, summary, Handler::Rendered(Arc::new(render)), content::<T>()) }
            .problem(StatusCode::UNPROCESSABLE_ENTITY, "The query is not as described here.")
    }

    /// A `POST` that changes something and answers with a value as JSON. It needs the token.
    pub(super) fn change<T, F>(path: &'static str, summary: &'static str, handler: fn(Control) -> F) -> Self
    where
        T: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<T, Problem>> + 'static,
    {
        let change = move |call: Call| {
            let answer = handler(call.control);
            Box::pin(async move { json(&answer.await?) }) as Changing
        };
        Endpoint::changing(Method::POST, path, summary, Box::new(change), content::<T>())
    }

    /// A `PUT` of a value, as JSON, to the thing that the path's `{name}` names. It needs the token.
    pub(super) fn put_named<V, T, F>(
        path: &'static str,
        summary: &'static str,
        example: Value,
        handler: fn(Call, V) -> F,
    ) -> Self
    where
        V: DeserializeOwned + JsonSchema + 'static,
        T: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<T, Problem>> + 'static,
    {
        Endpoint::with_value(Method::PUT, path, summary, example, handler)
            .problem(StatusCode::NOT_FOUND, "Nothing has this name.")
    }

    /// A `POST` of a value, as JSON. It needs the token.
    pub(super) fn post<V, T, F>(
        path: &'static str,
        summary: &'static str,
        example: Value,
        handler: fn(Call, V) -> F,
    ) -> Self
    where
        V: DeserializeOwned + JsonSchema + 'static,
        T: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<T, Problem>> + 'static,
    {
        Endpoint::with_value(Method::POST, path, summary, example, handler)
    }

    fn with_value<V, T, F>(
        method: Method,
        path: &'static str,
        summary: &'static str,
        example: Value,
        handler: fn(Call, V) -> F,
    ) -> Self
    where
        V: DeserializeOwned + JsonSchema + 'static,
        T: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<T, Problem>> + 'static,
    {
        let change = move |call: Call| {
            let answer = serde_json::from_slice(&call.body)
                .map_err(|error| Problem::bad_request(format!("the body is not as expected: {error}")))
                .map(|value| handler(call, value));
            Box::pin(async move { json(&answer?.await?) }) as Changing
        };
        let schema: fn(&mut SchemaGenerator) -> Schema = |generator| generator.subschema_for::<V>();
        Endpoint {
            request: Some(RequestBody { schema, example }),
            ..Endpoint::changing(method, path, summary, Box::new(change), content::<T>())
        }
        .problem(StatusCode::BAD_REQUEST, "The body is not JSON, or not what is described here.")
        .problem(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.")
    }

    fn changing(
        method: Method,
        path: &'static str,
        summary: &'static str,
        change: Box<Change>,
        content: Content,
    ) -> Self {
        Endpoint { method, ..Endpoint::get(path, summary, Handler::Change(change), content) }
            .problem(StatusCode::UNAUTHORIZED, "The token is missing or wrong.")
            .problem(StatusCode::FORBIDDEN, "The configuration has no token, so nothing can be changed here.")
    }

    /// Also answers with a problem of this status.
    pub(super) fn problem(mut self, status: StatusCode, description: &'static str) -> Self {
        self.problems.push((status, description));
        self
    }

    /// Whether the token is needed.
    pub(super) fn is_guarded(&self) -> bool {
        matches!(self.handler, Handler::Change(_))
    }

    fn get(path: &'static str, summary: &'static str, handler: Handler, content: Content) -> Self {
        Endpoint {
            method: Method::GET,
            path,
            summary,
            handler,
            content,
            request: None,
            parameters: &[],
            problems: Vec::new(),
        }
    }
}

fn content<T: JsonSchema>() -> Content {
    Content::Json(|generator| generator.subschema_for::<T>())
}

fn json(value: &impl Serialize) -> Result<Page, Problem> {
    let body =
        serde_json::to_vec(value).map_err(|error| Problem::internal(format!("the answer is not JSON: {error}")))?;
    Ok(Page { status: StatusCode::OK, kind: JSON, body: body.into() })
}
