//! What a worker has made of the states of all hosts: who may be chosen, with which share, prepared for the upstream's algorithm. It holds until
//! a state changes, so that a request reads one number in place of each state.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::draw::Weighted;
use super::hashing::{HashTable, rendezvous};
use super::least_request::least_request;
use super::left::Left;
use super::levels::{self, Level};
use super::peak_ewma::peak_ewma;
use super::round_robin::Turn;
use super::slow_start::Warming;
use super::spill::{self, spills};
use super::{Dice, mix};
use crate::coarse;
use crate::config::model::{Balance, Balancing};
use crate::upstream::endpoints::{Host, millis};

/// A plan that only a change of state ends.
const FOREVER: u64 = u64::MAX;
/// An address that is out without a known end is looked at again after so many milliseconds, though its return is told as well.
const LOOK_AGAIN_MS: u64 = 250;
/// Steps to look for an endpoint with room, from the first one of a key that has none: there is one among any few.
const BOUNDED_STEPS: usize = 64;
/// Steps through a table to look for an endpoint that may be chosen. Where hardly any may, as in a small subset, scores are the faster way.
const TABLE_STEPS: usize = 512;
/// While shares grow, a plan holds for so many milliseconds at least: each costs as much as there are hosts.
const GROWTH_MS: u64 = 50;
/// The sum of requests under way is taken anew after a share of the hosts were chosen, so that it costs each choice the same.
const SUMS_PER_ROUND: u32 = 4;

/// How good a host is to choose; the lowest is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u32);

/// A rank without its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct Class(u32);

impl Rank {
    const OUT: u32 = 1 << 17;
    const WEIGHTLESS: u32 = 1 << 16;
    /// Not in the subset: never.
    const OUTSIDE: Rank = Rank(u32::MAX);

    fn of(level: u16, weight: u32, is_available: bool) -> Self {
        let weightless = if weight == 0 { Self::WEIGHTLESS } else { 0 };
        Rank(u32::from(level) | weightless | if is_available { 0 } else { Self::OUT })
    }

    fn is_available(self) -> bool {
        self.0 < Self::OUT
    }

    /// Whether the other one is that of the other zones, where this is that of the gateway's own zone in the same priority.
    fn has_others(self, other: Rank) -> bool {
        self.0 + 1 == other.0 && is_own_zone(self.0 as u16)
    }

    /// The rank but for its level: what is full is no reason to choose from a worse one.
    fn class(self) -> Class {
        Class(self.0 / Self::WEIGHTLESS)
    }
}

/// A host as it is now.
#[derive(Debug, Clone, Copy)]
struct Place {
    rank: Rank,
    share: u64,
}

/// The hosts of a level that gets requests.
#[derive(Debug)]
struct Share {
    rank: Rank,
    part: u64,
    way: Way,
    hosts: Box<[u32]>,
    /// The sum of their shares.
    whole: u64,
    /// The requests under way of its hosts, and for how many choices that is good.
    active: Cell<(u64, u32)>,
    /// Where requests go that are too many for it, by index.
    spills_to: Option<usize>,
}

#[derive(Debug)]
enum Way {
    Turn(Turn),
    Draw(Weighted),
}

/// Who may be chosen.
#[derive(Debug)]
pub(in crate::upstream) struct Plan {
    /// The number of changes that it knows of.
    changes: u64,
    /// By [`millis`].
    until: Cell<u64>,
    places: Vec<Place>,
    /// Those that get requests; none where no host with weight is available.
    shares: Vec<Share>,
    parts: u64,
    /// The requests under way of each host from which on a zone spills.
    spill_above: u32,
    /// The last choice has left the gateway's own zone, as that had too many requests under way.
    has_spilled: Cell<bool>,
    is_in_panic: bool,
    has_hosts: bool,
}

/// What a plan is made from.
pub(in crate::upstream) struct Basis<'a> {
    pub(in crate::upstream) hosts: &'a [Host],
    pub(in crate::upstream) balancing: &'a Balancing,
    /// Whether a host may be chosen at all.
    pub(in crate::upstream) fits: &'a dyn Fn(&Host) -> bool,
    /// Read before any state.
    pub(in crate::upstream) changes: u64,
    pub(in crate::upstream) now: Instant,
    /// Whose turn it would be next.
    pub(in crate::upstream) order: &'a [u32],
}

/// A host by what is known of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Available,
    /// Out by what others have seen of it; it takes requests.
    Shunned,
    /// It takes no connections, or its circuit no requests.
    Closed,
}

