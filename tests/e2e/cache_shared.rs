//! The tier that gateways share in Redis: responses of one serve the other, a purge reaches all, and nothing depends on it.
//! `just cache-chaos` is the full length of the chaos, with 100,000 URLs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::redis::{Redis, RedisCluster, RedisWithSentinels};
use sluice_harness::{Client, Gateway, Origin, Reply, Response, eventually};

use crate::cache::{counting, get, route, status};
use crate::support::with_base;

const ADMIN: &str = "[admin]\nbind = \"127.0.0.1:0\"\n";

/// How many URLs the chaos asks for.
fn objects() -> usize {
    std::env::var("CACHE_OBJECTS").ok().and_then(|number| number.parse().ok()).unwrap_or(300)
}

/// A gateway with a cache in front of this Redis.
fn sharing(redis: &Redis, origin: &Origin, cache: &str) -> Gateway {
    Gateway::start(&toml(redis, origin, cache))
}

fn toml(redis: &Redis, origin: &Origin, cache: &str) -> String {
    with_store(&format!("redis = [\"{}\"]", redis.url()), origin, cache)
}

/// A configuration with a cache in front of what this `[state]` table names.
fn with_store(state: &str, origin: &Origin, cache: &str) -> String {
    let rest = route(origin, cache)
        + &format!("[state.shared]\n{state}\ntimeout = \"1s\"\n[cache]\nstate = \"shared\"\nmemory = \"32MiB\"\n");
    with_base(&rest).replace(ADMIN, &format!("{ADMIN}token = \"a-token-of-some-length\"\n"))
}

fn get_as(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut all = vec![("host", "shop.example")];
    all.extend(headers);
    get(gateway, target, &all)
}

