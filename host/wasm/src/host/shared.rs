//! Limits and values: state that outlives an exchange, in the memory of the gateway or in a store that gateways share. In memory no call waits.
//! In a store each does, under the same names: how a plugin is linked follows from where its state is.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{AsContextMut, Result as Outcome, StoreContextMut};

use super::waiting::{self, Paused};
use super::{Interfaces, Waiting};
use crate::abi::define::{Answering, Define};
use crate::abi::{Bytes, GuestLimit, GuestPlace, Lift, List, Str};
use crate::bindings::{Error, concurrency, kv, limiter};
use crate::call::services::{Counters, Places, Spaces};
use crate::call::state::{CallState, Stage};
use crate::filter::{HookSet, Phase};
use sluice_services::kv::{KvSpace, Reservation};
use sluice_services::limiter::{Limit, MAX_LIMITS, Standing, Standings};
use sluice_services::places::{Entered, MAX_PLACES, Place, PlaceLimit};
use sluice_services::state::{ExactCounters, RemoteValues, SharedPlaces};

/// The most places that an exchange may hold.
const MAX_HELD: usize = 64;

/// Defines what does not wait.
pub(super) fn link(linker: &mut impl Interfaces, waiting: Waiting) -> Outcome<()> {
    if !waiting.limiter {
        let mut at = linker.interface("limiter")?;
        at.function::<(List<GuestLimit>, u64), _>("take", |state, (limits, cost)| Ok(state.take(&limits, cost)))?;
    }
    if !waiting.concurrency {
        let mut at = linker.interface("concurrency")?;
        at.function::<(List<GuestPlace>, List<GuestLimit>, u64), _>("enter", |state, (places, limits, cost)| {
            Ok(state.enter(&places, &limits, cost))
        })?;
    }
    if !waiting.kv {
        values(&mut linker.interface("kv")?)?;
    }
    Ok(())
}

fn values(at: &mut impl Define) -> Outcome<()> {
    at.function::<(Str, Str), _>("get", |state, (space, key)| Ok(state.kept(space, key)))?;
    at.function::<(Str, Str, Bytes, Option<u64>), _>("set", |state, (space, key, value, ttl_ms)| {
        Ok(state.space(space).and_then(|space| Ok(space.set(key, value, ttl_ms)?)))
    })?;
    at.function::<(Str, Str), _>("delete", |state, (space, key)| {
        Ok(state.space(space).and_then(|space| Ok(space.delete(key)?)))
    })?;
    at.function::<(Str, Str, Option<Bytes>, Bytes, Option<u64>), _>(
        "compare-and-swap",
        |state, (space, key, expected, value, ttl_ms)| {
            Ok(state.space(space).and_then(|space| Ok(space.compare_and_swap(key, expected, value, ttl_ms)?)))
        },
    )?;
    at.function::<(Str, Str, u64), _>("get-or-reserve", |state, (space, key, ttl_ms)| {
        Ok(state.reserve(space, key, ttl_ms))
    })
}

/// Defines what waits.
pub(super) fn link_waiting(linker: &mut impl Interfaces, waiting: Waiting) -> Outcome<()> {
    linker.interface("kv-wait")?.waiting::<(Str, Str, u32), _>("wait", |cx, (space, key, timeout_ms)| {
        Box::pin(wait(
            cx,
            move |state| Ok((state.any_space(&space)?, state.left_for_head())),
            move |(space, left)| async move {
                let timeout = Duration::from_millis(timeout_ms.into());
                let timeout = left.map_or(timeout, |left| timeout.min(left));
                Ok(match space {
                    AnySpace::Local(space) => space.settled(&key, timeout).await?.map(Vec::from),
                    AnySpace::Remote(space) => space.settled(&key, timeout).await?,
                })
            },
        ))
    })?;
    if waiting.limiter {
        let mut at = linker.interface("limiter")?;
        at.waiting::<(List<GuestLimit>, u64), _>("take", |cx, (limits, cost)| {
            Box::pin(wait(cx, CallState::exact, move |counters| async move {
                if limits.len() > MAX_LIMITS {
                    return Err(Error::TooLarge(MAX_LIMITS as u64));
                }
                let limits: Vec<Limit<'_>> = limits.iter().map(GuestLimit::of).collect();
                Ok(standings(counters.take(&limits, cost).await?))
            }))
        })?;
    }
    if waiting.concurrency {
        let mut at = linker.interface("concurrency")?;
        at.waiting::<(List<GuestPlace>, List<GuestLimit>, u64), _>("enter", |cx, (places, limits, cost)| {
            Box::pin(enter_shared(cx, places, limits, cost))
        })?;
    }
    if waiting.kv {
        remote_values(&mut linker.interface("kv")?)?;
    }
    Ok(())
}

