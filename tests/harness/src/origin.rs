//! A scripted upstream: answers by a function, or is driven step by step.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::tools::free_port;
use crate::wait::eventually_some;
use crate::wire::{self, Framing, Head};

/// What an origin got.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// As on the wire.
    pub target: String,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Which connection of this origin it came on, from 0.
    pub connection: usize,
}

impl Request {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

type Script = Box<dyn FnOnce(&mut Conn) + Send>;

/// What an origin answers.
pub enum Reply {
    /// Status, headers, and a body with `content-length`.
    Full(u16, Vec<(String, String)>, Vec<u8>),
    /// Bytes as they are; the connection is kept.
    Raw(Vec<u8>),
    /// Drives the connection itself; it is closed afterwards.
    Script(Script),
    /// Closes without a word.
    Close,
}

impl Reply {
    /// 200 with a text.
    pub fn text(body: impl Into<String>) -> Reply {
        Reply::Full(200, vec![("content-type".into(), "text/plain".into())], body.into().into_bytes())
    }

    /// 200 with JSON.
    pub fn json(value: &serde_json::Value) -> Reply {
        Reply::Full(200, vec![("content-type".into(), "application/json".into())], value.to_string().into_bytes())
    }

    /// A status without a body.
    pub fn status(status: u16) -> Reply {
        Reply::Full(status, Vec::new(), Vec::new())
    }

    /// With one more header.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Reply {
        match self {
            Reply::Full(status, mut headers, body) => {
                headers.push((name.into(), value.into()));
                Reply::Full(status, headers, body)
            }
            other => other,
        }
    }

    /// Drives the connection by hand.
    pub fn script(script: impl FnOnce(&mut Conn) + Send + 'static) -> Reply {
        Reply::Script(Box::new(script))
    }
}

enum Transport {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(s) => s.read(buf),
            Transport::Tls(s) => s.read(buf),
        }
    }
}

/// The origin's end of one connection.
pub struct Conn {
    stream: BufReader<Transport>,
}

