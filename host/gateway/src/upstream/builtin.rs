//! Upstreams without a server, for demos and tests: `echo` answers with what it received, `status` with the status that
//! the path asks for.

use std::pin::Pin;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use serde_json::{Map, Value, json};

use crate::http::body::{Body, BodyError};

/// This much of a body is shown.
const MAX_SHOWN: usize = 64 * 1024;
/// The largest body that `?bytes=` makes.
const MAX_BYTES: usize = 1024 * 1024;
/// The longest `?delay=`.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// 200 with the request as JSON, one member a line: method, path, query, headers, body, and who answered.
pub(super) async fn echo(request: Request<Body>, upstream: &str) -> Result<Response<Body>, BodyError> {
    let (parts, body) = request.into_parts();
    let mut answer = Map::new();
    answer.insert("method".into(), parts.method.as_str().into());
    answer.insert("path".into(), parts.uri.path().into());
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes());
    answer.insert("query".into(), gathered(query.map(|(name, value)| (name.into_owned(), value.into_owned()))));
    answer.insert("headers".into(), fields(&parts.headers));
    let read = read(body).await?;
    match text(&read) {
        Some(text) => answer.insert("body".into(), text.into()),
        None => {
            answer.insert("body".into(), STANDARD.encode(&read.shown).into());
            answer.insert("body_encoding".into(), "base64".into())
        }
    };
    answer.insert("body_bytes".into(), read.bytes.into());
    if let Some(trailers) = read.trailers {
        answer.insert("trailers".into(), fields(&trailers));
    }
    answer.insert("upstream".into(), upstream.into());
    answer.insert("endpoint".into(), "echo".into());
    let mut text = format!("{:#}", Value::Object(answer));
    text.push('\n');
    Ok(response(StatusCode::OK, "application/json", text))
}

/// The status that ends the path (`/any/503`), else 200; with `?delay=100ms` after a while, with `?bytes=1000` with a body
/// of that size.
pub(super) async fn status(request: Request<Body>) -> Result<Response<Body>, BodyError> {
    let uri = request.uri().clone();
    // An upstream that answers before it has read the request closes the connection; this one is polite.
    read(request.into_body()).await?;
    let asked = uri.path().rsplit('/').next().and_then(|last| last.parse().ok());
    // Interim statuses are not answers.
    let asked = asked.filter(|code| (200..=999).contains(code)).and_then(|code| StatusCode::from_u16(code).ok());
    let status = asked.unwrap_or(StatusCode::OK);
    let mut bytes = None;
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
        match &*name {
            "delay" => {
                if let Some(delay) = duration(&value) {
                    tokio::time::sleep(delay.min(MAX_DELAY)).await;
                }
            }
            "bytes" => bytes = value.parse::<usize>().ok().map(|bytes| bytes.min(MAX_BYTES)),
            _ => {}
        }
    }
    static FILLER: LazyLock<Bytes> = LazyLock::new(|| vec![b'x'; MAX_BYTES].into());
    Ok(match bytes {
        Some(bytes) => response(status, "text/plain", FILLER.slice(..bytes)),
        // RFC 9110 §6.4.1: these have no content.
        None if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED => {
            let mut empty = Response::new(Body::Empty);
            *empty.status_mut() = status;
            empty
        }
        None => response(status, "application/json", format!("{}\n", json!({ "status": status.as_u16() }))),
    })
}

fn response(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

struct Read {
    shown: Vec<u8>,
    bytes: u64,
    trailers: Option<HeaderMap>,
}

/// Reads a body to its end and keeps its beginning.
async fn read(mut body: Body) -> Result<Read, BodyError> {
    let mut read = Read { shown: Vec::new(), bytes: 0, trailers: None };
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) => {
                read.bytes += data.len() as u64;
                let room = (MAX_SHOWN - read.shown.len()).min(data.len());
                read.shown.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            Err(frame) => read.trailers = frame.into_trailers().ok(),
        }
    }
    Ok(read)
}

/// What was kept as text, if the body is text as far as it was kept: the cut may go through a character.
fn text(read: &Read) -> Option<&str> {
    match std::str::from_utf8(&read.shown) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && read.bytes > read.shown.len() as u64 => {
            std::str::from_utf8(read.shown.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
}

fn fields(headers: &HeaderMap) -> Value {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    gathered(headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))))
}

/// Names in order, each with its value or the list of its values.
fn gathered(pairs: impl Iterator<Item = (String, String)>) -> Value {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut object = Map::new();
    for (name, value) in pairs {
        match object.get_mut(&name) {
            None => {
                object.insert(name, value.into());
            }
            Some(Value::Array(list)) => list.push(value.into()),
            Some(one) => *one = json!([one.take(), value]),
        }
    }
    object.into()
}

/// `100ms`, `2s` or `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::buffer::{MemoryBudget, collect};

    async fn json(response: Response<Body>) -> Value {
        let budget = MemoryBudget::new(1 << 20);
        serde_json::from_slice(&collect(&mut response.into_body(), 1 << 20, &budget).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn echo_shows_the_request() {
        let request = Request::post("/a%20b?x=1&x=2&y=%C3%A4")
            .header("x-b", "2")
            .header("x-a", "1")
            .header("x-b", "3")
            .body(Body::full("hello"))
            .unwrap();
        let response = echo(request, "demo").await.unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let expected = json!({
            "method": "POST", "path": "/a%20b", "query": {"x": ["1", "2"], "y": "ä"},
            "headers": {"x-a": "1", "x-b": ["2", "3"]},
            "body": "hello", "body_bytes": 5, "upstream": "demo", "endpoint": "echo",
        });
        assert_eq!(json(response).await, expected);
        let request = Request::new(Body::full(vec![0xff; MAX_SHOWN + 1]));
        let answer = json(echo(request, "demo").await.unwrap()).await;
        assert_eq!((&answer["body_encoding"], &answer["body_bytes"]), (&json!("base64"), &json!(MAX_SHOWN + 1)));
        let request = Request::new(Body::full(format!("x{}", "ä".repeat(MAX_SHOWN))));
        let answer = json(echo(request, "demo").await.unwrap()).await;
        assert_eq!(answer["body"].as_str().map(str::len), Some(MAX_SHOWN - 1), "the cut goes through a character");
    }

    #[tokio::test]
    async fn status_answers_as_asked() {
        let ask = |uri: &str| status(Request::get(uri).body(Body::Empty).unwrap());
        assert_eq!(ask("/status/503").await.unwrap().status(), 503);
        assert_eq!(ask("/").await.unwrap().status(), 200);
        assert_eq!(ask("/101").await.unwrap().status(), 200);
        assert_eq!(ask("/99999").await.unwrap().status(), 200);
        assert_eq!(ask("/204").await.unwrap().into_body().exact_size(), Some(0));
        assert_eq!(ask("/200?bytes=1000&delay=1ms").await.unwrap().into_body().exact_size(), Some(1000));
    }
}