impl Plan {
    pub(in crate::upstream) fn new(basis: &Basis<'_>, dice: &Dice) -> Self {
        let Basis { hosts, balancing, fits, changes, now, order } = basis;
        let now_ms = millis(*now);
        let mut until = FOREVER;
        let states: Vec<Option<State>> = hosts
            .iter()
            .map(|host| {
                let state = match host.record.may_try(*now) {
                    true => State::Available,
                    false if host.record.takes_none(*now) => State::Closed,
                    false => State::Shunned,
                };
                if state != State::Available {
                    let at = host.record.retry_at().filter(|at| *at > now_ms);
                    until = until.min(at.unwrap_or(now_ms + LOOK_AGAIN_MS));
                }
                fits(host).then_some(state)
            })
            .collect();
        let mut levels: BTreeMap<u16, Level> = BTreeMap::new();
        for (host, state) in hosts.iter().zip(&states).filter(|(host, _)| host.weight > 0) {
            let Some(state) = state else { continue };
            let level = levels.entry(host.level).or_default();
            level.whole += host.share;
            level.available += if *state == State::Available { host.share } else { 0 };
        }
        let loads = levels::loads(&levels.values().copied().collect::<Vec<_>>(), balancing.panic_threshold);
        let loads: BTreeMap<u16, levels::Load> = levels.into_keys().zip(loads).collect();
        let mut is_in_panic = false;
        let is_hashed = matches!(balancing.algorithm, Balance::Hash(_));
        let warming = Warming::new(balancing.slow_start.filter(|_| !is_hashed), now_ms);
        let places: Vec<Place> = (hosts.iter().zip(&states))
            .map(|(host, state)| {
                let Some(state) = state else { return Place { rank: Rank::OUTSIDE, share: 0 } };
                let takes_back =
                    *state == State::Shunned && loads.get(&host.level).is_some_and(|load| load.is_in_panic);
                is_in_panic |= takes_back && host.weight > 0;
                let (share, next_step) = warming.share(host.share.max(1), host.record.up_since());
                until = until.min(next_step.map_or(FOREVER, |next| next.max(now_ms + GROWTH_MS)));
                Place { rank: Rank::of(host.level, host.weight, *state == State::Available || takes_back), share }
            })
            .collect();
        let spill_above = balancing.zone.as_ref().and_then(|zone| zone.spill_above);
        let shares = loads.into_iter().filter_map(|(level, load)| {
            let rank = Rank::of(level, 1, true);
            let takes_spilled = spill_above.is_some() && !is_own_zone(level);
            let hosts: Vec<(u32, u64)> =
                (0..).zip(&places).filter(|(_, place)| place.rank == rank).map(|(i, place)| (i, place.share)).collect();
            let (indices, whole) =
                (hosts.iter().map(|(host, _)| *host).collect(), hosts.iter().map(|(_, share)| share).sum());
            let way = match balancing.algorithm {
                _ if hosts.is_empty() || load.part == 0 && !takes_spilled => return None,
                Balance::RoundRobin => Way::Turn(Turn::new(hosts, order, dice)),
                Balance::LeastRequest | Balance::PeakEwma | Balance::Random | Balance::Hash(_) => {
                    Way::Draw(Weighted::new(hosts.into_iter()))
                }
            };
            let active = Cell::new((0, 0));
            Some(Share { rank, part: load.part, way, hosts: indices, whole, active, spills_to: None })
        });
        let mut shares: Vec<Share> = shares.collect();
        let others_of = |share: &Share| shares.iter().position(|other| share.rank.has_others(other.rank));
        let spills_to: Vec<Option<usize>> = shares.iter().map(others_of).collect();
        for (share, spills_to) in shares.iter_mut().zip(spills_to).filter(|_| spill_above.is_some()) {
            share.spills_to = spills_to;
        }
        Plan {
            changes: *changes,
            until: Cell::new(until),
            parts: shares.iter().map(|share| share.part).sum(),
            has_hosts: places.iter().any(|place| place.rank != Rank::OUTSIDE),
            spill_above: spill_above.unwrap_or(u32::MAX),
            has_spilled: Cell::new(false),
            places,
            shares,
            is_in_panic,
        }
    }

    /// Whether it is still right, of this number of changes.
    pub(in crate::upstream) fn holds(&self, changes: u64, now: impl FnOnce() -> Instant) -> bool {
        // The clock is read only while an address is out, or slow to start.
        self.changes == changes && (self.until.get() == FOREVER || millis(now()) < self.until.get())
    }

    /// Another one is needed, whatever was counted.
    pub(in crate::upstream) fn expire(&self) {
        self.until.set(0);
    }

    /// Whether endpoints are used that are out, for want of others.
    pub(in crate::upstream) fn is_in_panic(&self) -> bool {
        self.is_in_panic
    }

