//! The memory account of the process, and whole bodies that are charged to it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;

use super::body::{Body, BodyError};

/// A bound on the memory that others can make the process keep, shared by all workers.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    shared: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    used: AtomicUsize,
    limit: usize,
    /// What each [`Share`] has of it.
    shares: [AtomicUsize; 2],
}

/// Work that exchanges can do without, while those fail whose filters find no memory. So it gets more only while half of the budget is free. But
/// what others keep for long must not end it for all: an eighth of the budget is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Responses that are about to be stored in the cache.
    Fetches,
    Compression,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        MemoryBudget { shared: Arc::new(Account { used: AtomicUsize::new(0), limit, shares: Default::default() }) }
    }

    /// The bytes taken now.
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// The bytes that may be taken.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Takes `bytes`, to be given back when the reservation is dropped.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, BodyError> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0, share: None };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// The same for work that exchanges can do without. It grows within its share only.
    pub fn reserve_for(&self, share: Share, bytes: usize) -> Result<Reservation, BodyError> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0, share: Some(share) };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// `bytes` that give `reservation` back when the last reference to them is dropped.
    pub fn hold(bytes: Bytes, reservation: Reservation) -> Bytes {
        struct Held {
            bytes: Bytes,
            _reservation: Reservation,
        }
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        if bytes.is_empty() { bytes } else { Bytes::from_owner(Held { bytes, _reservation: reservation }) }
    }
}

/// A part of a [`MemoryBudget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    bytes: usize,
    share: Option<Share>,
}

