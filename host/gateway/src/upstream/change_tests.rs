//! What a reload does to an upstream of which something has changed: 1,000 endpoints on one server of this machine.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::attempt_log::Attempt;
use super::pool::Wanted;
use super::resolver::DnsPolicy;
use super::*;
use crate::http::body::Body;
use crate::http::buffer::{MemoryBudget, collect};

const LONG: Duration = Duration::from_secs(5);
const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(5), first_byte: Duration::from_secs(5), until: None, whole: None };
static BUDGET: LazyLock<MemoryBudget> = LazyLock::new(|| MemoryBudget::new(1 << 20));

/// A server on all addresses of this machine, which knows who has connected to which of them.
#[derive(Default)]
struct Server {
    port: Cell<u16>,
    opened: Cell<usize>,
    /// The addresses of connections that are open.
    open: RefCell<BTreeSet<SocketAddr>>,
}

impl Server {
    async fn start() -> Rc<Self> {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let server = Rc::new(Server::default());
        server.port.set(listener.local_addr().unwrap().port());
        let this = server.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (this, address) = (this.clone(), stream.local_addr().unwrap());
                this.opened.set(this.opened.get() + 1);
                this.open.borrow_mut().insert(address);
                tokio::task::spawn_local(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buffer).await {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                    this.open.borrow_mut().remove(&address);
                });
            }
        });
        server
    }

    fn endpoint(&self, i: usize) -> EndpointSpec {
        EndpointSpec::from_url(&format!("http://127.1.{}.{}:{}", i / 250, i % 250 + 1, self.port.get())).unwrap()
    }

    fn closed(&self) -> usize {
        self.opened.get() - self.open.borrow().len()
    }
}

async fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing happens");
        tokio::task::yield_now().await;
    }
}

struct Running {
    registry: Arc<EndpointRegistry>,
    resolver: Arc<Resolver>,
    upstream: Arc<Upstream>,
    local: Rc<LocalUpstream>,
}

impl Running {
    fn start(spec: UpstreamSpec) -> Self {
        let (registry, resolver) = (EndpointRegistry::new(), Resolver::new(&[], None));
        let upstream = Arc::new(Upstream::new(spec, &registry, &resolver, None).unwrap());
        let local = LocalUpstream::new(upstream.clone(), None);
        Running { registry, resolver, upstream, local }
    }

    /// As a snapshot and a worker's view of it take the place of those before.
    fn reload(&mut self, spec: UpstreamSpec) {
        self.upstream = Arc::new(Upstream::new(spec, &self.registry, &self.resolver, Some(&self.upstream)).unwrap());
        let local = LocalUpstream::new(self.upstream.clone(), Some(&self.local));
        std::mem::replace(&mut self.local, local).supersede();
    }

    /// The response of the endpoint that is next, not read yet.
    async fn send(&self, choice: Choice<'_>) -> Result<UpstreamResponse, AttemptError> {
        let request = Request::get("/").body(Body::Empty).unwrap();
        let mut request = OutgoingRequest::new(Box::new(request), TIMEOUTS, &BUDGET);
        let endpoints = self.local.endpoints();
        let host = self.local.choose(&endpoints, choice, None, &[]).unwrap();
        let mut attempt = Attempt::new(self.local.name().clone(), None);
        self.local.attempt(&endpoints, host, &mut request, &mut attempt).await
    }

    async fn finish(&self, mut response: UpstreamResponse) {
        collect(&mut response.body, 100, &MemoryBudget::new(100)).await.unwrap();
    }
}

