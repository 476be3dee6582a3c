//! What the clients saw, phase by phase, and beside other proxies.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::load::{Kind, Outcome, PATIENCE};
use crate::origins::Received;
use crate::phases::Phase;
use crate::proxies::Proxy;

/// One proxy's run.
pub(crate) struct Report {
    pub(crate) proxy: Proxy,
    pub(crate) phases: Vec<PhaseReport>,
}

/// What the clients saw in one phase.
pub(crate) struct PhaseReport {
    phase: Phase,
    requests: usize,
    /// Errors for GET and for opening a WebSocket.
    idempotent: usize,
    /// Errors for POST and gRPC that no endpoint has received.
    unreceived: usize,
    /// Errors for POST and gRPC that an endpoint may have processed.
    received: usize,
    /// POST and gRPC that more than one endpoint received.
    twice: usize,
    /// WebSockets that broke.
    cut: usize,
    p50: Duration,
    p99: Duration,
    resident: u64,
    /// How often each error came.
    errors: BTreeMap<String, usize>,
}

impl PhaseReport {
    pub(crate) fn new(phase: Phase, outcomes: &[Outcome], received: &Received, resident: u64) -> PhaseReport {
        let received = received.lock().expect("the ids");
        let times = |id: &u64| received.get(id).copied().unwrap_or(0);
        let failed = |kinds: &[Kind]| {
            let of_these: Vec<&Outcome> =
                outcomes.iter().filter(|outcome| kinds.contains(&outcome.kind) && outcome.error.is_some()).collect();
            of_these
        };
        let others = failed(&[Kind::Post, Kind::Grpc]);
        let processed = others.iter().filter(|outcome| times(&outcome.id) > 0).count();
        let asks = |outcome: &&Outcome| matches!(outcome.kind, Kind::Get | Kind::Post | Kind::Grpc);
        // A request that failed counts as one that took as long as a client waits: a proxy that fails fast is no fast one.
        let latency = |outcome: &Outcome| if outcome.error.is_some() { PATIENCE } else { outcome.took };
        let mut latencies: Vec<Duration> = outcomes.iter().filter(asks).map(latency).collect();
        latencies.sort();
        let quantile = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
        let mut errors: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in outcomes {
            if let Some(error) = &outcome.error {
                *errors.entry(format!("{}: {error}", outcome.kind.name())).or_default() += 1;
            }
        }
        let not_idempotent = |outcome: &&Outcome| matches!(outcome.kind, Kind::Post | Kind::Grpc);
        PhaseReport {
            phase,
            requests: outcomes.iter().filter(asks).count(),
            idempotent: failed(&[Kind::Get, Kind::Open]).len(),
            unreceived: others.len() - processed,
            received: processed,
            twice: outcomes.iter().filter(not_idempotent).filter(|outcome| times(&outcome.id) > 1).count(),
            cut: failed(&[Kind::Message]).len(),
            p50: quantile(50),
            p99: quantile(99),
            resident,
            errors,
        }
    }

    /// What may not happen, whatever the endpoints do.
    fn broken_promises(&self) -> usize {
        self.idempotent + self.unreceived + self.twice
    }

    fn failed(&self) -> usize {
        self.idempotent + self.unreceived + self.received
    }
}

impl Report {
    pub(crate) fn broken_promises(&self) -> usize {
        self.phases.iter().map(PhaseReport::broken_promises).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.proxy.name())?;
        writeln!(
            f,
            "| phase | requests | errors: idempotent | others, not received | others, received | received twice | sockets cut | p50 ms | p99 ms | MiB |\n|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for phase in &self.phases {
            let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                phase.phase.name(),
                phase.requests,
                phase.idempotent,
                phase.unreceived,
                phase.received,
                phase.twice,
                phase.cut,
                ms(phase.p50),
                ms(phase.p99),
                phase.resident >> 20
            )?;
        }
        for phase in self.phases.iter().filter(|phase| phase.failed() > 0) {
            for (error, times) in &phase.errors {
                writeln!(f, "- {}: {times} x {error}", phase.phase.name())?;
            }
        }
        Ok(())
    }
}

/// Sluice beside the best of the others, in the phases that all have played: its errors, and its p99 as a multiple of theirs. Answers a
/// table, and whether it had more errors than the best in a phase.
pub(crate) fn comparison(reports: &[Report]) -> (String, bool) {
    let mut is_worse = false;
    let of = |report: &Report, phase: Phase| report.phases.iter().position(|known| known.phase == phase);
    let Some(own) = reports.iter().find(|report| report.proxy == Proxy::Sluice) else { return Default::default() };
    let others: Vec<&Report> = reports.iter().filter(|report| report.proxy != Proxy::Sluice).collect();
    if others.is_empty() {
        return Default::default();
    }
    let mut text =
        "\n| phase | errors | the best's errors | p99 ms | the best's p99 ms | ratio |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for phase in &own.phases {
        let theirs: Vec<&PhaseReport> =
            others.iter().filter_map(|report| report.phases.get(of(report, phase.phase)?)).collect();
        if theirs.len() < others.len() {
            continue;
        }
        let errors = theirs.iter().map(|phase| phase.failed()).min().unwrap_or(0);
        is_worse |= phase.failed() > errors;
        let p99 = theirs.iter().map(|phase| phase.p99).min().unwrap_or_default();
        text += &format!(
            "| {} | {} | {errors} | {:.1} | {:.1} | {:.2} |\n",
            phase.phase.name(),
            phase.failed(),
            phase.p99.as_secs_f64() * 1e3,
            p99.as_secs_f64() * 1e3,
            phase.p99.as_secs_f64() / p99.as_secs_f64().max(1e-9)
        );
    }
    (text, is_worse)
}
