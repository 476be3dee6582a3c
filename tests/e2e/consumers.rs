//! Consumers: found by what a request shows, in the configuration and in files, whatever becomes of these files.

use std::fmt::Write;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sluice_harness::{Gateway, Origin, eventually, eventually_within};

use crate::support::{gateway, route, setup, with_base};

/// SHA-256 of `the-key`, `key-2` and `key-3`.
const HASHES: [&str; 3] = [
    "sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290",
    "sha256:7c36b0a9dedde119c75165957c6c9c187e65df1ee5db87c4c58ad503ad88cbe3",
    "sha256:d9ef8196557c9da69806fb5d777f4e5ad6d5c18593039e0ff62f9fdf003b0198",
];

/// The hash of `open sesame`.
const PASSWORD: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$aGMM00XIJVOwb+8j/ecM0w$DmSdNDkJu55gcDfWXducJ/CyuqcZ4gUJRd5oB9NAi2M";

/// `alice:open sesame`.
const ALICE: &str = "Basic YWxpY2U6b3BlbiBzZXNhbWU=";

fn by_key(origin: &Origin) -> String {
    route(&origin.url(), &["key"])
        + "[filters.key]\nplugin = \"api-key\"\ngrants = { consumers = true, read_headers = [\"x-api-key\"], write_headers = [\"x-api-key\"] }\n\
           config = { places = [\"header:x-api-key\", \"query:key\"] }\n"
}

/// A gateway that follows changed files, with one file of consumers.
fn following(origin: &Origin, lines: &str) -> Gateway {
    let toml = with_base(&by_key(origin)).replace("reload = false", "consumer_files = [\"consumers.jsonl\"]");
    setup().file("consumers.jsonl", lines).start(&toml)
}

fn line(name: &str, hash: &str) -> String {
    format!("{{\"name\":\"{name}\",\"keys\":[\"{hash}\"]}}\n")
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.request("GET", "/", &[("x-api-key", key)], b"").status
}

#[test]
fn a_key_finds_its_consumer_and_goes_no_further() {
    let origin = Origin::named("origin");
    let consumer =
        format!("[consumers.acme]\nplan = \"gold\"\nlabels = {{ tier = \"partner\" }}\nkeys = [\"{}\"]\n", HASHES[0]);
    let gateway = gateway(&(by_key(&origin) + &consumer));
    let answer = gateway.request("GET", "/a?x=1&key=the-key&y=2", &[("x-api-key", "the-key")], b"");
    assert_eq!(answer.status, 200);
    let seen = origin.last();
    assert_eq!((seen.target.as_str(), seen.header("x-api-key")), ("/a?x=1&y=2", None));
    let logged = gateway.wait_access("the consumer", |line| line["consumer"] == "acme");
    assert!(!logged.to_string().contains("the-key"), "{logged}");
    let refused = gateway.request("GET", "/?key=not-a-key", &[], b"");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("ApiKey realm=\"api\"")));
    let logged = gateway.wait_access("the refusal", |line| line["reason"] == "key-unknown");
    assert!(!logged.to_string().contains("not-a-key"), "a key in a URL is in no log: {logged}");
    assert_eq!(origin.count(), 1);
    assert_eq!(gateway.metric("sluice_consumers", &[]), Some(1.0));
}

