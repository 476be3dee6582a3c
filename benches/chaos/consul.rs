//! As much of Consul as a gateway asks for: the healthy instances of a service, by blocking queries. It can be stopped and started again.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet, spawn_local};

use crate::origins::Address;

/// The running agent. Lives on the thread of the clients.
pub(crate) struct Consul {
    pub(crate) address: SocketAddr,
    answer: Bytes,
    running: Option<JoinHandle<()>>,
}

impl Consul {
    pub(crate) fn start(endpoints: &[Address]) -> Consul {
        let instance = |endpoint: &Address| {
            let (ip, port) = (endpoint.http.ip(), endpoint.http.port());
            json!({
                "Node": { "Node": "node", "Address": ip },
                "Service": { "ID": format!("app-{ip}"), "Service": "app", "Address": ip, "Port": port, "Tags": [], "Meta": {}, "Weights": { "Passing": 1, "Warning": 1 } },
                "Checks": [],
            })
        };
        let all: Vec<_> = endpoints.iter().map(instance).collect();
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into());
        let address = listener.local_addr().expect("an address");
        let mut consul = Consul { address, answer: json!(all).to_string().into(), running: None };
        consul.serve(listener);
        consul
    }

    /// It is gone, with all its connections.
    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            // Its listener is closed when it has ended.
            let _ = running.await;
        }
    }

    /// It is back.
    pub(crate) fn restart(&mut self) {
        self.serve(listen(self.address));
    }

    fn serve(&mut self, listener: TcpListener) {
        let body = self.answer.clone();
        self.running = Some(spawn_local(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((tcp, _)) = listener.accept().await else { continue };
                let body = body.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let body = body.clone();
                    async move {
                        // Nothing changes: a blocking query waits as long as it may.
                        if request.uri().query().is_some_and(|query| query.contains("index=7")) {
                            tokio::time::sleep(Duration::from_secs(60)).await;
                        }
                        let mut response = Response::new(Full::new(body));
                        response.headers_mut().insert("x-consul-index", "7".parse().expect("a value"));
                        response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
                        Ok::<_, Infallible>(response)
                    }
                });
                connections.spawn_local(async move {
                    // It breaks off when it is stopped.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(tcp), answer).await;
                });
            }
        }));
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(address).expect("the port of the agent");
    socket.listen(64).expect("a listener")
}