fn purge(gateway: &Gateway, what: serde_json::Value) {
    let authorization = [("authorization", "Bearer a-token-of-some-length")];
    let mut admin = Client::connect(gateway.address_of("admin"));
    let answer = admin.request("POST", "/api/v1/cache/purge", &authorization, what.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn is_live(gateway: &Gateway) -> bool {
    gateway.metric("sluice_cache_shared_usable", &[]) == Some(1.0)
}

fn both_live(gateways: &[&Gateway]) {
    eventually("the gateways follow the journal", || gateways.iter().all(|gateway| is_live(gateway)));
}

fn keys(redis: &Redis, pattern: &str) -> usize {
    redis.ask(&["KEYS", pattern]).lines().count()
}

#[test]
fn a_response_of_one_gateway_serves_the_other() {
    let Some(redis) = Redis::start(&[]) else { return };
    let body = "0123456789".repeat(5000);
    let whole = body.clone();
    let origin = Origin::serve(move |request| {
        let who = request.header("x-who").unwrap_or("nobody").to_owned();
        let reply = match request.target.as_str() {
            "/varies" => Reply::text(who).with("vary", "x-who"),
            "/cookie" => Reply::text("x").with("set-cookie", "a=b"),
            _ => Reply::text(whole.clone()),
        };
        reply.with("cache-control", "max-age=60").with("etag", "\"one\"")
    });
    let cache = "set_cookie = \"store\"";
    let (one, two) = (sharing(&redis, &origin, cache), sharing(&redis, &origin, cache));
    both_live(&[&one, &two]);
    get_as(&one, "/a", &[]);
    eventually("it is in the tier", || keys(&redis, "sluice:cache:*") == 1);
    let shared = get_as(&two, "/a", &[]);
    assert!(shared.text() == body && origin.count() == 1);
    assert!(status(&shared).contains("hit") && status(&shared).contains("detail=\"shared\""), "{}", status(&shared));
    assert!(shared.header("etag") == Some("\"one\"") && shared.header("age").is_some());
    two.wait_access("it is told", |line| line["cache"] == "shared");
    assert!(status(&get_as(&two, "/a", &[])).starts_with("sluice;hit;ttl="));
    // Each variant is for those who select it.
    let before = origin.count();
    for who in ["ada", "bob"] {
        assert_eq!(get_as(&one, "/varies", &[("x-who", who)]).text(), who);
    }
    eventually("both are in the tier", || keys(&redis, "sluice:cache:*-*") == 2);
    for who in ["bob", "ada"] {
        assert_eq!(get_as(&two, "/varies", &[("x-who", who)]).text(), who);
    }
    assert_eq!(origin.count(), before + 2);
    assert_eq!(get_as(&two, "/varies", &[("x-who", "eve")]).text(), "eve");
    // A cookie is for one client.
    get_as(&one, "/cookie", &[]);
    let before = origin.count();
    get_as(&two, "/cookie", &[]);
    assert_eq!(origin.count(), before + 1);
}

#[test]
fn what_a_head_takes_away_does_not_come_back_from_the_tier() {
    let Some(redis) = Redis::start(&[]) else { return };
    for (status, head) in [("private", "\"one\""), ("max-age=60", "\"two\"")] {
        let origin = Origin::serve(move |request| match &*request.method {
            "HEAD" => Reply::text("x").with("etag", head).with("cache-control", status),
            _ => Reply::text("x").with("etag", "\"one\"").with("cache-control", "max-age=60"),
        });
        let gateway = sharing(&redis, &origin, "request_directives = true");
        both_live(&[&gateway]);
        get_as(&gateway, "/a", &[]);
        eventually("it is in the tier", || keys(&redis, "sluice:cache:*") == 1);
        let anew = [("host", "shop.example"), ("cache-control", "no-cache")];
        gateway.request("HEAD", "/a", &anew, b"");
        eventually("the tier has it no more", || keys(&redis, "sluice:cache:*") == 0);
    }
}

#[test]
fn a_response_to_a_caller_is_not_taken_out_of_the_tier() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = counting("max-age=60");
    let (one, two) = (sharing(&redis, &origin, ""), sharing(&redis, &origin, ""));
    both_live(&[&one, &two]);
    get_as(&one, "/", &[]);
    eventually("it is in the tier", || keys(&redis, "sluice:cache:*") == 1);
    assert_eq!(get_as(&two, "/", &[("authorization", "Bearer ada")]).text(), "2");
    assert_eq!(get_as(&two, "/", &[]).text(), "1");
}

#[test]
fn a_purge_on_one_is_gone_on_the_other() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::serve({
        let count = AtomicUsize::new(0);
        move |_| {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            Reply::text(number.to_string()).with("cache-control", "max-age=600").with("cache-tag", "red")
        }
    });
    let (one, two) = (sharing(&redis, &origin, ""), sharing(&redis, &origin, ""));
    both_live(&[&one, &two]);
    let mut took = Vec::new();
    for what in [
        json!({"url": "http://shop.example/a"}),
        json!({"prefix": "http://shop.example/"}),
        json!({"host": "shop.example"}),
        json!({"tag": "red"}),
        json!({"everything": true}),
    ] {
        let text = get_as(&two, "/a", &[]).text();
        get_as(&one, "/a", &[]);
        purge(&one, what.clone());
        let begun = Instant::now();
        eventually("it is gone", || get_as(&two, "/a", &[]).text() != text);
        took.push(begun.elapsed());
        // Nor does the tier have it.
        let three = sharing(&redis, &origin, "");
        both_live(&[&three]);
        assert_ne!(get_as(&three, "/a", &[]).text(), text, "{what}");
    }
    // The machine may be busy: the fastest of them shows what it takes.
    assert!(took.iter().min().is_some_and(|least| *least < Duration::from_millis(100)), "{took:?}");
    // So does a change by a client.
    let text = get_as(&two, "/a", &[]).text();
    one.request("DELETE", "/a", &[("host", "shop.example")], b"");
    eventually("it is gone", || get_as(&two, "/a", &[]).text() != text);
}

/// Two gateways share responses and purges, the server that has the journal is lost, and they share again.
fn shares_over_a_failover(state: &str, kill: impl FnOnce()) {
    let origin = counting("max-age=600");
    let toml = with_store(state, &origin, "");
    let (one, two) = (Gateway::start(&toml), Gateway::start(&toml));
    let shares = |name: &str| {
        both_live(&[&one, &two]);
        // What one of them got a moment before serves the other: it is written behind the request.
        let mut texts = Vec::new();
        eventually("a response of one serves the other", || {
            let before = texts.len().checked_sub(1).map(|last| get_as(&two, &format!("/{name}/{last}"), &[]));
            let of_two = before.is_some_and(|found| {
                status(&found).contains("detail=\"shared\"") && texts.last() == Some(&found.text())
            });
            texts.push(get_as(&one, &format!("/{name}/{}", texts.len()), &[]).text());
            of_two
        });
        let target = format!("/{name}/0");
        let text = get_as(&two, &target, &[]).text();
        purge(&one, json!({"url": format!("http://shop.example{target}")}));
        eventually("a purge of one reaches the other", || get_as(&two, &target, &[]).text() != text);
    };
    shares("before");
    kill();
    eventually("the journal is away", || !is_live(&one) && !is_live(&two));
    assert_eq!([get_as(&one, "/", &[]).status, get_as(&two, "/", &[]).status], [200, 200]);
    shares("after");
}

