//! Chaos: clients ask steadily while one of four endpoints is killed, hangs, answers 503, is ten times as slow or resets its
//! connections, while the DNS and Consul change or fail, while the configuration reloads and a filter traps. For each phase a table says what
//! the clients saw. The same run goes through the other proxies that are installed, in the phases that all of them can do.
//!
//! `cargo bench -p sluice --bench chaos -- [--seed N] [--seconds S] [--rate R] [--proxies sluice,haproxy,nginx,envoy]`; the binary that is
//! measured is `SLUICE_BIN`, or that of the same build. The end is a failure if Sluice broke a promise: an error for an idempotent request, an
//! error for another one that no endpoint has received, a request that was processed twice, or more errors than the best of the others in a
//! phase. An error counts as 5 s in the latencies. Without `--bench`, as `cargo test` runs
//! it, phases are short.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program with a table for its result")]

mod consul;
mod endpoints;
mod load;
mod origins;
mod phases;
mod proxies;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use crate::phases::Stage;
use crate::proxies::Proxy;

struct Options {
    seed: u64,
    phase: Duration,
    rate: u32,
    proxies: Vec<Proxy>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    println!("seed {}, {:?} a phase, {} requests a second", options.seed, options.phase, options.rate);
    let stage = Stage::new(options.seed);
    let mut reports = Vec::new();
    for proxy in options.proxies {
        if proxy.program().is_none() {
            println!("{}: not installed, left out", proxy.name());
            continue;
        }
        let report = stage.run(proxy, options.phase, options.rate);
        println!("{report}");
        reports.push(report);
    }
    let (comparison, is_worse) = report::comparison(&reports);
    println!("{comparison}");
    match is_worse || reports.iter().any(|report| report.proxy == Proxy::Sluice && report.broken_promises() > 0) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut given = Options { seed: 1, phase: Duration::from_millis(1500), rate: 100, proxies: vec![Proxy::Sluice] };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match &*argument {
            // Cargo's own.
            "--bench" => {
                given = Options { phase: Duration::from_secs(8), rate: 300, proxies: Proxy::ALL.to_vec(), ..given };
            }
            "--seed" => given.seed = value()?.parse().map_err(|error| format!("--seed: {error}"))?,
            "--rate" => given.rate = value()?.parse().map_err(|error| format!("--rate: {error}"))?,
            "--seconds" => {
                let seconds = value()?.parse().map_err(|error| format!("--seconds: {error}"))?;
                given.phase = Duration::try_from_secs_f64(seconds).map_err(|error| format!("--seconds: {error}"))?;
            }
            "--proxies" => {
                let named = |name: &str| Proxy::ALL.into_iter().find(|proxy| proxy.name() == name);
                let all = value()?;
                let list = all.split(',').map(|name| named(name).ok_or_else(|| format!("no proxy `{name}`")));
                given.proxies = list.collect::<Result<_, _>>()?;
            }
            _ => return Err(format!("`{argument}`: expected --seed, --seconds, --rate or --proxies")),
        }
    }
    Ok(given)
}
