//! The host's services, as typed functions.

/// A slot that is private to this filter and this exchange: written in one hook, read in a later one. At most 64 KiB.
pub mod state {
    use serde::{Serialize, de::DeserializeOwned};

    use crate::{Error, host};

    /// What an earlier hook of this exchange set, or none.
    ///
    /// # Errors
    /// `Other` when it is not a `T`; `WrongHook` outside an exchange.
    pub fn get<T: DeserializeOwned>() -> Result<Option<T>, Error> {
        host::state::get()?.map(|bytes| serde_json::from_slice(&bytes).map_err(Error::from)).transpose()
    }

    /// Keeps a value for the later hooks of this exchange.
    ///
    /// # Errors
    /// `TooLarge` past 64 KiB as JSON.
    pub fn set<T: Serialize>(value: &T) -> Result<(), Error> {
        set_bytes(&serde_json::to_vec(value)?)
    }

    /// As [`get`], without a codec.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange.
    pub fn get_bytes() -> Result<Option<Vec<u8>>, Error> {
        Ok(host::state::get()?)
    }

    /// As [`set`], without a codec.
    ///
    /// # Errors
    /// `TooLarge` past 64 KiB.
    pub fn set_bytes(bytes: &[u8]) -> Result<(), Error> {
        Ok(host::state::set(bytes)?)
    }
}

/// Typed facts handed from filter to filter within the exchange. Never sent to anybody.
pub mod context {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;

    pub use crate::bindings::sluice::filter::context::Value;
    use crate::{Error, host};

    /// The value of a key.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange, as for all reads below.
    pub fn get(key: &str) -> Result<Option<Value>, Error> {
        Ok(host::context::get(key)?)
    }

    /// The value of a key if it is a text.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn text(key: &str) -> Result<Option<String>, Error> {
        Ok(get(key)?.and_then(into_text))
    }

    /// The value of a key if it is a list of texts; a text is a list of one.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn texts(key: &str) -> Result<Option<Vec<String>>, Error> {
        Ok(get(key)?.and_then(into_texts))
    }

    /// A JSON value of a key, read into a type.
    ///
    /// # Errors
    /// `Other` when it is JSON of another shape.
    pub fn json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Error> {
        match get(key)? {
            Some(Value::Json(text)) => Ok(Some(serde_json::from_str(&text)?)),
            _ => Ok(None),
        }
    }

    /// A part of a JSON value, by the names of the members from the outside in.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn path(key: &str, path: &[&str]) -> Result<Option<Value>, Error> {
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        part(key, &path)
    }

    /// As [`path`], for names that are at hand as the host takes them.
    pub(crate) fn part(key: &str, path: &[String]) -> Result<Option<Value>, Error> {
        Ok(host::context::get_path(key, path)?)
    }

    /// Sets a key for the filters after this one.
    ///
    /// # Errors
    /// `Invalid` for JSON that does not parse; `TooLarge` past 64 KiB or 64 keys.
    pub fn set(key: &str, value: impl Into<Value>) -> Result<(), Error> {
        Ok(host::context::set(key, &value.into())?)
    }

    /// Sets a key to JSON text.
    ///
    /// # Errors
    /// As [`set`].
    pub fn set_json(key: &str, text: impl Into<String>) -> Result<(), Error> {
        set(key, Value::Json(text.into()))
    }

    /// The name of the filter that set a key.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn writer(key: &str) -> Result<Option<String>, Error> {
        Ok(host::context::writer(key)?)
    }

    /// The authenticated caller, if a filter has found one.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn consumer() -> Result<Option<String>, Error> {
        Ok(host::context::consumer()?)
    }

    /// Says who the caller is.
    ///
    /// # Errors
    /// `WrongHook` outside the hooks that may.
    pub fn set_consumer(name: &str) -> Result<(), Error> {
        Ok(host::context::set_consumer(name)?)
    }

    /// The text of a value of kind text, integer or boolean.
    #[must_use]
    pub fn into_text(value: Value) -> Option<String> {
        match value {
            Value::Text(text) => Some(text),
            Value::Integer(number) => Some(number.to_string()),
            Value::Boolean(truth) => Some(truth.to_string()),
            Value::Float(_) | Value::Texts(_) | Value::Json(_) => None,
        }
    }

    /// The one text of a value of any kind, for keys and names that are made of it: a text as it is, `true` and `false`, numbers without a
    /// needless fraction (`7` for 7.0), and JSON without spaces, its members in the order of their names, for everything else (`["a","b"]`).
    /// Numbers beyond 2^53 with a fraction or an exponent, and whole ones from 2^64, are rounded to the nearest double.
    #[must_use]
    pub fn canonical(value: Value) -> String {
        let json = match value {
            Value::Text(text) => return text,
            Value::Integer(number) => return number.to_string(),
            Value::Boolean(truth) => return truth.to_string(),
            Value::Float(number) => number.into(),
            Value::Texts(texts) => texts.into(),
            Value::Json(text) => match serde_json::from_str(&text) {
                Ok(json) => json,
                // The host has checked it.
                Err(_) => return text,
            },
        };
        match in_order(json) {
            serde_json::Value::String(text) => text,
            json => json.to_string(),
        }
    }

    fn in_order(json: serde_json::Value) -> serde_json::Value {
        use serde_json::Value as Json;
        /// Below, every whole number is a double of its own.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match json {
            Json::Number(number) => match number.as_f64() {
                Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < EXACT => (float as i64).into(),
                _ => Json::Number(number),
            },
            Json::Array(items) => items.into_iter().map(in_order).collect(),
            Json::Object(members) => {
                let members: BTreeMap<_, _> = members.into_iter().collect();
                Json::Object(members.into_iter().map(|(name, member)| (name, in_order(member))).collect())
            }
            Json::Null | Json::Bool(_) | Json::String(_) => json,
        }
    }

    /// The texts of a value of kind text or texts.
    #[must_use]
    pub fn into_texts(value: Value) -> Option<Vec<String>> {
        match value {
            Value::Text(text) => Some(vec![text]),
            Value::Texts(texts) => Some(texts),
            Value::Integer(_) | Value::Boolean(_) | Value::Float(_) | Value::Json(_) => None,
        }
    }

    impl From<&str> for Value {
        fn from(text: &str) -> Self {
            Self::Text(text.to_owned())
        }
    }

    impl From<String> for Value {
        fn from(text: String) -> Self {
            Self::Text(text)
        }
    }

    impl From<i64> for Value {
        fn from(number: i64) -> Self {
            Self::Integer(number)
        }
    }

    impl From<f64> for Value {
        fn from(number: f64) -> Self {
            Self::Float(number)
        }
    }

    impl From<bool> for Value {
        fn from(truth: bool) -> Self {
            Self::Boolean(truth)
        }
    }

    impl From<Vec<String>> for Value {
        fn from(texts: Vec<String>) -> Self {
            Self::Texts(texts)
        }
    }
}

