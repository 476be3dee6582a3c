//! The instances of one filter on one worker: so many at once, a queue behind them, and every call accounted.

mod demand;
pub(crate) mod image;
pub(crate) mod instance;
mod make;
mod pace;
pub(crate) mod plugin;
pub(crate) mod program;
mod restore;
mod risk;
#[cfg(test)]
mod tests;
mod warm;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::call::state::HostResources;
use crate::exchange::Exchange;
use crate::filter::stats::{Counters, Unread, UnreadReason};
use crate::filter::{FilterError, Hook, Mode, Verdict};
use crate::pool::demand::{Demand, MIN_IDLE};
use crate::pool::image::Image;
use crate::pool::instance::{Instance, body_len};
use crate::pool::make::within;
use crate::pool::pace::Pace;
use crate::pool::program::Program;
use crate::pool::risk::AtRisk;

/// An instance whose memory has grown by more than this since it was configured is large: what a guest has once needed for a body stays
/// resident. Outside of calls, there are only as many large ones as idle instances are always kept.
const LARGE: usize = 4 << 20;

/// The exchange after a call, and how the call ended.
pub type Called = (Box<Exchange>, Result<Verdict, FilterError>);

/// The instances of one filter on one worker. All calls have to be awaited on that worker.
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    program: Arc<Program>,
    /// Ready instances; the one used last is used next, its memory being warm.
    #[expect(clippy::vec_box, reason = "an instance is large and moves in and out of its call as a box")]
    idle: RefCell<Vec<Box<Instance>>>,
    in_use: Cell<usize>,
    /// Calls that have to wait until they may start an instance, and what tells them that one is idle.
    starved: Cell<usize>,
    came_idle: Notify,
    /// An instance without an image is being made.
    is_making: Cell<bool>,
    /// How many idle instances are kept ready beside those that are in use, and whether a task makes them.
    warm: usize,
    is_replenishing: Cell<bool>,
    demand: Demand,
    pace: Cell<Pace>,
    waiting: RefCell<VecDeque<oneshot::Sender<Permit>>>,
    /// Of instances of an image that could not be restored.
    #[expect(clippy::vec_box, reason = "it moves in and out of its instance as a box")]
    resources: RefCell<Vec<Box<HostResources>>>,
    counters: Arc<Counters>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.program.account.close(&self.counters);
    }
}

impl Inner {
    /// Instances that are called or wait for the next hook of their exchange, beside the idle ones.
    fn busy(&self, idle: usize) -> usize {
        (self.counters.instances() as usize).saturating_sub(idle)
    }

    /// Makes an instance ready for the next call. Answers one that is not needed any more: the one that was used longest ago.
    fn put_back(&self, instance: Box<Instance>, now: Instant) -> Option<Box<Instance>> {
        let mut idle = self.idle.borrow_mut();
        let keep = self.demand.keep(self.busy(idle.len()), self.warm, now);
        if is_large(&instance) {
            let others = idle.iter().filter(|other| is_large(other)).count();
            if others >= MIN_IDLE {
                return Some(instance);
            }
        }
        idle.push(instance);
        if self.starved.get() > 0 {
            self.came_idle.notify_one();
        }
        (idle.len() > keep).then(|| idle.remove(0))
    }
}

fn is_large(instance: &Instance) -> bool {
    instance.grown() > LARGE
}

/// The right to use one instance. Passed on to the first who waits, or given back.
struct Permit(Option<Rc<Inner>>);

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(inner) = self.0.take() else { return };
        loop {
            let next = inner.waiting.borrow_mut().pop_front();
            let Some(waiter) = next else { break };
            match waiter.send(Permit(Some(inner.clone()))) {
                Ok(()) => return,
                // That one has given up. Its permit must not come here again.
                Err(mut permit) => drop(permit.0.take()),
            }
        }
        inner.in_use.set(inner.in_use.get() - 1);
    }
}

