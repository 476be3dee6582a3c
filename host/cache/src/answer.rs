//! The response to a client out of the store: conditions, ranges and `Age` in their order (RFC 9110 §13.2.2, RFC 9111 §4).

use std::ops::Range;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use crate::condition::{self, Outcome};
use crate::range::{self, Segment, Selection};
use crate::store::Object;

/// A response for one client. Its content is in the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub head: HeaderMap,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Empty,
    /// These bytes of the stored content.
    Part(Range<u64>),
    Multipart(Vec<Segment>),
}

/// The range that a request asks for is not there (RFC 9110 §15.5.17): the fields of the error, whose content the gateway makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the requested range is not satisfiable")]
pub struct Unsatisfiable {
    pub head: HeaderMap,
}

/// What a request gets of a stored response. `age` is given where the response was not just validated: RFC 9111 §5.1, `Age` says that the
/// origin was not asked. `boundary` has random letters and digits, for an answer with several parts.
pub fn answer(
    object: &Object,
    method: &Method,
    request: &HeaderMap,
    age: Option<Duration>,
    boundary: impl FnOnce() -> String,
) -> Result<Answer, Unsatisfiable> {
    let mut head = object.head();
    if let Some(age) = age {
        head.insert(header::AGE, HeaderValue::from(age.as_secs()));
    }
    let (status, length) = (object.status(), object.body().len());
    if condition::evaluate(method, request, status, &head, object.stored().received()) == Outcome::NotModified {
        let head = condition::not_modified(&head);
        return Ok(Answer { status: StatusCode::NOT_MODIFIED, head, content: Content::Empty });
    }
    match range::select(method, request, status, &head, length) {
        Selection::Whole => Ok(whole(status, head, method, length)),
        Selection::Unsatisfiable => Err(Unsatisfiable { head: range::unsatisfiable_head(&head, length) }),
        Selection::Parts(parts) => {
            let (head, content) = match parts.as_slice() {
                [part] => (range::part_head(&head, part, length), Content::Part(part.clone())),
                parts => {
                    let (head, segments) = range::multipart(&head, parts, length, &boundary());
                    (head, Content::Multipart(segments))
                }
            };
            Ok(Answer { status: StatusCode::PARTIAL_CONTENT, head, content })
        }
    }
}

/// RFC 9110 §8.6: the length is known now, also where the upstream did not announce it. A 204 has none.
fn whole(status: StatusCode, mut head: HeaderMap, method: &Method, length: u64) -> Answer {
    if status != StatusCode::NO_CONTENT && !head.contains_key(header::CONTENT_LENGTH) {
        head.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let content = if *method == Method::HEAD || length == 0 { Content::Empty } else { Content::Part(0..length) };
    Answer { status, head, content }
}