#[test]
fn gateways_share_in_a_cluster() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let state = format!("redis = {}\nmode = \"cluster\"", cluster.urls());
    shares_over_a_failover(&state, || cluster.master_of("{cache}").kill());
}

#[test]
fn gateways_share_behind_sentinels() {
    let Some(mut redis) = RedisWithSentinels::start("shared") else { return };
    let state = format!(
        "redis = {}\nmode = \"sentinel\"\nmaster = \"shared\"\nsentinel_username = \"watcher\"\nsentinel_password = \"s3ntinel\"",
        redis.urls()
    );
    shares_over_a_failover(&state, || redis.servers[0].kill());
}

#[test]
fn purges_of_an_outage_are_told_afterwards() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let origin = counting("max-age=600");
    let (one, two) = (sharing(&redis, &origin, ""), sharing(&redis, &origin, ""));
    both_live(&[&one, &two]);
    let text = get_as(&two, "/a", &[]).text();
    redis.kill();
    eventually("the tier is away", || !is_live(&one) && !is_live(&two));
    purge(&one, json!({"url": "http://shop.example/a"}));
    assert_ne!(get_as(&one, "/a", &[]).text(), text);
    assert_eq!(get_as(&two, "/a", &[]).text(), text, "it can't know");
    // The server has lost all it had.
    assert!(redis.start_again());
    eventually("the other one hears of it", || get_as(&two, "/a", &[]).text() != text);
    // What is lost without a restart is found, too.
    both_live(&[&one, &two]);
    let text = get_as(&two, "/a", &[]).text();
    redis.ask(&["FLUSHALL"]);
    purge(&one, json!({"url": "http://shop.example/a"}));
    eventually("the other one hears of it", || get_as(&two, "/a", &[]).text() != text);
}

#[test]
fn a_gateway_that_has_missed_purges_trusts_nothing() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = counting("max-age=600");
    let gateway = sharing(&redis, &origin, "");
    both_live(&[&gateway]);
    let text = get_as(&gateway, "/a", &[]).text();
    let id = redis.ask(&["HGET", "sluice:{cache}:table", "id"]);
    eventually("it is in the tier", || keys(&redis, "sluice:cache:*") == 1);
    redis.ask(&["DEL", redis.ask(&["KEYS", "sluice:cache:*"]).trim()]);
    // As if a hundred entries had been written and trimmed meanwhile, and one of a later version.
    redis.ask(&["HSET", "sluice:{cache}:table", "last", "101"]);
    redis.ask(&["XADD", "sluice:{cache}:entries", "101-0", "e", "9?"]);
    eventually("all is gone", || get_as(&gateway, "/a", &[]).text() != text);
    assert_eq!(redis.ask(&["HGET", "sluice:{cache}:table", "id"]), id);
}

#[test]
fn what_is_broken_in_the_tier_is_not_used() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = counting("max-age=600");
    let (one, two) = (sharing(&redis, &origin, ""), sharing(&redis, &origin, ""));
    both_live(&[&one, &two]);
    get_as(&one, "/a", &[]);
    eventually("it is in the tier", || keys(&redis, "sluice:cache:*") == 1);
    let key = redis.ask(&["KEYS", "sluice:cache:*"]).trim().to_owned();
    redis.ask(&["SETRANGE", &key, "100", "broken"]);
    assert_eq!(get_as(&two, "/a", &[]).text(), "2");
}

#[test]
fn a_large_response_stays_in_memory() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::serve(|request| {
        let size = if request.target == "/large" { 300 << 10 } else { 100 };
        Reply::text("x".repeat(size)).with("cache-control", "max-age=600")
    });
    for (most, shared) in [("256KiB", 1), ("1MiB", 2)] {
        redis.ask(&["FLUSHALL"]);
        let toml = toml(&redis, &origin, "") + &format!("state_max_object = \"{most}\"\n");
        let gateway = Gateway::start(&toml);
        both_live(&[&gateway]);
        for target in ["/large", "/small"] {
            get_as(&gateway, target, &[]);
            assert!(status(&get_as(&gateway, target, &[])).starts_with("sluice;hit"));
        }
        eventually("what may be there is there", || keys(&redis, "sluice:cache:*") == shared);
    }
}