#[test]
fn a_password_is_hashed_once_and_never_on_a_worker() {
    let origin = Origin::named("origin");
    let toml = route(&origin.url(), &["login"])
        + "[filters.login]\nplugin = \"basic-auth\"\ngrants = { consumers = true, read_headers = [\"authorization\"], write_headers = [\"authorization\"] }\n"
        + &format!("[consumers.acme]\npasswords = {{ alice = \"{PASSWORD}\" }}\n");
    for mode in ["reused", "fresh"] {
        let gateway = gateway(&format!("{toml}[plugins.basic-auth]\ninstances = {{ mode = \"{mode}\" }}\n"));
        let ask = |authorization: &str| gateway.request("GET", "/", &[("authorization", authorization)], b"");
        let begun = Instant::now();
        assert_eq!(ask(ALICE).status, 200);
        let first = begun.elapsed();
        assert_eq!(origin.last().header("authorization"), None);
        gateway.wait_access("the consumer", |line| line["consumer"] == "acme");
        let again = (0..20).map(|_| {
            let begun = Instant::now();
            assert_eq!(ask(ALICE).status, 200);
            begun.elapsed()
        });
        let again = again.min().expect("twenty requests");
        assert!(again < first / 2, "{mode}: {again:?} after {first:?}");
        let wrong = ask("Basic YWxpY2U6b3Blbg==");
        let unknown = ask("Basic Ym9iOm9wZW4gc2VzYW1l");
        assert_eq!((wrong.status, unknown.status), (401, 401));
        assert_eq!(
            (wrong.header("www-authenticate"), wrong.body.len()),
            (unknown.header("www-authenticate"), unknown.body.len())
        );
        let cpu = gateway.metric("sluice_filter_cpu_seconds_total", &[("filter", "login"), ("hook", "on-request")]);
        // Three hashes of 20 ms and more each.
        assert!(cpu.is_some_and(|seconds| seconds < 0.05), "{cpu:?}");
    }
}

#[test]
fn names_that_nobody_has_take_as_long_as_wrong_passwords() {
    let origin = Origin::named("origin");
    let toml = route(&origin.url(), &["login"])
        + "[filters.login]\nplugin = \"basic-auth\"\ngrants = { consumers = true, read_headers = [\"authorization\"], write_headers = [\"authorization\"] }\n\
           config.throttle = { failures = 0, account_failures = 0 }\n"
        + &format!("[consumers.acme]\npasswords = {{ alice = \"{PASSWORD}\" }}\n");
    let gateway = gateway(&toml);
    let took = |authorization: &str| {
        let begun = Instant::now();
        assert_eq!(gateway.request("GET", "/", &[("authorization", authorization)], b"").status, 401);
        begun.elapsed()
    };
    // In turns, so that a busy machine slows down both; the least of each is what the work takes.
    let (mut wrong, mut unknown) = (Duration::MAX, Duration::MAX);
    for _ in 0..20 {
        wrong = wrong.min(took("Basic YWxpY2U6eA=="));
        unknown = unknown.min(took("Basic Ym9iOng="));
    }
    let ratio = unknown.as_secs_f64() / wrong.as_secs_f64();
    assert!((0.5..2.0).contains(&ratio), "a wrong password {wrong:?}, an unknown name {unknown:?}");
}

#[test]
fn a_changed_file_is_in_use_without_a_reload() {
    let origin = Origin::named("origin");
    let gateway = following(&origin, &line("acme", HASHES[0]));
    assert_eq!((status(&gateway, "the-key"), status(&gateway, "key-2")), (200, 401));
    let begun = Instant::now();
    gateway.write("consumers.new", line("acme", HASHES[1]) + &line("umbrella", HASHES[2]));
    std::fs::rename(gateway.dir().join("consumers.new"), gateway.dir().join("consumers.jsonl")).expect("a file");
    eventually("the new key is good", || status(&gateway, "key-2") == 200);
    // Half a second was promised; a busy machine takes longer to run the test itself.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((status(&gateway, "the-key"), status(&gateway, "key-3")), (401, 200));
    gateway.write("consumers.jsonl", line("acme", HASHES[0]));
    eventually("a file that is written in place counts, too", || status(&gateway, "the-key") == 200);
    assert_eq!(gateway.metric("sluice_reloads_total", &[("result", "ok")]), Some(0.0));
}

