//! `GET /api/v1/certificates`: what listeners show, and how orders for it go.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

use super::Context;
use super::api::Timestamp;
use crate::certs::{OrderedPlace, Progress, Validity};

/// Those on demand that are listed, of each `on_demand`.
const MAX_ON_DEMAND: usize = 1000;

#[derive(Serialize, JsonSchema)]
pub(super) struct Certificates {
    certificates: Vec<Certificate>,
}

#[derive(Serialize, JsonSchema)]
struct Certificate {
    /// Its name in the configuration; for one on demand, that of its table.
    name: String,
    /// The names in it; none before the first is there, and for one that is configured with its text and without `hosts`.
    names: Vec<String>,
    /// None before the first is there.
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    /// The directory of the authority that it was ordered from.
    acme: Option<String>,
    /// When it is ordered next, if it is ordered.
    next_order: Option<Timestamp>,
    /// Why the last order has failed, if it has.
    last_error: Option<String>,
    /// Orders since the start of the process, by what came of them.
    orders: BTreeMap<&'static str, u64>,
}

pub(super) fn certificates(context: &Context) -> Certificates {
    let (config, snapshot) = (context.control.config(), context.control.snapshot());
    let validities = snapshot.validities.load().all();
    let mut certificates = Vec::new();
    for given in &config.certificates {
        let validity = validities.iter().find(|(name, _)| *name == *given.name).map(|(_, validity)| validity.leaf);
        let names = given.hosts.iter().map(ToString::to_string).collect();
        certificates.push(Certificate::of(&given.name, names, validity, Progress::default()));
    }
    for place in &snapshot.ordered {
        match place {
            OrderedPlace::One(one) => {
                certificates.push(Certificate::of(one.name(), one.names(), one.validity(), one.progress()));
            }
            OrderedPlace::OnDemand(all) => {
                certificates.push(Certificate::of(all.name(), Vec::new(), None, all.progress()));
                let mut found = all.all();
                found.sort_by(|(one, _), (other, _)| one.cmp(other));
                certificates.extend(
                    found
                        .into_iter()
                        .take(MAX_ON_DEMAND)
                        .map(|(_, one)| Certificate::of(all.name(), one.names(), one.validity(), one.progress())),
                );
            }
        }
    }
    Certificates { certificates }
}

impl Certificate {
    fn of(name: &str, names: Vec<String>, validity: Option<Validity>, progress: Progress) -> Self {
        let Progress { authority, next_order, last_error, orders } = progress;
        Certificate {
            name: name.to_owned(),
            names,
            not_before: validity.map(|validity| timestamp(validity.not_before)),
            not_after: validity.map(|validity| timestamp(validity.not_after)),
            acme: authority,
            next_order: next_order.map(timestamp),
            last_error,
            orders,
        }
    }
}

/// Seconds since the Unix epoch.
fn timestamp(seconds: i64) -> Timestamp {
    let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    UNIX_EPOCH.checked_add(seconds).unwrap_or(SystemTime::UNIX_EPOCH).into()
}
