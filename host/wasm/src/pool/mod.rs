//! The instances of one filter on one worker: so many at once, a queue behind them, and every call accounted.

pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod plugin;
pub(crate) mod program;
mod restore;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::call::state::HostResources;
use crate::exchange::Exchange;
use crate::filter::stats::{Counters, Live, Unread, UnreadReason};
use crate::filter::{FilterError, Hook, Mode, Verdict};
use crate::pool::image::Image;
use crate::pool::instance::{Instance, body_len};
use crate::pool::program::Program;

/// Idle instances that are always kept.
const MIN_IDLE: usize = 4;
/// An instance with more memory than this is large. As many large ones are kept idle as idle instances are always kept: what a guest has
/// once needed for a body stays resident.
const LARGE: usize = 4 << 20;
/// An instance that was not needed for one to two of these is dropped, one at each call.
const DEMAND_PERIOD: Duration = Duration::from_secs(10);

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
    demand: Cell<Demand>,
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
        let mut demand = self.demand.get();
        let keep = demand.keep(self.busy(idle.len()), now);
        self.demand.set(demand);
        let is_large = |instance: &Instance| instance.store.data().memory.bytes > LARGE;
        if is_large(&instance) && idle.iter().filter(|other| is_large(other)).count() >= MIN_IDLE {
            return Some(instance);
        }
        idle.push(instance);
        (idle.len() > keep).then(|| idle.remove(0))
    }
}

/// How many instances were in use or waited for their exchange at once, in this period and the one before it.
#[derive(Debug, Clone, Copy)]
struct Demand {
    /// The end of this period.
    until: Instant,
    most: usize,
    most_before: usize,
}

impl Demand {
    fn new(now: Instant) -> Demand {
        Demand { until: now + DEMAND_PERIOD, most: 0, most_before: 0 }
    }

    /// How many idle instances are worth their memory, when so many are in use.
    fn keep(&mut self, in_use: usize, now: Instant) -> usize {
        if now >= self.until {
            *self = Demand { most_before: self.most, ..Demand::new(now) };
        }
        self.most = self.most.max(in_use);
        self.most.max(self.most_before).max(MIN_IDLE)
    }
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
    /// An empty pool: instances are made when they are first needed.
    pub fn new(program: Arc<Program>) -> Pool {
        let counters = program.account.open();
        Pool {
            inner: Rc::new(Inner {
                program,
                idle: RefCell::default(),
                in_use: Cell::new(0),
                demand: Cell::new(Demand::new(Instant::now())),
                waiting: RefCell::default(),
                resources: RefCell::default(),
                counters,
            }),
        }
    }

    /// Calls a hook for an exchange, in which the filter has position `index`. The exchange comes back as the call left it: the
    /// journal says how to take the edits back. Select-upstream, trailers and complete answer `Continue`.
    pub async fn call(&self, hook: Hook, exchange: Box<Exchange>, index: usize) -> Called {
        match self.call_now(hook, exchange, index, &mut None) {
            Ok(called) => called,
            Err(exchange) => self.call_in_turn(hook, exchange, index).await,
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
        Ok((exchange, result))
    }

    /// A sandbox of the exchange's own, or an idle one.
    fn ready(&self, exchange: &mut Exchange, index: usize) -> Option<Box<Instance>> {
        match exchange.sandboxes.iter().position(|(filter, _)| *filter == index) {
            Some(at) => {
                let mut instance = exchange.sandboxes.swap_remove(at).1.downcast::<Instance>().ok()?;
                instance.waiting = None;
                Some(instance)
            }
            None => self.inner.idle.borrow_mut().pop(),
        }
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
            return self.let_go(instance);
        }
        if shared.mode == Mode::Fresh && matches!(result, Ok(Verdict::Continue)) && self.stays(hook, exchange, index) {
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
        }
    }

