//! Key sets that are fetched from a key server on this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{OutboundClient, Tls};
use crate::background::{Background, BackgroundThread};
use crate::http::buffer::MemoryBudget;
use crate::services::grants::Origins;
use crate::services::{Clock, KeySets, ServiceError, Verification};
use crate::telemetry::Metrics;
use crate::upstream::Resolver;

/// Key sets, and the thread that refreshes them for as long as it is held.
fn sets() -> (KeySets, BackgroundThread) {
    let (background, thread) = Background::start(Metrics::new()).unwrap();
    let budget = MemoryBudget::new(1 << 20);
    let outbound = OutboundClient::new(Tls::system(), Resolver::new(&[], None), background, budget);
    (KeySets::new(Clock::system(), outbound), thread)
}

fn ec_key(kid: &str) -> (serde_json::Value, EcdsaKeyPair) {
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = (coordinate(&point[1..33]), coordinate(&point[33..]));
    (serde_json::json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": x, "y": y}), pair)
}

fn sign(pair: &EcdsaKeyPair) -> Vec<u8> {
    pair.sign(&SystemRandom::new(), b"m").unwrap().as_ref().to_vec()
}

/// A key server whose answer can be changed, and that can be stopped and started again on its port.
struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl KeyServer {
    fn start(address: &str, answer: Arc<Mutex<String>>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (answer, requests, stop) = (answer.clone(), requests.clone(), stop.clone());
            move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let mut text = Vec::new();
                    let mut buffer = [0; 1024];
                    while !text.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut buffer) {
                            Ok(read @ 1..) => text.extend_from_slice(&buffer[..read]),
                            _ => break,
                        }
                    }
                    requests.fetch_add(1, Ordering::AcqRel);
                    let body = answer.lock().unwrap().clone();
                    let head =
                        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all((head + &body).as_bytes());
                }
            }
        });
        KeyServer { address, answer, requests, stop, thread: Some(thread) }
    }

    fn answer(&self, keys: &[&serde_json::Value]) {
        *self.answer.lock().unwrap() = serde_json::json!({"keys": keys}).to_string();
    }

    fn source(&self) -> String {
        format!(r#"{{"jwks_url": "http://{}/jwks", "refresh": "1h", "cooldown": "1s"}}"#, self.address)
    }

    fn origins(&self) -> Origins {
        Origins::parse([&*format!("http://{}", self.address)]).unwrap()
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = std::net::TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_fetched_set_is_shared_rotates_and_survives_its_server() {
    let server = KeyServer::start("127.0.0.1:0", Arc::default());
    let ((key_a, pair_a), (key_b, pair_b)) = (ec_key("a"), ec_key("b"));
    server.answer(&[&key_a]);
    let (sets, _background) = sets();
    let refused = sets.resolve(&server.source(), &Origins::default(), LONG);
    assert!(matches!(refused, Err(ServiceError::NotGranted(_))));
    let set = sets.resolve(&server.source(), &server.origins(), LONG).unwrap();
    assert!(set.ready());
    let again = sets.resolve(&server.source(), &server.origins(), LONG).unwrap();
    assert!(Arc::ptr_eq(&set, &again));
    assert!(matches!(sets.resolve(&server.source(), &Origins::default(), LONG), Err(ServiceError::NotGranted(_))));
    let verify = |kid: &str, pair: &EcdsaKeyPair| set.verify("ES256", Some(kid), b"m", &sign(pair)).unwrap();
    assert_eq!(verify("a", &pair_a), Verification::Valid);
    assert_eq!(server.requests.load(Ordering::Acquire), 1);

    // Rotation: an unknown key is found at the next refresh, and a flood of unknown keys brings one refresh a cooldown.
    server.answer(&[&key_b]);
    let begun = Instant::now();
    eventually("the new key is found", || verify("b", &pair_b) == Verification::Valid);
    assert_eq!(verify("a", &pair_a), Verification::UnknownKey);
    let allowed = 2 + begun.elapsed().as_secs() as usize;
    assert!(server.requests.load(Ordering::Acquire) <= allowed);

    // Garbage, and then death: the keys stay.
    let failed = || sets.statistics()[0].failed;
    *server.answer.lock().unwrap() = "<html>".to_owned();
    eventually("garbage is fetched", || {
        verify("c", &pair_a);
        failed() > 0
    });
    assert_eq!(verify("b", &pair_b), Verification::Valid);
    let (address, answer) = (server.address.to_string(), server.answer.clone());
    drop(server);
    let before = failed();
    eventually("the dead server is asked", || {
        verify("c", &pair_a);
        failed() > before
    });
    assert_eq!(verify("b", &pair_b), Verification::Valid);
    assert!(set.ready());

    // It comes back with the first key.
    let server = KeyServer::start(&address, answer);
    server.answer(&[&key_a]);
    eventually("the server is asked again", || verify("a", &pair_a) == Verification::Valid);
    let statistics = &sets.statistics()[0];
    assert!(statistics.succeeded >= 3 && statistics.keys == 1 && statistics.age.is_some(), "{statistics:?}");
}

#[test]
fn rotation_is_seen_without_ids() {
    let unnamed = |(mut jwk, pair): (serde_json::Value, EcdsaKeyPair)| {
        jwk.as_object_mut().unwrap().remove("kid");
        (jwk, pair)
    };
    // (the old key, the new one, the id in the token)
    let cases = [
        (unnamed(ec_key("")), unnamed(ec_key("")), None),
        (unnamed(ec_key("")), unnamed(ec_key("")), Some("b")),
        (ec_key("a"), ec_key("b"), None),
        (unnamed(ec_key("")), ec_key("b"), Some("b")),
    ];
    for ((old, old_pair), (new, new_pair), kid) in cases {
        let server = KeyServer::start("127.0.0.1:0", Arc::default());
        server.answer(&[&old]);
        let (sets, _background) = sets();
        let set = sets.resolve(&server.source(), &server.origins(), LONG).unwrap();
        let verify = |pair: &EcdsaKeyPair| set.verify("ES256", kid, b"m", &sign(pair)).unwrap();
        assert_eq!(verify(&old_pair), Verification::Valid);
        assert_eq!(verify(&new_pair), Verification::Invalid);
        server.answer(&[&new]);
        let begun = Instant::now();
        eventually("the new key is found", || verify(&new_pair) == Verification::Valid);
        // A flood of bad signatures brings one refresh a cooldown.
        assert!(server.requests.load(Ordering::Acquire) <= 3 + begun.elapsed().as_secs() as usize);
    }
}

#[test]
fn a_set_whose_server_is_dead_at_load_is_unavailable_until_it_comes() {
    let (address, answer) = {
        let server = KeyServer::start("127.0.0.1:0", Arc::default());
        (server.address.to_string(), server.answer.clone())
    };
    let source = format!(r#"{{"jwks_url": "http://{address}/", "cooldown": "1s"}}"#);
    let origins = Origins::parse([&*format!("http://{address}")]).unwrap();
    let (sets, _background) = sets();
    let set = sets.resolve(&source, &origins, LONG).unwrap();
    assert!(!set.ready());
    let (key, pair) = ec_key("a");
    let verify = || set.verify("ES256", Some("a"), b"m", &sign(&pair));
    assert!(matches!(verify(), Err(ServiceError::Unavailable(_))));
    assert!(matches!(set.sign("ES256", None, b"m"), Err(ServiceError::Unavailable(_))));
    let server = KeyServer::start(&address, answer);
    server.answer(&[&key]);
    eventually("the set comes", || set.ready());
    assert_eq!(verify(), Ok(Verification::Valid));
    // Nobody holds it any more: it is forgotten, and its refresh ends with the sets.
    drop(set);
    eventually("the set is forgotten", || sets.statistics().is_empty());
    drop(sets);
}
