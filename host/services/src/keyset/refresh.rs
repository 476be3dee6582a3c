//! When a key set is fetched again: by its age, after a failure, and when a key is missing. Who fetches is told by the caller.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::source::RemoteSource;
use super::{KeySet, jwk};
use crate::ServiceError;
use crate::addresses::Reach;
use crate::grants::{Origin, Origins};
use crate::outbound::Incoming;

/// The time of one fetch, connecting included, and of the metadata where the set is found by them.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a fetched set.
const MAX_SET: usize = 1024 * 1024;
/// The most bytes of fetched metadata.
const MAX_METADATA: usize = 256 * 1024;
/// The first pause after a failure; it doubles up to the set's `refresh`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A request for a key set or the metadata that name it, whose origin was granted.
pub struct Get {
    pub url: Url,
    pub headers: HeaderMap,
    /// Where it may go.
    pub reach: Reach,
    /// The most bytes of the answer.
    pub max_body: usize,
}

/// The life of one set: fetch, wait, fetch again, until nobody holds the set. Nothing is held over a wait that would keep it alive.
pub async fn keep_fresh(set: Weak<KeySet>, get: impl AsyncFn(Get) -> Result<Incoming, ServiceError>) {
    let Some((source, reach, key_origins, wake)) = set.upgrade().and_then(|set| {
        let remote = set.remote.as_ref()?;
        Some((remote.source.clone(), remote.reach, remote.key_origins.clone(), remote.wake.clone()))
    }) else {
        return;
    };
    let mut failures = 0;
    let mut before = bytes::Bytes::new();
    loop {
        let started = Instant::now();
        let fetched = fetch(&source, reach, key_origins.as_ref(), &get);
        let answer = tokio::time::timeout(FETCH_TIMEOUT, fetched).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let Some(set) = set.upgrade() else { return };
        let Some(remote) = &set.remote else { return };
        remote.demanded.store(false, Ordering::Release);
        let pause = match answer {
            Ok(Fetched { keys, text, max_age }) => {
                if failures > 0 {
                    tracing::info!(url = source.name(), keys = keys.len(), "the key set can be fetched again");
                }
                failures = 0;
                // The same keys stay the same set: whoever remembers what they have verified may go on to.
                if text != before {
                    set.keys.store(Arc::new(keys));
                    before = text;
                }
                remote.attempt_over(Ok(()));
                max_age.unwrap_or(source.refresh).clamp(source.cooldown, source.refresh)
            }
            Err(error) => {
                let pause = back_off(failures, source.refresh);
                failures += 1;
                tracing::warn!(url = source.name(), %error, kept = set.len(), retry_in = ?pause, "a key set can't be fetched; its keys are kept");
                remote.attempt_over(Err(error));
                pause
            }
        };
        drop(set);
        wait(&source, &wake, started + pause, started).await;
    }
}

/// Until `next`, or earlier when a key is asked for, or the set is gone: but not within the cooldown.
async fn wait(source: &RemoteSource, wake: &tokio::sync::Notify, next: Instant, last: Instant) {
    tokio::select! {
        () = tokio::time::sleep_until(next) => {}
        () = wake.notified() => tokio::time::sleep_until(next.min(last + source.cooldown)).await,
    }
}

/// Doubles with each failure, with a jitter of ±25 % so that gateways that lost their server together don't come back at once.
fn back_off(failures: u32, refresh: Duration) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(refresh);
    let jitter = crate::random::number().map_or(0, |number| number % 500) as u32;
    pause * (750 + jitter) / 1_000
}

struct Fetched {
    keys: Vec<super::Key>,
    /// What they were read from.
    text: bytes::Bytes,
    max_age: Option<Duration>,
}

async fn fetch(
    source: &RemoteSource,
    reach: Reach,
    key_origins: Option<&Origins>,
    get: &impl AsyncFn(Get) -> Result<Incoming, ServiceError>,
) -> Result<Fetched, String> {
    let (url, reach, age) = match (&source.issuer, key_origins) {
        (Some(issuer), Some(origins)) => {
            let answer = ask(source.url.clone(), "application/json", reach, MAX_METADATA, get).await;
            let answer = answer.map_err(|why| format!("the metadata of the issuer: {why}"))?;
            let url = keys_of(issuer, &source.url, &answer.body)?;
            let origin = Origin::of(&url).map_err(|error| format!("`jwks_uri` of the metadata: {error}"))?;
            let reach = origins.check(&origin).map_err(|error| format!("`jwks_uri` of the metadata: {error}"))?;
            (url, reach, max_age(&answer.headers))
        }
        _ => (source.url.clone(), reach, None),
    };
    let answer = ask(url, "application/jwk-set+json, application/json", reach, MAX_SET, get).await?;
    let keys = jwk::parse_set(&answer.body, &source.name())?;
    // Nobody publishes a set to say that no token is good any more: it is a mistake, or a set of keys of another kind.
    if keys.is_empty() {
        return Err("the set has no key that can be used".to_owned());
    }
    let ages = [age, max_age(&answer.headers)];
    Ok(Fetched { keys, max_age: ages.into_iter().flatten().min(), text: answer.body })
}

async fn ask(
    url: Url,
    accept: &'static str,
    reach: Reach,
    max_body: usize,
    get: &impl AsyncFn(Get) -> Result<Incoming, ServiceError>,
) -> Result<Incoming, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    let answer = get(Get { url, headers, reach, max_body }).await.map_err(|error| error.to_string())?;
    if answer.status != http::StatusCode::OK {
        return Err(format!("the server answered {}", answer.status));
    }
    Ok(answer)
}

