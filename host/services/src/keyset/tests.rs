//! Key sets against the examples of the RFCs and generated keys.

use std::future::Future;
use std::pin::Pin;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;
use crate::outbound::{Answers, Call, Offline};

fn sets() -> KeySets {
    KeySets::new(Clock::system(), Arc::new(Offline))
}

fn set(source: &str) -> Arc<KeySet> {
    sets().resolve(source, &Origins::default()).unwrap()
}

fn url64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn pem_source(pem: &str) -> String {
    serde_json::json!({ "pem": pem }).to_string()
}

const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

#[test]
fn examples_of_the_rfcs() {
    // (algorithm, key, signing input, signature)
    let cases = [
        // RFC 7515 appendix A.1
        (
            "HS256",
            r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
            format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}"),
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        // RFC 7515 appendix A.2
        (
            "RS256",
            r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#,
            format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}"),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        // RFC 7515 appendix A.3
        (
            "ES256",
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#,
            format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}"),
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        // RFC 8037 appendix A.4
        (
            "EdDSA",
            r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    for (algorithm, key, input, signature) in cases {
        let set = set(&format!(r#"{{"jwks": {{"keys": [{key}]}}}}"#));
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let verify = |input: &str, signature: &[u8]| set.verify(algorithm, None, input.as_bytes(), signature).unwrap();
        assert_eq!(verify(&input, &signature), Verification::Valid, "{algorithm}");
        assert_eq!(verify(&format!("{input}x"), &signature), Verification::Invalid, "{algorithm}");
        assert_eq!(verify(&input, &signature[1..]), Verification::Invalid, "{algorithm}");
        assert_eq!(verify(&input, &[]), Verification::Invalid, "{algorithm}");
        for other in ["HS256", "RS256", "PS256", "ES256", "ES384", "EdDSA"] {
            // A key is never used with an algorithm of another type, and RS256 is not PS256.
            let expected = match other {
                _ if other == algorithm => Verification::Valid,
                "PS256" if algorithm == "RS256" => Verification::Invalid,
                _ => Verification::UnknownKey,
            };
            assert_eq!(
                set.verify(other, None, input.as_bytes(), &signature).unwrap(),
                expected,
                "{algorithm} as {other}"
            );
        }
        for none in ["none", "None", "", "HS1", "hs256", "RS256 ", "é56"] {
            assert_eq!(set.verify(none, None, input.as_bytes(), &signature).unwrap(), Verification::Invalid, "{none}");
        }
        match algorithm {
            // Deterministic signatures are equal to the examples'.
            "HS256" | "EdDSA" => assert_eq!(set.sign(algorithm, None, input.as_bytes()).unwrap(), signature),
            "ES256" => {
                let own = set.sign(algorithm, None, input.as_bytes()).unwrap();
                assert_eq!((own.len(), verify(&input, &own)), (64, Verification::Valid));
            }
            _ => assert!(matches!(set.sign(algorithm, None, b""), Err(ServiceError::Invalid(_)))),
        }
    }
}

#[test]
fn keys_from_pem_sign_and_verify() {
    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
    let rsa_spki = rsa.public_key().as_der().unwrap();
    let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let mut cases = vec![
        (
            vec!["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
            pem("PRIVATE KEY", rsa_pkcs8.as_ref()),
            pem("PUBLIC KEY", rsa_spki.as_ref()),
        ),
        // A PKCS#8 RSA key of 2048 bits wraps the PKCS#1 key in 26 bytes.
        (
            vec!["RS256", "PS512"],
            pem("RSA PRIVATE KEY", &rsa_pkcs8.as_ref()[26..]),
            pem("RSA PUBLIC KEY", rsa.public_key().as_ref()),
        ),
        (vec!["EdDSA"], pem("PRIVATE KEY", ed.as_ref()), {
            let pair = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
            pem("PUBLIC KEY", pair.public_key().as_der().unwrap().as_ref())
        }),
    ];
    for (algorithm, curve) in [
        ("ES256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", &signature::ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        let pair = EcdsaKeyPair::generate(curve).unwrap();
        let public = pem("PUBLIC KEY", pair.public_key().as_der().unwrap().as_ref());
        let sec1 = AsDer::<aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_>>::as_der(&pair.private_key()).unwrap();
        cases.push((vec![algorithm], pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()), public.clone()));
        cases.push((vec![algorithm], pem("EC PRIVATE KEY", sec1.as_ref()), public));
    }
    for (algorithms, private, public) in cases {
        let (private, public) = (set(&pem_source(&private)), set(&pem_source(&public)));
        for algorithm in algorithms {
            let signature = private.sign(algorithm, None, b"message").unwrap();
            // A key without an id fits any id.
            for (set, id) in [(&public, None), (&public, Some("any")), (&private, None)] {
                assert_eq!(
                    set.verify(algorithm, id, b"message", &signature).unwrap(),
                    Verification::Valid,
                    "{algorithm}"
                );
            }
            assert_eq!(public.verify(algorithm, None, b"massage", &signature).unwrap(), Verification::Invalid);
            assert!(matches!(public.sign(algorithm, None, b"message"), Err(ServiceError::Invalid(_))));
        }
        // The classic confusion: an HMAC over the public key's text is not even looked at.
        assert_eq!(public.verify("HS256", None, b"message", b"x").unwrap(), Verification::UnknownKey);
    }
}

#[test]
fn a_certificate_and_a_pinned_algorithm() {
    let certified = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let private = set(&pem_source(&certified.signing_key.serialize_pem()));
    let signature = private.sign("ES256", None, b"m").unwrap();
    let certificate = set(&pem_source(&certified.cert.pem()));
    assert_eq!(certificate.verify("ES256", None, b"m", &signature).unwrap(), Verification::Valid);

    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let text = pem("PRIVATE KEY", AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).unwrap().as_ref());
    let pinned = set(&serde_json::json!({"pem": text, "alg": "PS256", "kid": "k"}).to_string());
    let signature = pinned.sign("PS256", Some("k"), b"m").unwrap();
    assert_eq!(pinned.verify("PS256", Some("k"), b"m", &signature).unwrap(), Verification::Valid);
    assert_eq!(pinned.verify("PS256", Some("other"), b"m", &signature).unwrap(), Verification::UnknownKey);
    assert_eq!(pinned.verify("RS256", Some("k"), b"m", &signature).unwrap(), Verification::UnknownKey);
    assert!(pinned.sign("RS256", Some("k"), b"m").is_err());
    assert_eq!(pinned.verify("PS256", None, &vec![0; 1_048_577], &signature), Err(ServiceError::TooLarge(1_048_576)));
}

/// A P-256 key of this id: its JWK without the private part, and the pair.
fn ec_key(kid: &str) -> (serde_json::Value, EcdsaKeyPair) {
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let jwk = serde_json::json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": url64(&point[1..33]), "y": url64(&point[33..])});
    (jwk, pair)
}

fn sign(pair: &EcdsaKeyPair) -> Vec<u8> {
    pair.sign(&SystemRandom::new(), b"m").unwrap().as_ref().to_vec()
}

#[test]
fn what_a_set_says_of_its_keys_is_honoured() {
    let (key, pair) = ec_key("a");
    let signature = sign(&pair);
    let with = |name: &str, value: serde_json::Value| {
        let mut key = key.clone();
        key[name] = value;
        // A second key of the same id, and keys that can't be used, do no harm.
        let junk = serde_json::json!({"kty": "XYZ", "kid": "a"});
        let source = serde_json::json!({"jwks": {"keys": [junk, 5, ec_key("a").0, key]}}).to_string();
        set(&source).verify("ES256", Some("a"), b"m", &signature).unwrap()
    };
    let cases = [
        ("use", serde_json::json!("sig"), Verification::Valid),
        ("use", serde_json::json!("enc"), Verification::Invalid),
        ("key_ops", serde_json::json!(["verify"]), Verification::Valid),
        ("key_ops", serde_json::json!(["sign"]), Verification::Invalid),
        ("key_ops", serde_json::json!(["encrypt"]), Verification::Invalid),
        ("alg", serde_json::json!("ES256"), Verification::Valid),
        ("alg", serde_json::json!("RS256"), Verification::Invalid),
        ("alg", serde_json::json!("ECDH-ES"), Verification::Invalid),
        ("crv", serde_json::json!("P-384"), Verification::Invalid),
        ("x", serde_json::json!("AAAA"), Verification::Invalid),
        ("y", serde_json::json!("not base64!"), Verification::Invalid),
        ("kid", serde_json::json!(7), Verification::Invalid),
        ("x5t", serde_json::json!("ignored"), Verification::Valid),
    ];
    for (name, value, expected) in cases {
        assert_eq!(with(name, value.clone()), expected, "{name} = {value}");
    }
    let small = serde_json::json!({"kty": "RSA", "n": url64(&[0xff; 128]), "e": "AQAB"});
    let source = serde_json::json!({"jwks": {"keys": [small]}}).to_string();
    assert!(matches!(sets().resolve(&source, &Origins::default()), Err(ServiceError::Invalid(_))));
}

/// Takes sets and fetches nothing: the tests publish keys themselves.
struct NeverFetches;

impl Outbound for NeverFetches {
    fn send<'a>(
        &'a self,
        _: Vec<Call>,
        _: Duration,
        _: &'a crate::Grants,
        _: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn keep_fresh(&self, _: &Arc<KeySet>) -> Result<(), ServiceError> {
        Ok(())
    }
}

/// A set from a URL that is fetched by nobody, with these sets around it.
fn unfetched(source: &str) -> (KeySets, Arc<KeySet>) {
    let sets = KeySets::new(Clock::system(), Arc::new(NeverFetches));
    let origins = Origins::parse(["https://keys.example"]).unwrap();
    let set = sets.resolve(source, &origins).unwrap();
    (sets, set)
}

fn publish(set: &KeySet, key: &serde_json::Value) {
    let text = serde_json::json!({ "keys": [key] }).to_string();
    set.keys.store(Arc::new(jwk::parse_set(text.as_bytes(), "test").unwrap()));
    set.remote.as_ref().unwrap().attempt_over(Ok(()));
}

#[test]
fn any_bad_signature_may_be_the_sign_of_a_rotation() {
    let ((key, pair), (_, other)) = (ec_key("a"), ec_key("b"));
    let (_sets, set) = unfetched(r#"{"jwks_url": "https://keys.example/"}"#);
    publish(&set, &key);
    let demanded = || set.remote.as_ref().unwrap().demanded.swap(false, Ordering::AcqRel);
    assert_eq!(set.verify("ES256", Some("a"), b"m", &sign(&pair)), Ok(Verification::Valid));
    assert!(!demanded());
    assert_eq!(set.verify("ES256", Some("a"), b"m", &sign(&other)), Ok(Verification::Invalid));
    assert!(demanded(), "a new key may have an old id");
    assert_eq!(set.verify("ES256", Some("b"), b"m", &sign(&other)), Ok(Verification::UnknownKey));
    assert!(demanded());
}

#[test]
fn a_set_begins_with_the_keys_of_another_from_the_same_url() {
    let (key, pair) = ec_key("a");
    let (sets, first) = unfetched(r#"{"jwks_url": "https://keys.example/a"}"#);
    let again = |source: &str| sets.resolve(source, &Origins::parse(["https://keys.example"]).unwrap()).unwrap();
    assert!(!again(r#"{"jwks_url": "https://keys.example/a", "refresh": "2m"}"#).ready());
    publish(&first, &key);
    let second = again(r#"{"jwks_url": "https://keys.example/a", "refresh": "1m"}"#);
    assert!(second.ready());
    assert_eq!(second.verify("ES256", Some("a"), b"m", &sign(&pair)), Ok(Verification::Valid));
    // Another URL may be another authority.
    assert!(!again(r#"{"jwks_url": "https://keys.example/b"}"#).ready());
}

#[test]
fn a_set_of_an_issuer_is_shared_by_those_who_may_fetch_the_same() {
    let source = r#"{"issuer": "https://keys.example"}"#;
    let (sets, first) = unfetched(source);
    let by = |granted: &[&str]| sets.resolve(source, &Origins::parse(granted.iter().copied()).unwrap());
    assert!(Arc::ptr_eq(&first, &by(&["https://keys.example"]).unwrap()));
    publish(&first, &ec_key("a").0);
    // Its keys may be where the first one may not go, and the other way round.
    let wider = by(&["https://keys.example", "https://other.example"]).unwrap();
    assert!(!Arc::ptr_eq(&first, &wider) && !wider.ready());
    assert!(matches!(by(&["https://other.example"]), Err(ServiceError::NotGranted(_))));
}

#[test]
fn all_sets_are_waited_for_together() {
    let (sets, first) = unfetched(r#"{"jwks_url": "https://keys.example/a"}"#);
    let origins = Origins::parse(["https://keys.example"]).unwrap();
    let others: Vec<_> = ["b", "c"]
        .iter()
        .map(|path| sets.resolve(&format!(r#"{{"jwks_url": "https://keys.example/{path}"}}"#), &origins).unwrap())
        .collect();
    publish(&first, &ec_key("a").0);
    others[0].remote.as_ref().unwrap().attempt_over(Err("refused".to_owned()));
    let begun = Instant::now();
    let patience = Duration::from_millis(500);
    let mut missing = sets.wait_until_ready(patience);
    missing.sort();
    assert!(begun.elapsed() < patience * 2, "one after the other: {:?}", begun.elapsed());
    assert_eq!(
        missing,
        [
            "the key set https://keys.example/b can't be fetched: refused",
            "the key set https://keys.example/c can't be fetched: no answer yet"
        ]
    );
    // Of one that has failed, the first attempt is over.
    assert!(others[0].wait_for_first_attempt(Instant::now() + Duration::from_secs(60)).is_err());
    assert!(!sets.ready());
}

#[test]
fn what_was_fetched_for_sets_that_are_gone_still_counts() {
    let (sets, set) = unfetched(r#"{"jwks_url": "https://keys.example/"}"#);
    publish(&set, &ec_key("a").0);
    set.remote.as_ref().unwrap().attempt_over(Err("no".to_owned()));
    assert_eq!(sets.fetches(), [1, 1]);
    drop(set);
    assert!(sets.held().is_empty());
    assert_eq!(sets.fetches(), [1, 1]);
}