/// The gateway's log; lines carry the filter's name and the request id.
pub mod log {
    pub use crate::bindings::sluice::filter::log::Level;
    use crate::host;

    /// Writes a line.
    pub fn write(level: Level, message: &str) {
        host::log::log(level, message);
    }

    /// Whether lines of this level are written.
    #[must_use]
    pub fn enabled(level: Level) -> bool {
        host::log::enabled(level)
    }

    /// Writes a line of level `debug`.
    pub fn debug(message: &str) {
        write(Level::Debug, message);
    }

    /// Writes a line of level `info`.
    pub fn info(message: &str) {
        write(Level::Info, message);
    }

    /// Writes a line of level `warn`.
    pub fn warn(message: &str) {
        write(Level::Warn, message);
    }

    /// Writes a line of level `error`.
    pub fn error(message: &str) {
        write(Level::Error, message);
    }
}

/// Time, under the control of the harness in tests.
pub mod clock {
    use crate::host;

    /// Microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn now_us() -> u64 {
        host::clock::now_us()
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn now_seconds() -> u64 {
        now_us() / 1_000_000
    }

    /// Nanoseconds of a clock that never goes back.
    #[must_use]
    pub fn monotonic_ns() -> u64 {
        host::clock::monotonic_ns()
    }
}

/// Randomness fit for secrets.
pub mod random {
    use crate::{Error, host};

    /// Up to 64 KiB of random bytes.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn bytes(length: u32) -> Result<Vec<u8>, Error> {
        Ok(host::random::bytes(length)?)
    }

    /// A random number.
    ///
    /// # Errors
    /// `WrongHook` in `configure`.
    pub fn number() -> Result<u64, Error> {
        Ok(host::random::number()?)
    }
}

/// Atomic rate-limit decisions.
///
/// A key has at most 1,024 bytes, and a plugin at most 1,000,000 counters, for all its filters together. A counter goes when it is as good as
/// new (its bucket is full again, its windows have passed); no other is dropped to make room. Where callers can invent keys, hash or cap what
/// comes from outside, and mind what `on_error` makes of the error.
pub mod limiter {
    pub use crate::bindings::sluice::filter::limiter::{Algorithm, Limit, Standing};
    use crate::{Error, host};

