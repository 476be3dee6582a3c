//! The extended CONNECT of HTTP/2 (RFC 8441): a stream that carries another protocol, such as WebSocket.

use std::rc::Rc;

use http::{Method, Request};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::OnUpgrade;
use super::activity::Activity;
use crate::http1::{Guarded, Transport};

/// Makes of an extended CONNECT the `GET` that asks for the same over HTTP/1.1, so that routes and filters see one kind of request. The
/// protocol stays beside it as an extension. `None` for a plain CONNECT.
pub(super) fn take(request: &mut Request<Incoming>, activity: &Rc<Activity>) -> Option<OnUpgrade> {
    request.extensions().get::<Protocol>()?;
    *request.method_mut() = Method::GET;
    let stream = hyper::upgrade::on(request);
    // The exchange ends with its head, and the connection is not idle as long as the stream goes on.
    let holding = activity.hold();
    let (client, on_upgrade) = oneshot::channel();
    tokio::task::spawn_local(async move {
        // There is no stream if the request is refused.
        if let Ok(stream) = stream.await {
            let _ = client.send(Transport::new(Guarded::new(TokioIo::new(stream), holding)));
        }
    });
    Some(on_upgrade)
}
