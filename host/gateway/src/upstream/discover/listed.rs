//! The list of endpoints that a source has told last. A good list takes the place of the one before, endpoint by endpoint: who stays keeps
//! record, connections and place in the turn. Whatever else the source does, the last good list stays.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::Notify;

use super::sources::Stopped;
use super::statistics::{DiscoveryState, Fault, FaultKind, Statistics};
use super::{Feed, Located, Sources, file, saved};
use crate::config::model;
use crate::upstream::balance::Dice;
use crate::upstream::resolver::{DnsPolicy, Resolver};
use crate::upstream::spec::{Endpoint, EndpointMaker, EndpointSpec, Place, Upstream};

/// A longer list is a mistake.
const MAX_ENDPOINTS: usize = 16_384;
/// How long a new list waits for the addresses of its names. A request that needs one that is still missing waits for it.
const LOOK_UP: Duration = Duration::from_millis(500);
/// The endpoints that a line of the log names of each kind of change.
const MAX_NAMED: usize = 10;
/// The first pause after a failure; it doubles with each one …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(crate) struct Listed {
    upstream: Arc<str>,
    source: model::Discovery,
    maker: EndpointMaker,
    resolver: Arc<Resolver>,
    policy: DnsPolicy,
    sources: Arc<Sources>,
    current: ArcSwap<List>,
    statistics: Arc<Statistics>,
    /// Why the file could not be read when the upstream was made.
    unread: Option<Fault>,
    /// Whether the source has told a good list since this was made.
    told: AtomicBool,
    /// Tells that the list may be another one than was saved.
    unsaved: Notify,
    /// Whether endpoints are known.
    known: Mutex<bool>,
    becomes_known: Condvar,
}

/// Endpoints in the order of their names, so that the same ones are the same list.
struct List {
    specs: Vec<EndpointSpec>,
    endpoints: Vec<Arc<Endpoint>>,
    located: Arc<Located>,
    /// What can't be an endpoint, and why.
    unusable: Vec<String>,
}

/// What is different in a new list, by names of endpoints.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    added: Vec<Arc<str>>,
    removed: Vec<Arc<str>>,
    changed: Vec<Arc<str>>,
}

impl Listed {
    /// It begins with the list of the upstream that it takes the place of, so that a reload leaves no gap; at a start with what the file
    /// has, or with what was kept. It may **read files**.
    pub(in crate::upstream) fn new(
        upstream: &Arc<str>,
        source: &model::Discovery,
        maker: EndpointMaker,
        (resolver, policy): (&Arc<Resolver>, DnsPolicy),
        sources: &Arc<Sources>,
        before: Option<&Upstream>,
    ) -> Arc<Self> {
        let same_kind = |listed: &&Arc<Listed>| listed.source.kind() == source.kind();
        let listed_before = before.and_then(Upstream::listed).filter(same_kind);
        let statistics = listed_before.map(|listed| Arc::clone(&listed.statistics)).unwrap_or_default();
        let mut unread = None;
        let resolver = Arc::clone(resolver);
        let usable = |specs| {
            let (list, _) = List::none(&resolver, policy).replaced(specs, &maker, &resolver, policy)?;
            (!list.endpoints.is_empty()).then_some(list)
        };
        let mut list = before.and_then(|before| usable(taken_over(before, source)));
        if list.is_none()
            && let model::Discovery::File(path) = source
        {
            match file::read(path) {
                Ok(found) => {
                    list = usable(found);
                    if list.is_some() {
                        statistics.confirm(SystemTime::now());
                    }
                }
                Err(fault) => {
                    // The log has it as a warning of the configuration.
                    statistics.note(&fault);
                    unread = Some(fault);
                }
            }
        }
        if list.is_none()
            && let Some(mut found) = saved::restore(sources, upstream, source)
        {
            set_scheme(&mut found.specs, source);
            list = usable(found.specs);
            if list.is_some() {
                statistics.confirm(found.at);
            }
        }
        let list = list.unwrap_or_else(|| List::none(&resolver, policy));
        let known = !list.endpoints.is_empty();
        Arc::new(Listed {
            upstream: Arc::clone(upstream),
            source: source.clone(),
            maker,
            resolver,
            policy,
            sources: Arc::clone(sources),
            current: ArcSwap::from_pointee(list),
            statistics,
            unread,
            told: AtomicBool::new(false),
            unsaved: Notify::new(),
            known: Mutex::new(known),
            becomes_known: Condvar::new(),
        })
    }

