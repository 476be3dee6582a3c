//! HTTP/2 frame by frame, for what no well-behaved library sends: header blocks as literals without Huffman coding.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PRIORITY: u8 = 0x20;

/// One connection.
pub struct Frames {
    tcp: TcpStream,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A response with this status; 0 for those that the static table of HPACK does not have.
    Response(u16),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// `GOAWAY` with this code, or the end of the connection.
    Connection(u32),
}

impl Frames {
    /// By prior knowledge.
    pub fn connect(address: SocketAddr) -> Frames {
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut frames = Frames { tcp };
        frames.tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        frames.send(SETTINGS, 0, 0, b"");
        frames
    }

    /// The server's end of the next connection.
    pub fn accept(listener: &TcpListener) -> Frames {
        let (tcp, _) = listener.accept().unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut frames = Frames { tcp };
        let mut preface = [0; 24];
        frames.tcp.read_exact(&mut preface).unwrap();
        frames.send(SETTINGS, 0, 0, b"");
        frames
    }

    /// Waits for a ping and answers it.
    pub fn answer_ping(&mut self) {
        loop {
            let (kind, flags, _, payload) = self.frame().expect("a ping");
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, b""),
                PING if flags & ACK == 0 => return self.send(PING, ACK, 0, &payload),
                _ => {}
            }
        }
    }

    /// Answers a stream with 200 and no body.
    pub fn answer(&mut self, stream: u32) {
        // :status 200 of the static table of HPACK.
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]);
    }

    /// A frame as it is.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // The gateway may have given up already; how, is read afterwards.
        let _ = self.tcp.write_all(&frame);
    }

    /// Begins a stream with these fields, in their order and as they are.
    pub fn headers(&mut self, stream: u32, fields: &[(&[u8], &[u8])], end: bool) {
        let flags = if end { END_HEADERS | END_STREAM } else { END_HEADERS };
        self.send(HEADERS, flags, stream, &block(fields));
    }

    /// Part of a body.
    pub fn data(&mut self, stream: u32, data: &[u8], end: bool) {
        self.send(DATA, if end { END_STREAM } else { 0 }, stream, data);
    }

    /// The windows that new streams begin with.
    pub fn initial_window(&mut self, bytes: u32) {
        self.send(SETTINGS, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat());
    }

    /// Opens the window of a stream by so many bytes; that of the connection for stream 0.
    pub fn open_window(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    }

    /// So many acknowledgements of pings that nobody has sent.
    pub fn ping_acks(&mut self, count: usize) {
        let frame = [&[0, 0, 8, PING, ACK, 0, 0, 0, 0][..], &[7; 8]].concat();
        // The gateway may have given up already; how, is read afterwards.
        let _ = self.tcp.write_all(&frame.repeat(count));
    }

    /// Waits for the end of a stream: a response's head counts as one.
    pub fn wait(&mut self, stream: u32) -> Ended {
        loop {
            let Ok((kind, flags, of, payload)) = self.frame() else { return Ended::Connection(0) };
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, b""),
                HEADERS if of == stream => return Ended::Response(payload.first().map_or(0, |b| status(*b))),
                RST_STREAM if of == stream => return Ended::Reset(number(&payload)),
                GOAWAY => return Ended::Connection(payload.get(4..).map_or(0, number)),
                _ => {}
            }
        }
    }

    /// The next frame: its type, flags, stream and payload.
    pub fn frame(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.tcp.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.tcp.read_exact(&mut payload)?;
        Ok((head[3], head[4], u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]), payload))
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// RFC 7541, appendix A: the statuses of the static table, as an indexed field.
fn status(byte: u8) -> u16 {
    match byte {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        _ => 0,
    }
}

/// RFC 7541 §6.2.2: literals that are not indexed.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // §5.1: an integer with a prefix of 7 bits.
            let mut length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(u8::try_from(length % 128).unwrap() | 128);
                    length /= 128;
                }
                block.push(u8::try_from(length).unwrap());
            }
            block.extend(*text);
        }
    }
    block
}