#[test]
fn a_journal_that_has_lost_its_last_entries_begins_anew() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = counting("max-age=600");
    let (one, two) = (sharing(&redis, &origin, ""), sharing(&redis, &origin, ""));
    both_live(&[&one, &two]);
    purge(&one, json!({"tag": "red"}));
    let text = get_as(&two, "/a", &[]).text();
    let id = redis.ask(&["HGET", "sluice:{cache}:table", "id"]);
    eventually("both have read the purge", || {
        let last = redis.ask(&["HGET", "sluice:{cache}:table", "last"]);
        last.trim() == "1" && is_live(&one) && is_live(&two)
    });
    // As if a replica without the first entry had taken over, and another gateway had written one with its number there.
    let script = "local text = redis.call('XRANGE', KEYS[1], '-', '+')[1][2][2]
redis.call('DEL', KEYS[1])
return redis.call('XADD', KEYS[1], '1-0', 'e', text, 'm', 'another')";
    redis.ask(&["EVAL", script, "1", "sluice:{cache}:entries"]);
    redis.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("it has another identity", || redis.ask(&["HGET", "sluice:{cache}:table", "id"]) != id);
    both_live(&[&one, &two]);
    purge(&one, json!({"url": "http://shop.example/a"}));
    eventually("a purge of one reaches the other", || get_as(&two, "/a", &[]).text() != text);
}

#[test]
fn a_reload_without_a_cache_forgets_what_is_stored_and_leaves_the_tier() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = counting("max-age=600");
    let with = toml(&redis, &origin, "");
    let without = with.replace("cache = {  }\n", "");
    assert_ne!(with, without);
    let gateway = Gateway::start(&with);
    both_live(&[&gateway]);
    get_as(&gateway, "/a", &[]);
    eventually("it is in the tier", || keys(&redis, "sluice:cache:*") == 1);
    gateway.reload(&without);
    assert_ne!(gateway.metric("sluice_cache_shared_usable", &[]), Some(1.0));
    // Nobody tells the cache of this.
    redis.ask(&["FLUSHALL"]);
    gateway.request("POST", "/a", &[("host", "shop.example")], b"x");
    let before = origin.count();
    gateway.reload(&with);
    get_as(&gateway, "/a", &[]);
    assert_eq!(origin.count(), before + 1);
    both_live(&[&gateway]);
}

/// What the chaos does to the origin, and its time.
struct Chaos {
    began: Instant,
    healthy: AtomicBool,
}

impl Chaos {
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn origin(self: &Arc<Chaos>) -> Origin {
        let chaos = Arc::clone(self);
        Origin::serve(move |request| {
            if !chaos.healthy.load(Ordering::Relaxed) {
                return Reply::status(503);
            }
            let life = match request.target.starts_with("/short/") {
                true => "max-age=2, stale-if-error=3",
                false => "max-age=600, stale-if-error=600",
            };
            Reply::text(body_of(&request.target, chaos.now())).with("cache-control", life)
        })
    }

    /// Asks for a URL. Answers when its body was made; none for an error of the origin. A body that is not whole or older than it may
    /// be fails the test.
    fn ask(&self, client: &mut Client, target: &str) -> Option<u64> {
        // The gateway decides later, so that the body was not younger to it.
        let now = self.now();
        let response = client.request("GET", target, &[("host", "shop.example")], b"");
        if response.status == 503 {
            assert!(!self.healthy.load(Ordering::Relaxed), "{target}: an error, and the origin has none");
            assert!(status(&response).contains("fwd="), "an error of the origin's");
            return None;
        }
        assert_eq!(response.status, 200, "{target}");
        let body = response.text();
        let made = body.split(' ').nth(1).and_then(|made| made.parse().ok()).unwrap_or(0);
        assert!(body == body_of(target, made), "{target} is not what the origin has sent");
        let most = match (target.starts_with("/short/"), self.healthy.load(Ordering::Relaxed)) {
            (true, true) => 2_000,
            (true, false) => 5_000,
            (false, _) => 600_000,
        };
        // A second more: ages are told in whole ones.
        assert!(now.saturating_sub(made) <= most + 1_000, "{target} is {} ms old", now - made);
        Some(made)
    }

