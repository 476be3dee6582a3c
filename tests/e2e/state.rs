//! Limits and values that gateways share in Redis: exact and leased, on one server, behind Sentinels and in a cluster, and what becomes of calls
//! while the server is killed, hangs, or answers nonsense. `STATE_REQUESTS=100000 cargo test -p sluice --test e2e state::` is the full length.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::redis::{Redis, RedisCluster, RedisWithSentinels};
use sluice_harness::{Certs, Gateway, Origin, eventually};

use crate::support::{gateway, probe, route, setup, with_base};

/// Requests of a run over several gateways. A tenth of them is allowed.
fn requests() -> usize {
    std::env::var("STATE_REQUESTS").ok().and_then(|number| number.parse().ok()).unwrap_or(3_000)
}

/// A gateway that limits all requests together, `amount` in a day. Where the time of a call is not what a test is about, a machine that stalls costs none.
pub(crate) fn limiting(origin: &Origin, state: &str, plugin: &str, amount: usize) -> String {
    let (wall, timeout) = match state.contains("\ntimeout = ") {
        true => ("", ""),
        false => ("limits.wall = \"8s\"\n", "timeout = \"2s\"\n"),
    };
    route(&origin.url(), &["limits"])
        + &format!(
            "[filters.limits]\nplugin = \"rate-limit\"\n\
             config.limits = [{{ key = \"global\", algorithm = \"fixed-window\", amount = {amount}, window = \"7d\" }}]\n\
             [plugins.rate-limit]\n{plugin}\n{wall}[state.shared]\n{state}\n{timeout}"
        )
}

pub(crate) fn shared(origin: &Origin, state: &str, amount: usize) -> String {
    limiting(origin, state, "state = \"shared\"", amount)
}

/// How many of these requests pass, sent to all gateways by several clients at the same time. Nothing but 200 and 429 is answered.
fn passed(gateways: &[Gateway], requests: usize) -> usize {
    const CLIENTS: usize = 4;
    let (sent, passed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for gateway in gateways {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = gateway.client();
                    while sent.fetch_add(1, Ordering::Relaxed) < requests {
                        match client.get("/").status {
                            200 => passed.fetch_add(1, Ordering::Relaxed),
                            429 => 0,
                            other => panic!("a status of {other}"),
                        };
                    }
                });
            }
        }
    });
    passed.into_inner()
}

#[test]
fn three_gateways_have_one_exact_limit() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let (requests, amount) = (requests(), requests() / 10);
    for (mode, prefix) in [("reused", "a:"), ("fresh", "b:")] {
        let toml =
            shared(&origin, &format!("redis = [\"{}\"]\nprefix = \"{prefix}\"\ntimeout = \"2s\"", redis.url()), amount);
        let toml = toml.replace("[plugins.rate-limit]", &format!("[plugins.rate-limit]\ninstances.mode = \"{mode}\""));
        let toml = toml.replace("\n[state", "\nlimits.wall = \"10s\"\n[state");
        let gateways: Vec<Gateway> = (0..3).map(|_| gateway(&toml)).collect();
        let before = redis.calls("evalsha");
        assert_eq!(passed(&gateways, requests), amount, "{mode}");
        // One round trip for each decision, and one more of each client that found the script unknown.
        let asked = redis.calls("evalsha") - before;
        assert!((requests as u64..=requests as u64 + 12).contains(&asked), "{mode}: {asked} scripts");
        let answered: f64 = gateways
            .iter()
            .filter_map(|gateway| {
                gateway.metric("sluice_state_calls_total", &[("state", "shared"), ("outcome", "answered")])
            })
            .sum();
        assert!(answered >= requests as f64, "{mode}: {answered}");
    }
}