impl Pool {
    /// A pool with the instance that was made at load for it, if any were; others are made when they are first needed.
    pub fn new(program: Arc<Program>) -> Pool {
        let counters = program.account.open();
        let pool = Pool {
            inner: Rc::new(Inner {
                warm: program.spares.warm(),
                program,
                idle: RefCell::default(),
                in_use: Cell::new(0),
                starved: Cell::new(0),
                came_idle: Notify::new(),
                is_making: Cell::new(false),
                is_replenishing: Cell::new(false),
                demand: Demand::new(Instant::now()),
                pace: Cell::new(Pace::new(Instant::now())),
                waiting: RefCell::default(),
                resources: RefCell::default(),
                counters,
            }),
        };
        pool.take_spare();
        pool
    }

    /// Calls a hook for an exchange, in which the filter has position `index`. The exchange comes back as the call left it: the
    /// journal says how to take the edits back. Select-upstream, trailers and complete answer `Continue`.
    pub async fn call(&self, hook: Hook, exchange: Box<Exchange>, index: usize) -> Called {
        match self.call_now(hook, exchange, index, &mut None) {
            Ok(called) => called,
            Err(exchange) => self.call_in_turn(hook, exchange, index, std::future::ready(())).await,
        }
    }

    /// The usual call, without a future: on an instance that waits for this exchange, an idle one or one of an image, on this thread
    /// until it is over. Gives the exchange back when the filter is called on a fiber, or no such instance is free. `now` is the time,
    /// where it is known; the call leaves that of its end.
    pub fn call_now(
        &self,
        hook: Hook,
        mut exchange: Box<Exchange>,
        index: usize,
        now: &mut Option<Instant>,
    ) -> Result<Called, Box<Exchange>> {
        let inner = &self.inner;
        // Nobody else on this thread can ask for an instance before the end of this call: it needs no permit.
        if self.on_fiber() || inner.in_use.get() >= inner.program.shared.limits.max_instances {
            return Err(exchange);
        }
        let started = now.unwrap_or_else(Instant::now);
        let mut instance = match self.ready(&mut exchange, index).map(Ok).or_else(|| self.start_now()) {
            Some(Ok(instance)) => instance,
            None => return Err(exchange),
            Some(Err(error)) => {
                let wall = now.insert(Instant::now()).saturating_duration_since(started);
                inner.counters.called(hook, wall, wall, Some(&error));
                return Ok((exchange, Err(error)));
            }
        };
        let result = instance.call(hook, exchange, index);
        let mut exchange = instance.take_exchange().expect("host functions only borrow the exchange");
        let ended = *now.insert(Instant::now());
        let wall = ended.saturating_duration_since(started);
        let of = (&mut *exchange, index);
        self.conclude(hook, of, instance, &result, (wall, wall), ended);
        self.replenish();
        Ok((exchange, result))
    }

    /// A sandbox of the exchange's own, or an idle one.
    #[inline]
    fn ready(&self, exchange: &mut Exchange, index: usize) -> Option<Box<Instance>> {
        if exchange.sandboxes.is_empty() {
            return self.inner.idle.borrow_mut().pop();
        }
        self.ready_of(exchange, index)
    }

    /// The same where the exchange has sandboxes.
    fn ready_of(&self, exchange: &mut Exchange, index: usize) -> Option<Box<Instance>> {
        let Some(at) = exchange.sandboxes.iter().position(|(filter, _)| *filter == index) else {
            return self.inner.idle.borrow_mut().pop();
        };
        let mut instance = exchange.sandboxes.swap_remove(at).1.downcast::<Instance>().ok()?;
        instance.waiting = None;
        Some(instance)
    }

