//! How many TLS handshakes one client address may have: under way at a time, and begun in a second. A handshake is the dearest thing
//! that a stranger can ask for. One table for all workers, in shards; it is bounded, and what is not known any more has had nothing for
//! a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::coarse;
use crate::config::model::HandshakeLimits;
use crate::http::forwarded::ClientAddress;

const SHARDS: usize = 16;
/// Addresses of a shard. Further ones are not limited: who has as many addresses gets past a limit of one anyway, and `max_connections`
/// holds for all of them.
const MAX_ADDRESSES: usize = 4096;
/// How often a full shard looks which addresses it can forget, at most.
const SWEEP_EVERY_MS: u64 = 1000;

/// The handshakes at one listener. They outlive reloads.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    addresses: HashMap<u64, OfAddress>,
    /// By [`coarse::now_ms`].
    swept: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct OfAddress {
    pending: u32,
    /// When all that has begun will have been within the rate (the theoretical arrival time of GCRA), in microseconds of the coarse clock.
    paid_until: u64,
}

/// The limit that an address has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Pending,
    Rate,
}

impl Limit {
    /// The label of metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Limit::Pending => "pending",
            Limit::Rate => "rate",
        }
    }
}

/// A handshake under way; dropped at its end.
#[derive(Debug)]
pub(super) struct Pending {
    counted: Option<(Arc<Handshakes>, u64)>,
}

impl Handshakes {
    /// Counts a handshake that begins, or says which limit its address has reached. Of a Unix socket no address is known.
    pub(super) fn begin(self: &Arc<Self>, address: ClientAddress, limits: &HandshakeLimits) -> Result<Pending, Limit> {
        match address.ip() {
            Some(ip) if limits.max_pending.is_some() || limits.rate.is_some() => {
                self.begin_at(key(ip), limits, coarse::now_ms())
            }
            _ => Ok(Pending { counted: None }),
        }
    }

    fn begin_at(self: &Arc<Self>, key: u64, limits: &HandshakeLimits, now_ms: u64) -> Result<Pending, Limit> {
        let mut shard = self.shard(key);
        if !shard.addresses.contains_key(&key) && shard.addresses.len() >= MAX_ADDRESSES {
            shard.forget(now_ms);
            if shard.addresses.len() >= MAX_ADDRESSES {
                return Ok(Pending { counted: None });
            }
        }
        let known = shard.addresses.entry(key).or_default();
        if limits.max_pending.is_some_and(|most| known.pending >= most) {
            return Err(Limit::Pending);
        }
        if let Some(rate) = limits.rate {
            let each = Duration::from_secs(1).as_micros() as u64 / u64::from(rate.max(1));
            let now = now_ms * 1000;
            let paid_until = known.paid_until.max(now) + each;
            if paid_until - now > each * u64::from(limits.burst.max(1)) {
                return Err(Limit::Rate);
            }
            known.paid_until = paid_until;
        }
        known.pending += 1;
        drop(shard);
        Ok(Pending { counted: Some((Arc::clone(self), key)) })
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        // Neighbours differ in their last bits.
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.shards[(mixed >> 60) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Forgets the addresses that have nothing under way and nothing to pay off.
    fn forget(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.swept) >= SWEEP_EVERY_MS || self.swept == 0 {
            self.swept = now_ms.max(1);
            self.addresses.retain(|_, known| known.pending > 0 || known.paid_until > now_ms * 1000);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some((handshakes, key)) = self.counted.take() else { return };
        let mut shard = handshakes.shard(key);
        if let Some(known) = shard.addresses.get_mut(&key) {
            known.pending = known.pending.saturating_sub(1);
            // Without a rate there is nothing else to remember.
            if known.pending == 0 && known.paid_until == 0 {
                shard.addresses.remove(&key);
            }
        }
    }
}

/// What stands for an address. Of IPv6 that is its /64: a site has that at least, and its hosts choose the rest as they like. Those of IPv4 stand
/// where IPv6 has no sites (`::/32`).
fn key(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_pending: Option<u32>, rate: Option<u32>, burst: u32) -> HandshakeLimits {
        HandshakeLimits { max_pending, rate, burst }
    }

    fn ip(text: &str) -> u64 {
        key(text.parse().expect("an address"))
    }

    #[test]
    fn those_under_way_are_bounded_for_each_address() {
        let (table, limits) = (Arc::<Handshakes>::default(), limits(Some(2), None, 1));
        let begin = |address: &str| table.begin_at(ip(address), &limits, 1);
        let held = [begin("192.0.2.1"), begin("::ffff:192.0.2.1")];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(begin("192.0.2.1").err(), Some(Limit::Pending));
        let other = begin("192.0.2.2");
        assert!(other.is_ok());
        drop(held);
        assert!(begin("192.0.2.1").is_ok());
        drop(other);
        assert!(table.shards.iter().all(|shard| shard.lock().expect("no panic").addresses.is_empty()));
    }

    #[test]
    fn a_site_of_ipv6_is_one_address() {
        let (table, limits) = (Arc::<Handshakes>::default(), limits(Some(1), None, 1));
        let _held = table.begin_at(ip("2001:db8::1"), &limits, 1).expect("the first");
        assert!(table.begin_at(ip("2001:db8::ffff:2"), &limits, 1).is_err());
        assert!(table.begin_at(ip("2001:db8:0:1::1"), &limits, 1).is_ok());
    }

    #[test]
    fn a_rate_has_its_burst_and_comes_back() {
        let (table, limits) = (Arc::<Handshakes>::default(), limits(None, Some(10), 3));
        let begins = |at| table.begin_at(ip("192.0.2.1"), &limits, at).is_ok();
        assert_eq!([begins(1000), begins(1000), begins(1000), begins(1000)], [true, true, true, false]);
        assert_eq!([begins(1099), begins(1100), begins(1100)], [false, true, false]);
        assert_eq!([begins(9000), begins(9000), begins(9000), begins(9000)], [true, true, true, false]);
        assert_eq!(table.begin_at(ip("192.0.2.1"), &limits, 9000).err(), Some(Limit::Rate));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_nothing() {
        let (table, limits) = (Arc::<Handshakes>::default(), limits(None, Some(1), 1));
        let begin = |number: u32, at| drop(table.begin_at(u64::from(number), &limits, at));
        let known = || table.shards.iter().map(|shard| shard.lock().expect("no panic").addresses.len()).sum::<usize>();
        for number in 0..200_000 {
            begin(number, 1000);
        }
        assert!(known() <= SHARDS * MAX_ADDRESSES, "{}", known());
        assert!(known() > SHARDS * MAX_ADDRESSES / 2, "the shards are even: {}", known());
        for number in 200_000..200_100 {
            begin(number, 5000);
        }
        assert!(known() <= 100 + SHARDS * MAX_ADDRESSES, "{}", known());
        assert!(table.begin_at(7, &limits, 5000).is_ok(), "a second later it has paid");
    }
}
