//! A stored response as bytes, for a store outside of this process. Whoever reads them trusts nothing: a checksum under the secret of the
//! store, a version, and lengths that have to fit.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::digest::Secret;
use crate::freshness::Times;
use crate::notes::{Freshness, Notes};
use crate::store::Object;

const VERSION: &[u8; 4] = b"SLC1";
/// The kind of a value: a response, or the fields that the responses of a key vary by.
const RESPONSE: u8 = b'r';
const VARIES: u8 = b'v';
const CHECK: u8 = b'm';

/// Fields that a response may vary by.
const MOST_NAMES: usize = 64;

/// What stands under a key.
#[derive(Debug)]
pub enum Packed {
    Response(Box<Response>),
    /// The responses stand under keys of their own, by these fields.
    Varies(Vec<HeaderName>),
}

/// A response that was stored somewhere else.
#[derive(Debug)]
pub struct Response {
    /// The number of the last purge that its gateway knew before it asked for it.
    pub born: u64,
    pub status: StatusCode,
    pub head: HeaderMap,
    /// When it came, with its age by then as the time that it took.
    pub times: Times,
    pub notes: Option<Arc<Notes>>,
    pub body: Vec<u8>,
}

/// `born` is the number of the last purge that was known before the response was asked for.
pub fn response(object: &Object, born: u64, secret: &Secret) -> Vec<u8> {
    let stored = object.stored();
    let mut bytes = Writer::begin(RESPONSE);
    bytes.number(born);
    bytes.number(u64::from(object.status().as_u16()));
    bytes.number(ms(stored.received().duration_since(UNIX_EPOCH).unwrap_or_default()));
    bytes.number(ms(stored.age(stored.received())));
    let notes = object.notes();
    bytes.number(notes.map_or(0, |notes| notes.tags.len() as u64));
    notes.iter().flat_map(|notes| &notes.tags).for_each(|tag| bytes.text(tag.as_bytes()));
    match notes.and_then(|notes| notes.freshness) {
        None => bytes.number(0),
        Some(freshness) => {
            bytes.number(1);
            bytes.number(ms(freshness.lifetime));
            for time in [freshness.stale_while_revalidate, freshness.stale_if_error] {
                bytes.number(time.map_or(u64::MAX, ms));
            }
        }
    }
    let head = object.head();
    bytes.number(head.len() as u64);
    for (name, value) in &head {
        bytes.text(name.as_str().as_bytes());
        bytes.text(value.as_bytes());
    }
    bytes.number(object.body().len());
    object.body().pieces().iter().for_each(|piece| bytes.0.extend_from_slice(piece));
    bytes.end(secret)
}

/// The fields that the responses of a key vary by.
pub fn varies(names: &[HeaderName], secret: &Secret) -> Vec<u8> {
    let mut bytes = Writer::begin(VARIES);
    bytes.number(names.len() as u64);
    names.iter().for_each(|name| bytes.text(name.as_str().as_bytes()));
    bytes.end(secret)
}

/// Reads what one of these has written. None for anything else.
pub fn read(bytes: &[u8], secret: &Secret) -> Option<Packed> {
    let rest = bytes.strip_prefix(VERSION)?;
    let (check, rest) = rest.split_first_chunk::<16>()?;
    if *check != checksum(rest, secret) {
        return None;
    }
    let (kind, rest) = rest.split_first()?;
    let mut reader = Reader(rest);
    match *kind {
        VARIES => {
            let count = usize::try_from(reader.number()?).ok().filter(|count| *count <= MOST_NAMES)?;
            let names = (0..count).map(|_| HeaderName::from_bytes(reader.text()?).ok()).collect::<Option<Vec<_>>>()?;
            reader.0.is_empty().then_some(Packed::Varies(names))
        }
        RESPONSE => Some(Packed::Response(Box::new(reader.response()?))),
        _ => None,
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn checksum(bytes: &[u8], secret: &Secret) -> [u8; 16] {
    let mut digest = secret.digest(CHECK);
    digest.part(bytes);
    let [high, low] = digest.finish();
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

struct Writer(Vec<u8>);

impl Writer {
    fn begin(kind: u8) -> Writer {
        Writer(vec![kind])
    }

    fn number(&mut self, number: u64) {
        self.0.extend(number.to_be_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.extend(text);
    }

    fn end(self, secret: &Secret) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        bytes.extend(checksum(&self.0, secret));
        bytes.extend(self.0);
        bytes
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    fn time(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(self.number()?))
    }

    fn response(&mut self) -> Option<Response> {
        let born = self.number()?;
        let status = StatusCode::from_u16(u16::try_from(self.number()?).ok()?).ok()?;
        let received = UNIX_EPOCH.checked_add(self.time()?)?;
        let request: SystemTime = received.checked_sub(self.time()?)?;
        // Lengths are checked against what is there: nothing is reserved for what is only announced.
        let tags = self.number()?;
        let mut notes = Notes::default();
        for _ in 0..tags {
            notes.tags.push(std::str::from_utf8(self.text()?).ok()?.into());
        }
        if self.number()? == 1 {
            let lifetime = self.time()?;
            let mut window = || self.number().map(|ms| (ms != u64::MAX).then(|| Duration::from_millis(ms)));
            let (stale_while_revalidate, stale_if_error) = (window()?, window()?);
            notes.freshness = Some(Freshness { lifetime, stale_while_revalidate, stale_if_error });
        }
        let fields = self.number()?;
        let mut head = HeaderMap::new();
        for _ in 0..fields {
            let name = HeaderName::from_bytes(self.text()?).ok()?;
            head.try_append(name, HeaderValue::from_bytes(self.text()?).ok()?).ok()?;
        }
        let body = self.text()?.to_vec();
        let times = Times { request, response: received };
        self.0.is_empty().then_some(Response { born, status, head, times, notes: notes.shared(), body })
    }
}

#[cfg(test)]
mod tests;
