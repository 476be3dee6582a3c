//! Load from threads, and what it measured.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::Client;

/// How long requests took, and how they ended.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Sorted.
    pub latencies: Vec<Duration>,
    /// Answers by status; 0 stands for a connection that failed.
    pub statuses: BTreeMap<u16, usize>,
}

impl Report {
    /// The latency below which this share (0–1) of the requests stayed.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank"
        )]
        let rank = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(rank.min(last)).copied().unwrap_or_default()
    }

    /// Answers with this status.
    pub fn count(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// All requests.
    pub fn total(&self) -> usize {
        self.statuses.values().sum()
    }

    fn note(&mut self, status: u16, latency: Duration) {
        *self.statuses.entry(status).or_default() += 1;
        self.latencies.push(latency);
    }

    fn merge(reports: impl IntoIterator<Item = Report>) -> Report {
        let mut all = Report::default();
        for report in reports {
            all.latencies.extend(report.latencies);
            for (status, count) in report.statuses {
                *all.statuses.entry(status).or_default() += count;
            }
        }
        all.latencies.sort();
        all
    }
}

/// A client that asks for one target over and over on a kept connection, a pause between, until it is stopped.
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: JoinHandle<Report>,
}

impl Neighbour {
    /// Starts asking.
    pub fn start(address: SocketAddr, target: &str, pause: Duration) -> Neighbour {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let (stopped, counted, target) = (stop.clone(), asked.clone(), target.to_string());
        let thread = thread::spawn(move || {
            let mut report = Report::default();
            let mut client = Client::connect(address);
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                match client.try_request("GET", &target, &[], b"") {
                    Ok(response) => report.note(response.status, start.elapsed()),
                    Err(_) => {
                        report.note(0, start.elapsed());
                        client = Client::connect(address);
                    }
                }
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(pause);
            }
            report
        });
        Neighbour { stop, asked, thread }
    }

    /// How many requests it has made so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Stops asking and tells how it went.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        Report::merge([self.thread.join().expect("the neighbour")])
    }
}

/// Asks for one target `total` times over `connections` kept connections, as fast as it goes.
pub fn flood(address: SocketAddr, connections: usize, total: usize, target: &str, headers: &[(&str, &str)]) -> Report {
    let left = AtomicUsize::new(total);
    Report::merge(thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| {
                    let mut report = Report::default();
                    let mut client = Client::connect(address);
                    let raw = client.format("GET", target, headers, b"");
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                        let start = Instant::now();
                        let answer = client.try_send(&raw).and_then(|()| client.try_read_response("GET"));
                        match answer {
                            Ok(response) => report.note(response.status, start.elapsed()),
                            Err(_) => {
                                report.note(0, start.elapsed());
                                client = Client::connect(address);
                            }
                        }
                    }
                    report
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a client")).collect::<Vec<_>>()
    }))
}

/// A whole number from the environment, for a run at full length: `FULL=1 cargo test …` style knobs.
pub fn scaled(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().map_or(usual, |v| v.parse().unwrap_or_else(|_| panic!("{name} is no number: {v}")))
}