#[test]
fn a_lease_lets_through_no_more_than_its_bound() {
    const LEASE: usize = 20;
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let (requests, amount) = (requests(), requests() / 10);
    let plugin = format!("state = {{ name = \"shared\", limits = \"leased\", lease = {LEASE}, values = \"local\" }}");
    let toml = limiting(&origin, &format!("redis = [\"{}\"]", redis.url()), &plugin, amount);
    let gateways: Vec<Gateway> = (0..3).map(|_| gateway(&toml)).collect();
    let found = passed(&gateways, requests);
    assert!((amount..=amount + 3 * LEASE).contains(&found), "{found} of {amount}");
    eventually("everything is told", || {
        gateways.iter().all(|one| one.metric("sluice_state_unreported_limits", &[("state", "shared")]) == Some(0.0))
    });
    // What was told is what has passed: a gateway that starts now allows nothing, once it has heard of it.
    let late = gateway(&toml);
    let through = passed(std::slice::from_ref(&late), 200);
    assert!(through <= LEASE, "{through} of a new gateway");
    assert!(redis.calls("evalsha") < requests as u64 / 2, "many decisions are told in one call");
}

/// The statuses and fields of requests, for a state that is `local` or shared.
fn seen(gateway: &Gateway, count: usize) -> Vec<(u16, Option<String>, Option<String>)> {
    let mut client = gateway.client();
    let seen = (0..count).map(|_| {
        let answer = client.get("/");
        let field = |name: &str| answer.header(name).map(str::to_owned);
        (answer.status, field("x-ratelimit-remaining"), field("x-ratelimit-limit"))
    });
    seen.collect()
}

#[test]
fn every_algorithm_decides_as_in_memory() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    for algorithm in ["token-bucket", "leaky-bucket", "fixed-window", "sliding-window"] {
        let burst = if algorithm.ends_with("bucket") { ", burst = 4" } else { "" };
        let limits = format!(
            "config.limits = [{{ key = \"global\", algorithm = \"{algorithm}\", amount = 7, window = \"7d\"{burst} }}, \
             {{ name = \"other\", key = \"ip\", algorithm = \"{algorithm}\", amount = 100, window = \"1d\" }}]\nconfig.cost = 2\n"
        );
        let base = route(&origin.url(), &["limits"]) + "[filters.limits]\nplugin = \"rate-limit\"\n" + &limits;
        let local = gateway(&base);
        let state = format!(
            "[plugins.rate-limit]\nstate = \"shared\"\nlimits.wall = \"8s\"\n[state.shared]\nredis = [\"unix:{}\"]\ndatabase = 3\ntimeout = \"2s\"\n",
            redis.socket().display()
        );
        let remote = gateway(&(base + &state));
        let (here, there) = (seen(&local, 6), seen(&remote, 6));
        assert_eq!(here, there, "{algorithm}");
        assert!(here.iter().any(|(status, ..)| *status == 429), "{algorithm}: {here:?}");
    }
    assert!(redis.ask(&["INFO", "keyspace"]).contains("db3:"), "the database that was asked for");
}

#[test]
fn values_are_shared_and_answer_as_in_memory() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let calls = json!([
        ["kv.get", "sessions", "a"],
        ["kv.get-or-reserve", "sessions", "a", 60_000],
        ["kv.get-or-reserve", "sessions", "a", 60_000],
        ["kv.get", "sessions", "a"],
        ["kv.compare-and-swap", "sessions", "a", false, "one", 60_000],
        ["kv.compare-and-swap", "sessions", "a", false, "two"],
        ["kv.compare-and-swap", "sessions", "a", "one", "two"],
        ["kv.get-or-reserve", "sessions", "a", 60_000],
        ["kv.set", "sessions", "b", "", 60_000],
        ["kv.get", "sessions", "b"],
        ["kv.set", "sessions", "b", "x", 0],
        ["kv.delete", "sessions", "a"],
        ["kv.delete", "sessions", "a"],
        ["kv.get", "other", "a"],
        ["kv.get", "sessions", "k".repeat(1025)],
        ["limiter.take", [["k", "fixed-window", 5, 600_000, 0]], 2],
    ]);
    let calls = json!({ "on-request": [{ "do": "functions", "calls": calls, "to": "x-answers" }] });
    let base = route(&origin.url(), &["values"]) + &probe("values", calls) + "grants = { kv = [\"sessions\"] }\n";
    let state = format!(
        "[state.shared]\nredis = [\"{}\"]\ntimeout = \"2s\"\n[plugins.probe]\nstate = \"shared\"\nlimits.wall = \"8s\"\n",
        redis.url()
    );
    let answers = |toml: &str| {
        redis.ask(&["FLUSHALL"]);
        let gateway = gateway(toml);
        assert_eq!(gateway.get("/").status, 200);
        let found = origin.last().header("x-answers").expect("answers").to_owned();
        found.split(" | ").map(str::to_owned).collect::<Vec<_>>()
    };
    let (here, there) = (answers(&base), answers(&(base.clone() + &state)));
    assert_eq!(here, there);
    assert_eq!(here.len(), 16);
    // Both ways to call a component.
    let component =
        answers(&(base.clone() + &state.replace("[plugins.probe]", "[plugins.probe]\ncall = \"component\"")));
    assert_eq!(component, there);
    let fresh = answers(&(base + &state.replace("[plugins.probe]", "[plugins.probe]\ninstances.mode = \"fresh\"")));
    assert_eq!(fresh, there);
}