    pub(super) fn upstream(&self) -> &Arc<str> {
        &self.upstream
    }

    pub(super) fn source(&self) -> &model::Discovery {
        &self.source
    }

    pub(super) fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    pub(super) fn policy(&self) -> DnsPolicy {
        self.policy
    }

    pub(super) fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }

    pub(super) fn located(&self) -> Arc<Located> {
        Arc::clone(&self.current.load().located)
    }

    /// The endpoints as they are now.
    pub(in crate::upstream) fn specs(&self) -> Vec<EndpointSpec> {
        self.current.load().specs.clone()
    }

    /// When the source has last told the list.
    pub(super) fn confirmed(&self) -> Option<SystemTime> {
        self.statistics.confirmed()
    }

    /// Waits until the list may be another one than was saved.
    pub(super) async fn unsaved(&self) {
        self.unsaved.notified().await;
    }

    pub(in crate::upstream) fn state(&self) -> DiscoveryState {
        self.statistics.state(self.source.kind(), self.current.load().endpoints.len())
    }

    /// Why there is no endpoint to choose.
    pub(in crate::upstream) fn missing(&self) -> String {
        match self.statistics.last_fault() {
            Some(fault) => format!("{} has told no endpoints yet: {fault}", self.source),
            None => format!("{} has told no endpoints yet", self.source),
        }
    }

    /// What an operator should know of it before it runs.
    pub(in crate::upstream) fn warning(&self) -> Option<String> {
        let fault = self.unread.as_ref()?;
        Some(format!("upstreams.{}.discovery: {} can't be used: {fault}", self.upstream, self.source))
    }

    pub(in crate::upstream) fn is_known(&self) -> bool {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// **Blocks** until endpoints are known, until this time at most. False if they are not.
    pub(in crate::upstream) fn wait_until_known(&self, until: Instant) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.becomes_known.wait_timeout_while(known, left, |known| !*known);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Notes that the last good list stays, and why. A reason is in the log once, until it is another one.
    pub(super) fn fault(&self, fault: &Fault) {
        if self.statistics.note(fault) {
            let (upstream, source, kind) = (&self.upstream, &self.source, fault.kind.name());
            let kept = self.current.load().endpoints.len();
            tracing::warn!(%upstream, %source, kind, reason = fault.reason, kept, "discovery failed; the known endpoints are kept");
        }
    }

    /// Notes that the list could not be saved, and why.
    pub(super) fn not_saved(&self, reason: &str) {
        self.statistics.note_unsaved();
        let upstream = &self.upstream;
        tracing::warn!(%upstream, reason, "the endpoints can't be kept for the next start");
    }

    /// The list after this one.
    fn replaced(&self, specs: Vec<EndpointSpec>) -> Result<Option<(List, Changes)>, Fault> {
        if specs.is_empty() {
            return Err(Fault::new(FaultKind::Empty, "it says that there are no endpoints"));
        }
        if specs.len() > MAX_ENDPOINTS {
            let reason = format!("it lists {} endpoints, more than {MAX_ENDPOINTS}", specs.len());
            return Err(Fault::new(FaultKind::Invalid, reason));
        }
        let before = self.current.load();
        let replaced = before.replaced(specs, &self.maker, &self.resolver, self.policy);
        let Some((list, changes)) = replaced else { return Ok(None) };
        match list.unusable.first() {
            Some(first) if list.endpoints.is_empty() => Err(Fault::new(FaultKind::Invalid, first.clone())),
            _ => Ok(Some((list, changes))),
        }
    }
}

/// The text of the last good list, to pass over what is told again: a number in place of a text of megabytes.
pub(super) struct Last {
    hasher: RandomState,
    text: Option<u64>,
}

