//! Keys whose responses were for nobody else. Requests for them do not wait for each other: each would wait in vain.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::flight::Target;

/// How long a key is remembered, in seconds.
const FOR: u64 = 10;

/// A table of fixed size. Keys that share a place displace each other, which costs a wait.
const PLACES: usize = 4096;

/// The low bits of a place have the time, in seconds; the others are of the key.
const TIME: u64 = 0xffff;

pub(super) struct Uncollapsible(Box<[AtomicU64]>);

impl Default for Uncollapsible {
    fn default() -> Self {
        Uncollapsible((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

fn of(target: &Target) -> u64 {
    // Half of a keyed hash.
    let key = u64::from_be_bytes(target.key.to_bytes()[..8].try_into().expect("eight of sixteen bytes"));
    if target.has_credentials { !key } else { key }
}

impl Uncollapsible {
    /// `now` is in seconds, from anywhere.
    pub(super) fn note(&self, target: &Target, now: u64) {
        let key = of(target);
        self.0[(key >> 16) as usize % PLACES].store((key & !TIME) | (now & TIME), Relaxed);
    }

    pub(super) fn has(&self, target: &Target, now: u64) -> bool {
        let key = of(target);
        let noted = self.0[(key >> 16) as usize % PLACES].load(Relaxed);
        // The time wraps around: after 18 hours, a key may be remembered once more.
        noted & !TIME == key & !TIME && (now.wrapping_sub(noted) & TIME) < FOR
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use sluice_cache::digest::Secret;
    use sluice_cache::key::{KeyInput, KeyRule};

    use super::*;

    fn target(path: &str, has_credentials: bool) -> Target {
        let headers = HeaderMap::new();
        let input = KeyInput {
            group: "",
            upstream: "",
            scheme: "http",
            host: "shop.example",
            path,
            query: None,
            headers: &headers,
            consumer: None,
            parts: &[],
        };
        Target { key: KeyRule::default().key(&input, &Secret::new([1; 16])), variant: None, has_credentials }
    }

    #[test]
    fn a_key_is_remembered_for_a_while_and_apart_from_others() {
        let table = Uncollapsible::default();
        for now in [0, 1, TIME - 1, TIME, 1 << 40] {
            table.note(&target("/a", true), now);
            assert!(table.has(&target("/a", true), now) && table.has(&target("/a", true), now + FOR - 1), "{now}");
            assert!(!table.has(&target("/a", true), now + FOR), "{now}");
            assert!(!table.has(&target("/a", false), now) && !table.has(&target("/b", true), now), "{now}");
        }
        assert!(!table.has(&target("/c", false), 0));
    }
}
