//! Runs a case: services of its own, a filter of its own, and its exchanges one after the other through a pipeline of that one filter.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json};

use super::compare::{Failure, Used, budgets, differences, problem};
use super::exchange::{Held, candidates, exchange, parts, response, summary};
use super::foreseen::Foreseen;
use super::{Component, ToolError, runtime, seen};
use crate::config::model::cases::{Case, CaseFile, CaseStep};
use crate::config::model::{Step, TrialPolicy};
use crate::filter::{
    CompleteQueue, Filter, FilterFailure, FilterSpec, Hook, LoadError, LocalPipeline, Mode, PiecesError, Pipeline,
    Plugin, RequestOutcome, ResponseOutcome, Runtime, Traversal, WorkerFilters,
};
use crate::services::consumers::ConsumerSet;
use crate::services::log_limit::{visible, visible_lines};
use crate::services::{Clock, Random, Services};
use crate::telemetry::Metrics;
use crate::wasm::{HookCall, LogLine, Observer};

/// The name of the filter and of its plugin in a case.
const NAME: &str = "filter";
/// Bytes of bodies that filters work on at once.
const BODIES: u64 = 256 << 20;

/// What came of a case.
#[derive(Debug)]
pub struct CaseResult {
    pub file: PathBuf,
    pub name: String,
    /// Where it begins in its file.
    pub line: usize,
    pub time: Duration,
    pub failures: Vec<Failure>,
    /// What was seen of each step.
    pub seen: Vec<Json>,
}

impl CaseResult {
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Runs cases on one engine.
pub(super) struct Runner {
    runtime: Arc<Runtime>,
    /// None where nobody looks: calls are as fast as in a gateway then.
    observer: Option<Arc<Observer>>,
    /// The component that was loaded last: most files of a folder try the same one.
    loaded: Option<(Component, Arc<Plugin>)>,
}

/// What the steps of a case have in common.
pub(super) struct World {
    services: Arc<Services>,
    outbound: Arc<Foreseen>,
    time: Arc<AtomicU64>,
    pub(super) local: Rc<LocalPipeline>,
    /// Keeps the instances.
    _worker: WorkerFilters,
    finished: Rc<CompleteQueue>,
    kv_quota: u64,
}

/// Starts a thread that hashes passwords as long as the services are there.
fn verify_passwords(services: &Arc<Services>) -> std::io::Result<()> {
    let services = Arc::downgrade(services);
    let work = move || {
        while let Some(services) = services.upgrade() {
            services.passwords.work_for(Duration::from_millis(20));
        }
    };
    std::thread::Builder::new().name("passwords".to_owned()).spawn(work).map(drop)
}

impl Runner {
    /// For tests: all calls are seen.
    pub(super) fn observing(cache: Option<PathBuf>) -> Result<Runner, ToolError> {
        let observer = Arc::new(Observer::default());
        Ok(Runner { runtime: runtime(Some(Arc::clone(&observer)), cache)?, observer: Some(observer), loaded: None })
    }

    /// For measurements of time.
    pub(super) fn measuring(cache: Option<PathBuf>) -> Result<Runner, ToolError> {
        Ok(Runner { runtime: runtime(None, cache)?, observer: None, loaded: None })
    }

    /// Compiles a component and links it.
    pub(super) fn load(&mut self, component: Component) -> Result<Arc<Plugin>, ToolError> {
        if let Some((_, plugin)) = self.loaded.as_ref().filter(|(known, _)| known.bytes == component.bytes) {
            return Ok(Arc::clone(plugin));
        }
        let plugin = self.runtime.load(&component.bytes);
        let plugin = plugin.map_err(|error| ToolError::Load { origin: component.origin.clone(), error })?;
        self.loaded = Some((component, Arc::clone(&plugin)));
        Ok(plugin)
    }