impl Last {
    pub(super) fn none() -> Self {
        Last { hasher: RandomState::new(), text: None }
    }
}

impl Feed {
    /// The source has told a list in this text. Answers whether it is another text than before.
    pub(super) async fn read(
        &self,
        last: &mut Last,
        text: Bytes,
        parse: impl FnOnce(&[u8]) -> Result<Vec<EndpointSpec>, Fault> + Send + 'static,
    ) -> bool {
        let (hasher, before) = (last.hasher.clone(), last.text.take());
        let read = move || {
            let print = hasher.hash_one(&*text);
            (print, (before != Some(print)).then(|| parse(&text)))
        };
        let (print, parsed) = match self.listed.sources.compute().run(read).await {
            Ok(read) => read,
            Err(stopped) => {
                self.listed.fault(&stopped.into());
                return true;
            }
        };
        let is_good = match parsed {
            None => {
                self.confirm();
                last.text = Some(print);
                return false;
            }
            Some(Ok(specs)) => self.told(specs).await,
            Some(Err(fault)) => {
                self.listed.fault(&fault);
                false
            }
        };
        last.text = is_good.then_some(print);
        true
    }

    /// The source has told this list. Answers whether it could be used.
    pub(super) async fn told(&self, specs: Vec<EndpointSpec>) -> bool {
        let listed = Arc::clone(&self.listed);
        let replaced = self.listed.sources.compute().run(move || listed.replaced(specs)).await;
        let used = match replaced.map_err(Fault::from).flatten() {
            Err(fault) => Err(fault),
            Ok(None) => Ok(()),
            Ok(Some((list, changes))) => self.publish(list, changes).await.map_err(Fault::from),
        };
        match used {
            Ok(()) => {
                self.confirm();
                true
            }
            Err(fault) => {
                self.listed.fault(&fault);
                false
            }
        }
    }

    fn confirm(&self) {
        // Also the same list as before: it may have been saved as that of another source, or long ago.
        if !self.listed.told.swap(true, Ordering::Relaxed) {
            self.listed.unsaved.notify_one();
        }
        let before = self.listed.statistics.last_fault();
        self.listed.statistics.confirm(SystemTime::now());
        if before.is_some() {
            let (upstream, source) = (&self.listed.upstream, &self.listed.source);
            tracing::info!(%upstream, %source, "discovery works again");
        }
    }

    async fn publish(&self, list: List, changes: Changes) -> Result<(), Stopped> {
        // Those of the list before are known, and what can't be had now is asked for by the first request.
        let _ = tokio::time::timeout(LOOK_UP, list.located.look_up()).await;
        let Feed { set, listed } = self.clone();
        let publish = move || {
            let (count, unusable) = (list.endpoints.len(), list.unusable.len());
            if let Some(first) = list.unusable.first() {
                let (upstream, source) = (&listed.upstream, &listed.source);
                tracing::warn!(%upstream, %source, unusable, first, "endpoints are left out: they can't be used");
            }
            listed.current.store(Arc::new(list));
            set.publish();
            listed.statistics.count_update();
            let (upstream, source) = (&listed.upstream, &listed.source);
            let [added, removed, changed] = [&changes.added, &changes.removed, &changes.changed].map(|of| named(of));
            tracing::info!(%upstream, %source, endpoints = count, added, removed, changed, "endpoints have changed");
            *listed.known.lock().unwrap_or_else(PoisonError::into_inner) = true;
            listed.becomes_known.notify_all();
            listed.unsaved.notify_one();
        };
        self.listed.sources.compute().run(publish).await
    }
}

impl List {
    fn none(resolver: &Arc<Resolver>, policy: DnsPolicy) -> Self {
        let located = Arc::new(Located::of(Vec::new(), resolver, policy));
        List { specs: Vec::new(), endpoints: Vec::new(), located, unusable: Vec::new() }
    }

