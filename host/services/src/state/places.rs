//! Limits of requests at the same time that gateways share. A place is a member of a sorted set of its key, with the time at which it ends. As
//! long as a request holds it, a task of its gateway puts that time off; a gateway that is killed does not, so its places are free after
//! [`LEASE`]. Each place has a name of its own, so a command that is made twice does no harm.
//!
//! A gateway counts the places of its own requests itself as well: while the store is away, that is what `local` decides by, and when it is
//! back, the task says again what is held.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::exact::{Ask, Decision, ExactCounters, Keys, decide};
use super::link::Link;
use super::script::Script;
use super::store::CallError;
use super::{Away, Store};
use crate::ServiceError;
use crate::limiter::{self, Limit, Standing, Standings};
use crate::places::{self, Entered, Place, PlaceLimit, PlaceSpace};

/// How long a place is taken after its gateway was heard of last.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often a gateway says that its places are still held.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// What is given back within this time is told in one call.
const PAUSE: Duration = Duration::from_millis(1);
/// Between two attempts, while the store has a connection and does not answer as it should.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Places in one call.
const AT_ONCE: usize = 256;
/// Places that wait to be given back. What is more is free after [`LEASE`].
const MOST_LEFT: usize = 1 << 16;

/// KEYS: a set for each place. ARGV: milliseconds to hold them from now on, or 0 to give them back; then the names of the places. A key that
/// something else has is passed over: it must not keep the others from being told. Of any other error nothing says that it is the key's.
static HOLD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lease = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local said
  if lease == 0 then
    said = redis.pcall('ZREM', key, ARGV[i + 1])
  else
    said = redis.pcall('ZADD', key, now + lease, ARGV[i + 1])
  end
  if type(said) ~= 'table' or not said.err then
    if lease > 0 then redis.call('PEXPIRE', key, lease) end
  elseif not string.find(said.err, 'WRONGTYPE', 1, true) then
    return said
  end
end
return #KEYS",
    )
});

/// The places of one plugin in a store.
pub struct SharedPlaces {
    store: Arc<Store>,
    keys: Keys,
    local: Arc<PlaceSpace>,
    ledger: Arc<Ledger>,
}

/// A place in a store. Dropping it gives it back, behind the request.
pub(crate) struct SharedPlace {
    ledger: Arc<Ledger>,
    number: u64,
}

/// What requests and the task have in common.
pub(super) struct Ledger {
    store: Arc<Store>,
    /// The beginning of the names of this gateway's places.
    holder: Box<str>,
    next: AtomicU64,
    held: Mutex<Held>,
    /// Something is to be given back.
    wake: Notify,
    all_left: Condvar,
}

#[derive(Default)]
struct Held {
    /// The key of each place that is held, by its number.
    places: HashMap<u64, Arc<str>>,
    /// Those to give back.
    left: Vec<(u64, Arc<str>)>,
    /// Those that are being given back.
    in_hand: usize,
}

/// What the script is asked for beside its limits.
pub(super) struct Asked {
    pub(super) places: SmallVec<[AskedPlace; 2]>,
}

pub(super) struct AskedPlace {
    /// The name of its set.
    pub(super) name: Arc<str>,
    pub(super) amount: u32,
    number: u64,
    pub(super) member: String,
}

/// What becomes of a call: its places, and how its limits stand.
pub type Admission = (Entered, Standings);

impl SharedPlaces {
    pub(super) fn new(store: Arc<Store>, plugin: &str, local: Arc<PlaceSpace>) -> SharedPlaces {
        let mut holder = String::new();
        for byte in crate::random::bytes_32().iter().take(12) {
            let _ = write!(holder, "{byte:02x}");
        }
        let ledger = Arc::new(Ledger {
            store: store.clone(),
            holder: holder.into(),
            next: AtomicU64::new(0),
            held: Mutex::default(),
            wake: Notify::new(),
            all_left: Condvar::new(),
        });
        SharedPlaces { keys: Keys::new(&store, plugin), store, local, ledger }
    }

