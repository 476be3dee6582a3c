//! Chooses an endpoint: smooth weighted round robin, the less busy of two, rendezvous hashing, and the back-off of endpoints that
//! don't accept connections. Pure but for the clock and the load it is handed.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The pause after the first failure in a row; it doubles with each one …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the balancer knows of one endpoint, on one worker.
#[derive(Debug)]
pub(super) struct Seat {
    weight: u32,
    hash: u64,
    /// Smooth weighted round robin: grows by the weight each turn, falls by the total when chosen.
    current: Cell<i64>,
    /// Failures to connect in a row.
    failures: Cell<u32>,
    /// When the next trial may go out, while there are failures.
    retry_at: Cell<Option<Instant>>,
}

impl Seat {
    pub(super) fn new(weight: u32, hash: u64) -> Self {
        Seat { weight, hash, current: Cell::new(0), failures: Cell::new(0), retry_at: Cell::new(None) }
    }

    /// The endpoint took a connection.
    pub(super) fn succeeded(&self) {
        if self.failures.replace(0) > 0 {
            self.retry_at.set(None);
        }
    }

    /// The endpoint did not take a connection.
    pub(super) fn failed(&self, now: Instant) {
        self.failures.set(self.failures.get().saturating_add(1));
        self.pause(now);
    }

    fn pause(&self, now: Instant) {
        let doublings = self.failures.get().saturating_sub(1).min(5);
        self.retry_at.set(Some(now + (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE)));
    }

    /// Its weight among those of its class. Without any weight in the class they are equal.
    fn share(&self) -> u64 {
        u64::from(self.weight.max(1))
    }

    /// Whether it took the last connection, or was never tried.
    pub(super) fn healthy(&self) -> bool {
        self.failures.get() == 0
    }

    fn may_try(&self, now: Instant) -> bool {
        self.retry_at.get().is_none_or(|at| at <= now)
    }

    /// Half open: the request that is sent to see whether an endpoint is back keeps the others away until it is known.
    fn taken(&self, now: Instant) {
        if !self.healthy() {
            self.pause(now);
        }
    }
}

/// The next endpoint that was not tried yet: one that may be tried, else any, those with weight before those without.
pub(super) fn round_robin(seats: &[Seat], tried: &[usize], now: Instant) -> Option<usize> {
    if let ([seat], []) = (seats, tried) {
        seat.taken(now);
        return Some(0);
    }
    best_class(seats, tried, now, |fits| smooth(seats, fits))
}

/// The same by load: of two endpoints drawn at random in proportion to the weights, the one with fewer active requests for its
/// weight. Two are enough to keep away from one that is slow, and unlike the least of all they don't send everybody to the one
/// that has just come back.
pub(super) fn least_request(
    seats: &[Seat],
    active: impl Fn(usize) -> u32,
    dice: &Dice,
    tried: &[usize],
    now: Instant,
) -> Option<usize> {
    best_class(seats, tried, now, |fits| {
        let (first, one) = drawn(seats, dice, fits)?;
        let Some((second, other)) = drawn(seats, dice, |i, seat| i != first && fits(i, seat)) else {
            return Some(first);
        };
        // `a / weight of a < b / weight of b`, without a division; of two equals the first, so that idle ones get their share.
        let less = u64::from(active(second)) * one.share() < u64::from(active(first)) * other.share();
        Some(if less { second } else { first })
    })
}

/// What `choose` finds in the best class of endpoints that has any.
fn best_class(
    seats: &[Seat],
    tried: &[usize],
    now: Instant,
    choose: impl Fn(&dyn Fn(usize, &Seat) -> bool) -> Option<usize>,
) -> Option<usize> {
    let classes: [fn(&Seat, Instant) -> bool; 4] = [
        |seat, now| seat.weight > 0 && seat.may_try(now),
        |seat, now| seat.may_try(now),
        |seat, _| seat.weight > 0,
        |_, _| true,
    ];
    let chosen = classes.iter().find_map(|fits| choose(&|i, seat| !tried.contains(&i) && fits(seat, now)))?;
    seats.get(chosen)?.taken(now);
    Some(chosen)
}