    /// The list of these, and what is different in it; `None` if it is the same. An endpoint that is listed twice counts once.
    fn replaced(
        &self,
        mut specs: Vec<EndpointSpec>,
        maker: &EndpointMaker,
        resolver: &Arc<Resolver>,
        policy: DnsPolicy,
    ) -> Option<(List, Changes)> {
        specs.sort_by(|one, other| place(one).cmp(place(other)));
        specs.dedup_by(|next, kept| place(next) == place(kept));
        // Both lists are in the same order.
        let mut before = self.specs.iter().zip(&self.endpoints).peekable();
        let (mut changes, mut unusable) = (Changes::default(), Vec::new());
        let (mut kept, mut endpoints) = (Vec::with_capacity(specs.len()), Vec::with_capacity(specs.len()));
        for spec in specs {
            while let Some((_, endpoint)) = before.next_if(|(known, _)| place(known) < place(&spec)) {
                changes.removed.push(endpoint.name.clone());
            }
            let known = before.next_if(|(known, _)| place(known) == place(&spec));
            let endpoint = match known {
                Some((same, endpoint)) if *same == spec => Arc::clone(endpoint),
                _ => match maker.make(&spec) {
                    Ok(endpoint) => {
                        let of = if known.is_some() { &mut changes.changed } else { &mut changes.added };
                        of.push(endpoint.name.clone());
                        Arc::new(endpoint)
                    }
                    Err(error) => {
                        unusable.push(error.to_string());
                        changes.removed.extend(known.map(|(_, endpoint)| endpoint.name.clone()));
                        continue;
                    }
                },
            };
            kept.push(spec);
            endpoints.push(endpoint);
        }
        changes.removed.extend(before.map(|(_, endpoint)| endpoint.name.clone()));
        if changes == Changes::default() && unusable == self.unusable {
            return None;
        }
        let located = Arc::new(Located::of(endpoints.clone(), resolver, policy));
        Some((List { specs: kept, endpoints, located, unusable }, changes))
    }
}

/// The endpoints of the upstream that another one takes the place of, as its source would tell them.
fn taken_over(before: &Upstream, source: &model::Discovery) -> Vec<EndpointSpec> {
    let mut specs = before.endpoint_specs();
    if before.listed().is_some_and(|listed| https_of(&listed.source).is_some()) {
        set_scheme(&mut specs, source);
    }
    // Nothing is encrypted for the endpoints of a source that has none of https.
    specs.retain(|spec| !spec.https || source.may_be_https());
    specs
}

/// The scheme of what a source tells is that of the configuration, where it tells none.
fn set_scheme(specs: &mut [EndpointSpec], source: &model::Discovery) {
    if let Some(https) = https_of(source) {
        specs.iter_mut().for_each(|spec| spec.https = https);
    }
}

/// Whether the endpoints of a source are of https; `None` where it says that of each.
fn https_of(source: &model::Discovery) -> Option<bool> {
    match source {
        model::Discovery::Consul(_) | model::Discovery::Srv(_) => Some(source.may_be_https()),
        model::Discovery::File(_) => None,
    }
}

/// What tells endpoints apart, and orders them.
fn place(spec: &EndpointSpec) -> &Place {
    &spec.place
}

/// Names for a line of the log.
fn named(names: &[Arc<str>]) -> String {
    let mut text = names.iter().take(MAX_NAMED).map(|name| &**name).collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMED {
        text += &format!(" and {} more", names.len() - MAX_NAMED);
    }
    text
}

/// The pauses of a source between its questions.
pub(super) struct Pauses {
    failures: u32,
    dice: Dice,
}

impl Pauses {
    pub(super) fn new(upstream: &str) -> Self {
        Pauses { failures: 0, dice: Dice::new(RandomState::new().hash_one(upstream)) }
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The pause after a failure. It doubles with each one in a row.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(5)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.jittered(pause)
    }

    /// About this long: ±25 %, so that gateways that lost a server together don't come back to it at once.
    pub(super) fn jittered(&self, pause: Duration) -> Duration {
        let jitter = u32::try_from(self.dice.below(500)).unwrap_or_default();
        pause * (750 + jitter) / 1_000
    }
}