    pub(super) fn run(&self, path: &Path, file: &CaseFile, case: &Case, plugin: &Arc<Plugin>) -> CaseResult {
        let started = Instant::now();
        let mut result = CaseResult {
            file: path.to_owned(),
            name: case.name.clone(),
            line: case.at.line,
            time: Duration::ZERO,
            failures: Vec::new(),
            seen: Vec::new(),
        };
        match self.world(file, case, plugin, case.filter.mode) {
            Ok(world) => match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                Ok(tokio) => tokio.block_on(self.steps(case, &world, &mut result)),
                Err(error) => result.failures.push(problem(case, None, "case", format!("no event loop: {error}"))),
            },
            Err(failure) => result.failures.extend(failure.map(|failure| *failure)),
        }
        result.time = started.elapsed();
        result
    }

    /// Makes the filter of a case. `Err` where there is none, with what is wrong about that, if anything is.
    pub(super) fn world(
        &self,
        file: &CaseFile,
        case: &Case,
        plugin: &Arc<Plugin>,
        mode: Mode,
    ) -> Result<World, Option<Box<Failure>>> {
        if let Some(observer) = &self.observer {
            observer.set_verbose(case.verbose);
        }
        let wrong = |at: &str, why: String| Some(Box::new(problem(case, None, at, why)));
        let (clock, time) = Clock::manual(case.clock);
        let outbound = Foreseen::new(case.http.clone());
        let services = Services::with(clock, Random::seeded(case.seed), outbound.clone());
        let specs: Vec<_> = file.consumers.iter().map(Cow::Borrowed).collect();
        let consumers = ConsumerSet::new(&specs).map_err(|error| wrong("consumers", error.to_string()))?;
        services.consumers.publish(Arc::new(consumers));
        if !file.consumers.is_empty() {
            verify_passwords(&services).map_err(|error| wrong("consumers", format!("no thread: {error}")))?;
        }
        let kv_quota = case.filter.grants.services.kv_quota;
        for (space, key, value) in &case.kv {
            let kept = services.kv.space(NAME, space, kv_quota).set(key, value.as_bytes(), None);
            kept.map_err(|error| wrong("kv", format!("{space}.{key}: {error}")))?;
        }
        let component = self.loaded.as_ref().map(|(component, _)| component.bytes.as_slice().into());
        let filter = Filter::new(FilterSpec {
            name: NAME.into(),
            plugin: Arc::clone(plugin),
            plugin_name: NAME.into(),
            config: case.filter.config.expose().to_owned(),
            failure: case.filter.on_error,
            mode,
            limits: case.filter.limits.clone(),
            grants: case.filter.grants.clone(),
            services: Arc::clone(&services),
            component,
        });
        let filter = match (filter, &case.refused) {
            (Ok(filter), None) => filter,
            (Ok(_), Some(text)) => {
                return Err(wrong(
                    "refused",
                    format!("expected a refusal with `{text}`, and the filter takes its config"),
                ));
            }
            (Err(LoadError::Refused(message)), Some(text)) if message.contains(text.as_str()) => return Err(None),
            (Err(LoadError::Refused(message)), Some(text)) => {
                return Err(wrong("refused", format!("expected a refusal with `{text}`, seen: {}", visible(&message))));
            }
            (Err(error), _) => return Err(wrong("config", visible_lines(&crate::chain(&error), ""))),
        };
        if case.filter.on_failed_trial == TrialPolicy::Refuse && !filter.trial_failures().is_empty() {
            let failures = filter.trial_failures().join("; ");
            return Err(wrong("case", format!("{}, when tried on an empty message", visible_lines(&failures, ""))));
        }
        let pipeline = Pipeline::new(&[Step::Filter(filter)]).map_err(|error| wrong("case", error.to_string()))?;
        let worker = WorkerFilters::new(BODIES);
        let local = worker.pipeline(&pipeline);
        let finished = CompleteQueue::new(1, Metrics::new().worker());
        Ok(World { services, outbound, time, local, _worker: worker, finished, kv_quota })
    }

