//! The responses of a folder: heads, conditions and ranges. Pure but for the clock and the boundary of a multipart.

use std::collections::VecDeque;
use std::fs::Metadata;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, HeaderMap,
    LAST_MODIFIED, LOCATION, VARY,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use serde_json::json;
use sha2::{Digest, Sha256};
use sluice_cache::condition::{self, Outcome};
use sluice_cache::range::{self, Segment, Selection};

use super::lookup::Found;
use crate::http::body::Body;

/// A file that was written so lately may be written again without another time: clocks of file systems go in steps of some milliseconds, those of
/// old ones and of some networks in seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// The first second of the year 10000, which a date of HTTP can't say.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_800);

/// The response for a file, with what it has of the file's content. `varies`: other requests may get another coding.
pub(super) fn of_file<T>(request: &Request<T>, found: &Found, varies: bool) -> (Response<()>, VecDeque<Segment>) {
    let (now, metadata, length) = (SystemTime::now(), &found.file.metadata, found.file.metadata.len());
    let mut head = HeaderMap::with_capacity(8);
    head.insert(CONTENT_TYPE, found.content_type.clone());
    head.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(coding) = found.coding {
        head.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    if varies {
        head.insert(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
    }
    // Also for `If-Range` with a date, which counts only if it is older than this one.
    insert_date(&mut head, DATE, now);
    if found.is_not_found {
        return with_content(StatusCode::NOT_FOUND, head, request.method(), whole(length));
    }
    head.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    head.insert(ETAG, entity_tag(metadata, now));
    if let Ok(modified) = metadata.modified() {
        // RFC 9110 §8.8.2.1: never later than the response.
        insert_date(&mut head, LAST_MODIFIED, modified.min(now));
    }
    // RFC 9110 §13.2.2.
    if condition::precondition_fails(request.headers(), &head) {
        return refused(problem(StatusCode::PRECONDITION_FAILED, request.method(), HeaderMap::new()));
    }
    match condition::evaluate(request.method(), request.headers(), StatusCode::OK, &head, now) {
        Outcome::NotModified => {
            return with_content(
                StatusCode::NOT_MODIFIED,
                condition::not_modified(&head),
                request.method(),
                VecDeque::new(),
            );
        }
        Outcome::Send => {}
    }
    match range::select(request.method(), request.headers(), StatusCode::OK, &head, length) {
        Selection::Whole => with_content(StatusCode::OK, head, request.method(), whole(length)),
        Selection::Unsatisfiable => {
            let fields = range::unsatisfiable_head(&head, length);
            refused(problem(StatusCode::RANGE_NOT_SATISFIABLE, request.method(), fields))
        }
        Selection::Parts(parts) => match &parts[..] {
            [part] => {
                let content = VecDeque::from([Segment::Content(part.clone())]);
                with_content(
                    StatusCode::PARTIAL_CONTENT,
                    range::part_head(&head, part, length),
                    request.method(),
                    content,
                )
            }
            several => {
                let (head, segments) = range::multipart(&head, several, length, &boundary());
                with_content(StatusCode::PARTIAL_CONTENT, head, request.method(), segments.into())
            }
        },
    }
}

fn whole(length: u64) -> VecDeque<Segment> {
    if length == 0 { VecDeque::new() } else { VecDeque::from([Segment::Content(0..length)]) }
}

fn with_content(
    status: StatusCode,
    headers: HeaderMap,
    method: &Method,
    content: VecDeque<Segment>,
) -> (Response<()>, VecDeque<Segment>) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    (response, if *method == Method::HEAD { VecDeque::new() } else { content })
}

/// A response whose content is text.
fn refused(response: Response<Body>) -> (Response<()>, VecDeque<Segment>) {
    let (parts, body) = response.into_parts();
    let content = match body {
        Body::Full { data, .. } => VecDeque::from([Segment::Text(data)]),
        _ => VecDeque::new(),
    };
    (Response::from_parts(parts, ()), content)
}

/// RFC 9110 §8.8.3. The tag is strong, so two contents must not have the same one. Size and time alone are not enough: builds that can be repeated
/// give all files the same time, and a copy can keep that of another file. So the number of the file counts, which is another one when a
/// file is replaced, and the time of the last change of any kind, which nobody can set. The hash hides them. While a file may still be
/// written without another time, its tag is weak.
fn entity_tag(metadata: &Metadata, now: SystemTime) -> HeaderValue {
    let mut hash = Sha256::new();
    for number in [metadata.ino(), metadata.len()] {
        hash.update(number.to_le_bytes());
    }
    for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
        hash.update(number.to_le_bytes());
    }
    let opaque = URL_SAFE_NO_PAD.encode(&hash.finalize()[..12]);
    let age = metadata.modified().ok().and_then(|modified| now.duration_since(modified).ok());
    let weak = if age.is_some_and(|age| age >= SETTLED) { "" } else { "W/" };
    HeaderValue::try_from(format!("{weak}\"{opaque}\"")).expect("letters and digits are a value")
}

/// A date that HTTP can say; another one is left out.
fn insert_date(head: &mut HeaderMap, name: HeaderName, time: SystemTime) {
    if time.duration_since(UNIX_EPOCH).is_ok_and(|since| since < LAST_DATE)
        && let Ok(value) = HeaderValue::try_from(httpdate::fmt_http_date(time))
    {
        head.insert(name, value);
    }
}

/// Letters and digits that stand nowhere in the content, by chance.
fn boundary() -> String {
    let random = RandomState::new();
    format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1))
}

/// To the same path with a slash. The reference is relative, since the client may know the folder under another path than the upstream
/// does, and begins with `./`, so that no name in it is read as a scheme or a host.
pub(super) fn to_folder(method: &Method, uri: &Uri) -> Response<Body> {
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(location) = HeaderValue::try_from(format!("./{name}/{query}")) else { return not_found(method) };
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    response
}

pub(super) fn not_found(method: &Method) -> Response<Body> {
    problem(StatusCode::NOT_FOUND, method, HeaderMap::new())
}

pub(super) fn forbidden(method: &Method) -> Response<Body> {
    problem(StatusCode::FORBIDDEN, method, HeaderMap::new())
}

pub(super) fn method_not_allowed() -> Response<Body> {
    let fields = HeaderMap::from_iter([(ALLOW, HeaderValue::from_static("GET, HEAD"))]);
    problem(StatusCode::METHOD_NOT_ALLOWED, &Method::GET, fields)
}

/// Problem details (RFC 9457), as the gateway's own.
fn problem(status: StatusCode, method: &Method, mut head: HeaderMap) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default();
    let text = json!({ "type": "about:blank", "title": title, "status": status.as_u16() }).to_string();
    head.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    head.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    let mut response = Response::new(if *method == Method::HEAD { Body::Empty } else { Body::full(text) });
    *response.status_mut() = status;
    *response.headers_mut() = head;
    response
}
