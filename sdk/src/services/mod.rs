//! The host's services, as typed functions.

pub mod cache;
pub mod consumers;
pub mod context;
pub mod crypto;

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

/// Limits of requests at the same time.
pub mod concurrency {
    pub use crate::bindings::sluice::filter::concurrency::{Admission, PlaceLimit};
    use crate::{Error, host, limiter::Limit};

    /// Takes a place of each of `places` for this exchange, and `cost` from each of `limits`, as [`limiter::take`](crate::limiter::take) does; or
    /// nothing, if one of them would not allow it. The gateway gives the places back when the exchange has ended, however it ends. At most 16 of
    /// each kind in a call, and 64 places of an exchange.
    ///
    /// # Errors
    /// `Invalid` for an amount out of range, `TooLarge` for more limits or places; else as [`limiter::take`](crate::limiter::take).
    pub fn enter(places: &[PlaceLimit], limits: &[Limit], cost: u64) -> Result<Admission, Error> {
        Ok(host::concurrency::enter(places, limits, cost)?)
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

    /// Waits, at most `timeout_ms` milliseconds, as long as another caller holds the reservation of a key, and answers the value, if there is one then. A
    /// filter that calls this is called on a fiber, as with [`http`](crate::http).
    ///
    /// # Errors
    /// `Timeout` where the reservation is still held; else as [`get`].
    pub fn wait(space: &str, key: &str, timeout_ms: u32) -> Result<Option<Vec<u8>>, Error> {
        Ok(host::kv_wait::wait(space, key, timeout_ms)?)
    }

    /// The value, or a reservation for at most `ttl_ms` milliseconds so that one caller of many makes it.
    ///
    /// # Errors
    /// As [`set`].
    pub fn get_or_reserve(space: &str, key: &str, ttl_ms: u64) -> Result<Reservation, Error> {
        Ok(host::kv::get_or_reserve(space, key, ttl_ms)?)
    }
}

/// Calls to other services: to origins (`https://auth.example/check`), granted by `grants.http`, and to upstreams of the gateway
/// (`upstream://users/profile`), granted by `grants.upstreams`.
pub mod http {
    pub use crate::bindings::sluice::filter::{
        http::{Incoming, Outgoing},
        types::Field,
    };
    use crate::{Error, host};

    /// Sends the requests at the same time (at most 16) and waits for all, at most `timeout_ms` milliseconds.
    ///
    /// # Errors
    /// `NotGranted` for another origin or upstream, `Invalid` for a malformed request; what befalls one request is in its place.
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

/// Passwords of consumers. A filter that calls this is called on a fiber, as with [`http`].
pub mod passwords {
    use crate::{Error, host};

    /// Makes the consumer with this user name and password the caller, and answers its name. None for a wrong password and for a name that
    /// nobody has.
    ///
    /// # Errors
    /// `NotGranted` without `grants.consumers`; `Unavailable` when too many passwords wait to be verified; `Timeout`.
    pub fn authenticate(username: &str, password: &[u8]) -> Result<Option<String>, Error> {
        Ok(host::passwords::authenticate(username, password)?)
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