    /// Ends a call: counts it, and makes the instance ready for the next one, or for the next one of the same exchange, or drops it. Given
    /// are the call's time on the worker and in all, and the time.
    fn conclude(
        &self,
        hook: Hook,
        (exchange, index): (&mut Exchange, usize),
        mut instance: Box<Instance>,
        result: &Result<Verdict, FilterError>,
        (cpu, wall): (Duration, Duration),
        now: Instant,
    ) {
        let inner = &self.inner;
        let shared = &inner.program.shared;
        inner.counters.called(hook, cpu, wall, result.as_ref().err());
        inner.counters.memory(instance.store.data().memory.bytes);
        let ended_well =
            matches!(result, Ok(_) | Err(FilterError::Declared(_) | FilterError::OutOfMemory { declared: Some(_) }));
        if !ended_well {
            self.lose();
            return self.let_go(instance);
        }
        // Upstreams may be slow, and there may be as many that wait for them as are called.
        let may_stay = shared.mode == Mode::Fresh && matches!(result, Ok(Verdict::Continue)) && !is_large(&instance);
        if may_stay && self.stays(hook, exchange, index) {
            instance.waiting = inner.program.plugin.runtime.waiting.take();
            if instance.waiting.is_some() {
                return exchange.sandboxes.push((index, instance));
            }
        }
        self.reuse(instance, now);
    }

    /// Takes back an instance that waited for a hook that does not come.
    pub fn take_back(&self, sandbox: Box<dyn Any + Send>) {
        if let Ok(mut instance) = sandbox.downcast::<Instance>() {
            instance.waiting = None;
            self.reuse(instance, Instant::now());
            self.replenish();
        }
    }

    /// Makes an instance whose calls have ended well ready for the next call, or the next exchange, or drops it.
    fn reuse(&self, mut instance: Box<Instance>, now: Instant) {
        let inner = &self.inner;
        let is_ready = instance.uses < self.most_uses()
            && match inner.program.shared.mode {
                Mode::Reused => true,
                Mode::Fresh => self.restore(&mut instance),
            };
        if is_ready { drop(inner.put_back(instance, now)) } else { self.let_go(instance) }
    }

    /// After how many calls an instance is dropped. Where one is made ahead to follow it and is not ready, since the machine is busy, up to twice as many: nobody
    /// is to wait for what the instance in hand can do. One that is for a single call serves no second one.
    fn most_uses(&self) -> u64 {
        let inner = &self.inner;
        let uses = inner.program.shared.limits.uses;
        if inner.warm > 0 && inner.idle.borrow().is_empty() { uses.saturating_mul(2).saturating_sub(1) } else { uses }
    }

    fn restore(&self, instance: &mut Instance) -> bool {
        let program = &self.inner.program;
        let Some(image) = &program.image else { return false };
        if instance.kept.is_none() {
            instance.kept = program.plugin.runtime.kept.take();
        }
        instance.kept.is_some() && image.restore(instance)
    }

    /// Drops an instance.
    fn let_go(&self, instance: Box<Instance>) {
        let inner = &self.inner;
        let mut resources = inner.resources.borrow_mut();
        if inner.program.image.is_some() && resources.len() < inner.program.shared.limits.max_instances {
            resources.push(instance.into_resources());
        }
    }

    /// Whether a fresh instance waits for the next hook of its exchange. Not where too many do already, since upstreams may be slow: then
    /// the next hook gets another one.
    fn stays(&self, after: Hook, exchange: &Exchange, index: usize) -> bool {
        let inner = &self.inner;
        inner.busy(inner.idle.borrow().len()) <= inner.program.shared.limits.max_instances
            && inner.program.is_called_behind(after, exchange, index)
    }

