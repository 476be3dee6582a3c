//! The coded form of a stored response as a body: it is made once for all hits, off the workers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};

use crate::cache::{Form, State};
use crate::http::body::{Body, BodyError};

/// The form, or a body that waits for it.
pub(super) fn body(form: Form) -> Body {
    if let State::Here(content) = &*form.borrow() {
        return Body::full(content.clone());
    }
    Body::stream(Awaited { form: Some(Box::pin(arrives(form))) })
}

async fn arrives(mut form: Form) -> Result<Bytes, BodyError> {
    let state = form.wait_for(|state| !matches!(state, State::Coming | State::Begun)).await;
    match state.as_deref() {
        Ok(State::Here(content)) => Ok(content.clone()),
        Ok(State::Coming | State::Begun | State::Failed) | Err(_) => {
            Err(BodyError::Coding("the stored response".into()))
        }
    }
}

/// The coming of a form.
type Arrival = Pin<Box<dyn Future<Output = Result<Bytes, BodyError>>>>;

struct Awaited {
    form: Option<Arrival>,
}

impl HttpBody for Awaited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(form) = &mut self.form else { return Poll::Ready(None) };
        let content = ready!(form.as_mut().poll(cx));
        self.form = None;
        Poll::Ready(Some(content.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.form.is_none()
    }
}