impl Conn {
    fn new(tcp: TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<Conn> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(60)))?;
        tcp.set_write_timeout(Some(Duration::from_secs(60)))?;
        let transport = match tls {
            None => Transport::Tcp(tcp),
            Some(config) => {
                let mut tcp = tcp;
                let mut conn = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                while conn.is_handshaking() {
                    conn.complete_io(&mut tcp)?;
                }
                Transport::Tls(Box::new(StreamOwned::new(conn, tcp)))
            }
        };
        Ok(Conn { stream: BufReader::with_capacity(64 << 10, transport) })
    }

    /// Writes bytes; errors are the gateway's doing and are returned.
    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match self.stream.get_mut() {
            Transport::Tcp(s) => s.write_all(bytes.as_ref()),
            Transport::Tls(s) => s.write_all(bytes.as_ref()).and_then(|()| s.flush()),
        }
    }

    /// Writes bytes.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).expect("writing to the gateway");
    }

    /// Reads a request head.
    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        wire::read_head(&mut self.stream).expect("a request head from the gateway")
    }

    /// Reads one chunk of a chunked request body.
    #[track_caller]
    pub fn read_chunk(&mut self) -> Option<Vec<u8>> {
        wire::read_chunk(&mut self.stream).expect("a chunk from the gateway")
    }

    /// Reads the whole body of the request with this head.
    pub fn read_body(&mut self, head: &Head) -> io::Result<wire::Body> {
        wire::read_body(&mut self.stream, Framing::of_request(head))
    }

    /// Up to `length` bytes; empty when the gateway has closed.
    pub fn read_some(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let n = self.stream.read(&mut bytes)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    /// Waits until the gateway closes or resets, throwing away what comes.
    pub fn wait_for_close(&mut self) {
        let mut buf = [0; 8192];
        while matches!(self.stream.read(&mut buf), Ok(n) if n > 0) {}
    }

    fn read_request(&mut self, connection: usize) -> io::Result<Request> {
        let head = wire::read_head(&mut self.stream)?;
        if head.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
            self.try_write("HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = self.read_body(&head)?;
        let mut words = head.start.split(' ');
        let method = words.next().unwrap_or("").to_string();
        let target = words.next().unwrap_or("").to_string();
        Ok(Request { method, target, head, body: body.bytes, trailers: body.trailers, connection })
    }
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    count: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    stopped: AtomicBool,
}

/// A running origin; stops accepting when dropped.
pub struct Origin {
    address: SocketAddr,
    seen: Arc<Seen>,
}

impl Origin {
    /// Answers each request by a function.
    pub fn serve(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Origin {
        Self::start("127.0.0.1:0", None, true, handler)
    }

    /// The same over TLS.
    pub fn serve_tls(config: Arc<ServerConfig>, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Origin {
        Self::start("127.0.0.1:0", Some(config), true, handler)
    }

    /// Answers every request with this text, and keeps no record but their number: for load.
    pub fn fixed(body: &'static str) -> Origin {
        Self::start("127.0.0.1:0", None, false, move |_| Reply::text(body))
    }

    /// Answers with its name: for balancing.
    pub fn named(name: &str) -> Origin {
        let name = name.to_string();
        Self::serve(move |_| Reply::text(name.clone()))
    }

    /// Answers every request with this text on all addresses of this machine, so that one can stand for many: for load.
    pub fn everywhere(body: &'static str) -> Origin {
        Self::start("0.0.0.0:0", None, false, move |_| Reply::text(body))
    }

    /// Two of the same port, at 127.0.0.1 and 127.0.0.2, that answer with these names: for a name that moves.
    pub fn pair(first: &str, second: &str) -> (Origin, Origin) {
        let answer = |name: &str| {
            let name = name.to_string();
            move |_: &Request| Reply::text(name.clone())
        };
        // The port that is free at the first address may be taken at the second.
        eventually_some("a port that is free at both", || {
            let one = Self::start("127.0.0.1:0", None, true, answer(first));
            let there = TcpListener::bind(("127.0.0.2", one.address.port())).ok()?;
            Some((one, Self::accept(there, None, true, answer(second))))
        })
    }

    /// Driven by hand: `accept` gives each connection.
    pub fn scripted() -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Scripted { listener }
    }

    fn start(
        bind: &str,
        tls: Option<Arc<ServerConfig>>,
        record: bool,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Origin {
        Self::accept(TcpListener::bind(bind).unwrap(), tls, record, handler)
    }

    fn accept(
        listener: TcpListener,
        tls: Option<Arc<ServerConfig>>,
        record: bool,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Origin {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let handler = Arc::new(handler);
        let shared = seen.clone();
        thread::spawn(move || {
            for tcp in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(tcp) = tcp else { continue };
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let (shared, handler, tls) = (shared.clone(), handler.clone(), tls.clone());
                thread::spawn(move || {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    if let Ok(mut conn) = Conn::new(tcp, tls.as_ref()) {
                        converse(&mut conn, number, record, &shared, &*handler);
                    }
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Origin { address, seen }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it got so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The newest request.
    #[track_caller]
    pub fn last(&self) -> Request {
        self.requests().pop().expect("a request at the origin")
    }

    /// How many requests it got.
    pub fn count(&self) -> usize {
        self.seen.count.load(Ordering::SeqCst)
    }

    /// How many connections it got.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.seen.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept loop
    }
}

fn converse(conn: &mut Conn, number: usize, record: bool, seen: &Seen, handler: &dyn Fn(&Request) -> Reply) {
    while let Ok(request) = conn.read_request(number) {
        seen.count.fetch_add(1, Ordering::SeqCst);
        let reply = handler(&request);
        let head_only = request.method == "HEAD";
        if record {
            seen.requests.lock().unwrap().push(request);
        }
        let sent = match reply {
            Reply::Full(status, headers, body) => conn.try_write(format_reply(status, &headers, &body, head_only)),
            Reply::Raw(bytes) => conn.try_write(bytes),
            Reply::Script(script) => {
                script(conn);
                return;
            }
            Reply::Close => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn format_reply(status: u16, headers: &[(String, String)], body: &[u8], head_only: bool) -> Vec<u8> {
    let mut raw = format!("HTTP/1.1 {status} Reason\r\n").into_bytes();
    for (name, value) in headers {
        raw.extend(format!("{name}: ").bytes());
        raw.extend(value.chars().map(|c| c as u8));
        raw.extend(b"\r\n");
    }
    if status != 204 && status != 304 {
        raw.extend(format!("content-length: {}\r\n", body.len()).bytes());
    }
    raw.extend(b"\r\n");
    if !head_only {
        raw.extend(body);
    }
    raw
}

/// An origin that the test drives by hand.
pub struct Scripted {
    listener: TcpListener,
}

impl Scripted {
    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> Conn {
        // `accept` itself knows no timeout: a gateway that does not connect would hang the test.
        self.listener.set_nonblocking(true).unwrap();
        let tcp = eventually_some("a connection from the gateway", || self.listener.accept().ok()).0;
        tcp.set_nonblocking(false).unwrap();
        Conn::new(tcp, None).expect("a connection from the gateway")
    }
}

/// An address on loopback where nobody listens, and nobody will who did not ask for it.
pub fn nobody() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}
