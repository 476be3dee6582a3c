//! What name servers have said, by name and kind of address, and what that means at a given time. Nothing here asks or waits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::{DnsPolicy, LookupFamily, Resolution};

/// Beyond this many names, the one that nobody has asked for the longest time makes room.
const MAX_NAMES: usize = 4096;
/// A kind of address for which the servers fail is asked for again after this long while the other kind is known (RFC 2308 §7.1).
const RECHECK: Duration = Duration::from_secs(30);

/// Who is asked; the servers of the system where empty.
pub(super) type Servers = Arc<[SocketAddr]>;

/// A kind of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    V4,
    V6,
}

/// An answer for one kind of address.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Sorted: servers rotate them, and in a fixed order a change is a real change. None at all is an answer, too (RFC 2308 §2).
    pub(super) addresses: Vec<IpAddr>,
    /// There is no such name, so it has no addresses of the other kind either (RFC 8020 §2).
    pub(super) no_such_name: bool,
    /// The place in the search list of the name that has them.
    pub(super) rank: usize,
    pub(super) at: Instant,
    pub(super) ttl: Duration,
}

/// What is known of one kind of address of a name.
#[derive(Debug, Default)]
struct Leg {
    answer: Option<Answer>,
    /// Who gave it.
    servers: Servers,
    /// When the servers failed, if they did so last.
    failed: Option<Instant>,
}

#[derive(Debug)]
struct Name {
    v4: Leg,
    v6: Leg,
    /// When somebody last wanted it.
    used: Instant,
}

/// The answers for all names.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<HashMap<Arc<str>, Name>>);

/// The kinds of address to ask for, most wanted first.
pub(super) fn kinds(family: LookupFamily) -> &'static [Kind] {
    match family {
        LookupFamily::V4Only => &[Kind::V4],
        LookupFamily::V6Only => &[Kind::V6],
        LookupFamily::Auto => &[Kind::V6, Kind::V4],
        LookupFamily::V4Preferred | LookupFamily::All => &[Kind::V4, Kind::V6],
    }
}

impl Answers {
    /// What is known of a name. Whether a name has no addresses is taken from these servers only: others may know it.
    pub(super) fn resolution(&self, name: &str, policy: DnsPolicy, servers: &Servers, now: Instant) -> Resolution {
        let mut names = self.lock();
        match names.get_mut(name) {
            None => Resolution { addresses: Arc::default(), stale: false, fresh_until: now, refresh_at: now },
            Some(name) => {
                name.used = now;
                name.resolution(policy, servers, now)
            }
        }
    }