    async fn steps(&self, case: &Case, world: &World, result: &mut CaseResult) {
        self.seen();
        world.outbound.take();
        for (number, step) in case.steps.iter().enumerate() {
            let number = (!case.is_single).then_some(number);
            let advance = u64::try_from(step.advance.as_micros()).unwrap_or(u64::MAX);
            world.time.fetch_add(advance, Ordering::AcqRel);
            let mut last = None;
            for round in 1..=step.repeat {
                last = Some(self.step(step, world).await);
                match &last {
                    Some(Ok((seen, _, unforeseen))) if unforeseen.is_empty() => {
                        // What is expected is of the last time; that the filter fails before is not what is meant, unless it is to fail then, too.
                        let is_meant = step.expected.iter().any(|expected| match &expected.path[..] {
                            [key] if key == "verdict" => expected.value == seen["verdict"],
                            path => path.first().is_some_and(|key| key == "failure"),
                        });
                        let is_early = round < step.repeat && !is_meant;
                        if let Some(kind) = seen["failure"].as_str().filter(|_| is_early) {
                            let (of, why) = (step.repeat, seen["message"].as_str().unwrap_or_default());
                            let message = format!("the filter fails ({kind}) at time {round} of {of}: {why}");
                            result.failures.push(problem(case, number, "repeat", message));
                            break;
                        }
                    }
                    Some(Ok(_) | Err(_)) | None => break,
                }
            }
            match last {
                Some(Ok((seen, hooks, unforeseen))) => {
                    let calls = unforeseen.iter().map(|call| {
                        problem(case, number, "http", format!("the call {} was not foreseen", visible(call)))
                    });
                    result.failures.extend(calls);
                    result.failures.extend(differences(step, number, &seen));
                    result.failures.extend(budgets(step, number, &hooks));
                    result.seen.push(seen);
                }
                Some(Err(why)) => result.failures.push(problem(case, number, "case", why)),
                None => {}
            }
        }
    }

    /// What was seen since this was last asked.
    fn seen(&self) -> (Vec<HookCall>, Vec<LogLine>) {
        self.observer.as_ref().map(|observer| observer.take()).unwrap_or_default()
    }

    /// One exchange: what was seen, what its hooks have used, and the calls that nobody has foreseen.
    pub(super) async fn step(
        &self,
        step: &CaseStep,
        world: &World,
    ) -> Result<(Json, Vec<HookCall>, Vec<String>), String> {
        let exchange = exchange(step, &world.services.consumers)?;
        let mut traversal = Traversal::new(exchange);
        let mut found = Map::new();
        let failure = self.pass(step, &world.local, &mut traversal, &mut found).await;
        let exchange = traversal.exchange();
        let consumer = exchange.context.consumer().map(|name| name.to_string());
        found.extend(consumer.map(|name| ("consumer".to_owned(), name.into())));
        found.insert("context".into(), seen::context(exchange));
        let status = exchange.response.as_ref().map(|response| response.status);
        if let Some(reason) = exchange.response.as_ref().and_then(|response| response.reason.as_ref()) {
            found.insert("reason".into(), (*reason.text).into());
        }
        exchange.summary = Some(summary(exchange, status.unwrap_or_default()));
        world.finished.push(&world.local, traversal.take());
        world.finished.drain().await;

        let (hooks, lines) = self.seen();
        let (made, unforeseen) = world.outbound.take();
        let first = hooks.iter().find_map(|hook| hook.error.as_ref());
        let failure = failure.or_else(|| first.map(|error| (error.kind().name().to_owned(), error.to_string())));
        if let Some((kind, message)) = failure {
            found.insert("failure".into(), kind.into());
            found.insert("message".into(), visible_lines(&message, "").into());
        }
        found.insert("log".into(), seen::log(&lines));
        found.insert("http".into(), made.into());
        found.insert("metrics".into(), seen::metrics(&world.services.metrics, NAME));
        found.insert("kv".into(), self.values(step, world));
        found.insert("used".into(), Used::of(&hooks).json(&hooks));
        Ok((found.into(), hooks, unforeseen))
    }