#[test]
fn while_the_server_is_away_on_unavailable_holds() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let away = ["local", "open", "closed"];
    let gateways: Vec<Gateway> = away
        .iter()
        .map(|away| {
            let lines = format!(
                "redis = [\"{}\"]\nprefix = \"{away}:\"\ntimeout = \"1s\"\non_unavailable = \"{away}\"",
                redis.url()
            );
            let plain =
                "[routes.plain]\nmatch = { path = \"/plain/**\" }\nupstream = \"".to_owned() + &origin.url() + "\"\n";
            gateway(&(shared(&origin, &lines, 5).replace("\n[state", "\nlimits.wall = \"8s\"\n[state") + &plain))
        })
        .collect();
    let [local, open, closed] = &gateways[..] else { unreachable!("three") };
    let statuses = |gateway: &Gateway, count: usize| -> Vec<u16> {
        seen(gateway, count).into_iter().map(|(status, ..)| status).collect()
    };
    for gateway in &gateways {
        assert_eq!(statuses(gateway, 2), [200, 200]);
    }
    for how in ["hung", "killed"] {
        match how {
            "hung" => redis.hang(),
            _ => redis.kill(),
        }
        let worst = |gateway: &Gateway| {
            let mut client = gateway.client();
            let times = (0..50).map(|_| {
                let begun = Instant::now();
                assert_eq!(client.get("/plain/").status, 200);
                begun.elapsed()
            });
            let mut times: Vec<Duration> = times.collect();
            times.sort();
            times[48]
        };
        let others = worst(local);
        eventually("it is known to be away", || {
            gateways.iter().all(|one| {
                one.get("/");
                one.metric("sluice_state_connections", &[("state", "shared")]) == Some(0.0)
            })
        });
        let begun = Instant::now();
        let found = statuses(local, 10);
        assert_eq!(found.last(), Some(&429), "{how}: each gateway counts for itself: {found:?}");
        assert_eq!(statuses(open, 10), [200; 10], "{how}");
        let refused = closed.get("/");
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{how}");
        closed.wait_access("the reason", |line| line["reason"] == "limits-unavailable");
        // Nothing waits for a server that is known to be away. A second each would be twenty.
        assert!(begun.elapsed() < Duration::from_secs(10), "{how}: {:?}", begun.elapsed());
        assert!(others < Duration::from_secs(1), "{how}: routes without limits take {others:?}");
        match how {
            "hung" => redis.resume(),
            _ => assert!(redis.start_again()),
        }
        eventually("it is found again", || closed.get("/").status != 503);
    }
    // The killed one has lost its counters: five pass again, and the one that found it.
    let found = statuses(closed, 6);
    assert_eq!(found.iter().filter(|status| **status == 200).count(), 4, "{found:?}");
    let log = closed.log().iter().filter(|line| line.to_string().contains("can't be reached")).count();
    assert!(log <= 4, "one line for each time that it was away, not one a request: {log}");
}