    /// The kinds of address to ask for now. With nothing at hand, failures are no reason to wait.
    pub(super) fn due(
        &self,
        name: &str,
        policy: DnsPolicy,
        servers: &Servers,
        now: Instant,
    ) -> impl Iterator<Item = Kind> {
        let names = self.lock();
        let has_addresses =
            names.get(name).is_some_and(|name| !name.resolution(policy, servers, now).addresses.is_empty());
        let is_due = |kind: &Kind| match names.get(name).map(|name| name.leg(*kind)) {
            None => true,
            Some(leg) if has_addresses => leg.due(policy, servers, now) <= now,
            Some(leg) => leg.failed.is_some() || leg.due(policy, servers, now) <= now,
        };
        kinds(policy.lookup_family).iter().copied().filter(is_due).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn answered(&self, name: &Arc<str>, kind: Kind, answer: Answer, servers: &Servers) {
        let servers = Arc::clone(servers);
        self.change(name, kind, |leg| *leg = Leg { answer: Some(answer), servers, failed: None });
    }

    /// The servers have given no answer; an earlier one stays.
    pub(super) fn failed(&self, name: &Arc<str>, kind: Kind) {
        self.change(name, kind, |leg| leg.failed = Some(Instant::now()));
    }

    fn change(&self, name: &Arc<str>, kind: Kind, change: impl FnOnce(&mut Leg)) {
        let mut names = self.lock();
        if names.len() >= MAX_NAMES
            && !names.contains_key(name)
            && let Some(oldest) = names.iter().min_by_key(|(_, name)| name.used).map(|(name, _)| name.clone())
        {
            names.remove(&oldest);
        }
        let fresh = || Name { v4: Leg::default(), v6: Leg::default(), used: Instant::now() };
        let known = names.entry(name.clone()).or_insert_with(fresh);
        change(match kind {
            Kind::V4 => &mut known.v4,
            Kind::V6 => &mut known.v6,
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Name>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    fn leg(&self, kind: Kind) -> &Leg {
        match kind {
            Kind::V4 => &self.v4,
            Kind::V6 => &self.v6,
        }
    }

    fn resolution(&self, policy: DnsPolicy, servers: &Servers, now: Instant) -> Resolution {
        let legs = || kinds(policy.lookup_family).iter().map(|kind| self.leg(*kind));
        let refresh_at = legs().map(|leg| leg.due(policy, servers, now)).min().unwrap_or(now);
        let usable = || {
            let kinds = kinds(policy.lookup_family).iter().filter(|kind| !self.is_gone(**kind, policy, servers, now));
            kinds.map(|kind| self.leg(*kind)).filter_map(|leg| Some((leg, leg.usable(policy, now)?)))
        };
        // Addresses of two names of the search list do not belong together.
        let rank = usable().map(|(_, answer)| answer.rank).min();
        let mut found = usable().filter(|(_, answer)| Some(answer.rank) == rank);
        let used: SmallVec<[(&Leg, &Answer); 2]> = match policy.lookup_family {
            LookupFamily::All => found.collect(),
            LookupFamily::Auto | LookupFamily::V4Preferred | LookupFamily::V4Only | LookupFamily::V6Only => {
                // An old answer is the last resort (RFC 8767 §4).
                found.clone().find(|(leg, _)| leg.failed.is_none()).or_else(|| found.next()).into_iter().collect()
            }
        };
        // One kind that is fresh is enough to go on; nobody waits for the other one, for which the servers may be silent.
        let latest = |failed: bool| {
            let legs = used.iter().map(|(leg, _)| leg).filter(|leg| leg.failed.is_some() == failed);
            legs.map(|leg| leg.due(policy, servers, now)).max()
        };
        let (good, failed) = (latest(false), latest(true));
        let (stale, fresh_until) = (good.is_none() && failed.is_some(), good.or(failed).unwrap_or(refresh_at));
        let addresses = used.iter().flat_map(|(_, answer)| &answer.addresses).copied().collect();
        Resolution { addresses, stale, fresh_until, refresh_at }
    }

    /// Whether the addresses of this kind are old and there is no such name since, by what was said for the other kind. As long as they
    /// are fresh they stay in use: some servers deny a name that has addresses of the other kind only (RFC 4074 §4.2).
    fn is_gone(&self, kind: Kind, policy: DnsPolicy, servers: &Servers, now: Instant) -> bool {
        let (leg, other) = match kind {
            Kind::V4 => (&self.v4, &self.v6),
            Kind::V6 => (&self.v6, &self.v4),
        };
        let (Some(known), Some(denied)) = (&leg.answer, &other.answer) else { return false };
        let is_old = leg.failed.is_some() || known.expires(policy) <= now;
        is_old && denied.no_such_name && denied.at >= known.at && Arc::ptr_eq(&other.servers, servers)
    }
}

impl Leg {
    /// When to ask for it again.
    fn due(&self, policy: DnsPolicy, servers: &Servers, now: Instant) -> Instant {
        match (&self.answer, self.failed) {
            (None, None) => now,
            (None, Some(failed)) => failed + policy.min_ttl.max(RECHECK),
            (Some(_), Some(failed)) => failed + policy.min_ttl,
            (Some(answer), None) if answer.addresses.is_empty() && !Arc::ptr_eq(&self.servers, servers) => now,
            (Some(answer), None) => answer.expires(policy),
        }
    }

    /// The answer, if it has addresses and is not too old (RFC 8767 §4).
    fn usable(&self, policy: DnsPolicy, now: Instant) -> Option<&Answer> {
        let is_usable = |answer: &&Answer| {
            !answer.addresses.is_empty()
                && answer.expires(policy).checked_add(policy.max_stale).is_none_or(|end| now < end)
        };
        self.answer.as_ref().filter(is_usable)
    }
}

impl Answer {
    fn expires(&self, policy: DnsPolicy) -> Instant {
        self.at + self.ttl.clamp(policy.min_ttl, policy.max_ttl.max(policy.min_ttl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "192.0.2.1";
    const AAAA: &str = "2001:db8::1";

    fn answer(addresses: &[&str], ttl: u64) -> Answer {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Answer { addresses, no_such_name: false, rank: 0, at: Instant::now(), ttl: Duration::from_secs(ttl) }
    }

    fn shown(resolution: &Resolution) -> String {
        resolution.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    struct Case {
        answers: Answers,
        name: Arc<str>,
        servers: Servers,
    }

    impl Case {
        fn new() -> Self {
            Case { answers: Answers::default(), name: "n.test".into(), servers: Arc::default() }
        }

        fn answered(&self, kind: Kind, answer: Answer) {
            self.answers.answered(&self.name, kind, answer, &self.servers);
        }

        fn found(&self, policy: DnsPolicy, now: Instant) -> Resolution {
            self.answers.resolution(&self.name, policy, &self.servers, now)
        }

        fn due(&self, policy: DnsPolicy, now: Instant) -> Vec<Kind> {
            self.answers.due(&self.name, policy, &self.servers, now).collect()
        }
    }

    #[test]
    fn the_lookup_family_decides_which_addresses_are_used() {
        use LookupFamily::{All, Auto, V4Only, V4Preferred, V6Only};
        let case = Case::new();
        let of =
            |family| shown(&case.found(DnsPolicy { lookup_family: family, ..DnsPolicy::default() }, Instant::now()));
        case.answered(Kind::V4, answer(&[A], 60));
        assert_eq!(
            [All, Auto, V4Only, V4Preferred, V6Only].map(of),
            [A, A, A, A, ""],
            "the other kind is not known yet"
        );
        case.answered(Kind::V6, answer(&[AAAA], 60));
        let both = format!("{A} {AAAA}");
        assert_eq!([All, Auto, V4Only, V4Preferred, V6Only].map(of), [&both, AAAA, A, A, AAAA]);
        case.answered(Kind::V4, answer(&[], 60));
        assert_eq!([All, Auto, V4Only, V4Preferred, V6Only].map(of), [AAAA, AAAA, "", AAAA, AAAA]);
    }

    #[test]
    fn a_kind_that_fails_does_not_shorten_the_life_of_the_other() {
        let (case, policy, now) = (Case::new(), DnsPolicy::default(), Instant::now());
        assert_eq!(case.due(policy, now), [Kind::V4, Kind::V6]);
        case.answered(Kind::V4, answer(&[A], 60));
        assert_eq!(case.due(policy, now), [Kind::V6], "it may still come");
        case.answers.failed(&case.name, Kind::V6);
        let found = case.found(policy, now);
        assert!(found.fresh_until > now + Duration::from_secs(50) && found.refresh_at > now + RECHECK / 2);
        assert_eq!(case.due(policy, now), []);
        assert_eq!(case.due(policy, now + RECHECK * 3), [Kind::V4, Kind::V6]);
    }

    #[test]
    fn nobody_waits_for_a_kind_that_fell_silent_while_the_other_is_fresh() {
        use LookupFamily::{All, Auto, V4Preferred};
        let (case, begun) = (Case::new(), Instant::now());
        let later = begun + Duration::from_secs(30);
        case.answered(Kind::V6, answer(&[AAAA], 1));
        case.answered(Kind::V4, answer(&[A], 60));
        let found = |family, now| case.found(DnsPolicy { lookup_family: family, ..DnsPolicy::default() }, now);
        let both = found(All, later);
        assert!(both.fresh_until > later && both.refresh_at <= later, "asked for again in the background");
        case.answers.failed(&case.name, Kind::V6);
        for now in [begun, later] {
            let shown = [All, Auto, V4Preferred].map(|family| {
                let found = found(family, now);
                assert!(!found.stale && found.fresh_until > later, "{family:?}");
                shown(&found)
            });
            assert_eq!(shown, [&format!("{A} {AAAA}"), A, A], "an old address is the last resort of a single kind");
        }
        case.answers.failed(&case.name, Kind::V4);
        assert!(found(All, later).stale && found(Auto, later).stale, "now both have failed");
        assert_eq!(shown(&found(Auto, later)), AAAA);
    }

    #[test]
    fn no_such_name_ends_both_kinds_and_no_address_only_its_own() {
        let (policy, now) = (DnsPolicy::default(), Instant::now());
        for no_such_name in [false, true] {
            let case = Case::new();
            case.answered(Kind::V4, answer(&[A], 60));
            case.answered(Kind::V6, Answer { no_such_name, ..answer(&[], 60) });
            assert_eq!(shown(&case.found(policy, now)), A, "still fresh");
            case.answers.failed(&case.name, Kind::V4);
            assert_eq!(shown(&case.found(policy, now)), if no_such_name { "" } else { A });
            let others: Servers = Arc::new([SocketAddr::from(([192, 0, 2, 9], 53))]);
            assert_eq!(shown(&case.answers.resolution(&case.name, policy, &others, now)), A, "these have not said so");
            case.answered(Kind::V4, answer(&[A], 60));
            assert_eq!(shown(&case.found(policy, now)), A, "a new answer counts");
        }
    }

    #[test]
    fn failures_keep_an_answer_for_a_stated_time_and_an_answer_of_none_ends_it() {
        let case = Case::new();
        let policy = DnsPolicy { max_stale: Duration::from_secs(100), ..DnsPolicy::default() };
        let begun = Instant::now();
        case.answered(Kind::V4, answer(&[A], 60));
        case.answers.failed(&case.name, Kind::V4);
        assert_eq!(shown(&case.found(policy, begun + Duration::from_secs(150))), A);
        assert_eq!(shown(&case.found(policy, begun + Duration::from_secs(170))), "");
        case.answered(Kind::V4, answer(&[], 60));
        assert_eq!(shown(&case.found(policy, begun)), "");
        assert_eq!(case.due(policy, begun), [Kind::V6], "nobody asks again before the negative TTL has passed");
        let others: Servers = Arc::new([SocketAddr::from(([192, 0, 2, 9], 53))]);
        let due = case.answers.due(&case.name, policy, &others, begun);
        assert_eq!(due.collect::<Vec<_>>(), [Kind::V4, Kind::V6], "other servers may know it");
    }

    #[test]
    fn addresses_of_two_names_of_the_search_list_are_not_mixed() {
        let case = Case::new();
        case.answered(Kind::V4, Answer { rank: 2, ..answer(&[A], 60) });
        case.answered(Kind::V6, answer(&[AAAA], 60));
        assert_eq!(shown(&case.found(DnsPolicy::default(), Instant::now())), AAAA);
    }

    #[test]
    fn the_name_that_was_not_wanted_for_longest_makes_room() {
        let case = Case::new();
        for i in 0..=MAX_NAMES {
            case.answers.answered(&format!("n{i}").into(), Kind::V4, answer(&[A], 1), &case.servers);
            // In use all the time.
            case.answers.resolution("n0", DnsPolicy::default(), &case.servers, Instant::now());
        }
        let known = |name: &str| {
            !case.answers.resolution(name, DnsPolicy::default(), &case.servers, Instant::now()).addresses.is_empty()
        };
        assert!(known("n0") && !known("n1") && known("n2"));
    }
}