    /// Takes `cost` from every limit, or from none if one of them would not allow it. At most 16 limits; `cost` 0 only
    /// looks. One standing for each limit, in their order.
    ///
    /// # Errors
    /// `Invalid` for a limit out of range or a key over 1,024 bytes, `TooLarge` for more than 16 limits, `Unavailable` when the plugin has
    /// as many counters as it may have and the call needs a new one.
    pub fn take(limits: &[Limit], cost: u64) -> Result<Vec<Standing>, Error> {
        Ok(host::limiter::take(limits, cost)?)
    }
}

/// A key-value store, shared by all workers. Spaces are granted by `grants.kv`.
///
/// A key has at most 1,024 bytes. Each entry, a reservation too, takes its key, its value and 64 bytes of the space's quota (`grants.kv_quota`,
/// 16 MiB by default) until it expires or is deleted; nothing is dropped to make room. Where callers can invent keys, hash or cap what comes
/// from outside, give each entry a time to live, and mind what `on_error` makes of `TooLarge`.
pub mod kv {
    pub use crate::bindings::sluice::filter::kv::Reservation;
    use crate::{Error, host};

    /// The value of a key.
    ///
    /// # Errors
    /// `NotGranted` for another space, `Invalid` for a key over 1,024 bytes; as for all functions below.
    pub fn get(space: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(host::kv::get(space, key)?)
    }

    /// Sets a value, for so many milliseconds or until it is deleted.
    ///
    /// # Errors
    /// `TooLarge` past the quota of the space, `Invalid` for a time to live of 0 ms; else as [`get`].
    pub fn set(space: &str, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), Error> {
        Ok(host::kv::set(space, key, value, ttl_ms)?)
    }

    /// Removes a key and answers whether there was one.
    ///
    /// # Errors
    /// As [`get`].
    pub fn delete(space: &str, key: &str) -> Result<bool, Error> {
        Ok(host::kv::delete(space, key)?)
    }

    /// Sets a value if the present one is `expected`, and answers whether it did.
    ///
    /// # Errors
    /// As [`set`].
    pub fn compare_and_swap(
        space: &str,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<bool, Error> {
        Ok(host::kv::compare_and_swap(space, key, expected, value, ttl_ms)?)
    }

    /// The value, or a reservation for at most `ttl_ms` milliseconds so that one caller of many makes it.
    ///
    /// # Errors
    /// As [`set`].
    pub fn get_or_reserve(space: &str, key: &str, ttl_ms: u64) -> Result<Reservation, Error> {
        Ok(host::kv::get_or_reserve(space, key, ttl_ms)?)
    }
}

/// Calls to other services, granted by `grants.http`.
pub mod http {
    pub use crate::bindings::sluice::filter::{
        http::{Incoming, Outgoing},
        types::Field,
    };
    use crate::{Error, host};

    /// Sends the requests at the same time (at most 16) and waits for all, at most `timeout_ms` milliseconds.
    ///
    /// # Errors
    /// `NotGranted` for another origin, `Invalid` for a malformed request; what befalls one request is in its place.
    pub fn send(requests: &[Outgoing], timeout_ms: u32) -> Result<Vec<Result<Incoming, Error>>, Error> {
        Ok(host::http::send(requests, timeout_ms)?.into_iter().map(|one| one.map_err(Error::from)).collect())
    }

    /// Sends one request.
    ///
    /// # Errors
    /// As [`send`], and what befell the request.
    pub fn send_one(request: Outgoing, timeout_ms: u32) -> Result<Incoming, Error> {
        send(&[request], timeout_ms)?.pop().unwrap_or_else(|| Err(Error::new("no answer")))
    }
}

/// Cryptography at native speed. Data is at most 1 MiB a call.
pub mod crypto {
    pub use crate::bindings::sluice::filter::crypto::{TokenRefusal, Verification};
    use crate::{
        Error, Request,
        bindings::sluice::filter::crypto::{Bearer, Token},
        host,
    };

    /// A set of keys, declared by [`crate::Setup::key_set`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct KeySet(pub(crate) u32);

    impl KeySet {
        /// Verifies a signature of an algorithm of RFC 7518 §3.1 or RFC 8037.
        ///
        /// # Errors
        /// `TooLarge` past 1 MiB, `WrongHook` in `configure`.
        pub fn verify(
            self,
            algorithm: &str,
            key_id: Option<&str>,
            message: &[u8],
            signature: &[u8],
        ) -> Result<Verification, Error> {
            Ok(host::crypto::verify(self.0, algorithm, key_id, message, signature)?)
        }