    /// Asks for many. Answers how many there were, and when the oldest was made.
    fn ask_all(&self, gateway: &Gateway, prefix: &str, numbers: std::ops::Range<usize>) -> (usize, u64) {
        let mut client = gateway.client();
        let made: Vec<u64> = numbers.filter_map(|number| self.ask(&mut client, &format!("{prefix}{number}"))).collect();
        (made.len(), made.into_iter().min().unwrap_or(u64::MAX))
    }
}

/// A body that tells of its URL and of when it was made.
fn body_of(target: &str, made: u64) -> String {
    let number: usize = target.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    format!("{target} {made} ").repeat(1 + number % 500)
}

/// Has this gateway write to the tier, and does something in the middle of it.
fn in_mid_write(gateway: &Gateway, prefix: &str, redis: &mut Redis, strike: impl FnOnce(&mut Redis)) {
    let size = |redis: &Redis| redis.ask(&["DBSIZE"]).trim().parse().unwrap_or(0_usize);
    let before = size(redis);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also where the rest fails: the scope waits for the thread.
        let done_at_the_end = SetOnDrop(&done);
        scope.spawn(|| {
            let mut client = gateway.client();
            for number in 0.. {
                let target = format!("{prefix}{number}");
                let asked = client.try_request("GET", &target, &[("host", "shop.example")], b"");
                if asked.is_err() || done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        eventually("it writes", || size(redis) >= before + 50);
        strike(redis);
        drop(done_at_the_end);
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nothing_breaks_when_the_origin_flaps_and_redis_dies_and_hangs() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let chaos = Arc::new(Chaos { began: Instant::now(), healthy: AtomicBool::new(true) });
    let (origin, count) = (chaos.origin(), objects());
    let (one, two) = (sharing(&redis, &origin, ""), sharing(&redis, &origin, ""));
    both_live(&[&one, &two]);
    chaos.ask_all(&one, "/short/", 0..20);
    chaos.ask_all(&one, "/", 0..count / 2);
    // The origin fails: what is stored is there, and not for longer than it says.
    chaos.healthy.store(false, Ordering::Relaxed);
    let last = count / 2 - count.min(2_000) / 2..count / 2;
    assert_eq!(chaos.ask_all(&one, "/", last.clone()).0, last.len());
    chaos.ask_all(&two, "/", 0..count);
    eventually("what is too old takes no error's place", || {
        [&one, &two].iter().all(|gateway| chaos.ask_all(gateway, "/short/", 0..20).0 == 0)
    });
    chaos.healthy.store(true, Ordering::Relaxed);
    chaos.ask_all(&one, "/short/", 0..20);
    // Redis hangs: nothing waits longer than a call may.
    redis.hang();
    let begun = Instant::now();
    chaos.ask_all(&two, "/", 0..count / 4);
    chaos.ask_all(&one, "/", count / 2..count / 2 + count / 4);
    let slowest = begun.elapsed() / count as u32;
    assert!(slowest < Duration::from_millis(100), "{slowest:?} for each");
    redis.resume();
    both_live(&[&one, &two]);
    // It is killed while it is written to, and comes back without its data.
    in_mid_write(&two, "/written/", &mut redis, Redis::kill);
    chaos.ask_all(&one, "/", 0..count);
    assert!(redis.start_again());
    chaos.ask_all(&two, "/", 0..count);
    both_live(&[&one, &two]);
    // What is purged on one of them is gone on both.
    let purged = chaos.now();
    purge(&one, json!({"everything": true}));
    assert!(chaos.ask_all(&one, "/", 0..count).1 >= purged);
    let mut client = two.client();
    eventually("the other one hears of it", || chaos.ask(&mut client, "/1").is_some_and(|made| made >= purged));
    assert!(chaos.ask_all(&two, "/", 0..count).1 >= purged);
    chaos.ask_all(&two, "/short/", 0..20);
    // A gateway is killed while it writes: what it has left in the tier is whole, and all that a new one has without the origin.
    in_mid_write(&one, "/kept/", &mut redis, |_| one.signal("KILL"));
    chaos.healthy.store(false, Ordering::Relaxed);
    let three = sharing(&redis, &origin, "");
    both_live(&[&three]);
    let (found, _) = chaos.ask_all(&three, "/kept/", 0..60);
    assert!(found >= 40, "{found} of at least 50 that were written");
    chaos.healthy.store(true, Ordering::Relaxed);
    chaos.ask_all(&three, "/", 0..count);
    assert!(chaos.ask_all(&three, "/", 0..count).1 >= purged);
}
