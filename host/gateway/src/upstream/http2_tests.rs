//! HTTP/2 servers that say no: limits of streams, refused streams, GOAWAY, heads that are too large. The servers write their frames by hand.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::attempt_log::Attempt;
use super::replay::{self, Replay};
use super::retry::{Attempts, Delivery, FilterChoice, Next, Repeatability};
use super::*;
use crate::http::body::{Body, BodyError};
use crate::http::buffer::{MemoryBudget, collect};

const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(20), first_byte: Duration::from_secs(20), until: None, whole: None };
const WITH_BODY: Repeatability = Repeatability { idempotent: false, has_body: true, whole: false };
static BUDGET: LazyLock<MemoryBudget> = LazyLock::new(|| MemoryBudget::new(1 << 20));

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;

/// What a server does with the request that began on a stream.
enum Then {
    /// Answers 200.
    Answer,
    /// Allows no more streams, and answers 200.
    AnswerAsLast,
    /// Answers with a head of so many bytes.
    LargeHead(usize),
    Refuse,
    /// Says that it has processed nothing, and goes.
    GoAway,
    /// Lets it wait.
    Nothing,
}

/// What a server has seen.
#[derive(Default)]
struct Seen {
    connections: Cell<usize>,
    /// Bytes of bodies, by connection.
    bodies: RefCell<Vec<usize>>,
    /// Requests that wait for their answer.
    waiting: Cell<usize>,
    pings: Cell<usize>,
}

/// A server whose connections allow `streams` at a time, and decide by connection and stream.
async fn server(streams: u32, decide: impl Fn(usize, u32) -> Then + 'static) -> (u16, Rc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, decide) = (Rc::new(Seen::default()), Rc::new(decide));
    let shared = seen.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = shared.connections.replace(shared.connections.get() + 1);
            shared.bodies.borrow_mut().push(0);
            let (seen, decide) = (shared.clone(), decide.clone());
            // Ends with the connection.
            tokio::task::spawn_local(async move {
                let _ = converse(stream, connection, streams, &seen, &*decide).await;
            });
        }
    });
    (port, seen)
}

async fn converse(
    mut stream: TcpStream,
    connection: usize,
    streams: u32,
    seen: &Seen,
    decide: &dyn Fn(usize, u32) -> Then,
) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    let allowed = [&[0, 3][..], &streams.to_be_bytes()].concat();
    write(&mut stream, SETTINGS, 0, 0, &allowed).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        let (kind, flags, id) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        match kind {
            DATA if !payload.is_empty() => {
                seen.bodies.borrow_mut()[connection] += payload.len();
                let read = (payload.len() as u32).to_be_bytes();
                write(&mut stream, WINDOW_UPDATE, 0, 0, &read).await?;
                write(&mut stream, WINDOW_UPDATE, 0, id, &read).await?;
            }
            PING if flags == 0 => {
                seen.pings.set(seen.pings.get() + 1);
                write(&mut stream, PING, 1, 0, &payload).await?;
            }
            SETTINGS if flags == 0 => write(&mut stream, SETTINGS, 1, 0, b"").await?,
            _ => {}
        }
        // A request is there with its end.
        if !matches!(kind, HEADERS | DATA) || flags & END_STREAM == 0 {
            continue;
        }
        match decide(connection, id) {
            // :status 200 of the static table.
            Then::Answer => write(&mut stream, HEADERS, END_STREAM | END_HEADERS, id, &[0x88]).await?,
            Then::AnswerAsLast => {
                write(&mut stream, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]).await?;
                write(&mut stream, HEADERS, END_STREAM | END_HEADERS, id, &[0x88]).await?;
            }
            Then::LargeHead(size) => {
                // Fields without Huffman coding and index: 64 bytes each by the count of RFC 9113 §6.5.2.
                let field = [&[0, 1, b'x', 31][..], &[b'v'; 31]].concat();
                let block = [&[0x88][..], &field.repeat(size / 64)].concat();
                let parts: Vec<&[u8]> = block.chunks(16_000).collect();
                for (i, part) in parts.iter().enumerate() {
                    let flags = if i + 1 == parts.len() { END_HEADERS } else { 0 };
                    let (kind, flags) = if i == 0 { (HEADERS, flags | END_STREAM) } else { (CONTINUATION, flags) };
                    write(&mut stream, kind, flags, id, part).await?;
                }
            }
            Then::Refuse => write(&mut stream, RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes()).await?,
            Then::GoAway => write(&mut stream, GOAWAY, 0, 0, &[0; 8]).await?,
            Then::Nothing => seen.waiting.set(seen.waiting.get() + 1),
        }
    }
}

