//! The phases of a run, and the stage that they are played on.

use std::cell::Cell;
use std::time::Duration;

use sluice_harness::dns::NameServer;
use sluice_harness::guest::guest;
use tokio::task::LocalSet;

use crate::consul::Consul;
use crate::endpoints::{COUNT, Endpoints, ip};
use crate::load::{Clients, Rate};
use crate::origins::Mode;
use crate::proxies::{Proxy, Running, Surroundings};
use crate::report::{PhaseReport, Report};

/// The name that the DNS phase asks for.
const NAME: &str = "app.test";

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Calm,
    Killed,
    Hanging,
    Unavailable,
    Slow,
    Resetting,
    /// The configuration is loaded again, several times a second.
    Reloading,
    /// The name leads to other endpoints, and those that it led to go.
    NamesChange,
    /// Consul dies and comes back.
    SourceAway,
    /// A filter traps at each request.
    Trapping,
}

impl Phase {
    pub(crate) const ALL: [Phase; 10] = [
        Phase::Calm,
        Phase::Killed,
        Phase::Hanging,
        Phase::Unavailable,
        Phase::Slow,
        Phase::Resetting,
        Phase::Reloading,
        Phase::NamesChange,
        Phase::SourceAway,
        Phase::Trapping,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Calm => "all is well",
            Phase::Killed => "one is killed",
            Phase::Hanging => "one hangs",
            Phase::Unavailable => "one answers 503",
            Phase::Slow => "one is 10x slow",
            Phase::Resetting => "one resets",
            Phase::Reloading => "reloads",
            Phase::NamesChange => "DNS changes",
            Phase::SourceAway => "Consul dies",
            Phase::Trapping => "a filter traps",
        }
    }

    /// How an endpoint behaves in it.
    fn fault(self) -> Option<Mode> {
        match self {
            Phase::Killed => Some(Mode::Killed),
            Phase::Hanging => Some(Mode::Hanging),
            Phase::Unavailable => Some(Mode::Unavailable),
            Phase::Slow => Some(Mode::Slow),
            Phase::Resetting => Some(Mode::Resetting),
            _ => None,
        }
    }

    /// How long it takes at least: the old answer of the DNS is used for a second, and then its servers go.
    fn length(self, asked: Duration) -> Duration {
        if self == Phase::NamesChange { asked.max(Duration::from_secs(4)) } else { asked }
    }

    /// What plain requests ask for in it.
    fn path(self) -> &'static str {
        match self {
            Phase::NamesChange => "/names/item",
            Phase::SourceAway => "/source/item",
            Phase::Trapping => "/trap/item",
            _ => "/app/item",
        }
    }

    /// Whether it can be played with this proxy.
    fn is_for(self, proxy: Proxy) -> bool {
        match self {
            Phase::Reloading => proxy.reloads(),
            Phase::NamesChange | Phase::SourceAway | Phase::Trapping => proxy == Proxy::Sluice,
            _ => true,
        }
    }
}

/// The endpoints and what else a proxy stands between.
pub(crate) struct Stage {
    seed: u64,
    endpoints: Endpoints,
    names: NameServer,
    trap: Vec<u8>,
    next_id: Cell<u64>,
}

impl Stage {
    pub(crate) fn new(seed: u64) -> Stage {
        let endpoints = Endpoints::start();
        let trap = guest(&[("on-request", "unreachable")], false);
        Stage { seed, endpoints, names: NameServer::start(), trap, next_id: Cell::new(1) }
    }

    /// All phases through one proxy.
    pub(crate) fn run(&self, proxy: Proxy, length: Duration, rate: u32) -> Report {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            self.names.set_all(NAME, &[ip(0).octets(), ip(1).octets()], 1);
            let mut consul = Consul::start(&self.endpoints.addresses);
            let around = Surroundings {
                endpoints: &self.endpoints.addresses,
                name_server: self.names.address(),
                consul: consul.address,
                trap: &self.trap,
            };
            let running = proxy.start(&around);
            let mut clients = Clients::new(running.target, self.seed, self.next_id.get());
            // Connections and caches, and the first checks.
            clients.load("/app/item", Rate(rate), Duration::from_secs(1)).await;
            let mut phases = Vec::new();
            for (number, phase) in (0..).zip(Phase::ALL).filter(|(_, phase)| phase.is_for(proxy)) {
                let victim = mix(self.seed.wrapping_add(number)) as usize % COUNT;
                let length = phase.length(length);
                let (outcomes, ()) = tokio::join!(
                    clients.load(phase.path(), Rate(rate), length),
                    self.play(phase, victim, &running, &mut consul, length)
                );
                phases.push(PhaseReport::new(phase, &outcomes, &self.endpoints.received, running.resident()));
                // What was out comes back.
                clients.load("/app/item", Rate(rate / 2), length / 2).await;
            }
            self.next_id.set(clients.next_id());
            consul.stop().await;
            Report { proxy, phases }
        })
    }

    /// The trouble of a phase: from a sixth of its time on to two thirds.
    async fn play(&self, phase: Phase, victim: usize, running: &Running, consul: &mut Consul, length: Duration) {
        tokio::time::sleep(length / 6).await;
        let trouble = length / 2;
        if let Some(mode) = phase.fault() {
            self.endpoints.set(victim, mode).await;
            tokio::time::sleep(trouble).await;
            self.endpoints.set(victim, Mode::Well).await;
        }
        match phase {
            Phase::Reloading => {
                for _ in 0..4 {
                    running.reload();
                    tokio::time::sleep(trouble / 4).await;
                }
            }
            Phase::NamesChange => {
                self.names.set_all(NAME, &[ip(2).octets(), ip(3).octets()], 1);
                // The answer before it may be used for a second, and its servers still answer in the next.
                tokio::time::sleep(trouble).await;
                self.endpoints.set(0, Mode::Killed).await;
                self.endpoints.set(1, Mode::Killed).await;
                tokio::time::sleep(length / 6).await;
                self.endpoints.set(0, Mode::Well).await;
                self.endpoints.set(1, Mode::Well).await;
            }
            Phase::SourceAway => {
                consul.stop().await;
                tokio::time::sleep(trouble).await;
                consul.restart();
            }
            _ => {}
        }
    }
}

/// The finaliser of splitmix64: what the seed decides.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