fn remote_values(at: &mut impl Define) -> Outcome<()> {
    at.waiting::<(Str, Str), _>("get", |cx, (space, key)| {
        with_space(cx, space, move |space| async move { Ok(space.get(&key).await?) })
    })?;
    at.waiting::<(Str, Str, Bytes, Option<u64>), _>("set", |cx, (space, key, value, ttl_ms)| {
        with_space(cx, space, move |space| async move { Ok(space.set(&key, &value, ttl_ms).await?) })
    })?;
    at.waiting::<(Str, Str), _>("delete", |cx, (space, key)| {
        with_space(cx, space, move |space| async move { Ok(space.delete(&key).await?) })
    })?;
    at.waiting::<(Str, Str, Option<Bytes>, Bytes, Option<u64>), _>(
        "compare-and-swap",
        |cx, (space, key, expected, value, ttl_ms)| {
            with_space(cx, space, move |space| async move {
                Ok(space.compare_and_swap(&key, expected.as_deref(), &value, ttl_ms).await?)
            })
        },
    )?;
    at.waiting::<(Str, Str, u64), _>("get-or-reserve", |cx, (space, key, ttl_ms)| {
        with_space(cx, space, move |space| async move { Ok(reservation(space.get_or_reserve(&key, ttl_ms).await?)) })
    })
}

fn with_space<'a, R: Send + 'a, F>(
    cx: StoreContextMut<'a, CallState>,
    space: String,
    call: impl FnOnce(Arc<RemoteValues>) -> F + Send + 'a,
) -> Answering<'a, Result<R, Error>>
where
    F: Future<Output = Result<R, Error>> + Send + 'a,
{
    Box::pin(wait(cx, move |state| state.remote_space(&space), call))
}

/// Waits for the answer of a store, while the thread's clock runs for others. The store bounds the time.
async fn wait<T, R, F>(
    mut cx: StoreContextMut<'_, CallState>,
    find: impl FnOnce(&CallState) -> Result<T, Error>,
    call: impl FnOnce(T) -> F,
) -> Outcome<Result<R, Error>>
where
    F: Future<Output = Result<R, Error>>,
{
    let state = cx.data_mut();
    let Paused { meter, left } = waiting::pause(state)?;
    let found = find(state);
    let answer = match found {
        Ok(found) => tokio::time::timeout(left, call(found)).await.unwrap_or(Err(Error::Timeout)),
        Err(refused) => {
            // Also a call that is refused lets the worker go on, and look at the wall deadline.
            tokio::task::yield_now().await;
            Err(refused)
        }
    };
    waiting::resume(&mut cx, &meter);
    Ok(answer)
}

async fn enter_shared(
    mut cx: StoreContextMut<'_, CallState>,
    places: Vec<concurrency::PlaceLimit>,
    limits: Vec<limiter::Limit>,
    cost: u64,
) -> Outcome<Result<concurrency::Admission, Error>> {
    let find = |state: &CallState| {
        state.check_places(places.len(), limits.len())?;
        state.shared_places()
    };
    let limits: Vec<Limit<'_>> = limits.iter().map(GuestLimit::of).collect();
    let wanted: Vec<PlaceLimit<'_>> = places.iter().map(GuestPlace::of).collect();
    let (wanted, limits) = (&*wanted, &*limits);
    let found = wait(cx.as_context_mut(), find, move |(places, counters)| async move {
        let counters = counters.as_deref();
        Ok((places.enter(wanted, counters, limits, cost).await?, counters.is_some()))
    })
    .await?;
    let state = cx.data_mut();
    let answer = found.and_then(|((entered, decided), with_limits)| {
        // Limits that are not the store's are asked when there is a place.
        let decided = match &entered {
            Ok(_) if !with_limits && !limits.is_empty() => state.taken(limits, cost)?,
            _ => standings(decided),
        };
        state.admitted(entered, decided)
    });
    Ok(answer)
}

/// A space, wherever it is.
enum AnySpace {
    Local(Arc<KvSpace>),
    Remote(Arc<RemoteValues>),
}

impl CallState {
    fn any_space(&self, name: &str) -> Result<AnySpace, Error> {
        let services = self.services()?;
        self.shared.grants.services.check_kv(name)?;
        match &services.spaces {
            Spaces::Local(spaces) => spaces.get(name).cloned().map(AnySpace::Local).ok_or_else(|| no_space(name)),
            Spaces::Remote(spaces) => spaces.get(name).cloned().map(AnySpace::Remote).ok_or_else(|| no_space(name)),
        }
    }

    /// Refuses a call for more places than may be asked for, and outside of the hooks of a request or response.
    fn check_places(&self, places: usize, limits: usize) -> Result<(), Error> {
        let exchange = self.exchange(HookSet::CONTEXT_WRITES)?;
        if places > MAX_PLACES || limits > MAX_LIMITS {
            return Err(Error::TooLarge(MAX_PLACES.min(MAX_LIMITS) as u64));
        }
        if exchange.places.len() + places > MAX_HELD {
            return Err(Error::TooLarge(MAX_HELD as u64));
        }
        Ok(())
    }