async fn write(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> std::io::Result<()> {
    let length = (payload.len() as u32).to_be_bytes();
    let frame = [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat();
    stream.write_all(&frame).await
}

fn upstream(port: u16) -> Rc<LocalUpstream> {
    pinging(port, UpstreamSpec::new("defaults", TargetSpec::Echo).ping_interval)
}

fn pinging(port: u16, ping_interval: Option<Duration>) -> Rc<LocalUpstream> {
    let endpoint = EndpointSpec::from_url(&format!("http://127.0.0.1:{port}")).unwrap();
    let mut spec = UpstreamSpec::new("orders", TargetSpec::Endpoints(vec![endpoint]));
    (spec.protocol, spec.ping_interval) = (Protocol::H2c, ping_interval);
    let upstream = Upstream::new(spec, &EndpointRegistry::new(), &Resolver::new(&[], None), None);
    LocalUpstream::new(Arc::new(upstream.unwrap()), None)
}

async fn until(condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("the condition");
}

/// Sends a request as the proxy does, and answers how many attempts it took.
async fn send(upstream: &LocalUpstream, body: Body) -> Result<usize, AttemptError> {
    let request = Request::post("/").header(HOST, "shop.example").body(body).unwrap();
    let mut request = OutgoingRequest::new(Box::new(request), TIMEOUTS, &BUDGET);
    let endpoints = upstream.endpoints();
    let mut allowed = Attempts::default();
    allowed.select(1, 0, FilterChoice::NoneOrSame);
    allowed.spend(0);
    for attempts in 1.. {
        let mut attempt = Attempt::new(Rc::clone(upstream.name()), None);
        let failed = match upstream.attempt(&endpoints, 0, &mut request, &mut attempt).await {
            Ok(response) => {
                assert_eq!(response.head.status, 200);
                return Ok(attempts);
            }
            Err(failed) => failed,
        };
        if allowed.after(failed.ended(request.repeatability()), false).next != Next::SameEndpoint {
            return Err(failed);
        }
    }
    unreachable!("the attempts end")
}

#[tokio::test(flavor = "local")]
async fn more_requests_than_a_server_allows_streams_open_more_connections() {
    let (port, seen) = server(2, |_, _| Then::Nothing).await;
    let upstream = upstream(port);
    let requests: Vec<_> = (0..7)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::task::spawn_local(async move { send(&upstream, Body::Empty).await })
        })
        .collect();
    until(|| seen.waiting.get() == 7).await;
    assert!((4..=7).contains(&seen.connections.get()), "{} connections", seen.connections.get());
    requests.iter().for_each(|request| request.abort());
}

/// gRPC servers close connections that are pinged often.
#[tokio::test(flavor = "local")]
async fn a_silent_stream_is_pinged_only_where_the_configuration_says_so() {
    assert_eq!(UpstreamSpec::new("defaults", TargetSpec::Echo).ping_interval, None, "it does not by default");
    let ((often, seen_often), (never, seen_never)) =
        (server(100, |_, _| Then::Nothing).await, server(100, |_, _| Then::Nothing).await);
    let upstreams = [pinging(often, Some(Duration::from_millis(10))), upstream(never)];
    let requests =
        upstreams.map(|upstream| tokio::task::spawn_local(async move { send(&upstream, Body::Empty).await }));
    until(|| seen_often.pings.get() > 3 && seen_never.waiting.get() == 1).await;
    assert_eq!((seen_never.pings.get(), seen_often.connections.get()), (0, 1));
    requests.iter().for_each(|request| request.abort());
}

