//! A name server over UDP that knows a few names, and counts who asks for them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A (RFC 1035 §3.2.2).
const A: [u8; 2] = [0, 1];
/// NXDOMAIN (RFC 1035 §4.1.1).
const NO_SUCH_NAME: u8 = 3;

#[derive(Clone, Copy)]
struct Record {
    address: Ipv4Addr,
    ttl: u32,
}

#[derive(Default)]
struct Zone {
    records: Mutex<HashMap<String, Record>>,
    questions: Mutex<HashMap<String, usize>>,
    stopped: AtomicBool,
}

/// A running name server. The names it was told have one IPv4 address each, all others do not exist.
pub struct NameServer {
    address: SocketAddr,
    zone: Arc<Zone>,
}

impl NameServer {
    /// A server that knows no name yet.
    pub fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Zone::default());
        let shared = zone.clone();
        thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok((length, asker)) = socket.recv_from(&mut packet) {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Some(answer) = shared.answer(&packet[..length]) {
                    let _ = socket.send_to(&answer, asker);
                }
            }
        });
        NameServer { address, zone }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the name has this address, for so many seconds.
    pub fn set(&self, name: &str, address: [u8; 4], ttl: u32) {
        self.zone.records.lock().unwrap().insert(name.to_string(), Record { address: address.into(), ttl });
    }

    /// How often it was asked for the IPv4 address of the name.
    pub fn questions(&self, name: &str) -> usize {
        self.zone.questions.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.zone.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread.
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.address));
    }
}

impl Zone {
    /// The answer to a query of one question (RFC 1035 §4); nothing for what is none.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (header, rest) = query.split_at_checked(12)?;
        let (name, labels) = name(rest)?;
        let question = rest.get(..labels + 4)?;
        let record = self.records.lock().unwrap().get(&name).copied();
        let asks_a = question[labels..].starts_with(&A);
        if asks_a {
            *self.questions.lock().unwrap().entry(name).or_default() += 1;
        }
        let code = if record.is_some() { 0 } else { NO_SUCH_NAME };
        let record = record.filter(|_| asks_a);
        let mut answer = header[..2].to_vec();
        // A response, authoritative; recursion as it was desired, and available.
        answer.extend([0x84 | header[2] & 1, 0x80 | code]);
        answer.extend([0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
        answer.extend(question);
        if let Some(Record { address, ttl }) = record {
            // The name is that of the question; class IN.
            answer.extend([0xc0, 12, 0, 1, 0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        Some(answer)
    }
}

/// The name that the bytes start with, in lower case and without the last dot, and its length on the wire.
fn name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_lowercase());
        at += length;
    }
}
