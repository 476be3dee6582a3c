//! A name server over UDP that knows a few names, and counts who asks for them.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A (RFC 1035 §3.2.2).
const A: [u8; 2] = [0, 1];
/// AAAA (RFC 3596 §2.1).
const AAAA: [u8; 2] = [0, 28];
/// SRV (RFC 2782).
const SRV: [u8; 2] = [0, 33];
/// NXDOMAIN and SERVFAIL (RFC 1035 §4.1.1).
const NO_SUCH_NAME: u8 = 3;
const FAILURE: u8 = 2;

/// What is said of a name.
#[derive(Clone, Default)]
enum Entry {
    /// IPv4 addresses, for so many seconds.
    Addresses(Vec<Ipv4Addr>, u32),
    /// A service: priority, weight, port and target of each record, for so many seconds.
    Services(Vec<Service>, u32),
    /// It exists and has no address, says an authority (RFC 2308 §2.2).
    Empty,
    /// The same authority: it does not exist.
    Gone,
    /// It does not exist, without an authority that says so.
    #[default]
    Unknown,
    Failure,
}

/// Priority, weight, port and target of an SRV record.
pub type Service = (u16, u16, u16, &'static str);

#[derive(Default)]
struct Zone {
    entries: Mutex<HashMap<String, Entry>>,
    /// Names whose IPv6 addresses are asked for in vain.
    silent: Mutex<HashSet<String>>,
    questions: Mutex<HashMap<String, usize>>,
    stopped: AtomicBool,
}

/// A running name server. The names it was told have IPv4 addresses, all others do not exist.
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
        self.set_all(name, &[address], ttl);
    }

    /// From now on the name has these addresses, for so many seconds.
    pub fn set_all(&self, name: &str, addresses: &[[u8; 4]], ttl: u32) {
        self.say(name, Entry::Addresses(addresses.iter().map(|address| (*address).into()).collect(), ttl));
    }

    /// From now on the name is that of a service with these records, for so many seconds.
    pub fn set_services(&self, name: &str, records: &[Service], ttl: u32) {
        self.say(name, Entry::Services(records.to_vec(), ttl));
    }

    /// From now on an authority says that the name has no address.
    pub fn empty(&self, name: &str) {
        self.say(name, Entry::Empty);
    }

    /// From now on an authority says that the name does not exist.
    pub fn remove(&self, name: &str) {
        self.say(name, Entry::Gone);
    }

    /// From now on there are failures in place of answers.
    pub fn fail(&self, name: &str) {
        self.say(name, Entry::Failure);
    }

    /// Never answers questions for the IPv6 addresses of the name.
    pub fn ignore_ipv6(&self, name: &str) {
        self.zone.silent.lock().unwrap().insert(name.to_string());
    }

    fn say(&self, name: &str, entry: Entry) {
        self.zone.entries.lock().unwrap().insert(name.to_string(), entry);
    }

    /// How often it was asked for the IPv4 address of the name, or for its service.
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
        let entry = self.entries.lock().unwrap().get(&name).cloned().unwrap_or_default();
        let asks_a = question[labels..].starts_with(&A);
        if question[labels..].starts_with(&AAAA) && self.silent.lock().unwrap().contains(&name) {
            return None;
        }
        let asks_srv = question[labels..].starts_with(&SRV);
        if asks_a || asks_srv {
            *self.questions.lock().unwrap().entry(name).or_default() += 1;
        }
        let code = match entry {
            Entry::Addresses(..) | Entry::Services(..) | Entry::Empty => 0,
            Entry::Gone | Entry::Unknown => NO_SUCH_NAME,
            Entry::Failure => FAILURE,
        };
        let (kind, records, ttl): (_, Vec<Vec<u8>>, _) = match &entry {
            Entry::Addresses(all, ttl) if asks_a => (A, all.iter().map(|one| one.octets().to_vec()).collect(), *ttl),
            Entry::Services(all, ttl) if asks_srv => (SRV, all.iter().map(service).collect(), *ttl),
            _ => (A, Vec::new(), 0),
        };
        let is_authority = matches!(entry, Entry::Empty | Entry::Gone);
        let mut answer = header[..2].to_vec();
        // A response, authoritative; recursion as it was desired, and available.
        answer.extend([0x84 | header[2] & 1, 0x80 | code]);
        answer.extend([0, 1, 0, u8::try_from(records.len()).ok()?, 0, u8::from(is_authority), 0, 0]);
        answer.extend(question);
        for data in records {
            // The name is that of the question; class IN.
            answer.extend([0xc0, 12, kind[0], kind[1], 0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            answer.extend(data);
        }
        if is_authority {
            // An SOA of the root (RFC 1035 §3.3.13), for an hour: the root as server and mailbox, and five numbers.
            answer.extend([0, 0, 6, 0, 1]);
            answer.extend(3600_u32.to_be_bytes());
            answer.extend([0, 22, 0, 0]);
            [1_u32, 3600, 3600, 3600, 3600].iter().for_each(|number| answer.extend(number.to_be_bytes()));
        }
        Some(answer)
    }
}

/// The data of an SRV record; its target is not compressed (RFC 2782).
fn service((priority, weight, port, target): &Service) -> Vec<u8> {
    let mut data: Vec<u8> = [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect();
    for label in target.split('.').filter(|label| !label.is_empty()) {
        data.push(u8::try_from(label.len()).expect("a short label"));
        data.extend(label.bytes());
    }
    data.push(0);
    data
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