        /// Signs with a private or secret key of the set.
        ///
        /// # Errors
        /// `Invalid` when no key of the set can sign with this algorithm.
        pub fn sign(self, algorithm: &str, key_id: Option<&str>, message: &[u8]) -> Result<Vec<u8>, Error> {
            Ok(host::crypto::sign(self.0, algorithm, key_id, message)?)
        }
    }

    /// Which tokens are good: [`crate::Setup::token_verifier`].
    #[derive(Debug, Clone, Copy)]
    pub struct TokenRules<'a> {
        /// What they are signed with.
        pub keys: KeySet,
        /// The algorithms that are accepted, by their names as in [`KeySet::verify`].
        pub algorithms: &'a [&'a str],
        /// What `typ` has to be. Case does not count, and `application/` may be left out.
        pub typ: Option<&'a str>,
        /// How many good tokens the gateway may remember for each instance, so that it need not verify them again: at most 10,000 over
        /// all verifiers.
        pub remember: u32,
    }

    /// Verifies tokens, declared by [`crate::Setup::token_verifier`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TokenVerifier(pub(crate) u32);

    impl TokenVerifier {
        /// The payload of a good token: a JSON Web Signature (RFC 7515) in compact form. Nothing of the payload was looked at.
        ///
        /// # Errors
        /// `TooLarge` past 1 MiB, `Unavailable` while the keys have not been fetched, `WrongHook` in `configure`.
        pub fn verify(self, token: &[u8]) -> Result<Result<String, TokenRefusal>, Error> {
            Ok(match host::crypto::verify_token(self.0, token)? {
                Token::Payload(payload) => Ok(payload),
                Token::Refused(refusal) => Err(refusal),
            })
        }

        /// The same for the bearer token of the request (RFC 6750 §2.1): its `authorization` field, as far as the filter may see it.
        ///
        /// # Errors
        /// As [`Self::verify`].
        pub fn verify_bearer(self, _request: &Request) -> Result<Credentials, Error> {
            Ok(match host::crypto::verify_bearer(self.0)? {
                Bearer::Missing => Credentials::Missing,
                Bearer::Repeated => Credentials::Repeated,
                Bearer::Payload(payload) => Credentials::Token(Ok(payload)),
                Bearer::Refused(refusal) => Credentials::Token(Err(refusal)),
            })
        }
    }

    /// What a request has for credentials: [`TokenVerifier::verify_bearer`].
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Credentials {
        /// No `authorization` field that the filter may see, or its scheme is another one than `Bearer`.
        Missing,
        /// More than one `authorization` field; none was looked at.
        Repeated,
        /// The payload of a good token, or why it is not good.
        Token(Result<String, TokenRefusal>),
    }

    /// `sha-1`, `sha-256`, `sha-384` or `sha-512`.
    ///
    /// # Errors
    /// `Invalid` for another algorithm.
    pub fn hash(algorithm: &str, data: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(host::crypto::hash(algorithm, data)?)
    }

    /// HMAC with one of these hashes.
    ///
    /// # Errors
    /// `Invalid` for another algorithm.
    pub fn hmac(algorithm: &str, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(host::crypto::hmac(algorithm, key, data)?)
    }

    /// Compares in constant time.
    ///
    /// # Errors
    /// `TooLarge` past 1 MiB.
    pub fn equal(a: &[u8], b: &[u8]) -> Result<bool, Error> {
        Ok(host::crypto::equal(a, b)?)
    }
}

/// Secrets, granted by `grants.secrets`.
pub mod secrets {
    use crate::{Error, host};

    /// The secret of this name.
    ///
    /// # Errors
    /// `NotGranted` when there is none.
    pub fn get(name: &str) -> Result<String, Error> {
        Ok(host::secrets::get(name)?)
    }
}

/// The filter's own metrics.
pub mod metrics {
    pub use crate::bindings::sluice::filter::metrics::Label;
    use crate::{Error, host};

    /// Adds to a counter.
    ///
    /// # Errors
    /// `Invalid` for a malformed name, as for all below.
    pub fn count(name: &str, labels: &[(&str, &str)], delta: u64) -> Result<(), Error> {
        Ok(host::metrics::count(name, &owned(labels), delta)?)
    }

    /// Sets a gauge.
    ///
    /// # Errors
    /// As [`count`].
    pub fn gauge(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), Error> {
        Ok(host::metrics::gauge(name, &owned(labels), value)?)
    }

    /// Adds a value to a histogram.
    ///
    /// # Errors
    /// As [`count`].
    pub fn observe(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), Error> {
        Ok(host::metrics::observe(name, &owned(labels), value)?)
    }

    fn owned(labels: &[(&str, &str)]) -> Vec<Label> {
        labels.iter().map(|(name, value)| Label { name: (*name).to_owned(), value: (*value).to_owned() }).collect()
    }
}