#[tokio::test(flavor = "local")]
async fn one_connection_carries_all_streams_that_a_server_allows() {
    let (port, seen) = server(100, |_, _| Then::Nothing).await;
    let upstream = upstream(port);
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::task::spawn_local(async move { send(&upstream, Body::Empty).await })
        })
        .collect();
    until(|| seen.waiting.get() == 50).await;
    assert_eq!(seen.connections.get(), 1);
    requests.iter().for_each(|request| request.abort());
}

#[tokio::test(flavor = "local")]
async fn a_request_that_was_refused_or_cut_off_by_a_goaway_is_sent_again_with_its_body() {
    for goes_away in [false, true] {
        let say_no = move |connection, _| match (connection, goes_away) {
            (0, true) => Then::GoAway,
            (0, false) => Then::Refuse,
            _ => Then::Answer,
        };
        let (port, seen) = server(100, say_no).await;
        let sent = send(&upstream(port), Body::full(vec![b'x'; 20_000])).await;
        assert_eq!(sent.unwrap(), 2);
        assert_eq!(*seen.bodies.borrow(), [20_000, 20_000], "goes away: {goes_away}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_server_that_refuses_everything_is_given_up() {
    let (port, seen) = server(100, |_, _| Then::Refuse).await;
    let upstream = upstream(port);
    for _ in 0..5 {
        let refused = send(&upstream, Body::Empty).await.unwrap_err();
        assert_eq!((refused.kind, seen.connections.get()), (UpstreamErrorKind::Refused, 2), "not two for each request");
    }
    let large = send(&upstream, Body::full(vec![b'x'; (64 << 10) + 1])).await.unwrap_err();
    let failed = large.ended(WITH_BODY);
    assert_eq!((large.kind, failed.delivery), (UpstreamErrorKind::Refused, Delivery::Possible), "too large to be kept");
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_refused_a_stream_serves_again() {
    let served = Rc::new(RefCell::new(Vec::new()));
    let log = served.clone();
    let decide = move |connection, id| {
        log.borrow_mut().push((connection, id));
        if (connection, id) == (0, 1) { Then::Refuse } else { Then::Answer }
    };
    let (port, _) = server(100, decide).await;
    let upstream = upstream(port);
    assert_eq!(send(&upstream, Body::Empty).await.unwrap(), 2);
    assert_eq!(send(&upstream, Body::Empty).await.unwrap(), 1);
    upstream.endpoints().pools().for_each(|pool| pool.age(Duration::from_secs(2)));
    assert_eq!(send(&upstream, Body::Empty).await.unwrap(), 1);
    assert_eq!(*served.borrow(), [(0, 1), (1, 1), (1, 3), (0, 3)], "it was only passed over for a moment");
}

#[tokio::test(flavor = "local")]
async fn a_server_that_allows_no_streams_is_an_error_that_says_so() {
    let (port, _) = server(0, |_, _| Then::Answer).await;
    let error = send(&upstream(port), Body::Empty).await.unwrap_err();
    assert_eq!((error.kind, error.ended(WITH_BODY).delivery), (UpstreamErrorKind::Refused, Delivery::Unsent));
    assert!(error.reason().contains("allows no streams"), "{}", error.reason());
}

#[tokio::test(flavor = "local")]
async fn a_limit_that_a_server_lowers_is_seen_by_the_next_request() {
    let last = |connection, _| if connection == 0 { Then::AnswerAsLast } else { Then::Answer };
    let (port, seen) = server(100, last).await;
    let upstream = upstream(port);
    assert_eq!(send(&upstream, Body::Empty).await.unwrap(), 1);
    assert_eq!(send(&upstream, Body::Empty).await.unwrap(), 1, "it does not wait where nothing may begin");
    assert_eq!(seen.connections.get(), 2);
}

#[tokio::test(flavor = "local")]
async fn a_head_that_is_too_large_is_named_as_such() {
    let (port, _) = server(100, |_, id| Then::LargeHead(if id == 1 { 30_000 } else { 40_000 })).await;
    let upstream = upstream(port);
    assert_eq!(send(&upstream, Body::Empty).await.unwrap(), 1, "what fits into HTTP/1 fits into HTTP/2");
    let error = send(&upstream, Body::Empty).await.unwrap_err();
    assert_eq!(error.kind, UpstreamErrorKind::Protocol);
    assert!(error.reason().contains("larger than 32768 bytes"), "{}", error.reason());
}

/// A body of so many parts of one byte, all of one large buffer.
struct Crumbs(Bytes, usize);

impl http_body::Body for Crumbs {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let part = this.1.checked_sub(1).map(|left| {
            this.1 = left;
            Ok(Frame::data(this.0.slice(left..=left)))
        });
        Poll::Ready(part)
    }
}

fn crumbs(parts: usize) -> (Bytes, Body) {
    let buffer = Bytes::from(vec![b'x'; 1 << 20]);
    (buffer.clone(), Body::stream(Crumbs(buffer, parts)))
}

async fn send_part(body: &mut Body) -> Option<usize> {
    let frame = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut *body), cx)).await;
    frame.map(|frame| frame.unwrap().into_data().unwrap().len())
}

