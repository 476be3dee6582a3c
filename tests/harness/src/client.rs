//! A client that writes and reads HTTP/1.1 byte by byte, over TCP or TLS.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::wire::{self, Framing, Head};

/// Longer than any timeout that a test configures; a hanging gateway fails the test instead of the build.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A response, whole.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Sizes of the chunks, when it was chunked.
    pub chunks: Vec<usize>,
}

impl Response {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}", self.text()))
    }
}

enum Transport {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(s) => s.read(buf),
            Transport::Tls(s) => s.read(buf),
        }
    }
}

/// One connection.
pub struct Client {
    stream: BufReader<Transport>,
    authority: String,
}

impl Client {
    /// Connects in clear text.
    pub fn connect(address: SocketAddr) -> Client {
        let tcp = dial(address);
        Client { stream: BufReader::with_capacity(64 << 10, Transport::Tcp(tcp)), authority: address.to_string() }
    }

    /// Connects with TLS and finishes the handshake.
    pub fn connect_tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> io::Result<Client> {
        let mut tcp = dial(address);
        let name = rustls_pki_types::ServerName::try_from(name.to_string()).unwrap();
        let mut tls = ClientConnection::new(config, name.clone()).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let stream = Transport::Tls(Box::new(StreamOwned::new(tls, tcp)));
        Ok(Client { stream: BufReader::new(stream), authority: name.to_str().into_owned() })
    }

    /// The TLS session, if there is one.
    pub fn tls(&self) -> Option<&ClientConnection> {
        match self.stream.get_ref() {
            Transport::Tcp(_) => None,
            Transport::Tls(s) => Some(&s.conn),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self.stream.get_ref() {
            Transport::Tcp(s) => s,
            Transport::Tls(s) => &s.sock,
        }
    }

    /// Writes bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("writing to the gateway");
    }

    /// Writes bytes as they are; the gateway may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match self.stream.get_mut() {
            Transport::Tcp(s) => s.write_all(bytes.as_ref()),
            Transport::Tls(s) => s.write_all(bytes.as_ref()).and_then(|()| s.flush()),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        let _ = self.tcp().shutdown(std::net::Shutdown::Write);
    }

    /// The same over TLS, by its own message (`close_notify`): the socket stays open in both directions.
    pub fn finish_tls(&mut self) {
        if let Transport::Tls(s) = self.stream.get_mut() {
            s.conn.send_close_notify();
            s.flush().expect("writing to the gateway");
        }
    }

    /// Reads a response head, without its body.
    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        wire::read_head(&mut self.stream).expect("a response head")
    }

    /// Reads a whole response to a request with this method; interim (1xx) ones are skipped.
    #[track_caller]
    pub fn read_response(&mut self, method: &str) -> Response {
        self.try_read_response(method).expect("a response")
    }

    /// The same, where the gateway may close or break off.
    pub fn try_read_response(&mut self, method: &str) -> io::Result<Response> {
        loop {
            let head = wire::read_head(&mut self.stream)?;
            let status: u16 = head
                .second_word()
                .parse()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("status line `{}`", head.start)))?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let framing = if status == 101 { Framing::None } else { Framing::of_response(&head, method) };
            let body = wire::read_body(&mut self.stream, framing)?;
            return Ok(Response { status, head, body: body.bytes, trailers: body.trailers, chunks: body.chunks });
        }
    }

    /// Reads one chunk of a chunked body.
    #[track_caller]
    pub fn read_chunk(&mut self) -> Option<Vec<u8>> {
        wire::read_chunk(&mut self.stream).expect("a chunk")
    }

    /// Reads exactly so many bytes.
    #[track_caller]
    pub fn read_exact(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("bytes from the gateway");
        bytes
    }

    /// Up to `length` bytes, whatever is there.
    pub fn read_some(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let n = self.stream.read(&mut bytes)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    /// Everything until the gateway closes; a reset counts as a close.
    pub fn read_to_close(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buf = [0; 8192];
        loop {
            match self.stream.read(&mut buf) {
                Ok(0) => return bytes,
                Ok(n) => bytes.extend_from_slice(&buf[..n]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("the gateway kept the connection open; so far: {}", String::from_utf8_lossy(&bytes))
                }
                Err(_) => return bytes,
            }
        }
    }

    /// Whether the gateway has closed, reading away nothing else than the close.
    #[track_caller]
    pub fn expect_close(&mut self) {
        let rest = self.read_to_close();
        assert!(rest.is_empty(), "more than a close: {}", String::from_utf8_lossy(&rest));
    }

    /// Sends a request and reads its response. `host` is the gateway's address unless a header says otherwise.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_request(method, target, headers, body).unwrap_or_else(|e| panic!("{method} {target}: {e}"))
    }

    /// The same, where the gateway may close or break off.
    pub fn try_request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let raw = self.format(method, target, headers, body);
        self.try_send(raw)?;
        self.try_read_response(method)
    }

    /// The bytes of a request.
    pub fn format(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut raw = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        if !has("host") {
            raw.extend(format!("host: {}\r\n", self.authority).bytes());
        }
        for (name, value) in headers {
            raw.extend(format!("{name}: ").bytes());
            raw.extend(value.chars().map(|c| c as u8));
            raw.extend(b"\r\n");
        }
        if !body.is_empty() && !has("content-length") && !has("transfer-encoding") {
            raw.extend(format!("content-length: {}\r\n", body.len()).bytes());
        }
        raw.extend(b"\r\n");
        raw.extend(body);
        raw
    }

    /// `GET` without extras.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], b"")
    }

    /// A second handle on the socket, to write while another thread reads (clear text only).
    pub fn writer(&self) -> TcpStream {
        self.tcp().try_clone().unwrap()
    }
}

fn dial(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(address).unwrap_or_else(|e| panic!("connect to {address}: {e}"));
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    tcp.set_write_timeout(Some(READ_TIMEOUT)).unwrap();
    tcp
}
