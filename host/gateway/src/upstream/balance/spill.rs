//! When requests leave the gateway's own zone though it is healthy: as soon as its endpoints have as many under way as they are to have.

/// The requests under way of a level, and what it has to serve them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) active: u64,
    pub(super) hosts: u64,
    /// The sum of the shares of its hosts.
    pub(super) share: u64,
}

/// Whether the next request leaves its zone for the other zones of its priority. The zone keeps `spill_above` requests under way for each of its
/// hosts. What is more goes to where there is less under way for the weight, so others are never busier than the zone that spills.
pub(super) fn spills(own: Load, others: Load, spill_above: u32) -> bool {
    let is_full = own.active >= own.hosts.saturating_mul(u64::from(spill_above));
    // `a / share of a < b / share of b`, without a division.
    let [of_others, of_own] = [(others.active, own.share), (own.active, others.share)];
    let product = |(active, share): (u64, u64)| u128::from(active) * u128::from(share);
    is_full && product(of_others) < product(of_own)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::model::{Balance, Balancing, ConsistentHash, HashAlgorithm, HashKey, ZonePreference};
    use crate::upstream::balance::tests::{hosts, plan_at};
    use crate::upstream::balance::{Dice, HashTable, Left, hash};

    fn load(active: u64, hosts: u64) -> Load {
        Load { active, hosts, share: hosts * 10 }
    }

    #[test]
    fn a_zone_spills_what_is_over_its_bound_to_less_busy_zones() {
        for (own, others, expected) in [
            (load(7, 2), load(0, 2), false),
            (load(8, 2), load(0, 2), true),
            (load(8, 2), load(7, 2), true),
            (load(8, 2), load(8, 2), false),
            (load(9, 2), load(8, 2), true),
            (load(8, 2), load(15, 4), true),
            (load(8, 2), load(16, 4), false),
        ] {
            assert_eq!(spills(own, others, 4), expected, "{own:?} {others:?}");
        }
        let heavy = Load { active: 20, hosts: 2, share: 60 };
        assert!(spills(load(8, 2), heavy, 4), "a host of three times the weight takes three times the requests");
    }

    /// The choices of two workers, of which so many are under way at a time: any of them may be the next to end.
    fn shares(balance: &Balance, weights: &[u32], own: usize, under_way: usize, spill_above: Option<u32>) -> Vec<f64> {
        const CHOICES: usize = 100_000;
        let zone = Some(ZonePreference { local: "a".to_owned(), label: "zone".to_owned(), spill_above });
        let balancing = Balancing { algorithm: balance.clone(), zone, ..Balancing::default() };
        let mut all = hosts(weights);
        all.iter_mut().skip(own).for_each(|host| host.level = 1);
        let table = HashTable::new(HashAlgorithm::Maglev, all.iter().map(|host| (host.hash, host.weight)).collect());
        let dices = [Dice::new(42), Dice::new(43)];
        let plans = dices.each_ref().map(|dice| plan_at(&all, &balancing, dice, Instant::now(), &[]));
        let (mut active, mut counts, mut spilled): (Vec<usize>, _, usize) = (Vec::new(), vec![0; weights.len()], 0);
        for n in 0..CHOICES {
            if active.len() == under_way {
                let ended = active.swap_remove(dices[0].below(under_way as u64) as usize);
                all[ended].record.leave();
            }
            let (plan, dice) = (&plans[n % 2], &dices[n % 2]);
            let chosen = match balance {
                Balance::Hash(_) => {
                    let key = hash(format!("user-{n}").as_bytes());
                    plan.by_table(&all, (&table, key), |endpoint| endpoint..endpoint + 1, None, &Left::default())
                }
                _ => plan.choose(&all, balance, dice, &Left::default()),
            };
            let chosen = chosen.expect("a host");
            spilled += usize::from(plan.has_spilled());
            counts[chosen] += 1;
            all[chosen].record.enter();
            active.push(chosen);
        }
        assert_eq!(spilled, counts[own..].iter().sum::<usize>(), "what is counted has left the zone");
        counts.iter().map(|count| *count as f64 / CHOICES as f64).collect()
    }

    /// Within 2 %.
    fn assert_shares(found: &[f64], promised: &[f64], what: &str) {
        assert!(
            found.iter().zip(promised).all(|(a, b)| (a - b).abs() <= 0.02 * b),
            "{what}: {found:?}, not {promised:?}"
        );
    }

    #[test]
    fn the_own_zone_keeps_its_requests_and_others_get_the_rest() {
        let on = vec![HashKey::ClientAddress];
        let hash = Balance::Hash(ConsistentHash { on, algorithm: HashAlgorithm::Maglev, bounded_load: None });
        for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::Random, hash] {
            let two_and_two = |under_way, above| {
                shares(&balance, &[1; 4], 2, under_way, above).chunks(2).map(|c| c.iter().sum()).collect()
            };
            let zones = |under_way, above| -> Vec<f64> { two_and_two(under_way, above) };
            for (under_way, own) in [(19, 1.0), (25, 0.8), (30, 2.0 / 3.0), (60, 0.5)] {
                let what = format!("{balance:?} with {under_way} under way");
                assert_shares(&zones(under_way, Some(10)), &[own, 1.0 - own], &what);
            }
            assert_shares(&zones(60, None), &[1.0, 0.0], "without a bound");
        }
    }

    #[test]
    fn zones_that_are_both_full_share_by_weight() {
        // The own zone has 1 and 2, others have 3 and 6.
        for balance in [Balance::LeastRequest, Balance::Random] {
            let found = shares(&balance, &[1, 2, 3, 6], 2, 120, Some(10));
            let zones = [found[0] + found[1], found[2] + found[3]];
            assert_shares(&zones, &[0.25, 0.75], &format!("{balance:?}"));
        }
    }

    #[test]
    fn no_number_is_too_large() {
        let largest = Load { active: u64::MAX, hosts: u64::MAX, share: u64::MAX };
        assert!(!spills(largest, largest, u32::MAX));
    }
}