/// What decides in the metadata of an issuer. Other members are ignored; one of these given twice is an error.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// Where the keys of the issuer are. Its metadata have to be about this very issuer (OpenID Connect Discovery 1.0 §4.3, RFC 8414 §3.3), or
/// whoever serves them could make its keys those of another.
fn keys_of(issuer: &str, from: &Url, metadata: &[u8]) -> Result<Url, String> {
    let is_object = metadata.trim_ascii_start().first() == Some(&b'{');
    let read = || serde_json::from_slice::<Metadata>(metadata).map_err(|error| jwk::explain(&error));
    let metadata = if is_object { read() } else { Err("not a JSON object".to_owned()) };
    let metadata = metadata.map_err(|why| format!("the metadata of the issuer can't be read: {why}"))?;
    if metadata.issuer != issuer {
        let other: String = metadata.issuer.chars().take(200).collect();
        return Err(format!("the metadata are of the issuer {other:?}, not of {issuer:?}"));
    }
    let url = Url::parse(&metadata.jwks_uri).map_err(|error| format!("`jwks_uri` of the metadata: {error}"))?;
    if from.scheme() == "https" && url.scheme() != "https" {
        return Err("`jwks_uri` of the metadata is not https".to_owned());
    }
    Ok(url)
}

/// RFC 9111 §5.2.2.1; `no-store` and `no-cache` ask for the shortest time.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut age = None;
    for value in headers.get_all(header::CACHE_CONTROL) {
        for directive in value.to_str().ok()?.split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if directive == "no-store" || directive == "no-cache" {
                return Some(Duration::ZERO);
            }
            if let Some(seconds) = directive.strip_prefix("max-age=") {
                age = Some(Duration::from_secs(seconds.trim_matches('"').parse().ok()?));
            }
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_age_of_cache_control() {
        let cases = [
            (None, None),
            (Some("public, max-age=60"), Some(60)),
            (Some("Max-Age=5, must-revalidate"), Some(5)),
            (Some("no-store, max-age=60"), Some(0)),
            (Some("max-age=soon"), None),
        ];
        for (value, seconds) in cases {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(value));
            }
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    #[tokio::test]
    async fn metadata_and_keys_are_fetched_within_grants_and_bounds() {
        let text = r#"{"issuer": "https://a.test"}"#;
        let Ok(super::super::source::Source::Remote(source)) = super::super::source::parse(text) else { panic!() };
        let asked = std::cell::RefCell::new(Vec::new());
        let get = async |get: Get| {
            let is_metadata = get.url.path().starts_with("/.well-known/");
            asked.borrow_mut().push((get.url.to_string(), get.max_body));
            let (age, body) = match is_metadata {
                true => ("max-age=60", r#"{"issuer": "https://a.test", "jwks_uri": "https://keys.test/k"}"#),
                false => {
                    ("max-age=90", r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U"}]}"#)
                }
            };
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(age));
            Ok(Incoming { status: http::StatusCode::OK, headers, body: body.into() })
        };
        let both = Origins::parse(["https://a.test", "https://keys.test"]).unwrap();
        let fetched = fetch(&source, Reach::Public, Some(&both), &get).await.map_err(|why| panic!("{why}"));
        let fetched = fetched.ok().unwrap();
        assert_eq!((fetched.keys.len(), fetched.max_age), (1, Some(Duration::from_secs(60))));
        let metadata = ("https://a.test/.well-known/openid-configuration".to_owned(), MAX_METADATA);
        assert_eq!(asked.take(), [metadata.clone(), ("https://keys.test/k".to_owned(), MAX_SET)]);
        let one = Origins::parse(["https://a.test"]).unwrap();
        let why = fetch(&source, Reach::Public, Some(&one), &get).await.err().unwrap();
        assert!(why.contains("grants.http = [\"https://keys.test\"]"), "{why}");
        assert_eq!(asked.take(), [metadata], "the keys are not asked for");
    }

    #[test]
    fn metadata_are_of_the_issuer_itself() {
        let (issuer, from) =
            ("https://a.test/", Url::parse("https://a.test/.well-known/openid-configuration").unwrap());
        let of = |text: &str| keys_of(issuer, &from, text.as_bytes());
        let good = r#"{"issuer": "https://a.test/", "jwks_uri": "https://keys.test/a", "x": [1]}"#;
        assert_eq!(of(good).map(String::from), Ok("https://keys.test/a".to_owned()));
        for (text, expected) in [
            (
                r#"{"issuer": "https://a.test", "jwks_uri": "https://a.test/k"}"#,
                r#"of the issuer "https://a.test", not"#,
            ),
            (r#"{"issuer": "https://A.test/", "jwks_uri": "https://a.test/k"}"#, "not of"),
            (
                r#"{"issuer": "https://a.test/", "issuer": "https://a.test/", "jwks_uri": "https://a.test/k"}"#,
                "can't be read",
            ),
            (r#"{"issuer": "https://a.test/"}"#, "can't be read"),
            (r#"["https://a.test/", "https://a.test/k"]"#, "not a JSON object"),
            (r#"{"issuer": "https://a.test/", "jwks_uri": "http://a.test/k"}"#, "is not https"),
            (r#"{"issuer": "https://a.test/", "jwks_uri": "/k"}"#, "`jwks_uri`"),
            ("", "not a JSON object"),
        ] {
            let why = of(text).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_refresh() {
        let refresh = Duration::from_secs(60);
        for (failures, seconds) in [(0, 1), (1, 2), (3, 8), (6, 60), (u32::MAX, 60)] {
            let pause = back_off(failures, refresh).as_secs_f64();
            let expected = f64::from(seconds);
            assert!((0.75 * expected..1.25 * expected).contains(&pause), "{failures}: {pause}");
        }
    }
}