    fn enter(
        &mut self,
        places: &[PlaceLimit<'_>],
        limits: &[Limit<'_>],
        cost: u64,
    ) -> Result<concurrency::Admission, Error> {
        self.check_places(places.len(), limits.len())?;
        let entered = match &self.services()?.places {
            Places::Local(space) => space.enter(places)?,
            Places::Shared(_) => return Err(elsewhere()),
        };
        let standings = if entered.is_ok() { self.taken(limits, cost)? } else { Vec::new() };
        self.admitted(entered, standings)
    }

    /// Takes from limits that are not the store's.
    fn taken(&self, limits: &[Limit<'_>], cost: u64) -> Result<Vec<limiter::Standing>, Error> {
        if limits.is_empty() { Ok(Vec::new()) } else { self.take(limits, cost) }
    }

    /// The exchange holds the places until its end, unless a limit refuses it.
    fn admitted(
        &mut self,
        entered: Entered,
        standings: Vec<limiter::Standing>,
    ) -> Result<concurrency::Admission, Error> {
        let full = match entered {
            Err(index) => u32::try_from(index).ok(),
            Ok(places) => {
                if standings.iter().all(|standing| standing.allowed) {
                    self.keep(places.iter().map(Place::bytes).sum())?;
                    self.exchange_mut(HookSet::CONTEXT_WRITES)?.places.extend(places);
                }
                None
            }
        };
        Ok(concurrency::Admission { full, standings })
    }

    fn shared_places(&self) -> Result<(Arc<SharedPlaces>, Option<Arc<ExactCounters>>), Error> {
        let services = self.services()?;
        let counters = match &services.counters {
            Counters::Exact(counters) => Some(counters.clone()),
            Counters::Local(_) | Counters::Leased(_) => None,
        };
        match &services.places {
            Places::Shared(places) => Ok((places.clone(), counters)),
            Places::Local(_) => Err(elsewhere()),
        }
    }

    fn take(&self, limits: &[Limit<'_>], cost: u64) -> Result<Vec<limiter::Standing>, Error> {
        let services = self.services()?;
        if limits.len() > MAX_LIMITS {
            return Err(Error::TooLarge(MAX_LIMITS as u64));
        }
        match &services.counters {
            Counters::Local(counters) => Ok(standings(counters.take(limits, cost)?)),
            // What a response has cost is used already.
            Counters::Leased(counters) if self.is_after_request() => Ok(standings(counters.take_used(limits, cost)?)),
            Counters::Leased(counters) => Ok(standings(counters.take(limits, cost)?)),
            Counters::Exact(_) => Err(elsewhere()),
        }
    }

    /// Whether there is a response, or the exchange is over.
    fn is_after_request(&self) -> bool {
        match self.stage {
            Stage::Hook(hook) => match hook.phase() {
                Phase::RequestHead | Phase::RequestBody | Phase::Selection | Phase::RequestPiece => false,
                Phase::ResponseHead
                | Phase::ResponseBody
                | Phase::ResponsePiece
                | Phase::ResponseEvent
                | Phase::ResponseTrailers
                | Phase::Completion => true,
            },
            Stage::Start | Stage::Describe | Stage::Configure => false,
        }
    }

    fn exact(&self) -> Result<Arc<ExactCounters>, Error> {
        match &self.services()?.counters {
            Counters::Exact(counters) => Ok(counters.clone()),
            Counters::Local(_) | Counters::Leased(_) => Err(elsewhere()),
        }
    }

    fn space(&self, name: &str) -> Result<&KvSpace, Error> {
        let services = self.services()?;
        self.shared.grants.services.check_kv(name)?;
        match &services.spaces {
            Spaces::Local(spaces) => spaces.get(name).map(Arc::as_ref).ok_or_else(|| no_space(name)),
            Spaces::Remote(_) => Err(elsewhere()),
        }
    }

    fn remote_space(&self, name: &str) -> Result<Arc<RemoteValues>, Error> {
        let services = self.services()?;
        self.shared.grants.services.check_kv(name)?;
        match &services.spaces {
            Spaces::Remote(spaces) => spaces.get(name).cloned().ok_or_else(|| no_space(name)),
            Spaces::Local(_) => Err(elsewhere()),
        }
    }

    fn kept(&self, space: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.space(space)?.get(key)?.map(Vec::from))
    }

    fn reserve(&self, space: &str, key: &str, ttl_ms: u64) -> Result<kv::Reservation, Error> {
        Ok(reservation(self.space(space)?.get_or_reserve(key, ttl_ms)?))
    }
}

fn no_space(name: &str) -> Error {
    Error::Unavailable(format!("no space `{name}`"))
}

/// A plugin is linked for where its state is, so no guest gets this.
fn elsewhere() -> Error {
    Error::Other("the plugin is linked for another place of its state".into())
}

fn reservation(found: Reservation) -> kv::Reservation {
    match found {
        Reservation::Found(value) => kv::Reservation::Found(value.into()),
        Reservation::Reserved => kv::Reservation::Reserved,
        Reservation::Pending => kv::Reservation::Pending,
    }
}

fn standings(standings: Standings) -> Vec<limiter::Standing> {
    let to_guest = |standing: Standing| limiter::Standing {
        allowed: standing.allowed,
        remaining: standing.remaining,
        reset_ms: standing.reset_ms,
        retry_after_ms: standing.retry_after_ms,
    };
    standings.into_iter().map(to_guest).collect()
}