impl Reservation {
    /// The bytes that it has taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `more` bytes. Nothing is taken when it answers an error.
    pub fn grow(&mut self, more: usize) -> Result<(), BodyError> {
        let account = &self.budget.shared;
        let most = match self.share.map(|share| &account.shares[share as usize]) {
            None => account.limit,
            // Taken first, so that two that grow at once do not both get the last of it.
            Some(share) if share.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= account.limit / 8 => {
                account.limit
            }
            Some(_) => account.limit / 2,
        };
        let taken = account.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= most)
        });
        if taken.is_err() {
            if let Some(share) = self.share {
                account.shares[share as usize].fetch_sub(more, Ordering::Relaxed);
            }
            return Err(BodyError::BudgetExhausted(account.limit));
        }
        self.bytes += more;
        Ok(())
    }

    /// Takes or gives back as much as it needs to be of `bytes`. Nothing changes when it answers an error.
    pub fn resize(&mut self, bytes: usize) -> Result<(), BodyError> {
        match self.bytes.checked_sub(bytes) {
            None => self.grow(bytes - self.bytes),
            Some(less) => {
                self.give_back(less);
                Ok(())
            }
        }
    }

    /// It counts for no share any more, but for the whole.
    pub fn leave_share(&mut self) {
        if let Some(share) = self.share.take() {
            self.budget.shared.shares[share as usize].fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }

    fn give_back(&mut self, bytes: usize) {
        let account = &self.budget.shared;
        account.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(share) = self.share {
            account.shares[share as usize].fetch_sub(bytes, Ordering::Relaxed);
        }
        self.bytes -= bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

/// A copy of bytes that pass: the parts may be many and tiny, or pin the buffers that they were read into. Whoever keeps one does without it
/// where there is no room, while exchanges fail whose filters find none. So it takes at most half of the budget.
#[derive(Debug)]
pub struct CopiedBytes {
    bytes: Vec<u8>,
    /// For the capacity.
    charge: Reservation,
}

impl CopiedBytes {
    pub fn new(budget: &MemoryBudget) -> Result<Self, BodyError> {
        Ok(CopiedBytes { bytes: Vec::new(), charge: budget.reserve(0)? })
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds a part. Nothing changes when it answers an error.
    pub fn append(&mut self, data: &[u8]) -> Result<(), BodyError> {
        let size = self.bytes.len() + data.len();
        if size > self.bytes.capacity() {
            let (capacity, budget) = (size.next_power_of_two(), &self.charge.budget);
            let others = budget.used().saturating_sub(self.bytes.capacity());
            if others + capacity > budget.limit() / 2 {
                return Err(BodyError::BudgetExhausted(budget.limit()));
            }
            self.charge.resize(capacity)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// The whole, charged until the last reference to it is dropped.
    pub fn freeze(self) -> Bytes {
        MemoryBudget::hold(self.bytes.into(), self.charge)
    }
}

/// Reads a body to its end, at most `max` bytes. The bytes are charged to `budget` as they come (never by what a header
/// promises) until the last reference to the answer is dropped. `body` is then what was read, trailers included; where it was
/// too large it still is the whole body, and can be passed on.
pub async fn collect(body: &mut Body, max: u64, budget: &MemoryBudget) -> Result<Bytes, BodyError> {
    let hint = body.size_hint();
    if hint.lower() > max {
        return Err(BodyError::TooLarge(max));
    }
    let mut source = std::mem::take(body);
    let mut reservation = budget.reserve(0)?;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut trailers = None;
    let mut refused = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut source).poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) => {
                let so_far = (first.len() + rest.len()) as u64;
                if so_far.saturating_add(data.len() as u64) > max {
                    refused = Some(BodyError::TooLarge(max));
                } else if let Err(error) = reservation.grow(data.len()) {
                    refused = Some(error);
                }
                // One frame is the common case and is not copied.
                if first.is_empty() && rest.is_empty() {
                    first = data;
                } else {
                    if rest.is_empty() {
                        rest.reserve((hint.lower().min(64 * 1024) as usize).max(first.len() + data.len()));
                        rest.extend_from_slice(&std::mem::take(&mut first));
                    }
                    rest.extend_from_slice(&data);
                }
                if refused.is_some() {
                    break;
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let read = MemoryBudget::hold(if rest.is_empty() { first } else { rest.freeze() }, reservation);
    match refused {
        Some(error) => {
            *body = Body::Resumed(read, Box::new(source));
            Err(error)
        }
        None => {
            *body = Body::with_trailers(read.clone(), trailers);
            Ok(read)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn trailers(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), http::HeaderValue::from_static("1"))])
    }

    #[test]
    fn a_reservation_grows_and_shrinks() {
        let budget = MemoryBudget::new(10);
        let mut reservation = budget.reserve(4).unwrap();
        reservation.resize(9).unwrap();
        assert!(reservation.resize(11).is_err());
        assert_eq!(budget.used(), 9);
        reservation.resize(2).unwrap();
        assert_eq!(budget.used(), 2);
        drop(reservation);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_can_be_done_without_leaves_half_to_others_and_has_an_eighth_of_its_own() {
        let budget = MemoryBudget::new(80);
        let mut streams = budget.reserve_for(Share::Compression, 40).unwrap();
        assert!(streams.grow(1).is_err(), "half is for others");
        let mut fetch = budget.reserve_for(Share::Fetches, 10).unwrap();
        assert!(fetch.grow(1).is_err() && budget.reserve_for(Share::Fetches, 1).is_err());
        assert_eq!((budget.used(), fetch.bytes()), (50, 10));
        // What has left its share is nobody's.
        fetch.leave_share();
        let second = budget.reserve_for(Share::Fetches, 10).unwrap();
        assert_eq!(budget.used(), 60);
        drop((fetch, second));
        streams.resize(5).unwrap();
        let filters = budget.reserve(70).unwrap();
        assert!(budget.reserve_for(Share::Fetches, 6).is_err(), "the whole is a bound for all");
        drop((streams, filters));
        assert_eq!(budget.used(), 0);
        assert!(budget.reserve_for(Share::Fetches, 40).is_ok() && budget.reserve_for(Share::Fetches, 41).is_err());
    }

    #[test]
    fn a_copy_is_charged_by_what_it_holds_and_leaves_half_to_others() {
        let budget = MemoryBudget::new(64);
        let mut copy = CopiedBytes::new(&budget).unwrap();
        for part in 1..=20 {
            copy.append(b"x").unwrap();
            assert_eq!(budget.used(), usize::next_power_of_two(part));
        }
        copy.append(&[b'y'; 12]).unwrap();
        assert!(copy.append(b"z").is_err());
        assert_eq!((copy.len(), budget.used()), (32, 32));
        let bytes = copy.freeze();
        assert_eq!((bytes.len(), budget.used()), (32, 32));
        drop(bytes);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(flavor = "local")]
    async fn a_whole_body_is_charged_until_its_bytes_are_dropped() {
        let budget = MemoryBudget::new(10);
        let mut body = Body::with_trailers("12345678", Some(trailers("a")));
        let bytes = collect(&mut body, 8, &budget).await.unwrap();
        let Body::Full { data, trailers: Some(map) } = body else { panic!("{body:?}") };
        assert_eq!((&bytes[..], &data[..], map.len()), (&b"12345678"[..], &b"12345678"[..], 1));
        drop(data);
        let part = bytes.slice(2..4);
        drop(bytes);
        assert_eq!(budget.used(), 8);
        assert!(matches!(collect(&mut Body::full("123"), 8, &budget).await, Err(BodyError::BudgetExhausted(10))));
        assert_eq!(budget.used(), 8);
        drop(part);
        assert_eq!(budget.used(), 0);
        assert!(matches!(collect(&mut Body::full("123"), 2, &budget).await, Err(BodyError::TooLarge(2))));
    }
}