    /// Whether any host is in the subset.
    pub(in crate::upstream) fn has_hosts(&self) -> bool {
        self.has_hosts
    }

    pub(in crate::upstream) fn is_available(&self, host: usize) -> bool {
        self.places.get(host).is_some_and(|place| place.rank.is_available())
    }

    /// Whose turn it is from now on.
    pub(in crate::upstream) fn order(&self) -> Vec<u32> {
        let mut order = Vec::new();
        for share in &self.shares {
            if let Way::Turn(turn) = &share.way {
                turn.order(&mut order);
            }
        }
        order
    }

    /// The next host by the algorithm, or by chance where it needs a key.
    pub(in crate::upstream) fn choose(
        &self,
        hosts: &[Host],
        algorithm: &Balance,
        dice: &Dice,
        left: &Left<'_>,
    ) -> Option<usize> {
        let chosen = match self.share_at(hosts, left, || dice.below(self.parts)) {
            Some(Share { way: Way::Turn(turn), .. }) => turn.next(),
            Some(Share { way: Way::Draw(among), .. }) => drawn(hosts, algorithm, among, dice),
            None => {
                let rank = self.best_rank(left)?;
                let of_rank =
                    (0..).zip(&self.places).filter(|(i, place)| place.rank == rank && left.contain(*i as usize));
                drawn(hosts, algorithm, &Weighted::new(of_rank.map(|(i, place)| (i, place.share))), dice)
            }
        };
        chosen.map(|host| host as usize)
    }

    /// The next host by latency, with a clock that tests can move.
    #[cfg(test)]
    pub(super) fn by_latency(&self, hosts: &[Host], dice: &Dice, now_ms: u64) -> Option<usize> {
        match self.shares.first() {
            Some(Share { way: Way::Draw(among), .. }) => {
                peak_ewma(hosts, among, dice, now_ms).map(|host| host as usize)
            }
            Some(Share { way: Way::Turn(_), .. }) | None => None,
        }
    }

    /// The host of a key by a table of endpoints; `hosts_of` has the addresses of each. With a bound, in percent of the fair share, an
    /// endpoint with more requests under way leaves its keys to the next one.
    pub(in crate::upstream) fn by_table(
        &self,
        hosts: &[Host],
        (table, key): (&HashTable, u64),
        hosts_of: impl Fn(usize) -> Range<usize>,
        bound: Option<u32>,
        left: &Left<'_>,
    ) -> Option<usize> {
        // By the key, too: it stays at its level.
        let share = self.share_at(hosts, left, || ((u128::from(mix(key)) * u128::from(self.parts)) >> 64) as u64);
        let rank = match share {
            Some(share) => share.rank,
            None => self.best_rank(left)?,
        };
        let fits = |host: &usize| self.places.get(*host).is_some_and(|place| place.rank == rank) && left.contain(*host);
        let room = bound.and_then(|percent| self.room(hosts, share?, percent));
        let mut full = None;
        let mut steps = TABLE_STEPS;
        for endpoint in table.from(key) {
            if steps == 0 {
                break;
            }
            let address = hosts_of(endpoint).filter(fits).max_by_key(|host| mix(key ^ hosts[*host].address_hash));
            match (address, &room) {
                (Some(host), None) => return Some(host),
                (Some(host), Some(room)) if room(host) => return Some(host),
                (Some(host), Some(_)) if full.is_none() => {
                    full = Some(host);
                    steps = BOUNDED_STEPS;
                }
                (Some(_), Some(_)) | (None, _) => {}
            }
            steps -= 1;
        }
        // Those without weight are in no table.
        let has_room = |host: usize| room.as_ref().is_none_or(|room| room(host));
        let by_score =
            |may: &dyn Fn(usize) -> bool| rendezvous(hosts.iter().enumerate().filter(|(i, _)| fits(i) && may(*i)), key);
        full.or_else(|| by_score(&has_room)).or_else(|| by_score(&|_| true))
    }

    /// The host of a key by the scores of all.
    pub(in crate::upstream) fn by_score(&self, hosts: &[Host], key: u64, left: &Left<'_>) -> Option<usize> {
        let rank = self.best_rank(left)?;
        let fits = |i: usize| self.places[i].rank == rank && left.contain(i);
        rendezvous(hosts.iter().enumerate().filter(|(i, _)| fits(*i)), key)
    }

    /// An available host of these, the one with the fewest requests.
    pub(in crate::upstream) fn available_of(
        &self,
        hosts: &[Host],
        among: Range<usize>,
        left: &Left<'_>,
    ) -> Option<usize> {
        among
            .filter(|host| self.is_available(*host) && left.contain(*host))
            .min_by_key(|host| hosts[*host].record.active())
    }

