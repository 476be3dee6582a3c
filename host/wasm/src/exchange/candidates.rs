//! The endpoints that could serve a request. They are looked up when a filter asks for them, and then once for each choice: most filters
//! that choose do it by a key and never look.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A list that is no longer than this is searched from its start.
const FEW: usize = 16;

/// An endpoint that could serve the request, as `route.endpoints` and `route.state-of-endpoint` show it.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub upstream: Arc<str>,
    pub address: Arc<str>,
    pub weight: u32,
    pub healthy: bool,
    pub active: u32,
    pub latency_us: u64,
    pub labels: Arc<Vec<(String, String)>>,
    /// Why it is not to be asked now.
    pub out: Vec<&'static str>,
    /// As `peak_ewma` sees it; 0 when not known.
    pub ewma_us: u64,
}

/// Who knows the endpoints of a route.
pub trait CandidateSource: Send + Sync {
    /// The endpoints as they are now.
    fn list(&self) -> Vec<Candidate>;
}

/// The endpoints as they are at one choice. None where no filter chooses.
#[derive(Default)]
pub struct Candidates {
    source: Option<Arc<dyn CandidateSource>>,
    listed: OnceCell<Vec<Candidate>>,
    /// The list in the order of address and upstream, made when an endpoint of a long list is first searched for: filters ask for one after
    /// the other.
    order: OnceCell<Vec<usize>>,
}

impl Candidates {
    /// The endpoints that `source` knows when they are first looked at.
    pub fn of(source: Arc<dyn CandidateSource>) -> Self {
        Candidates { source: Some(source), ..Candidates::default() }
    }

    /// The same endpoints as they are when the new list is first looked at.
    pub fn anew(&self) -> Self {
        Candidates { source: self.source.clone(), ..Candidates::default() }
    }

    /// These endpoints.
    pub fn fixed(list: Vec<Candidate>) -> Self {
        Candidates { listed: OnceCell::from(list), ..Candidates::default() }
    }

    pub fn list(&self) -> &[Candidate] {
        self.listed.get_or_init(|| self.source.as_ref().map(|source| source.list()).unwrap_or_default())
    }

    pub fn find(&self, upstream: &str, address: &str) -> Option<&Candidate> {
        self.first(|candidate| (&*candidate.address, &*candidate.upstream).cmp(&(address, upstream)))
    }

    /// Whether an endpoint of any upstream has this address.
    pub fn has_address(&self, address: &str) -> bool {
        self.first(|candidate| (*candidate.address).cmp(address)).is_some()
    }

    /// The first of the list that is what is searched for, by how one compares with it.
    fn first(&self, compare: impl Fn(&Candidate) -> Ordering) -> Option<&Candidate> {
        let list = self.list();
        if list.len() <= FEW {
            return list.iter().find(|candidate| compare(candidate).is_eq());
        }
        let order = self.order.get_or_init(|| {
            let mut order: Vec<usize> = (0..list.len()).collect();
            // Stable: of two that are the same the first of the list comes first.
            order.sort_by(|one, other| {
                let key = |place: usize| list.get(place).map(|candidate| (&*candidate.address, &*candidate.upstream));
                key(*one).cmp(&key(*other))
            });
            order
        });
        let at = |place: &usize| list.get(*place);
        let begin = order.partition_point(|place| at(place).is_some_and(|candidate| compare(candidate).is_lt()));
        order.get(begin).and_then(at).filter(|candidate| compare(candidate).is_eq())
    }
}

impl fmt::Debug for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listed.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(upstream: &str, address: &str, weight: u32) -> Candidate {
        Candidate {
            upstream: upstream.into(),
            address: address.into(),
            weight,
            healthy: true,
            active: 0,
            latency_us: 0,
            labels: Arc::default(),
            out: Vec::new(),
            ewma_us: 0,
        }
    }

    #[test]
    fn endpoints_are_found_in_short_and_long_lists() {
        for count in [1, FEW, FEW + 1, 1000] {
            // In no order, in two upstreams, and the first one twice.
            let addresses = || (0..count).map(|i| (i * 7919) % count);
            let mut list: Vec<_> = ["b", "a"]
                .iter()
                .flat_map(|upstream| addresses().map(|i| candidate(upstream, &format!("10.0.0.{i}:80"), i as u32)))
                .collect();
            list.push(candidate("b", "10.0.0.0:80", 9999));
            let candidates = Candidates::fixed(list);
            for i in addresses() {
                let address = format!("10.0.0.{i}:80");
                for upstream in ["a", "b"] {
                    let found = candidates.find(upstream, &address).map(|found| (&*found.upstream, found.weight));
                    assert_eq!(found, Some((upstream, i as u32)), "{count} {address}");
                }
                assert!(candidates.has_address(&address));
                assert!(candidates.find("c", &address).is_none());
            }
            assert!(!candidates.has_address("10.0.0.0") && candidates.find("a", "").is_none());
        }
    }
}