#[test]
fn more_calls_than_may_wait_are_as_when_it_is_away() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let lines =
        format!("redis = [\"{}\"]\ntimeout = \"10s\"\nmax_waiting = 1\non_unavailable = \"closed\"", redis.url());
    let gateway = gateway(&shared(&origin, &lines, 1000).replace("\n[state", "\nlimits.wall = \"60s\"\n[state"));
    assert_eq!(gateway.get("/").status, 200);
    redis.hang();
    let (mut first, mut second) = (gateway.client(), gateway.client());
    first.send(first.format("GET", "/", &[], b""));
    eventually("one waits", || gateway.metric("sluice_state_waiting_calls", &[("state", "shared")]) == Some(1.0));
    assert_eq!(second.get("/").status, 503);
    redis.resume();
    assert_eq!(first.read_response("GET").status, 200, "who waits gets the answer");
    let calls = |outcome| gateway.metric("sluice_state_calls_total", &[("state", "shared"), ("outcome", outcome)]);
    assert_eq!((calls("busy"), calls("timeout").unwrap_or(0.0)), (Some(1.0), 0.0));
}

#[test]
fn a_cluster_that_loses_a_node_goes_on() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let origin = Origin::named("o");
    let lines =
        format!("redis = {}\nmode = \"cluster\"\ntimeout = \"2s\"\non_unavailable = \"closed\"", cluster.urls());
    let toml = shared(&origin, &lines, 40).replace("\n[state", "\nlimits.wall = \"8s\"\n[state");
    let gateways: Vec<Gateway> = (0..3).map(|_| gateway(&toml)).collect();
    let statuses = |gateway: &Gateway, count| seen(gateway, count).iter().filter(|(status, ..)| *status == 200).count();
    assert_eq!(gateways.iter().map(|gateway| statuses(gateway, 10)).sum::<usize>(), 30);
    // One that hangs keeps nobody from the others, also who comes then.
    let replica = cluster.nodes.iter().position(|node| node.ask(&["ROLE"]).starts_with("slave")).expect("a replica");
    cluster.nodes[replica].hang();
    let late = gateway(&toml.replace("mode = \"cluster\"", "mode = \"cluster\"\nprefix = \"late:\""));
    eventually("it is connected", || late.get("/").status != 503);
    drop(late);
    cluster.nodes[replica].resume();
    let ready = |cluster: &RedisCluster| {
        cluster.nodes.iter().all(|node| node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    };
    eventually("the cluster is whole again", || ready(&cluster));
    let master = cluster.master_of("{rate-limit}");
    // Writes reach the replica soon after they are answered; those that have not are lost with the node.
    master.until_replicated();
    master.kill();
    eventually("a replica has taken over", || gateways[0].get("/").status != 503);
    eventually("for all", || gateways.iter().all(|gateway| gateway.get("/").status != 503));
    let after: usize = gateways.iter().map(|gateway| statuses(gateway, 20)).sum();
    assert!(after <= 10, "30 were taken of 40, then {after} more passed");
    eventually("the limit is met", || gateways.iter().all(|gateway| gateway.get("/").status == 429));
}

#[test]
fn sentinels_tell_the_new_master() {
    let Some(mut redis) = RedisWithSentinels::start("limits") else { return };
    let origin = Origin::named("o");
    let lines = format!(
        "redis = {}\nmode = \"sentinel\"\nmaster = \"limits\"\nsentinel_username = \"watcher\"\nsentinel_password = \"s3ntinel\"\ntimeout = \"2s\"\non_unavailable = \"closed\"",
        redis.urls()
    );
    let gateway = gateway(&shared(&origin, &lines, 5).replace("\n[state", "\nlimits.wall = \"8s\"\n[state"));
    assert_eq!(seen(&gateway, 3).iter().filter(|(status, ..)| *status == 200).count(), 3);
    redis.servers[0].until_replicated();
    redis.servers[0].kill();
    eventually("the replica is the master", || matches!(gateway.get("/").status, 200 | 429));
    let found = seen(&gateway, 4);
    assert!(found.iter().filter(|(status, ..)| *status == 200).count() <= 1, "{found:?}");
    eventually("the limit holds with the new master", || gateway.get("/").status == 429);
}