#[tokio::test(flavor = "local")]
async fn what_is_kept_to_be_sent_again_is_charged_by_what_it_takes_until_it_is_gone() {
    let budget = MemoryBudget::new(100_000);
    let (buffer, body) = crumbs(10_000);
    let (mut sent, replay) = Replay::of(body, replay::OF_HTTP2, &budget);
    for _ in 0..9_000 {
        assert_eq!(send_part(&mut sent).await, Some(1));
    }
    assert_eq!(budget.used(), 16_384, "what 9,000 bytes take in one buffer");
    let mut again = replay.take_back().unwrap();
    drop(sent);
    let whole = collect(&mut again, 10_000, &MemoryBudget::new(10_000)).await.unwrap();
    assert_eq!((whole.len(), budget.used()), (10_000, 0), "given back with the bytes");
    assert!(buffer.is_unique(), "nothing pins what was read");
}

#[tokio::test(flavor = "local")]
async fn a_body_that_goes_on_after_its_response_has_begun_is_not_kept() {
    let budget = MemoryBudget::new(100_000);
    let (_, body) = crumbs(100);
    let (mut sent, replay) = Replay::of(body, replay::OF_HTTP2, &budget);
    send_part(&mut sent).await.unwrap();
    assert!(budget.used() > 0);
    // As an attempt does that has its response.
    drop(replay);
    assert_eq!(budget.used(), 0);
    while send_part(&mut sent).await.is_some() {
        assert_eq!(budget.used(), 0);
    }
}

#[tokio::test(flavor = "local")]
async fn a_body_without_room_in_the_memory_account_is_sent_all_the_same() {
    let budget = MemoryBudget::new(1000);
    // The half of an account that filters may need is left to them.
    for (parts, others) in [(600, 0), (100, 500)] {
        let _others = budget.reserve(others).unwrap();
        let (_, body) = crumbs(parts);
        let (mut sent, replay) = Replay::of(body, replay::OF_HTTP2, &budget);
        let mut size = 0;
        while let Some(part) = send_part(&mut sent).await {
            size += part;
        }
        assert_eq!((size, budget.used()), (parts, others));
        assert!(replay.take_back().is_none(), "it can't be sent again");
    }
}

#[tokio::test(flavor = "local")]
async fn all_who_wait_for_a_connection_share_the_one_that_is_opened() {
    let (port, seen) = server(100, |_, _| Then::Nothing).await;
    let endpoint = EndpointSpec::from_url(&format!("http://127.0.0.1:{port}")).unwrap();
    let mut spec = UpstreamSpec::new("orders", TargetSpec::Endpoints(vec![endpoint]));
    spec.protocol = Protocol::H2c;
    spec.limits.max_connections = Some(1);
    spec.limits.max_pending_requests = 10;
    let upstream = Arc::new(Upstream::new(spec, &EndpointRegistry::new(), &Resolver::new(&[], None), None).unwrap());
    let local = LocalUpstream::new(upstream.clone(), None);
    let held = upstream.connection_limits(local.endpoints().record(0)).unwrap().try_enter().unwrap();
    for _ in 0..5 {
        let local = local.clone();
        tokio::task::spawn_local(async move { send(&local, Body::Empty).await });
    }
    let connections = || upstream.state().unwrap().connections().state();
    until(|| connections().pending == 5).await;
    drop(held);
    until(|| seen.waiting.get() == 5).await;
    assert_eq!((seen.connections.get(), connections().pending), (1, 0));
}