    /// Calls a hook when it is its turn, on a fresh instance if none is idle, and on a fiber if the filter may wait. `turn` is that of its
    /// body. It is waited for when the filter has room for the call, so that a busy filter holds no turns of others. And it is waited for
    /// before there is an instance: instances that wait would take the memory that turns are there to bound.
    pub async fn call_in_turn<T>(
        &self,
        hook: Hook,
        mut exchange: Box<Exchange>,
        index: usize,
        turn: impl Future<Output = T>,
    ) -> Called {
        let inner = &self.inner;
        let limits = &inner.program.shared.limits;
        let started = Instant::now();
        let allowed = limits.wall.saturating_add(limits.time_for_body(body_len(hook, &exchange)));
        let end = started.checked_add(allowed).unwrap_or(started + limits.wall);
        let refused = |error: FilterError| {
            inner.counters.called(hook, Duration::ZERO, started.elapsed(), Some(&error));
            Err(error)
        };
        let permit = match self.admit(end, allowed).await {
            Ok(permit) => permit,
            Err(error) => return (exchange, refused(error)),
        };
        let Ok(turn) = tokio::time::timeout_at(end.into(), turn).await else {
            return (exchange, refused(FilterError::NoTurn(allowed)));
        };
        let mut instance = match self.ready(&mut exchange, index) {
            Some(instance) => instance,
            // Rare and large parts are boxed: the future of a request is moved when it is made, and this one is in it.
            None => match Box::pin(self.start_within(end, allowed)).await {
                Ok(instance) => instance,
                Err(error) => return (exchange, refused(error)),
            },
        };
        self.replenish();
        // From here on the instance is out of the pool: it goes back only if the call ends well.
        let risk = AtRisk::new(self, None, self.is_reused());
        instance.store.data_mut().wall_end = Some(end);
        let (result, cpu) = if self.on_fiber() {
            let result = within(end, &risk.busy, Box::pin(instance.call_on_fiber(hook, exchange, index))).await;
            (result.unwrap_or(Err(FilterError::Timeout(allowed))), Some(risk.busy.get()))
        } else {
            (instance.call(hook, exchange, index), None)
        };
        risk.survives();
        let mut exchange = instance.take_exchange().expect("host functions only borrow the exchange");
        let wall = started.elapsed();
        let took = (cpu.unwrap_or(wall), wall);
        self.conclude(hook, (&mut exchange, index), instance, &result, took, started + wall);
        self.replenish();
        drop(turn);
        drop(permit);
        (exchange, result)
    }

    /// The filter of this pool.
    pub fn program(&self) -> &Arc<Program> {
        &self.inner.program
    }

    /// Counts a body that the filter asked for and did not get.
    pub fn count_unread_body(&self, what: Unread, reason: UnreadReason) {
        self.inner.counters.unread_body(what, reason);
    }

    fn on_fiber(&self) -> bool {
        self.inner.program.shared.on_fiber.load(Ordering::Relaxed)
    }

    async fn admit(&self, end: Instant, allowed: Duration) -> Result<Permit, FilterError> {
        let inner = &self.inner;
        let limits = &inner.program.shared.limits;
        if inner.in_use.get() < limits.max_instances {
            inner.in_use.set(inner.in_use.get() + 1);
            return Ok(Permit(Some(inner.clone())));
        }
        let permit = {
            let mut waiting = inner.waiting.borrow_mut();
            if waiting.len() >= limits.queue {
                waiting.retain(|waiter| !waiter.is_closed());
            }
            if waiting.len() >= limits.queue {
                return Err(FilterError::Busy { instances: limits.max_instances, queue: limits.queue });
            }
            let (sender, permit) = oneshot::channel();
            waiting.push_back(sender);
            permit
        };
        match tokio::time::timeout_at(end.into(), permit).await {
            Ok(Ok(permit)) => Ok(permit),
            // The senders live as long as the pool, which `self` keeps.
            Ok(Err(_)) | Err(_) => Err(FilterError::NoTurn(allowed)),
        }
    }

    /// Whether calls that end well leave their instances to others. Where they do not, an exchange needs a new one in any case.
    fn is_reused(&self) -> bool {
        self.inner.program.shared.mode == Mode::Reused
    }

    /// An instance has failed, or could not be made.
    fn lose(&self) {
        // No code of the guest runs to make one of an image.
        if self.inner.program.image.is_none() {
            self.pace(|pace| pace.lose(Instant::now()));
        }
    }

    fn pace<T>(&self, change: impl FnOnce(&mut Pace) -> T) -> T {
        let mut pace = self.inner.pace.get();
        let changed = change(&mut pace);
        self.inner.pace.set(pace);
        changed
    }

    fn resources(&self, image: &Image) -> Box<HostResources> {
        self.inner.resources.borrow_mut().pop().unwrap_or_else(|| image.resources())
    }
}