/// Consumers in two files, `b` before `a`, which are looked at in this order.
fn two_files(origin: &Origin, a: &str, b: &str) -> Gateway {
    let toml = with_base(&by_key(origin)).replace("reload = false", "consumer_files = [\"b.jsonl\", \"a.jsonl\"]");
    setup().file("a.jsonl", a).file("b.jsonl", b).start(&toml)
}

#[test]
fn a_consumer_moves_from_one_file_to_another() {
    let origin = Origin::named("origin");
    let (acme, other, last) = (line("acme", HASHES[0]), line("umbrella", HASHES[1]), line("last", HASHES[2]));
    let gateway = two_files(&origin, &(acme.clone() + &other), &last);
    gateway.write("b.jsonl", last + &acme);
    let refused = || gateway.metric("sluice_consumer_files_refused_total", &[]);
    eventually("it is there twice", || refused() == Some(1.0));
    gateway.write("a.jsonl", other);
    // Files are compared every 10 seconds, too.
    let loaded = || gateway.log().iter().filter(|line| line["message"] == "consumers reloaded").count() == 2;
    eventually_within(Duration::from_secs(8), "both files are in use", loaded);
    for key in ["the-key", "key-2", "key-3"] {
        assert_eq!(status(&gateway, key), 200, "{key}");
    }
}

#[test]
fn consumers_of_two_files_swap_their_keys() {
    let origin = Origin::named("origin");
    let gateway = two_files(&origin, &line("acme", HASHES[0]), &line("umbrella", HASHES[1]));
    gateway.write("b.jsonl", line("umbrella", HASHES[0]));
    gateway.write("a.jsonl", line("acme", HASHES[1]));
    eventually("both are as their files say", || {
        gateway.log().iter().filter(|line| line["message"] == "consumers reloaded").count() == 2
    });
    assert_eq!(status(&gateway, "the-key"), 200);
    gateway.wait_access("the key is the other's", |line| line["consumer"] == "umbrella");
    // Both are others.
    gateway.write("b.jsonl", line("umbrella", HASHES[1]));
    gateway.write("a.jsonl", line("last", HASHES[2]));
    eventually("all is new", || status(&gateway, "key-3") == 200 && status(&gateway, "the-key") == 401);
}

#[test]
fn a_file_that_does_not_fit_keeps_nothing_of_the_others() {
    let origin = Origin::named("origin");
    let gateway = two_files(&origin, &line("acme", HASHES[0]), "{\"consumers\":0}\n");
    // It takes the key of another one, and stays so.
    gateway.write("b.jsonl", line("thief", HASHES[0]) + &line("other", HASHES[1]));
    eventually("it is refused", || gateway.metric("sluice_consumer_files_refused_total", &[]) == Some(1.0));
    gateway.write("a.jsonl", line("acme", HASHES[0]) + &line("last", HASHES[2]));
    eventually("the other file is in use", || status(&gateway, "key-3") == 200);
    assert_eq!([status(&gateway, "the-key"), status(&gateway, "key-2")], [200, 401]);
}

#[test]
fn a_broken_file_changes_nothing() {
    let origin = Origin::named("origin");
    let gateway = following(&origin, &line("acme", HASHES[0]));
    let broken = [
        (String::new(), "the file is empty"),
        (line("acme", HASHES[1]) + "{\"name\":\"umbrella\",\"ke", "line 2: column"),
        ("{\"consumers\":2}\n".to_owned() + &line("acme", HASHES[1]), "the file ends after 1 consumers"),
        (line("a", HASHES[1]) + &line("b", HASHES[1]), "the consumers `a` and `b` have the same key"),
        (line("acme", "the key itself"), "keys[0]: expected `sha256:`"),
    ];
    for (content, why) in broken {
        gateway.write("consumers.jsonl", content);
        let logged = gateway.wait_log(why, |line| line.to_string().contains(why));
        assert!(!logged.to_string().contains("the key itself"), "{logged}");
        assert_eq!((status(&gateway, "the-key"), status(&gateway, "key-2")), (200, 401), "{why}");
    }
    std::fs::remove_file(gateway.dir().join("consumers.jsonl")).expect("a file");
    gateway.wait_log("that it is gone", |line| line.to_string().contains("No such file"));
    assert_eq!(status(&gateway, "the-key"), 200);
    assert!(gateway.metric("sluice_consumer_files_refused_total", &[]).is_some_and(|count| count >= 6.0));
    gateway.write("consumers.jsonl", line("acme", HASHES[1]));
    eventually("it is back", || status(&gateway, "key-2") == 200);
}