#[test]
fn it_logs_in_over_tls_as_the_user_it_is_told() {
    let certs = Certs::new();
    let (pair, ca) = (certs.leaf(&["localhost"]), std::fs::read_to_string(certs.ca()).expect("a file"));
    let shown = |path: &std::path::Path| path.display().to_string();
    let (cert, key, authority) = (shown(&pair.cert), shown(&pair.key), shown(&certs.ca()));
    let arguments = [
        "--tls-port",
        "PORT",
        "--port",
        "0",
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "yes",
        // Those that limits and values need, and no more.
        "--user",
        "gateway",
        "on",
        ">s3cret",
        "~sluice:*",
        "-@all",
        "+evalsha",
        "+eval",
        "+time",
        "+get",
        "+set",
        "+getdel",
        "+ping",
        "+auth",
    ];
    let Some(redis) = Redis::start(&arguments) else { return };
    let origin = Origin::named("o");
    let lines = |password: &str| {
        format!(
            "redis = [\"rediss://localhost:{}\"]\nusername = \"gateway\"\npassword = \"{password}\"\ntls = {{ ca = \"ca.pem\", cert = \"{cert}\", key = \"{key}\" }}\n\
             on_unavailable = \"closed\"",
            redis.port
        )
    };
    let start = |lines: &str| setup().file("ca.pem", &ca).start(&with_base(&shared(&origin, lines, 5)));
    let good = start(&lines("s3cret"));
    eventually("it is connected", || good.get("/").status == 200);
    let wrong = start(&lines("secr3t"));
    assert_eq!(wrong.get("/").status, 503);
    let log = wrong.wait_log("the reason", |line| line.to_string().contains("can't be reached"));
    assert!(!log.to_string().contains("secr3t"), "{log}");
    let stranger = start(&lines("s3cret").replace("ca = \"ca.pem\", ", ""));
    assert_eq!(stranger.get("/").status, 503, "an authority that nobody trusts");
    let nobody = start(&lines("s3cret").replace(&format!(", cert = \"{cert}\", key = \"{key}\""), ""));
    assert_eq!(nobody.get("/").status, 503, "the server asks for a certificate");
}

