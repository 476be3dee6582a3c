//! How long, and for how many requests, a connection of a pool is used. One that is over finishes the requests that it has.

use super::pool::Limits;
use crate::coarse;

/// What is left of the use of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    /// By [`coarse::now_ms`]; the largest number for never.
    ends: u64,
    /// The largest number stands for no limit, and is as good as one.
    requests: u32,
}

impl Lifetime {
    /// That of a connection that is opened now.
    pub(super) fn of(limits: &Limits) -> Self {
        let ends =
            limits.max_connection_age.map_or(u64::MAX, |age| coarse::now_ms().saturating_add(coarse::jittered_ms(age)));
        Lifetime { ends, requests: limits.max_requests_per_connection.unwrap_or(u32::MAX) }
    }

    /// What is left when it has got one more request.
    pub(super) fn after_request(self) -> Self {
        Lifetime { requests: self.requests.saturating_sub(1), ..self }
    }

    /// Whether it gets no more requests.
    pub(super) fn is_over(self) -> bool {
        self.requests == 0 || self.ends != u64::MAX && self.ends <= coarse::now_ms()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_ends_with_its_requests_or_its_time() {
        let limits = |max_connection_age, max_requests_per_connection| Limits {
            max_connection_age,
            max_requests_per_connection,
            ..Limits::NONE
        };
        let endless = Lifetime::of(&Limits::NONE).after_request();
        assert!(!endless.is_over());
        let twice = Lifetime::of(&limits(None, Some(2))).after_request();
        assert_eq!((twice.is_over(), twice.after_request().is_over()), (false, true));
        let hour = Duration::from_secs(3600);
        assert!(!Lifetime::of(&limits(Some(hour), None)).is_over());
        assert!(Lifetime::of(&limits(Some(Duration::ZERO), None)).is_over());
    }
}
