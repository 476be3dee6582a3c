//! A scrape: adds the cells of all workers up and writes them as text.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use super::Exposition;
use super::cells::{Counter, GrpcStatuses, Names, Table, Traffic, code_name, lock};
use super::metrics::{ByRoute, Cells, Compressed, ErrorSource, ListenerCounters, Metrics, RouteId, UpstreamId};

impl Metrics {
    /// The Prometheus text exposition, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = Exposition::default();
        let workers = lock(&self.workers).clone();
        self.render_requests(&workers, &mut out);
        self.render_listeners(&mut out);
        self.render_process(&workers, &mut out);
        for collector in lock(&self.collectors).iter() {
            collector(&mut out);
        }
        out.finish()
    }

    fn render_requests(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        let routes: Vec<(Arc<str>, Traffic)> = sum_traffic(&self.routes, workers, |cells| &cells.routes);
        let upstreams: Vec<(Arc<str>, Traffic)> = sum_traffic(&self.upstreams, workers, |cells| &cells.upstreams);
        for (label, requests, duration, series) in [
            ("route", "sluice_requests_total", "sluice_request_duration_seconds", &routes),
            ("upstream", "sluice_upstream_requests_total", "sluice_upstream_duration_seconds", &upstreams),
        ] {
            let (of_requests, of_duration) = if label == "route" {
                ("Exchanges by route and response status (0: no response was sent).", "Whole exchanges.")
            } else {
                ("Responses of upstreams by status.", "Time from sending a request upstream to its response head.")
            };
            out.family(requests, "counter", of_requests);
            for (name, traffic) in series {
                for (slot, count) in traffic.codes.iter().enumerate().filter(|(_, count)| count.value() > 0) {
                    out.sample(requests, &[(label, name), ("code", code_name(slot))], count.value() as f64);
                }
            }
            out.family(duration, "histogram", of_duration);
            for (name, traffic) in series {
                traffic.duration.render(duration, &[(label, name)], out);
            }
        }

        let mut errors: HashMap<(RouteId, ErrorSource, &'static str), u64> = HashMap::new();
        let mut upstream_errors: HashMap<(UpstreamId, &'static str), u64> = HashMap::new();
        let mut attempts: BTreeMap<(u32, Arc<str>, &'static str), u64> = BTreeMap::new();
        for cells in workers {
            for (key, count) in lock(&cells.errors).iter() {
                *errors.entry(*key).or_default() += count;
            }
            for (key, count) in lock(&cells.upstream_errors).iter() {
                *upstream_errors.entry(*key).or_default() += count;
            }
            for ((upstream, outcome), endpoints) in lock(&cells.attempt_failures).iter() {
                for (endpoint, count) in endpoints {
                    *attempts.entry((upstream.0, Arc::clone(endpoint), outcome)).or_default() += count;
                }
            }
        }
        out.family("sluice_errors_total", "counter", "Errors by route, guilty side and kind.");
        for ((route, side, kind), count) in sorted(errors, |(route, side, kind)| (route.0, *side, *kind)) {
            let route = self.routes.name(route.0);
            out.sample(
                "sluice_errors_total",
                &[("route", &*route), ("side", side.name()), ("kind", kind)],
                count as f64,
            );
        }
        self.render_responses(workers, out);
        self.render_releases(workers, out);
        self.render_compression(workers, out);
        out.family("sluice_upstream_errors_total", "counter", "Requests without a response, by upstream and kind.");
        for ((upstream, kind), count) in sorted(upstream_errors, |(upstream, kind)| (upstream.0, *kind)) {
            let upstream = self.upstreams.name(upstream.0);
            out.sample("sluice_upstream_errors_total", &[("upstream", &*upstream), ("kind", kind)], count as f64);
        }
        let name = "sluice_upstream_attempt_failures_total";
        out.family(name, "counter", "Attempts without a response, by upstream, endpoint and outcome.");
        for ((upstream, endpoint, outcome), count) in attempts {
            let upstream = self.upstreams.name(upstream);
            out.sample(name, &[("upstream", &*upstream), ("endpoint", &endpoint), ("outcome", outcome)], count as f64);
        }
        self.render_by_upstream(workers, out);
    }

    /// What is counted by upstream and a word.
    fn render_by_upstream(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        type Counts = HashMap<(UpstreamId, &'static str), u64>;
        type Of = fn(&Cells) -> &Mutex<Counts>;
        let families: [(&str, &str, &str, Of); 3] = [
            ("sluice_upstream_calls_total", "outcome", "Calls of filters by upstream and outcome.", |cells| {
                &cells.calls
            }),
            ("sluice_upstream_retries_total", "reason", "Further attempts by upstream and reason.", |cells| {
                &cells.retries
            }),
            (
                "sluice_upstream_retries_denied_total",
                "cause",
                "Attempts that a retry policy wanted and did not get, by upstream and cause.",
                |cells| &cells.retries_denied,
            ),
        ];
        for (name, label, help, of) in families {
            let mut sums = Counts::new();
            for cells in workers {
                lock(of(cells)).iter().for_each(|(key, count)| *sums.entry(*key).or_default() += count);
            }
            out.family(name, "counter", help);
            for ((upstream, why), count) in sorted(sums, |(upstream, why)| (upstream.0, *why)) {
                let upstream = self.upstreams.name(upstream.0);
                out.sample(name, &[("upstream", &*upstream), (label, why)], count as f64);
            }
        }
    }

    fn render_responses(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        let mut reasons: BTreeMap<(Arc<str>, Arc<str>), u64> = BTreeMap::new();
        for cells in workers {
            for (filter, counts) in lock(&cells.reasons).iter() {
                for (reason, count) in counts {
                    *reasons.entry((Arc::clone(filter), Arc::clone(reason))).or_default() += count;
                }
            }
        }
        let name = "sluice_response_reasons_total";
        out.family(name, "counter", "Responses for which a filter has given a reason, by filter and reason.");
        for ((filter, reason), count) in reasons {
            out.sample(name, &[("filter", &filter), ("reason", &reason)], count as f64);
        }
        let name = "sluice_grpc_responses_total";
        out.family(name, "counter", "Responses to clients of gRPC, by route and status of gRPC.");
        for (id, route) in self.routes.all().into_iter().enumerate() {
            let sum = GrpcStatuses::default();
            workers.iter().filter_map(|cells| cells.grpc.peek(id as u32)).for_each(|cells| sum.add_all(cells));
            for (status, count) in sum.counts() {
                out.sample(name, &[("route", &*route), ("grpc_status", &status)], count as f64);
            }
        }
    }

    /// Counters of a route and a word.
    fn render_releases(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        type Read = fn(&Cells) -> &Mutex<ByRoute>;
        let families: [(&str, &str, &str, Read); 5] = [
            ("sluice_mirrored_requests_total", "outcome", "Copies of requests by outcome.", |cells| &cells.mirrored),
            ("sluice_cache_requests_total", "result", "Requests of routes with a cache, by what it did.", |cells| {
                &cells.cached
            }),
            (
                "sluice_cache_sent_bytes_total",
                "result",
                "Bytes of content sent to clients of routes with a cache, by what it did.",
                |cells| &cells.cache_sent,
            ),
            (
                "sluice_compression_skipped_total",
                "reason",
                "Responses of routes with compression that were sent as they are, by reason.",
                |cells| &cells.compression_skipped,
            ),
            ("sluice_faults_injected_total", "fault", "Faults that routes have injected.", |cells| &cells.faults),
        ];
        for (name, label, help, read) in families {
            let mut sums = ByRoute::new();
            for cells in workers {
                for (key, count) in lock(read(cells)).iter() {
                    *sums.entry(*key).or_default() += count;
                }
            }
            out.family(name, "counter", help);
            for ((route, word), count) in sorted(sums, |(route, word)| (route.0, *word)) {
                let route = self.routes.name(route.0);
                out.sample(name, &[("route", &*route), (label, word)], count as f64);
            }
        }
    }

    fn render_compression(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        type Read = fn(&Compressed) -> u64;
        let families: [(&str, &str, Read); 3] = [
            ("sluice_compressed_responses_total", "Compressed responses.", |sums| sums.responses),
            ("sluice_compression_input_bytes_total", "Bytes of content before its compression.", |sums| sums.input),
            ("sluice_compression_output_bytes_total", "Bytes of content after its compression.", |sums| sums.output),
        ];
        let mut sums: HashMap<(RouteId, &'static str), Compressed> = HashMap::new();
        for cells in workers {
            for (key, of_worker) in lock(&cells.compressed).iter() {
                let sum = sums.entry(*key).or_default();
                sum.responses += of_worker.responses;
                sum.input += of_worker.input;
                sum.output += of_worker.output;
            }
        }
        let sums = sorted(sums, |(route, encoding)| (route.0, *encoding));
        for (name, help, read) in families {
            out.family(name, "counter", help);
            for ((route, encoding), sum) in &sums {
                let route = self.routes.name(route.0);
                out.sample(name, &[("route", &*route), ("encoding", encoding)], read(sum) as f64);
            }
        }
    }

    fn render_listeners(&self, out: &mut Exposition) {
        type Read = fn(&ListenerCounters) -> u64;
        let families: [(&str, &str, &str, Read); 9] = [
            ("sluice_connections_total", "counter", "Accepted connections.", |l| l.accepted.value()),
            ("sluice_connections_active", "gauge", "Open connections.", |l| l.active.value()),
            ("sluice_connections_refused_total", "counter", "Connections over a limit.", |l| l.refused.value()),
            ("sluice_connection_errors_total", "counter", "Connections ended by an error.", |l| {
                l.connection_errors.value()
            }),
            ("sluice_stalled_streams_total", "counter", "HTTP/2 streams reset since the client took nothing.", |l| {
                l.stalled_streams.value()
            }),
            ("sluice_proxy_protocol_failures_total", "counter", "Connections without a good PROXY header.", |l| {
                l.proxy_protocol_failures.value()
            }),
            ("sluice_accept_errors_total", "counter", "Failed accepts.", |l| l.accept_errors.value()),
            ("sluice_received_bytes_total", "counter", "Bytes from clients, as on the wire.", |l| l.bytes_in.value()),
            ("sluice_sent_bytes_total", "counter", "Bytes to clients.", |l| l.bytes_out.value()),
        ];
        let mut listeners: BTreeMap<Arc<str>, Vec<Arc<ListenerCounters>>> = BTreeMap::new();
        for (name, counters) in lock(&self.listeners).iter() {
            listeners.entry(Arc::clone(name)).or_default().push(Arc::clone(counters));
        }
        for (name, kind, help, read) in families {
            out.family(name, kind, help);
            for (listener, workers) in &listeners {
                let sum: u64 = workers.iter().map(|counters| read(counters)).sum();
                out.sample(name, &[("listener", listener)], sum as f64);
            }
        }
        super::tls::render(&listeners, out);
    }

    fn render_process(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        let total = |read: fn(&Cells) -> &Counter| workers.iter().map(|cells| read(cells).value()).sum::<u64>();
        out.family("sluice_completions_dropped_total", "counter", "on-complete calls dropped from a full queue.");
        out.sample("sluice_completions_dropped_total", &[], total(|cells| &cells.completions_dropped) as f64);
        out.family("sluice_panics_total", "counter", "Panics caught in connection tasks: bugs of the gateway.");
        out.sample("sluice_panics_total", &[], total(|cells| &cells.panics) as f64);
        out.family(
            "sluice_background_panics_total",
            "counter",
            "Panics caught in background tasks: bugs of the gateway.",
        );
        out.sample("sluice_background_panics_total", &[], self.background_panics.value() as f64);
        out.family("sluice_reloads_total", "counter", "Configuration reloads by result.");
        out.sample("sluice_reloads_total", &[("result", "ok")], self.reloads.value() as f64);
        out.sample("sluice_reloads_total", &[("result", "refused")], self.reloads_refused.value() as f64);
        out.family("sluice_last_reload_timestamp_seconds", "gauge", "When the running configuration was loaded.");
        out.sample("sluice_last_reload_timestamp_seconds", &[], self.last_reload.value() as f64);
        out.family("sluice_reload_in_progress", "gauge", "1 while a configuration is being loaded, else 0.");
        out.sample("sluice_reload_in_progress", &[], self.reload_in_progress.value() as f64);
        out.family(
            "sluice_log_lines_dropped_total",
            "counter",
            "Log lines lost to a slow or closed reader, or above the rate of their kind.",
        );
        out.sample("sluice_log_lines_dropped_total", &[("log", "access")], self.access_log_dropped.value() as f64);
        out.sample("sluice_log_lines_dropped_total", &[("log", "operational")], self.log_dropped.value() as f64);
        super::process::process(self.started, out);
    }
}

fn sum_traffic(
    names: &Names<Arc<str>>,
    workers: &[Arc<Cells>],
    table: fn(&Cells) -> &Table<Traffic>,
) -> Vec<(Arc<str>, Traffic)> {
    let mut sums = Vec::new();
    for (id, name) in names.all().into_iter().enumerate() {
        let sum = Traffic::default();
        workers.iter().filter_map(|cells| table(cells).peek(id as u32)).for_each(|cells| sum.add_all(cells));
        sums.push((name, sum));
    }
    sums
}

fn sorted<K, V, S: Ord>(map: HashMap<K, V>, key: impl Fn(&K) -> S) -> Vec<(K, V)> {
    let mut entries: Vec<(K, V)> = map.into_iter().collect();
    entries.sort_by_key(|(entry, _)| key(entry));
    entries
}