/// One of those that fit, at random in proportion to the weights.
fn drawn<'s>(seats: &'s [Seat], dice: &Dice, fits: impl Fn(usize, &Seat) -> bool) -> Option<(usize, &'s Seat)> {
    let fitting = || seats.iter().enumerate().filter(|(i, seat)| fits(*i, seat));
    let total: u64 = fitting().map(|(_, seat)| seat.share()).sum();
    let mut at = dice.below(total);
    fitting().find(|(_, seat)| match at.checked_sub(seat.share()) {
        None => true,
        Some(rest) => {
            at = rest;
            false
        }
    })
}

fn smooth(seats: &[Seat], fits: impl Fn(usize, &Seat) -> bool) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, &Seat)> = None;
    for (i, seat) in seats.iter().enumerate().filter(|(i, seat)| fits(*i, seat)) {
        let weight = seat.share().cast_signed();
        total += weight;
        seat.current.set(seat.current.get() + weight);
        if best.is_none_or(|(_, b)| seat.current.get() > b.current.get()) {
            best = Some((i, seat));
        }
    }
    let (i, seat) = best?;
    seat.current.set(seat.current.get() - total);
    Some(i)
}

/// The endpoint of a key that was not tried yet: the one with the best score, so that a change of the set moves only the
/// keys of the endpoints that changed. An endpoint that may not be tried now hands its keys to their second best.
pub(super) fn by_hash(seats: &[Seat], key: &str, tried: &[usize], now: Instant) -> Option<usize> {
    let key = hash(key.as_bytes());
    let score = |seat: &Seat| {
        let mixed = mix(key ^ seat.hash);
        // Weighted rendezvous: -weight / ln(u) with u uniform in (0, 1).
        let uniform = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(seat.weight) / uniform.ln()
    };
    let rank = |seat: &Seat| (seat.may_try(now), score(seat));
    let (chosen, seat) = seats
        .iter()
        .enumerate()
        .filter(|(i, _)| !tried.contains(i))
        .max_by(|(_, a), (_, b)| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal))?;
    seat.taken(now);
    Some(chosen)
}

/// A hash that is the same in every process and version (FNV-1a, mixed): gateways side by side agree on it.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// Random numbers to spread requests with (splitmix64). Nothing depends on nobody guessing them.
#[derive(Debug)]
pub(super) struct Dice(Cell<u64>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice(Cell::new(seed))
    }

    /// A number below `end`; 0 if there is none.
    fn below(&self, end: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        // The high half of the product (Lemire): no division, and a bias of one in 2^64 for each step of `end`.
        ((u128::from(mix(self.0.get())) * u128::from(end)) >> 64) as u64
    }
}