#[test]
fn a_reload_takes_consumers_and_a_broken_file_at_the_start_is_an_error() {
    let origin = Origin::named("origin");
    let consumer = |hash: &str| format!("[consumers.acme]\nkeys = [\"{hash}\"]\n");
    let gateway = gateway(&(by_key(&origin) + &consumer(HASHES[0])));
    assert_eq!(status(&gateway, "the-key"), 200);
    gateway.reload(&with_base(&(by_key(&origin) + &consumer(HASHES[1]))));
    assert_eq!((status(&gateway, "the-key"), status(&gateway, "key-2")), (401, 200));
    let toml = with_base(&(by_key(&origin) + &consumer(HASHES[0])))
        .replace("reload = false", "reload = false\nconsumer_files = [\"consumers.jsonl\"]");
    let refused = setup().file("consumers.jsonl", line("umbrella", HASHES[0])).refused(&toml);
    let expected = "line 1: the consumers `acme` and `umbrella` have the same key";
    assert!(
        refused.stderr.contains("gateway.consumer_files[0]") && refused.stderr.contains(expected),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_token_is_its_consumer_s_and_none_signs_as_another() {
    let origin = Origin::named("origin");
    let token = |secret: &str, issuer: &str, audience: &str| {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let payload = format!("{{\"iss\":\"{issuer}\",\"sub\":\"x\",\"aud\":\"{audience}\",\"exp\":4102444800}}");
        let signed = format!("{}.{}", encode("{\"alg\":\"HS256\"}"), encode(&payload));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
    };
    let (acme, umbrella) = ("a".repeat(32), "u".repeat(32));
    let consumer = |name: &str, secret: &str| {
        format!(
            "[consumers.{name}]\njwt = {{ issuer = \"https://{name}.test\", audiences = [\"api\"], keys = {{ secret = \"{secret}\" }} }}\n"
        )
    };
    let toml = route(&origin.url(), &["partner"])
        + "[filters.partner]\nplugin = \"jwt-auth\"\ngrants = { consumers = true, read_headers = [\"authorization\"] }\n\
           config = { consumer_keys = true, algorithms = [\"HS256\"] }\n"
        + &consumer("acme", &acme)
        + &consumer("umbrella", &umbrella);
    for mode in ["reused", "fresh"] {
        let gateway = gateway(&format!("{toml}[plugins.jwt-auth]\ninstances = {{ mode = \"{mode}\" }}\n"));
        let ask = |authorization: &str| gateway.request("GET", "/", &[("authorization", authorization)], b"").status;
        assert_eq!(ask(&token(&acme, "https://acme.test", "api")), 200, "{mode}");
        gateway.wait_access("the consumer", |line| line["consumer"] == "acme");
        assert_eq!(
            ask(&token(&acme, "https://umbrella.test", "api")),
            401,
            "{mode}: token of one with the issuer of another"
        );
        gateway.wait_access("why", |line| line["reason"] == "bad-signature");
        assert_eq!(ask(&token(&acme, "https://other.test", "api")), 401);
        assert_eq!(ask(&token(&acme, "https://acme.test", "other")), 401);
        gateway.wait_access("the audience", |line| line["reason"] == "wrong-audience");
    }
    // The same from a file, which changes without a reload.
    let line = |secret: &str| {
        format!(
            "{{\"name\":\"late\",\"jwt\":{{\"issuer\":\"https://late.test\",\"keys\":{{\"secret\":\"{secret}\"}}}}}}\n"
        )
    };
    let following = with_base(&toml).replace("reload = false", "consumer_files = [\"consumers.jsonl\"]");
    let gateway = setup().file("consumers.jsonl", line(&acme)).start(&following);
    let late = |secret: &str| {
        let authorization = token(secret, "https://late.test", "any");
        gateway.request("GET", "/", &[("authorization", &authorization)], b"").status
    };
    assert_eq!([late(&acme), late(&umbrella)], [200, 401]);
    gateway.write("consumers.jsonl", line(&umbrella));
    eventually("the new key is good", || late(&umbrella) == 200);
    assert_eq!(late(&acme), 401);
    // Keys that can't be fetched are counted.
    let nobody = sluice_harness::origin::nobody();
    gateway.write(
        "consumers.jsonl",
        format!("{{\"name\":\"late\",\"jwt\":{{\"issuer\":\"https://late.test\",\"keys\":{{\"jwks_url\":\"http://{nobody}/\"}}}}}}\n"),
    );
    eventually("a fetch that fails", || {
        assert_ne!(late(&acme), 200);
        gateway.metric("sluice_consumer_key_set_fetches_total", &[("result", "failed")]) >= Some(1.0)
    });
    assert_eq!(gateway.metric("sluice_consumer_key_set_fetches_total", &[("result", "ok")]), Some(0.0));
    let twice = toml + &consumer("third", &acme).replace("third.test", "acme.test");
    let refused = setup().refused(&with_base(&twice));
    assert!(refused.stderr.contains("the same"), "{}", refused.stderr);
}

#[test]
fn a_filter_without_the_grant_finds_nobody() {
    let origin = Origin::named("origin");
    let consumer = format!("[consumers.acme]\nkeys = [\"{}\"]\n", HASHES[0]);
    let without = by_key(&origin).replace("consumers = true, ", "");
    let gateway = gateway(&(without + &consumer));
    assert_eq!(status(&gateway, "the-key"), 500, "it fails closed");
    gateway.wait_log("the grant to add", |line| line.to_string().contains("consumers = true"));
}

#[test]
fn the_grant_of_a_plugin_bounds_that_of_its_filters() {
    let origin = Origin::named("origin");
    let consumer = format!("[consumers.acme]\nkeys = [\"{}\"]\n", HASHES[0]);
    let inherited = by_key(&origin).replace("consumers = true, ", "") + "[plugins.api-key.grants]\nconsumers = true\n";
    let gateway = gateway(&(inherited + &consumer));
    assert_eq!(status(&gateway, "the-key"), 200);
    let bounded = by_key(&origin) + "[plugins.api-key.grants]\nconsumers = false\n";
    let refused = setup().refused(&with_base(&(bounded + &consumer)));
    assert!(refused.stderr.contains("filters.key.grants.consumers"), "{}", refused.stderr);
}

#[test]
fn a_hundred_thousand_consumers_are_loaded_and_found() {
    let origin = Origin::named("origin");
    let mut lines = "{\"consumers\":100001}\n".to_owned();
    for number in 0..100_000_u32 {
        // Keys that nobody has: the hashes are numbers.
        let _ = writeln!(lines, "{{\"name\":\"c{number}\",\"plan\":\"gold\",\"keys\":[\"sha256:{number:064x}\"]}}");
    }
    lines += &line("the-one", HASHES[0]);
    let gateway = following(&origin, &lines);
    assert_eq!((status(&gateway, "the-key"), status(&gateway, "key-2")), (200, 401));
    assert_eq!(gateway.metric("sluice_consumers", &[]), Some(100_001.0));
    let bytes = gateway.metric("sluice_consumers_bytes", &[]).unwrap_or_default();
    assert!((4e6..40e6).contains(&bytes), "{bytes}");
    gateway.wait_access("the consumer", |line| line["consumer"] == "the-one");
}
