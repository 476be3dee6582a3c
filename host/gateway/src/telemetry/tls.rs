//! What TLS handshakes of a listener came to. Each worker has counts of its own; a scrape adds them up. They take a lock that only a
//! scrape shares: a handshake costs a thousand times as much.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use super::Exposition;
use super::cells::lock;
use super::metrics::ListenerCounters;

/// Server names of one listener that have series of their own.
const MAX_SERVER_NAMES: usize = 1000;
/// What stands for server names that no certificate is for, and for those beyond the limit.
const OTHER: &str = "(other)";
/// What stands for a client that asks for no name.
const NONE: &str = "(none)";

/// What both sides have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlsHandshake {
    /// Such as `TLSv1.3`.
    pub version: &'static str,
    /// Their names at IANA. The group is empty where no keys were exchanged.
    pub cipher_suite: &'static str,
    pub group: &'static str,
    pub resumed: bool,
}

/// Counts of one listener on one worker.
#[derive(Debug, Default)]
pub struct TlsCounters {
    handshakes: Mutex<HashMap<TlsHandshake, u64>>,
    server_names: Mutex<HashMap<Arc<str>, u64>>,
    failures: Mutex<HashMap<&'static str, u64>>,
    refused: Mutex<HashMap<&'static str, u64>>,
}

/// The name that a client has asked for, as the configuration knows it.
#[derive(Debug, Clone, Copy)]
pub enum ServerName<'a> {
    None,
    /// A name or wildcard of a certificate.
    Known(&'a Arc<str>),
    Other,
}

impl TlsCounters {
    /// A handshake that went well.
    pub fn done(&self, handshake: TlsHandshake, name: ServerName<'_>) {
        *lock(&self.handshakes).entry(handshake).or_default() += 1;
        let mut names = lock(&self.server_names);
        let name: &str = match name {
            ServerName::Known(name) if names.contains_key(name) || names.len() < MAX_SERVER_NAMES => name,
            ServerName::Known(_) | ServerName::Other => OTHER,
            ServerName::None => NONE,
        };
        match names.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(names.insert(name.into(), 1)),
        }
    }

    /// A handshake that failed for a reason of few.
    pub fn failed(&self, reason: &'static str) {
        *lock(&self.failures).entry(reason).or_default() += 1;
    }

    /// A connection that was closed before its handshake, since its address has had too many.
    pub fn refused(&self, reason: &'static str) {
        *lock(&self.refused).entry(reason).or_default() += 1;
    }
}

/// Writes the families of all listeners, each with the counters of its workers.
pub(super) fn render(listeners: &BTreeMap<Arc<str>, Vec<Arc<ListenerCounters>>>, out: &mut Exposition) {
    let name = "sluice_tls_handshakes_total";
    out.family(name, "counter", "TLS handshakes by what both sides have agreed on.");
    for (listener, workers) in listeners {
        for (agreed, count) in sum(workers, |tls| &tls.handshakes) {
            let labels = [
                ("listener", &**listener),
                ("version", agreed.version),
                ("cipher_suite", agreed.cipher_suite),
                ("group", agreed.group),
                ("resumed", if agreed.resumed { "true" } else { "false" }),
            ];
            out.sample(name, &labels, count as f64);
        }
    }
    let name = "sluice_tls_server_names_total";
    out.family(name, "counter", "TLS handshakes by the name of a certificate that the client has asked for.");
    for (listener, workers) in listeners {
        for (server_name, count) in sum(workers, |tls| &tls.server_names) {
            out.sample(name, &[("listener", listener), ("server_name", &server_name)], count as f64);
        }
    }
    type Of = fn(&TlsCounters) -> &Mutex<HashMap<&'static str, u64>>;
    let families: [(&str, &str, Of); 2] = [
        ("sluice_tls_failures_total", "Failed TLS handshakes by reason.", |tls| &tls.failures),
        (
            "sluice_tls_handshakes_refused_total",
            "Connections that were closed before their handshake, by the limit of their address.",
            |tls| &tls.refused,
        ),
    ];
    for (name, help, of) in families {
        out.family(name, "counter", help);
        for (listener, workers) in listeners {
            for (reason, count) in sum(workers, of) {
                out.sample(name, &[("listener", listener), ("reason", reason)], count as f64);
            }
        }
    }
}

fn sum<K: Clone + Ord + Hash>(
    workers: &[Arc<ListenerCounters>],
    of: impl Fn(&TlsCounters) -> &Mutex<HashMap<K, u64>>,
) -> BTreeMap<K, u64> {
    let mut sums = BTreeMap::new();
    for counters in workers {
        for (key, count) in lock(of(&counters.tls)).iter() {
            *sums.entry(key.clone()).or_default() += count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn names_that_clients_invent_have_one_series() {
        let metrics = Metrics::new();
        let tls = metrics.listener("web");
        let agreed = TlsHandshake { version: "TLSv1.3", cipher_suite: "c", group: "g", resumed: true };
        for number in 0..MAX_SERVER_NAMES + 5 {
            tls.tls.done(agreed, ServerName::Known(&format!("{number}.test").into()));
        }
        tls.tls.done(agreed, ServerName::Other);
        tls.tls.done(agreed, ServerName::None);
        let text = metrics.render();
        let series = text.lines().filter(|line| line.starts_with("sluice_tls_server_names_total{")).count();
        assert_eq!(series, MAX_SERVER_NAMES + 2);
        for (name, count) in [("(other)", 6), ("(none)", 1), ("7.test", 1)] {
            let line = format!(r#"sluice_tls_server_names_total{{listener="web",server_name="{name}"}} {count}"#);
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        let line = format!(
            r#"sluice_tls_handshakes_total{{listener="web",version="TLSv1.3",cipher_suite="c",group="g",resumed="true"}} {}"#,
            MAX_SERVER_NAMES + 7
        );
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
