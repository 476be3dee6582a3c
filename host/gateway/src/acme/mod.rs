//! Certificates that the gateway orders by ACME (RFC 8555) and renews. `certs` has the places that handshakes look into; here is what fills them, on
//! the background runtime: a keeper for each certificate, which outlives reloads that do not change it.
//!
//! A keeper (`keeper`) decides when to order (`schedule`), from whom, and what comes of a failure. `order` is one order, `authority` the way to an
//! authority, `parts` what orders know of each other, `storage` what outlives the process. Gateways that share a state order under a `lock` and tell each other of challenges and
//! certificates (`sharing`). Nothing here is on the way of a request.

mod asking;
mod authority;
mod challenges;
mod dns;
mod failure;
mod keeper;
mod lock;
mod on_demand;
mod order;
mod parts;
mod schedule;
mod sharing;
mod storage;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::background::{Background, Task};
use crate::certs::{OrderedPlace, PendingChallenges};
use crate::config::model::{AcmeCertificate, Config, Name, Wanted};
use crate::outbound::OutboundClient;
use crate::services::Services;
use crate::services::state::{Records, StoreSpec};
use asking::Asking;
use keeper::{Group, Keeper, Plan};
use on_demand::OnDemandKeeper;
use parts::Parts;
use sharing::Followed;
use storage::{Key, Storage};

/// What the keys of a shared state begin with.
const PURPOSE: &str = "acme";

/// All certificates that are ordered.
pub struct Acme {
    background: Background,
    services: Arc<Services>,
    parts: Arc<Parts>,
    folder: Option<Arc<Path>>,
    running: HashMap<Name, Running>,
    followed: Vec<Following>,
    /// Whether the folder was rid of what nobody needs.
    is_clean: bool,
}

/// A keeper at work.
struct Running {
    plan: Plan,
    wanted: Wanted,
    state: Option<StoreSpec>,
    place: OrderedPlace,
    task: Task,
}

/// A state that is followed.
struct Following {
    spec: StoreSpec,
    followed: Arc<Followed>,
    _task: Task,
}

impl Acme {
    /// Without certificates. What outlives the process is below this folder.
    pub fn new(
        background: Background,
        services: Arc<Services>,
        outbound: Arc<OutboundClient>,
        challenges: Arc<PendingChallenges>,
        state_dir: Option<PathBuf>,
    ) -> Self {
        let parts = Arc::new(Parts::new(outbound, challenges));
        let folder: Option<Arc<Path>> = state_dir.map(|folder| folder.join("acme").into());
        Acme { background, services, parts, folder, running: HashMap::new(), followed: Vec::new(), is_clean: false }
    }

    /// Keeps the certificates of this configuration from now on, in these places, and no others. What is on disk is in its place when this
    /// returns. It blocks.
    pub fn follow(&mut self, config: &Config, places: &[OrderedPlace]) {
        let mut before = std::mem::take(&mut self.running);
        if self.folder.is_none() && !config.acme_certificates.is_empty() {
            tracing::warn!(
                "`gateway.state_dir` is not set and there is no home: certificates that are ordered are lost when the gateway ends"
            );
        }
        if let (Some(folder), false) = (&self.folder, std::mem::replace(&mut self.is_clean, true)) {
            storage::clean(folder, unix_now());
        }
        for (certificate, place) in config.acme_certificates.iter().zip(places) {
            let Some(plan) = plan(config, certificate) else { continue };
            let state = plan.authorities.first().and_then(|first| first.state.as_ref());
            let state = state.and_then(|name| config.states.iter().find(|spec| *spec.name == **name)).cloned();
            let known = before.remove(&certificate.name).filter(|known| {
                // A panic is a fault of the gateway; a reload mends its consequence.
                known.task.is_running()
                    && known.plan == plan
                    && known.wanted == certificate.wanted
                    && known.state == state
                    && known.place.is(place)
            });
            let running = known.map_or_else(|| self.start(certificate, plan, state, place), Some);
            self.running.extend(running.map(|running| (certificate.name.clone(), running)));
        }
        let in_use: Vec<_> = self.running.values().filter_map(|running| running.state.clone()).collect();
        self.followed.retain(|following| in_use.contains(&following.spec));
    }

    fn start(
        &mut self,
        certificate: &AcmeCertificate,
        plan: Plan,
        state: Option<StoreSpec>,
        place: &OrderedPlace,
    ) -> Option<Running> {
        let followed = match &state {
            None => None,
            Some(spec) => match self.followed(spec) {
                Ok(followed) => Some(followed),
                Err(error) => {
                    tracing::error!(certificate = %certificate.name, error, "a certificate can't be ordered");
                    if let OrderedPlace::OnDemand(certificates) = place {
                        certificates.attend(false);
                    }
                    return None;
                }
            },
        };
        let storage = Storage::new(self.folder.clone(), followed.as_ref().map(|followed| followed.records.clone()));
        let (parts, both) = (Arc::clone(&self.parts), (storage, followed));
        let task = match (place, &certificate.wanted) {
            (OrderedPlace::One(place), _) => {
                let mut keeper = Keeper::new(plan.clone(), Arc::clone(place), both, parts, None);
                keeper.begin();
                self.background.spawn("certificate", move || keeper.keep())
            }
            (OrderedPlace::OnDemand(certificates), Wanted::OnDemand(wanted)) => {
                let outbound = Arc::clone(&self.parts.outbound);
                let asking = Asking::new(wanted.clone(), outbound, self.parts.tls(None));
                let group = Group { certificates: Arc::clone(certificates), asking };
                let mut keeper = OnDemandKeeper::new(plan.clone(), both, parts, group);
                keeper.begin();
                certificates.attend(true);
                self.background.spawn("certificates on demand", move || keeper.keep())
            }
            (OrderedPlace::OnDemand(_), Wanted::Names(_)) => return None,
        };
        Some(Running { plan, wanted: certificate.wanted.clone(), state, place: place.clone(), task })
    }

    /// What is followed of a state: the one that is, or one from now on.
    fn followed(&mut self, spec: &StoreSpec) -> Result<Arc<Followed>, String> {
        if let Some(known) = self.followed.iter().find(|following| following.spec == *spec) {
            return Ok(Arc::clone(&known.followed));
        }
        let store = self.services.stores.open(spec.clone())?;
        let followed = Followed::new(Records::new(store, PURPOSE));
        let (looks, pending) = (Arc::clone(&followed), Arc::clone(&self.parts.challenges));
        let task = self.background.spawn("shared certificates", move || looks.follow(pending));
        self.followed.push(Following { spec: spec.clone(), followed: Arc::clone(&followed), _task: task });
        Ok(followed)
    }
}

/// What is to be done for a certificate. For those on demand, each name gets a plan of its own out of it.
fn plan(config: &Config, certificate: &AcmeCertificate) -> Option<Plan> {
    let find = |name: &Name| config.authorities.iter().find(|authority| authority.name == *name);
    let first = find(&certificate.authority)?;
    let all = std::iter::once(first).chain(first.fallback.iter().filter_map(find));
    let names = match &certificate.wanted {
        Wanted::Names(names) => names.clone(),
        Wanted::OnDemand(_) => Vec::new(),
    };
    let authorities: Vec<_> = all.cloned().collect();
    let key = Key::certificate(&certificate.name, &Plan::variant(&names, first.key_type, &authorities));
    Some(Plan { names, key, authorities, key_type: first.key_type, renew_before: first.renew_before })
}

/// Seconds since the Unix epoch.
fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
