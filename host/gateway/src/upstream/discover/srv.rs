//! Endpoints of a service that the DNS knows (RFC 2782), asked for by the TTL of its records.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Feed;
use super::document::MAX_PRIORITY;
use super::listed::Pauses;
use super::statistics::{Fault, FaultKind};
use crate::config::model;
use crate::upstream::resolver::{ServiceAnswer, ServiceRecord};
use crate::upstream::spec::{EndpointSpec, Place};

/// How many times the weight of a record a weight of ours is where some records have none, so that those get little, and not as much as
/// one of weight 1.
const SCALE: u32 = 10;

pub(super) async fn follow(srv: model::Srv, feed: &Feed) {
    let (listed, name) = (&feed.listed, srv.name.as_str().into());
    let mut pauses = Pauses::new(listed.upstream());
    loop {
        let policy = listed.policy();
        let clamped = |ttl: Duration| ttl.clamp(policy.min_ttl, policy.max_ttl.max(policy.min_ttl));
        let pause = match listed.resolver().services(&name).await {
            Ok(ServiceAnswer { records, ttl }) => {
                pauses.succeeded();
                // A list of none is an answer, too, and asked for again by its own TTL (RFC 2308 §5).
                feed.told(endpoints(&records, srv.https)).await;
                clamped(ttl)
            }
            Err(error) => {
                listed.fault(&Fault::new(FaultKind::Unavailable, crate::chain(&error)));
                pauses.failed()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The targets of the records.
fn endpoints(records: &[ServiceRecord], https: bool) -> Vec<EndpointSpec> {
    let used = || records.iter().filter(|record| !record.target.is_empty());
    // A client must use those of the lowest number that it can reach (RFC 2782, "Priority").
    let priorities: BTreeSet<u16> = used().map(|record| record.priority).collect();
    let rank = |priority: u16| {
        u8::try_from(priorities.range(..priority).count()).map_or(MAX_PRIORITY, |rank| rank.min(MAX_PRIORITY))
    };
    let (none, some) = (used().any(|record| record.weight == 0), used().any(|record| record.weight > 0));
    let weight = |weight: u16| match (none, some) {
        (true, true) => (u32::from(weight) * SCALE).max(1),
        (true, false) => 1,
        (false, _) => u32::from(weight),
    };
    let endpoint = |record: &ServiceRecord| EndpointSpec {
        https,
        place: Place::host(&record.target, record.port),
        weight: weight(record.weight),
        labels: Vec::new(),
        priority: rank(record.priority),
    };
    used().filter(|record| record.port > 0).map(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(records: &[(u16, u16, u16, &str)]) -> String {
        let record = |(priority, weight, port, target): &(u16, u16, u16, &str)| ServiceRecord {
            priority: *priority,
            weight: *weight,
            port: *port,
            target: (*target).to_owned(),
        };
        let endpoints = endpoints(&records.iter().map(record).collect::<Vec<_>>(), false);
        let shown = |spec: &EndpointSpec| format!("{} {} {}", spec.place, spec.weight, spec.priority);
        endpoints.iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn weights_and_priorities_are_used() {
        assert_eq!(shown(&[(10, 3, 80, "a"), (10, 1, 81, "b"), (20, 9, 82, "c")]), "a:80 3 0, b:81 1 0, c:82 9 1");
        assert_eq!(shown(&[(0, 0, 80, "a"), (0, 0, 81, "b")]), "a:80 1 0, b:81 1 0", "without weights all are equal");
        assert_eq!(shown(&[(0, 0, 80, "a"), (0, 5, 81, "b")]), "a:80 1 0, b:81 50 0", "a weight of 0 gets little");
        assert_eq!(shown(&[]), "");
        assert_eq!(shown(&[(0, 0, 0, "")]), "", "the target `.` says that there is no such service");
    }
}