    /// Takes an exchange through the hooks up to the end of its response. Answers the failure that ends it.
    async fn pass(
        &self,
        step: &CaseStep,
        local: &LocalPipeline,
        traversal: &mut Traversal,
        found: &mut Map<String, Json>,
    ) -> Option<(String, String)> {
        let told = |failure: &FilterFailure| (failure.error.kind().name().to_owned(), failure.error.to_string());
        let unread = |failure: &crate::filter::BodyFailure| ("body".to_owned(), failure.error.to_string());
        let in_pieces = |error: &PiecesError| match error {
            PiecesError::Failed(failure) => told(failure),
            PiecesError::Body(failure) => unread(failure),
        };
        let mut verdict = |word: &str| found.insert("verdict".into(), word.into());
        let mut body = Held::of(step.request.body.as_ref());
        let mut answer = Held::of(None);
        match local.on_request(traversal, &mut body).await {
            RequestOutcome::Continue => {
                verdict("continue");
                if local.pipeline().has(Hook::SelectUpstream) {
                    let exchange = traversal.exchange();
                    (exchange.candidates, exchange.retry) = candidates(step);
                    if let Err(failure) = local.select_upstream(traversal).await {
                        return Some(told(&failure));
                    }
                    found.insert("selection".into(), seen::selection(traversal.exchange()));
                }
                if traversal.takes_request_pieces()
                    && let Err(error) = local.request_pieces(traversal, parts(&step.request.parts)).await
                {
                    return Some(in_pieces(&error));
                }
                let exchange = traversal.exchange();
                found.insert("upstream".into(), seen::upstream(exchange, &body.0));
                exchange.response = Some(response(&step.response));
                answer = Held::of(step.response.body.as_ref());
            }
            RequestOutcome::Respond { .. } | RequestOutcome::Refused { .. } => {
                verdict("respond");
            }
            RequestOutcome::Failed(failure) => {
                verdict("fail");
                return Some(told(&failure));
            }
            RequestOutcome::Body(failure) => {
                verdict("fail");
                return Some(unread(&failure));
            }
        }
        match local.on_response(traversal, &mut answer).await {
            ResponseOutcome::Continue => {}
            ResponseOutcome::Failed(failure) => return Some(told(&failure)),
            ResponseOutcome::Body(failure) => return Some(unread(&failure)),
        }
        // The body of an answer that the filter has made is here, and not the upstream's.
        let made = traversal.exchange().response.as_ref().and_then(|response| response.body.clone());
        let body = made.map_or_else(|| parts(&step.response.parts), |whole| vec![whole]);
        if traversal.takes_response_pieces()
            && let Err(error) = local.response_pieces(traversal, body).await
        {
            return Some(in_pieces(&error));
        }
        let has_trailers = traversal.exchange().response.as_ref().is_some_and(|response| response.trailers.is_some());
        if has_trailers
            && local.pipeline().has(Hook::OnResponseTrailers)
            && let Err(failure) = local.on_response_trailers(traversal).await
        {
            return Some(told(&failure));
        }
        let exchange = traversal.exchange();
        if let Some(response) = &exchange.response {
            let is_replaced = exchange.response_body_replaced;
            found.insert("response".into(), seen::response(response, is_replaced, &answer.0));
        }
        None
    }

    /// The values that the step expects something of.
    fn values(&self, step: &CaseStep, world: &World) -> Json {
        let mut spaces = Map::new();
        for expected in &step.expected {
            let [of, space, key] = &expected.path[..] else { continue };
            if of != "kv" {
                continue;
            }
            let kept = world.services.kv.space(NAME, space, world.kv_quota).get(key);
            if let Ok(Some(value)) = kept {
                let space = spaces.entry(space.clone()).or_insert_with(|| Map::new().into());
                if let Some(keys) = space.as_object_mut() {
                    keys.insert(key.clone(), String::from_utf8_lossy(&value).into());
                }
            }
        }
        spaces.into()
    }
}