#[test]
fn nonsense_is_no_answer() {
    let origin = Origin::named("o");
    for nonsense in [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "*1000000000\r\n",
        "$9999999999\r\n",
        "+OK\r\n",
        ":-1\r\n",
        "\0\u{1}\u{2}",
        "",
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut asked = [0; 4096];
                    while stream.read(&mut asked).is_ok_and(|read| read > 0) {
                        if nonsense.is_empty() || stream.write_all(nonsense.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let lines =
            format!("redis = [\"redis://127.0.0.1:{port}\"]\non_unavailable = \"closed\"\nconnect_timeout = \"200ms\"");
        let gateway = gateway(&shared(&origin, &lines, 5));
        assert_eq!(gateway.get("/").status, 503, "{nonsense:?}");
        assert_eq!(gateway.get("/").status, 503, "{nonsense:?}");
        assert!(gateway.resident() < 300 << 20, "{nonsense:?}");
    }
}

#[test]
fn what_another_has_put_there_is_not_taken_for_a_limit() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let gateway = gateway(&shared(&origin, &format!("redis = [\"{}\"]\non_unavailable = \"closed\"", redis.url()), 5));
    assert_eq!(gateway.get("/").status, 200);
    let keys = redis.ask(&["KEYS", "*"]);
    let key = keys.lines().find(|line| line.starts_with("sluice:")).expect("a key").trim();
    redis.ask(&["SET", key, "garbage"]);
    assert_eq!(gateway.get("/").header("x-ratelimit-remaining"), Some("4"), "as good as nothing");
    redis.ask(&["DEL", key]);
    redis.ask(&["LPUSH", key, "garbage"]);
    assert_eq!(gateway.get("/").status, 503, "an error of the server is no answer");
    gateway.wait_log("what it says", |line| line.to_string().contains("WRONGTYPE"));
    redis.ask(&["DEL", key]);
    assert_eq!(gateway.get("/").status, 200, "and the connection is as good as before");
    redis.ask(&["SCRIPT", "FLUSH"]);
    assert_eq!(gateway.get("/").status, 200, "a server that does not know the script is told it");
}

#[test]
fn a_reload_keeps_connections_and_leases() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let toml = with_base(&limiting(
        &origin,
        &format!("redis = [\"{}\"]", redis.url()),
        "state = { name = \"shared\", limits = \"leased\", lease = 3 }",
        5,
    ));
    let gateway = setup().start(&toml);
    let connected = |redis: &Redis| {
        redis
            .ask(&["INFO", "stats"])
            .lines()
            .find_map(|line| {
                line.strip_prefix("total_connections_received:")
                    .map(|count| count.trim().parse::<u64>().expect("a number"))
            })
            .expect("a count")
    };
    assert_eq!(gateway.get("/").status, 200);
    eventually("it is told", || {
        gateway.metric("sluice_state_unreported_limits", &[("state", "shared")]) == Some(0.0) && redis.calls("set") >= 1
    });
    let before = connected(&redis);
    gateway.reload(
        &(toml.clone() + "[routes.more]\nmatch = { path = \"/more\" }\nupstream = \"" + &origin.url() + "\"\n"),
    );
    // A refusal may be the lease's, until it is told.
    let mut through = 0;
    eventually("the limit is met", || {
        through += seen(&gateway, 1).iter().filter(|(status, ..)| *status == 200).count();
        through >= 4
    });
    assert_eq!(seen(&gateway, 3).iter().filter(|(status, ..)| *status == 200).count(), 0, "counters are as they were");
    // Each question of this test is a connection, too.
    let asked = 1;
    assert!(connected(&redis) <= before + asked, "no connection is made anew");
    gateway.reload(&toml.replace("state = { name = \"shared\", limits = \"leased\", lease = 3 }", ""));
    assert_eq!(gateway.get("/").status, 200, "in memory nothing was counted yet");
    eventually("what nobody uses is closed", || redis.ask(&["INFO", "clients"]).contains("connected_clients:1\r"));
}

#[test]
fn check_says_what_a_lease_costs_and_refuses_what_can_not_be() {
    let origin = Origin::named("o");
    let leased = "state = { name = \"shared\", limits = \"leased\", lease = 250 }";
    let toml = with_base(&limiting(&origin, "redis = [\"redis://127.0.0.1:1\"]", leased, 5));
    let checked = setup().command_output(&toml, &["check"]);
    assert!(checked.stdout.contains("exceed a limit by at most N × 250"), "{}", checked.stdout);
    for (state, plugin, expected) in [
        ("redis = [\"redis://u:p@a\"]", leased, "credentials belong to the keys `username` and `password`"),
        ("redis = [\"redis://a\", \"redis://b\"]", leased, "a single server has one address"),
        ("redis = [\"redis://a\"]\nmode = \"sentinel\"", leased, "needs the name of the `master`"),
        ("redis = [\"redis://a\"]\nmode = \"cluster\"\ndatabase = 1", leased, "a cluster has no `database`"),
        ("redis = [\"redis://a\"]\nprefix = \"{x}\"", leased, "expected up to 64"),
        ("redis = [\"redis://a\"]\ntimeout = \"2s\"", leased, "a quarter of `limits.wall`"),
        ("redis = [\"redis://a\"]", "state = \"share\"", "unknown state `share`"),
        ("redis = [\"redis://a\"]", "state = { name = \"shared\", lease = 5 }", "`lease` goes with"),
    ] {
        let toml = with_base(&limiting(&origin, state, plugin, 5));
        let refused = setup().refused(&toml);
        assert!(refused.stderr.contains(expected), "{expected}: {}", refused.stderr);
    }
}
