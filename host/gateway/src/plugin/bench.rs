//! `sluice plugin bench`: what the hooks of a filter cost for the request of a case, on instances that are reused and on fresh ones.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::run::Runner;
use super::test::{Selection, case_files, component, is_chosen};
use super::{Component, ToolError};
use crate::config::load_cases;
use crate::config::model::cases::{Case, CaseFile};
use crate::filter::{FilterStats, Hook, Mode};
use crate::wasm::HookCall;

/// Requests before it is measured.
const WARM_UP: usize = 50;
/// How long requests are measured at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cost of a hook.
#[derive(Debug, Clone)]
pub struct Cost {
    pub hook: Hook,
    pub mode: Mode,
    /// Of one call, in the median of the requests: what else the machine does makes some of them slow.
    pub time: Duration,
    pub instructions: u64,
    pub host_calls: usize,
    /// Linear memory of an instance, in bytes.
    pub memory: usize,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    pub case: String,
    pub requests: usize,
    /// Until the component could be called: compiled, or found in the cache, and linked.
    pub load: Duration,
    pub costs: Vec<Cost>,
}

/// Measures the first case that is chosen, with so many requests.
pub fn bench(selection: &Selection, requests: usize, cache: Option<PathBuf>) -> Result<Measured, ToolError> {
    for path in case_files(&selection.paths)? {
        let file = load_cases(&path)?;
        let fits = |case: &&Case| is_chosen(selection, &case.name) && case.refused.is_none();
        if let Some(case) = file.cases.iter().find(fits) {
            return measure(&file, case, component(selection, &path, &file)?, requests, cache);
        }
    }
    Err(ToolError::Missing("there is no such case".to_owned()))
}

fn measure(
    file: &CaseFile,
    case: &Case,
    component: Component,
    requests: usize,
    cache: Option<PathBuf>,
) -> Result<Measured, ToolError> {
    let started = Instant::now();
    let mut timed = Runner::measuring(cache.clone())?;
    let plugin = timed.load(component.clone())?;
    let load = started.elapsed();
    let mut observing = Runner::observing(cache)?;
    let observed = observing.load(component)?;
    let mut costs = Vec::new();
    let mut made = requests;
    for mode in [Mode::Reused, Mode::Fresh] {
        let hooks = requests_of(&observing, file, case, &observed, mode, 2)?.hooks;
        let of_timed = requests_of(&timed, file, case, &plugin, mode, requests)?;
        made = made.min(of_timed.made);
        for hook in Hook::ALL {
            let Some(time) = of_timed.median(hook) else { continue };
            let of_hook: Vec<&HookCall> = hooks.iter().filter(|call| call.hook == hook).collect();
            let last = of_hook.last();
            costs.push(Cost {
                hook,
                mode,
                time,
                instructions: last.map_or(0, |call| call.instructions),
                host_calls: last.map_or(0, |call| call.host_calls.len()),
                memory: last.map_or(0, |call| call.memory),
            });
        }
    }
    Ok(Measured { case: case.name.clone(), requests: made, load, costs })
}

/// Some requests of a case.
struct Requests {
    hooks: Vec<HookCall>,
    /// By hook, the times of a call.
    times: [Vec<Duration>; Hook::COUNT],
    made: usize,
}

impl Requests {
    fn median(&self, hook: Hook) -> Option<Duration> {
        let mut times = self.times[hook as usize].clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

fn requests_of(
    runner: &Runner,
    file: &CaseFile,
    case: &Case,
    plugin: &std::sync::Arc<crate::filter::Plugin>,
    mode: Mode,
    requests: usize,
) -> Result<Requests, ToolError> {
    let world = runner.world(file, case, plugin, mode).map_err(|failure| {
        let why = failure.map_or_else(|| "it has no exchange".to_owned(), |failure| failure.message);
        ToolError::Missing(format!("the case `{}` can't be measured: {why}", case.name))
    })?;
    let wrong = |why: String| ToolError::Missing(format!("the case `{}`: {why}", case.name));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(ToolError::Start)?;
    tokio.block_on(async {
        let filter = || world.local.pipeline().filters().first().map(|filter| filter.stats()).unwrap_or_default();
        let (mut hooks, mut times, mut made) = (Vec::new(), [const { Vec::new() }; Hook::COUNT], 0);
        let started = Instant::now();
        let warm_up = if requests > WARM_UP { WARM_UP } else { 0 };
        for number in 0..warm_up + requests {
            let before = filter();
            for step in &case.steps {
                hooks = runner.step(step, &world).await.map_err(wrong)?.1;
            }
            if number >= warm_up {
                add(&mut times, &before, &filter());
                made += 1;
            }
            if started.elapsed() > PATIENCE {
                break;
            }
        }
        Ok(Requests { hooks, times, made })
    })
}

/// Adds what a call of each hook has taken between two readings.
fn add(times: &mut [Vec<Duration>; Hook::COUNT], before: &FilterStats, after: &FilterStats) {
    for (times, (before, after)) in times.iter_mut().zip(before.hooks.iter().zip(&after.hooks)) {
        let calls = u32::try_from(after.calls.saturating_sub(before.calls)).unwrap_or(u32::MAX);
        times.extend(after.cpu.saturating_sub(before.cpu).checked_div(calls));
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Reused => "reused",
        Mode::Fresh => "fresh",
    }
}

/// For people.
pub fn text(measured: &Measured) -> String {
    let mut text = format!(
        "{}: {} requests; loaded in {:.1} ms\n{:<22}{:<8}{:>10}{:>14}{:>12}{:>12}\n",
        measured.case,
        measured.requests,
        measured.load.as_secs_f64() * 1e3,
        "hook",
        "mode",
        "µs",
        "instructions",
        "host calls",
        "memory"
    );
    for cost in &measured.costs {
        let _ = writeln!(
            text,
            "{:<22}{:<8}{:>10.2}{:>14}{:>12}{:>8} KiB",
            cost.hook.name(),
            mode_name(cost.mode),
            cost.time.as_secs_f64() * 1e6,
            cost.instructions,
            cost.host_calls,
            cost.memory >> 10
        );
    }
    text
}

/// For programs.
pub fn to_json(measured: &Measured) -> Json {
    let cost = |cost: &Cost| {
        json!({
            "hook": cost.hook.name(), "mode": mode_name(cost.mode), "time_us": cost.time.as_secs_f64() * 1e6,
            "instructions": cost.instructions, "host_calls": cost.host_calls, "memory": cost.memory,
        })
    };
    json!({
        "case": measured.case, "requests": measured.requests, "load_ms": measured.load.as_secs_f64() * 1e3,
        "costs": measured.costs.iter().map(cost).collect::<Vec<_>>(),
    })
}