/// The finaliser of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(weights: &[u32]) -> Vec<Seat> {
        let seat = |(i, weight): (usize, &u32)| Seat::new(*weight, hash(format!("10.0.0.{i}:80").as_bytes()));
        weights.iter().enumerate().map(seat).collect()
    }

    fn counts(weights: &[u32], turns: usize, choose: impl Fn(usize, &[Seat]) -> usize) -> Vec<usize> {
        let seats = seats(weights);
        let mut counts = vec![0; weights.len()];
        for turn in 0..turns {
            counts[choose(turn, &seats)] += 1;
        }
        counts
    }

    #[test]
    fn weights_are_kept_exactly_and_smoothly() {
        let now = Instant::now();
        assert_eq!(counts(&[5, 1, 1, 0], 700, |_, s| round_robin(s, &[], now).unwrap()), [500, 100, 100, 0]);
        let seats = seats(&[5, 1, 1]);
        let order: Vec<_> = (0..7).map(|_| round_robin(&seats, &[], now).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0], "no burst of five");
    }

    #[test]
    fn a_failed_endpoint_is_left_out_then_tried_by_one_request() {
        let start = Instant::now();
        let seats = seats(&[1, 1]);
        seats[0].failed(start);
        assert!(!seats[0].healthy());
        assert!((0..10).all(|_| round_robin(&seats, &[], start) == Some(1)));
        let later = start + FIRST_PAUSE;
        let trials = (0..10).filter(|_| round_robin(&seats, &[], later) == Some(0)).count();
        assert_eq!(trials, 1, "half open");
        seats[0].failed(later);
        assert_eq!(seats[0].retry_at.get(), Some(later + FIRST_PAUSE * 2));
        for _ in 0..40 {
            seats[0].failed(later);
        }
        assert_eq!(seats[0].retry_at.get(), Some(later + LONGEST_PAUSE));
        seats[0].succeeded();
        assert!(seats[0].healthy() && seats[0].may_try(later));
    }

    #[test]
    fn when_all_are_down_all_are_tried_once() {
        let now = Instant::now();
        let seats = seats(&[3, 1, 0]);
        seats.iter().for_each(|seat| seat.failed(now));
        let mut tried = Vec::new();
        while let Some(next) = round_robin(&seats, &tried, now) {
            tried.push(next);
        }
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2]);
        assert_eq!(round_robin(&[], &[], now), None);
    }

    #[test]
    fn the_less_busy_of_two_for_its_weight() {
        let (now, dice) = (Instant::now(), Dice::new(7));
        let shares = counts(&[3, 1, 0], 4000, |_, s| least_request(s, |_| 0, &dice, &[], now).unwrap());
        assert!((2800..3200).contains(&shares[0]) && shares[2] == 0, "idle ones by weight: {shares:?}");
        let held = counts(&[1, 1], 100, |_, s| least_request(s, |i| 1 - i as u32, &dice, &[], now).unwrap());
        assert_eq!(held, [0, 100]);
        // Requests that never end pile up in proportion to the weights.
        let all = seats(&[3, 1]);
        let active = [Cell::new(0), Cell::new(0)];
        for _ in 0..400 {
            let chosen = least_request(&all, |i| active[i].get(), &dice, &[], now).unwrap();
            active[chosen].set(active[chosen].get() + 1);
        }
        assert!((299..=301).contains(&active[0].get()), "{active:?}");
        // It is the second best of every two that it is one of.
        let one = counts(&[1; 5], 1000, |_, s| least_request(s, |i| u32::from(i == 2), &dice, &[], now).unwrap());
        assert!(one[2] == 0 && one.iter().filter(|n| **n > 180).count() == 4, "{one:?}");
    }

    #[test]
    fn the_less_busy_of_those_that_may_be_tried() {
        let (now, dice) = (Instant::now(), Dice::new(7));
        let all = seats(&[1, 1, 1]);
        all[1].failed(now);
        let choose = |tried: &[usize], at| least_request(&all, |i| if i == 1 { 0 } else { 9 }, &dice, tried, at);
        assert!((0..50).all(|_| choose(&[], now) != Some(1)), "idle because it is down");
        assert_eq!((choose(&[0], now), choose(&[0, 2], now), choose(&[0, 1, 2], now)), (Some(2), Some(1), None));
        let later = now + LONGEST_PAUSE;
        let trials = (0..50).filter(|_| choose(&[], later) == Some(1)).count();
        assert_eq!(trials, 1, "half open");
        assert_eq!(least_request(&[], |_| 0, &dice, &[], now), None);
        assert_eq!(least_request(&seats(&[0]), |_| 0, &dice, &[], now), Some(0), "all that there is");
    }

    #[test]
    fn keys_stay_and_weights_count() {
        let now = Instant::now();
        let by_key = |turn: usize, s: &[Seat]| by_hash(s, &format!("user-{turn}"), &[], now).unwrap();
        let all = seats(&[1, 1, 1, 1]);
        let moved = (0..1000)
            .filter(|turn| {
                let before = by_key(*turn, &all);
                let after = by_key(*turn, &all[..3]);
                assert!(before == 3 || before == after, "only the keys of the endpoint that went move");
                before != after
            })
            .count();
        assert!((200..300).contains(&moved), "{moved}");
        let shares = counts(&[3, 1], 4000, by_key);
        assert!((2800..3200).contains(&shares[0]), "{shares:?}");
        let two = seats(&[1, 1]);
        let first = by_key(7, &two);
        two[first].failed(now);
        assert_ne!(by_key(7, &two), first);
        assert_eq!(by_hash(&two, "user-7", &[1 - first], now), Some(first), "all that is left");
    }
}