#[tokio::test(flavor = "local")]
async fn one_of_a_thousand_endpoints_changes() {
    const COUNT: usize = 1000;
    let server = Server::start().await;
    let dead = EndpointSpec::from_url("http://127.2.0.1:1").unwrap();
    let mut list: Vec<_> = (0..COUNT).map(|i| server.endpoint(i)).collect();
    list.push(dead.clone());
    let spec = |list: &[EndpointSpec]| UpstreamSpec::new("orders", TargetSpec::Endpoints(list.to_vec()));
    let mut running = Running::start(spec(&list));
    for endpoint in running.local.candidates() {
        // The last one is down, and known to be from now on.
        match running.send(Choice::Addresses(&[endpoint.address.to_string()])).await {
            Ok(response) => running.finish(response).await,
            Err(error) => assert_eq!((&*endpoint.address, error.kind), ("127.2.0.1:1", UpstreamErrorKind::Connect)),
        }
    }
    assert_eq!((server.opened.get(), server.closed()), (COUNT, 0));
    let before = running.local.candidates();
    assert!(before[..COUNT].iter().all(|known| known.healthy && known.latency_us > 0) && !before[COUNT].healthy);

    // Weight, label, one gone, one new, and settings that have nothing to do with connections.
    list[0].weight = 3;
    list[1].labels = vec![("zone".to_owned(), "b".to_owned())];
    let gone = list.remove(2);
    list.insert(2, server.endpoint(COUNT));
    let balancing = Balancing { algorithm: Balance::LeastRequest, ..Balancing::default() };
    let changed = UpstreamSpec { balancing, max_tries: 2, max_idle: 7, ..spec(&list) };
    running.reload(changed);
    until(|| server.closed() == 1).await;
    assert!(!server.open.borrow().contains(&gone.place.to_string().parse().unwrap()), "its connection is closed");
    let after = running.local.candidates();
    for (i, (before, after)) in before.iter().zip(&after).enumerate().filter(|(i, _)| *i != 2) {
        assert_eq!((before.healthy, before.latency_us), (after.healthy, after.latency_us), "endpoint {i}");
    }
    assert_eq!((after[0].weight, after[1].labels.len(), after[2].latency_us), (3, 1, 0));
    // All others are reached over the connections that they had.
    for known in after.iter().filter(|known| known.healthy && known.latency_us > 0) {
        let name = [known.address.to_string()];
        let response = running.send(Choice::Addresses(&name)).await.unwrap();
        running.finish(response).await;
    }
    assert_eq!((server.opened.get(), server.closed()), (COUNT, 1));
}

#[tokio::test(flavor = "local")]
async fn a_removed_endpoint_drains() {
    let server = Server::start().await;
    let spec = |list: &[usize]| {
        let endpoints = list.iter().map(|i| server.endpoint(*i)).collect();
        UpstreamSpec::new("orders", TargetSpec::Endpoints(endpoints))
    };
    let mut running = Running::start(spec(&[0]));
    // Its response is there and not read to the end: the request is under way.
    let lease = {
        let endpoints = running.local.endpoints();
        running.local.open(&endpoints, 0, (LONG, LONG), Wanted::default()).await.ok().unwrap()
    };
    assert_eq!(running.local.candidates()[0].active, 1);
    running.reload(spec(&[1]));
    let response = running.send(Choice::Balanced(Affinity::default())).await.unwrap();
    running.finish(response).await;
    assert_eq!((server.opened.get(), server.closed()), (2, 0), "what is in use is not closed");
    drop(lease);
    until(|| server.closed() == 1).await;
}

#[tokio::test(flavor = "local")]
async fn another_protocol_takes_other_connections_and_keeps_the_record() {
    let server = Server::start().await;
    let spec = |protocol| {
        let endpoints = vec![server.endpoint(0)];
        UpstreamSpec { protocol, ..UpstreamSpec::new("orders", TargetSpec::Endpoints(endpoints)) }
    };
    let mut running = Running::start(spec(Protocol::Http1));
    let response = running.send(Choice::Balanced(Affinity::default())).await.unwrap();
    running.finish(response).await;
    let latency = running.local.candidates()[0].latency_us;
    running.reload(spec(Protocol::H2c));
    until(|| server.closed() == 1).await;
    assert_eq!(running.local.candidates()[0].latency_us, latency);
}