    /// Makes an instance whose calls have ended well ready for the next call, or the next exchange, or drops it.
    fn reuse(&self, mut instance: Box<Instance>, now: Instant) {
        let inner = &self.inner;
        let is_ready = instance.uses < inner.program.shared.limits.uses
            && match inner.program.shared.mode {
                Mode::Reused => true,
                Mode::Fresh => self.restore(&mut instance),
            };
        if is_ready { drop(inner.put_back(instance, now)) } else { self.let_go(instance) }
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

    /// Calls a hook when it is its turn, on a fresh instance if none is idle, and on a fiber if the filter may wait.
    async fn call_in_turn(&self, hook: Hook, mut exchange: Box<Exchange>, index: usize) -> Called {
        let inner = &self.inner;
        let limits = &inner.program.shared.limits;
        let started = Instant::now();
        let allowed = limits.wall.saturating_add(limits.time_for_body(body_len(hook, &exchange)));
        let end = started.checked_add(allowed).unwrap_or(started + limits.wall);
        let permit = match self.admit(end, allowed).await {
            Ok(permit) => permit,
            Err(error) => {
                inner.counters.called(hook, Duration::ZERO, started.elapsed(), Some(&error));
                return (exchange, Err(error));
            }
        };
        let mut instance = match self.ready(&mut exchange, index) {
            Some(instance) => instance,
            // Rare and large parts are boxed: the future of a request is moved when it is made, and this one is in it.
            None => match within(end, Box::pin(self.start())).await.0.unwrap_or(Err(FilterError::Timeout(allowed))) {
                Ok(instance) => Box::new(instance),
                Err(error) => {
                    inner.counters.called(hook, Duration::ZERO, started.elapsed(), Some(&error));
                    return (exchange, Err(error));
                }
            },
        };
        // From here on the instance is out of the pool: it goes back only if the call ends well.
        instance.store.data_mut().wall_end = Some(end);
        let (result, cpu) = if self.on_fiber() {
            let (result, cpu) = within(end, Box::pin(instance.call_on_fiber(hook, exchange, index))).await;
            (result.unwrap_or(Err(FilterError::Timeout(allowed))), Some(cpu))
        } else {
            (instance.call(hook, exchange, index), None)
        };
        let mut exchange = instance.take_exchange().expect("host functions only borrow the exchange");
        let wall = started.elapsed();
        let took = (cpu.unwrap_or(wall), wall);
        self.conclude(hook, (&mut exchange, index), instance, &result, took, started + wall);
        drop(permit);
        (exchange, result)
    }

    /// The filter of this pool.
    pub fn program(&self) -> &Arc<Program> {
        &self.inner.program
    }

    /// Counts a call that was refused before it came here, after a wait.
    pub fn count_refusal(&self, hook: Hook, waited: Duration, error: &FilterError) {
        self.inner.counters.called(hook, Duration::ZERO, waited, Some(error));
    }

    /// Counts a body that the filter asked for and did not get.
    pub fn count_unread_body(&self, what: Unread, reason: UnreadReason) {
        self.inner.counters.unread_body(what, reason);
    }

    fn on_fiber(&self) -> bool {
        let program = &self.inner.program;
        program.plugin.waits() || program.shared.overran.load(Ordering::Relaxed)
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

    async fn start(&self) -> Result<Instance, FilterError> {
        let inner = &self.inner;
        let mut instance = inner.program.start(|image| self.resources(image)).await?;
        instance.live = Some(Live::new(&inner.counters));
        Ok(instance)
    }

    /// An instance of the image, if there is one and none of its functions can wait.
    fn start_now(&self) -> Option<Result<Box<Instance>, FilterError>> {
        let inner = &self.inner;
        let image = inner.program.image.as_ref().filter(|image| !image.waits())?;
        let instance = image.instance_now(&inner.program.shared, self.resources(image));
        Some(instance.map(|mut instance| {
            instance.live = Some(Live::new(&inner.counters));
            Box::new(instance)
        }))
    }

    fn resources(&self, image: &Image) -> Box<HostResources> {
        self.inner.resources.borrow_mut().pop().unwrap_or_else(|| image.resources())
    }
}

/// Awaits until a point in time, and adds up the time for which the future held the thread. `None`: the time has passed.
async fn within<F: Future>(end: Instant, future: F) -> (Option<F::Output>, Duration) {
    let mut future = pin!(future);
    let mut busy = Duration::ZERO;
    let timed = poll_fn(|cx| {
        let start = Instant::now();
        let poll = future.as_mut().poll(cx);
        busy += start.elapsed();
        poll
    });
    let mut timed = pin!(timed);
    // Most calls are over at the first poll: they need no timer.
    let first = poll_fn(|cx| std::task::Poll::Ready(timed.as_mut().poll(cx))).await;
    let output = match first {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => tokio::time::timeout_at(end.into(), timed).await.ok(),
    };
    (output, busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_of_a_peak_are_kept_for_a_while() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        assert_eq!(demand.keep(1, start), MIN_IDLE);
        assert_eq!(demand.keep(50, start), 50);
        assert_eq!(demand.keep(49, start), 50, "the peak is remembered");
        assert_eq!(demand.keep(10, start + DEMAND_PERIOD), 50, "and in the next period");
        assert_eq!(demand.keep(2, start + 2 * DEMAND_PERIOD), 10, "and then forgotten");
        assert_eq!(demand.keep(1, start + 4 * DEMAND_PERIOD), MIN_IDLE);
    }
}