    /// Takes a place of each of `places`, and `cost` from every limit; or nothing, if one would not allow it. `counters` are those of the limits,
    /// where these are in the store as well: then all is decided in one call. While the store is away, what the operator has chosen.
    pub async fn enter(
        &self,
        places: &[PlaceLimit<'_>],
        counters: Option<&ExactCounters>,
        limits: &[Limit<'_>],
        cost: u64,
    ) -> Result<Admission, ServiceError> {
        places::check_all(places)?;
        limiter::check_all(limits)?;
        if places.is_empty() {
            let standings = match counters {
                Some(counters) => counters.take(limits, cost).await?,
                None => Standings::new(),
            };
            return Ok((Ok(SmallVec::new()), standings));
        }
        let limits = if counters.is_some() { limits } else { &[] };
        let asked = self.asked(places);
        // Until there is an answer. Its client may leave before.
        let mut unanswered = Unanswered { ledger: &self.ledger, asked: &asked, may_be_taken: true };
        let decided = decide(&self.store, &self.keys, limits, cost, Ask::Before, &asked.places).await;
        unanswered.may_be_taken = match &decided {
            Ok(_) => false,
            Err(why) => !matches!(why, CallError::Away | CallError::Busy(_) | CallError::NoScript),
        };
        drop(unanswered);
        match decided {
            Ok(Decision { full: Some(index), .. }) => Ok((Err(index), Standings::new())),
            Ok(decision) => {
                let standings = decision.standings(limits, cost);
                if !decision.all {
                    return Ok((Ok(SmallVec::new()), standings));
                }
                let counted = places.iter().filter_map(|place| self.local.take(place.key, u32::MAX));
                Ok((Ok(self.held(counted, &asked)), standings))
            }
            Err(why) => match self.store.spec().away {
                Away::Local => self.enter_here(places, counters, limits, cost),
                Away::Open => {
                    Ok((Ok(SmallVec::new()), limits.iter().map(|limit| Standing::untouched(limit)).collect()))
                }
                Away::Closed => Err(ServiceError::Unavailable(format!("state `{}`: {why}", self.store.spec().name))),
            },
        }
    }

    /// Decides by this gateway's own requests. The store hears of them when it is back.
    fn enter_here(
        &self,
        places: &[PlaceLimit<'_>],
        counters: Option<&ExactCounters>,
        limits: &[Limit<'_>],
        cost: u64,
    ) -> Result<Admission, ServiceError> {
        let counted = match self.local.enter(places)? {
            Ok(counted) => counted,
            Err(full) => return Ok((Err(full), Standings::new())),
        };
        let standings = match counters {
            Some(counters) => counters.take_here(limits, cost)?,
            None => Standings::new(),
        };
        if !standings.iter().all(|standing| standing.allowed) {
            return Ok((Ok(SmallVec::new()), standings));
        }
        // By names of their own: those of the call may be on their way.
        Ok((Ok(self.held(counted.into_iter(), &self.asked(places))), standings))
    }

    fn asked(&self, places: &[PlaceLimit<'_>]) -> Asked {
        let asked = |place: &PlaceLimit<'_>| {
            let number = self.ledger.next.fetch_add(1, Ordering::Relaxed);
            let (name, member) = (self.keys.place(place.key).into(), self.ledger.member(number));
            AskedPlace { name, amount: place.amount, number, member }
        };
        Asked { places: places.iter().map(asked).collect() }
    }

    fn held(&self, counted: impl Iterator<Item = Place>, asked: &Asked) -> SmallVec<[Place; 1]> {
        let shared = counted.zip(&asked.places).map(|(mut place, asked)| {
            place.share(self.ledger.hold(asked.number, &asked.name));
            place
        });
        shared.collect()
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

/// Places that were asked for. Without an answer the store may have given them all the same, and nobody holds them.
struct Unanswered<'a> {
    ledger: &'a Ledger,
    asked: &'a Asked,
    may_be_taken: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.may_be_taken {
            self.asked.places.iter().for_each(|place| self.ledger.give_back(place.number, &place.name));
        }
    }
}

impl Drop for SharedPlaces {
    fn drop(&mut self) {
        // The task ends soon after.
        self.ledger.wake.notify_one();
    }
}

impl Drop for SharedPlace {
    fn drop(&mut self) {
        let mut held = self.ledger.lock();
        if let Some(name) = held.places.remove(&self.number) {
            self.ledger.put(&mut held, self.number, name);
        }
    }
}

impl Ledger {
    fn hold(self: &Arc<Self>, number: u64, name: &Arc<str>) -> SharedPlace {
        self.lock().places.insert(number, name.clone());
        SharedPlace { ledger: Arc::clone(self), number }
    }

    /// A place that nobody holds is to be free in the store, too.
    fn give_back(&self, number: u64, name: &Arc<str>) {
        self.put(&mut self.lock(), number, name.clone());
    }

    fn put(&self, held: &mut Held, number: u64, name: Arc<str>) {
        if held.left.len() < MOST_LEFT {
            held.left.push((number, name));
            self.wake.notify_one();
        }
    }

    /// Tells the store what is held and what is given back, until nobody has this any more and it knows all of it.
    pub(super) async fn report(self: Arc<Self>) {
        let mut renewals = interval(RENEW_EVERY);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_renewal = tokio::select! {
                () = self.wake.notified() => false,
                _ = renewals.tick() => true,
            };
            if !is_renewal {
                sleep(PAUSE).await;
            }
            // What is given back first: it must not be held again by what comes after.
            let answered = self.tell_left().await && (!is_renewal || self.tell_held().await);
            if Arc::strong_count(&self) == 1 && (!answered || self.unreported() == 0) {
                return;
            }
            if !answered {
                // When the store is back, it may have forgotten all, and it has not heard of what was decided here.
                let link = Link::here(&self.store);
                let back = async { tokio::join!(link.until_up(), sleep(RETRY_AFTER)) };
                if tokio::time::timeout(RENEW_EVERY, back).await.is_ok() {
                    renewals.reset_immediately();
                }
                self.wake.notify_one();
            }
        }
    }

    async fn tell_left(&self) -> bool {
        loop {
            let due: Vec<(u64, Arc<str>)> = {
                let mut held = self.lock();
                let many = held.left.len().min(AT_ONCE);
                held.in_hand = many;
                held.left.drain(..many).collect()
            };
            if due.is_empty() {
                self.all_left.notify_all();
                return true;
            }
            let is_told = self.tell(&due, 0).await;
            let mut held = self.lock();
            held.in_hand = 0;
            if !is_told {
                let room = MOST_LEFT.saturating_sub(held.left.len());
                held.left.extend(due.into_iter().take(room));
                return false;
            }
        }
    }

    async fn tell_held(&self) -> bool {
        let held: Vec<(u64, Arc<str>)> =
            self.lock().places.iter().map(|(number, name)| (*number, name.clone())).collect();
        for some in held.chunks(AT_ONCE) {
            // Those that were given back meanwhile would be taken until the end of their lease.
            let some: Vec<_> = {
                let held = self.lock();
                some.iter().filter(|(number, _)| held.places.contains_key(number)).cloned().collect()
            };
            if !some.is_empty() && !self.tell(&some, LEASE.as_millis()).await {
                return false;
            }
        }
        true
    }

    /// Whether the store has done it. What it refuses for reasons of its own, such as a full memory, is told again.
    async fn tell(&self, places: &[(u64, Arc<str>)], lease_ms: u128) -> bool {
        let keys: Vec<&str> = places.iter().map(|(_, name)| &**name).collect();
        let arguments: Vec<String> = std::iter::once(lease_ms.to_string())
            .chain(places.iter().map(|(number, _)| self.member(*number)))
            .collect();
        HOLD.run(&self.store, true, &keys, &arguments).await.is_ok()
    }

    fn member(&self, number: u64) -> String {
        format!("{}:{number:x}", self.holder)
    }

    /// Places that the store is to hear of.
    pub(super) fn unreported(&self) -> usize {
        let held = self.lock();
        held.left.len() + held.in_hand
    }

    /// Waits until the store has heard of all places that were given back, at most until then.
    pub(super) fn flush(&self, until: std::time::Instant) {
        let most = until.saturating_duration_since(std::time::Instant::now());
        let is_told = |held: &mut Held| !held.left.is_empty() || held.in_hand > 0;
        let waited = self.all_left.wait_timeout_while(self.lock(), most, is_told);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
