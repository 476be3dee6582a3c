//! The admin listener: health, readiness and metrics, on a thread of its own, so that it answers while the workers are busy.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Semaphore;

use crate::server::Readiness;
use crate::telemetry::{Exposition, Metrics};

const INDEX: &str = "Sluice\n\n/healthz  whether the process lives\n/readyz   whether it takes requests\n/metrics  Prometheus metrics\n";
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long accepting rests after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("admin listener cannot bind {0}")]
    Bind(SocketAddr, #[source] io::Error),
    #[error("admin listener cannot start")]
    Start(#[source] io::Error),
}

/// Binds the admin listener and starts its thread, which lives as long as the process. Returns the address that it has got.
pub fn start(bind: SocketAddr, metrics: Arc<Metrics>, readiness: Readiness) -> Result<SocketAddr, AdminError> {
    let listener = StdListener::bind(bind).map_err(|error| AdminError::Bind(bind, error))?;
    listener.set_nonblocking(true).map_err(AdminError::Start)?;
    let address = listener.local_addr().map_err(AdminError::Start)?;
    let runtime = move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(serve(listener, metrics, readiness))
    };
    let run = move || {
        if let Err(error) = runtime() {
            tracing::error!(%error, "the admin listener has ended");
        }
    };
    std::thread::Builder::new().name("admin".into()).spawn(run).map_err(AdminError::Start)?;
    tracing::info!(listener = "admin", %address, "listening");
    Ok(address)
}

async fn serve(listener: StdListener, metrics: Arc<Metrics>, readiness: Readiness) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed, so this never fails.
        let place = Arc::clone(&free).acquire_owned().await;
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (metrics, readiness) = (Arc::clone(&metrics), readiness.clone());
        tokio::task::spawn_local(async move {
            let _place = place;
            let service = service_fn(move |request: Request<_>| {
                let response = answer(request.method(), request.uri().path(), &metrics, &readiness);
                std::future::ready(Ok::<_, Infallible>(response))
            });
            // A client that breaks off is its own affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, readiness: &Readiness) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/" => page(StatusCode::OK, TEXT, INDEX),
        "/healthz" => page(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => {
            let status = if readiness.is_serving() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            page(status, TEXT, format!("{}\n", readiness.name()))
        }
        "/metrics" => page(StatusCode::OK, Exposition::CONTENT_TYPE, metrics.render()),
        _ => page(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    }
}

fn page(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_the_life_of_the_gateway() {
        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        let status = |path| answer(&Method::GET, path, &metrics, &readiness).status();
        assert_eq!(status("/readyz"), StatusCode::SERVICE_UNAVAILABLE);
        readiness.serving();
        assert_eq!(status("/readyz"), StatusCode::OK);
        readiness.draining();
        assert_eq!(status("/readyz"), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("/healthz"), StatusCode::OK, "a draining process lives");
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        let post = answer(&Method::POST, "/metrics", &metrics, &readiness);
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(post.headers()[ALLOW], "GET, HEAD");
        assert_eq!(answer(&Method::GET, "/nothing", &metrics, &readiness).status(), StatusCode::NOT_FOUND);
        assert_eq!(answer(&Method::HEAD, "/metrics", &metrics, &readiness).status(), StatusCode::OK);
    }

    #[test]
    fn a_taken_address_is_a_clear_error() {
        let taken = StdListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = start(address, Metrics::new(), Readiness::default()).expect_err("taken");
        assert_eq!(error.to_string(), format!("admin listener cannot bind {address}"));
    }
}