#[tokio::test(flavor = "local")]
async fn addresses_of_a_name_come_and_go() {
    let server = Server::start().await;
    let endpoint = EndpointSpec::from_url(&format!("http://orders.test:{}", server.port.get())).unwrap();
    let running = Running::start(UpstreamSpec::new("orders", TargetSpec::Endpoints(vec![endpoint])));
    let know = async |last: &[u8]| {
        let addresses: Vec<_> = last.iter().map(|last| [127, 3, 0, *last].into()).collect();
        running.resolver.learn("orders.test", &addresses);
        let endpoints = running.local.endpoints();
        running.upstream.set().locate(endpoints.endpoint(0)).await.unwrap();
    };
    let send = async || {
        let response = running.send(Choice::Balanced(Affinity::default())).await.unwrap();
        running.finish(response).await;
    };
    know(&[1, 2]).await;
    for _ in 0..4 {
        send().await;
    }
    assert_eq!(
        server.open.borrow().iter().map(|open| open.ip().to_string()).collect::<Vec<_>>(),
        ["127.3.0.1", "127.3.0.2"]
    );
    let known = running.local.candidates();
    assert_eq!((known.len(), known[0].weight, known[0].active), (1, 1, 0), "one endpoint, as it is written");
    know(&[2, 3]).await;
    for _ in 0..4 {
        send().await;
    }
    until(|| server.closed() == 1).await;
    assert_eq!(
        server.open.borrow().iter().map(|open| open.ip().to_string()).collect::<Vec<_>>(),
        ["127.3.0.2", "127.3.0.3"]
    );
    assert_eq!(server.opened.get(), 3, "the address that stayed keeps its connection");
}

/// Another upstream, or a filter's call, has asked for the name meanwhile.
#[tokio::test(flavor = "local")]
async fn an_answer_that_somebody_else_got_is_used() {
    let server = Server::start().await;
    let endpoint = EndpointSpec::from_url(&format!("http://orders.test:{}", server.port.get())).unwrap();
    let running = Running::start(UpstreamSpec::new("orders", TargetSpec::Endpoints(vec![endpoint])));
    running.resolver.learn("orders.test", &[[127, 3, 0, 1].into()]);
    let response = running.send(Choice::Balanced(Affinity::default())).await.unwrap();
    running.finish(response).await;
    assert_eq!(server.opened.get(), 1);
}

/// 50 requests need a name that can't be resolved: it is asked for once, and they share the failure.
#[tokio::test(flavor = "local")]
async fn a_failed_look_up_is_shared_by_those_who_waited_for_it() {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = Resolver::new(&[socket.local_addr().unwrap()], None);
    let asked = Rc::new(Cell::new(0));
    let count = asked.clone();
    let server = tokio::task::spawn_local(async move {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            count.set(count.get() + 1);
            // A response (RFC 1035 §4.1.1) with the code for a failure of the server.
            packet[2] |= 0x80;
            packet[3] = packet[3] & 0xf0 | 2;
            socket.send_to(&packet[..length], from).await.unwrap();
        }
    });
    let name: Arc<str> = "orders.test".into();
    let ask = || {
        let (resolver, name) = (resolver.clone(), name.clone());
        tokio::task::spawn_local(async move { resolver.resolve(&name, DnsPolicy::default()).await })
    };
    let asking: Vec<_> = (0..50).map(|_| ask()).collect();
    for one in asking {
        assert!(one.await.unwrap().is_err());
    }
    // Two kinds of addresses, each asked for a few times at most.
    assert!(asked.get() <= 20, "{} questions", asked.get());
    server.abort();
}

/// Each worker has a view of its own, and all would send their first requests to the same endpoint.
#[test]
fn the_views_of_workers_begin_apart() {
    let (registry, resolver) = (EndpointRegistry::new(), Resolver::new(&[], None));
    let endpoint = |i: usize| EndpointSpec::from_url(&format!("http://127.0.0.1:{}", 1000 + i)).unwrap();
    let spec = UpstreamSpec::new("orders", TargetSpec::Endpoints((0..4).map(endpoint).collect()));
    let upstream = Arc::new(Upstream::new(spec, &registry, &resolver, None).unwrap());
    let first = || {
        let local = LocalUpstream::new(upstream.clone(), None);
        local.choose(&local.endpoints(), Choice::Balanced(Affinity::default()), None, &[]).unwrap()
    };
    let mut chosen = [0; 4];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..64).map(|_| scope.spawn(first)).collect();
        workers.into_iter().for_each(|worker| chosen[worker.join().unwrap()] += 1);
    });
    assert!(chosen.iter().all(|count| (1..40).contains(count)), "{chosen:?}");
}