    /// The level of a request, by a number below the sum of their parts; or, where that has too many requests under way, the other zones of its
    /// priority. A request that has tried a host looks at all that are left.
    fn share_at(&self, hosts: &[Host], left: &Left<'_>, at: impl FnOnce() -> u64) -> Option<&Share> {
        self.has_spilled.set(false);
        let share = match &self.shares[..] {
            _ if !left.are_all() => None,
            [share] => Some(share),
            shares => {
                let mut at = if shares.is_empty() { 0 } else { at() };
                shares.iter().find(|share| match at.checked_sub(share.part) {
                    None => true,
                    Some(rest) => {
                        at = rest;
                        false
                    }
                })
            }
        }?;
        let Some(others) = share.spills_to.and_then(|others| self.shares.get(others)) else { return Some(share) };
        let has_spilled = spills(share.load(hosts), others.load(hosts), self.spill_above);
        self.has_spilled.set(has_spilled);
        Some(if has_spilled { others } else { share })
    }

    /// Whether the last choice has left the gateway's own zone, as that had too many requests under way.
    pub(in crate::upstream) fn has_spilled(&self) -> bool {
        self.has_spilled.get()
    }

    fn best_rank(&self, left: &Left<'_>) -> Option<Rank> {
        let untried = || (0..).zip(&self.places).filter(|(i, _)| left.is_untried(*i)).map(|(i, place)| (i, place.rank));
        let best = untried().map(|(_, rank)| rank).min().filter(|rank| *rank != Rank::OUTSIDE)?;
        if !left.must_have_room() {
            return Some(best);
        }
        let with_room = untried().filter(|(i, rank)| rank.class() == best.class() && left.contain(*i));
        with_room.map(|(_, rank)| rank).min()
    }

    /// Whether a host is in the subset.
    pub(in crate::upstream) fn may_choose(&self, host: usize) -> bool {
        self.places.get(host).is_some_and(|place| place.rank != Rank::OUTSIDE)
    }

    /// How good a host has to be for a request to wait for it: as long as there is an available one with weight, no other is. `None`: none
    /// is left.
    pub(in crate::upstream) fn worth_waiting_for(&self, left: &Left<'_>) -> Option<Class> {
        self.best_rank(left).map(Rank::class)
    }

    pub(in crate::upstream) fn is_as_good_as(&self, host: usize, class: Class) -> bool {
        self.places.get(host).is_some_and(|place| place.rank.class() == class)
    }

    /// Whether a host has room for one more request, of those that a level may have under way.
    fn room<'p>(&'p self, hosts: &'p [Host], share: &'p Share, percent: u32) -> Option<impl Fn(usize) -> bool + 'p> {
        let Way::Draw(among) = &share.way else { return None };
        let active = share.under_way(hosts);
        // This request counts as well.
        let all = u128::from(active + 1) * u128::from(percent);
        Some(move |host: usize| {
            // active < ceil(percent / 100 · all · share / total)
            let of_host = u128::from(hosts[host].record.active()) * 100 * u128::from(among.total());
            of_host < all * u128::from(self.places[host].share)
        })
    }
}

impl Share {
    /// The requests under way of its hosts, as they were a few choices ago.
    fn under_way(&self, hosts: &[Host]) -> u64 {
        let (active, left) = self.active.get();
        let active = match left {
            0 => self.hosts.iter().map(|host| u64::from(hosts[*host as usize].record.active())).sum(),
            _ => active,
        };
        let left = if left == 0 { self.hosts.len() as u32 / SUMS_PER_ROUND } else { left - 1 };
        self.active.set((active, left));
        active
    }

    fn load(&self, hosts: &[Host]) -> spill::Load {
        spill::Load { active: self.under_way(hosts), hosts: self.hosts.len() as u64, share: self.whole }
    }
}

/// Whether a level is that of the gateway's own zone in its priority.
fn is_own_zone(level: u16) -> bool {
    level.is_multiple_of(2)
}

/// One of these by an algorithm, or by share where that has another way to choose.
fn drawn(hosts: &[Host], algorithm: &Balance, among: &Weighted, dice: &Dice) -> Option<u32> {
    match algorithm {
        Balance::LeastRequest => least_request(hosts, among, dice),
        Balance::PeakEwma => peak_ewma(hosts, among, dice, coarse::now_ms()),
        Balance::RoundRobin | Balance::Random | Balance::Hash(_) => among.one(dice).map(|entry| entry.host),
    }
}
