//! When something is ordered: functions of times in seconds since the Unix epoch, and of a random number from 0 to 1 that spreads gateways.

use std::time::Duration;

use crate::certs::Validity;

/// Without `renew_before`: the part of a certificate's life that is left then.
const PART_LEFT: i64 = 3;
/// No certificate is renewed before this part of its life is over, whatever `renew_before` says: else an order would follow an order.
const PART_OVER: i64 = 3;
/// Renewals are spread over this part of what is left, so that gateways that started together don't order together.
const SPREAD: f64 = 0.05;

/// After the first failure of an order that was refused, or whose names could not be shown. Authorities count these (five in an hour, some).
const FIRST_AFTER_REFUSAL: Duration = Duration::from_secs(60);
/// After the first of an authority that was not reached.
const FIRST_AFTER_SILENCE: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);
/// What an authority asks for is heeded up to this.
pub(super) const LONGEST_HEEDED: Duration = Duration::from_secs(7 * 24 * 3600);

/// When an authority wants a certificate to be renewed (RFC 9773 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Window {
    /// A time in it, each as likely as another (RFC 9773 §4.2).
    pub(super) fn pick(self, random: f64) -> i64 {
        let length = self.end.saturating_sub(self.start).max(0);
        self.start.saturating_add((length as f64 * random) as i64)
    }
}

/// When a certificate is to be renewed that an authority has said nothing of.
pub(super) fn renewal(validity: Validity, renew_before: Option<Duration>, random: f64) -> i64 {
    let life = validity.not_after.saturating_sub(validity.not_before).max(0);
    let wanted = renew_before.map(|before| i64::try_from(before.as_secs()).unwrap_or(i64::MAX));
    let left = wanted.unwrap_or(life / PART_LEFT).min(life - life / PART_OVER);
    validity.not_after.saturating_sub(left).saturating_sub((left as f64 * SPREAD * random) as i64)
}

/// How long to wait after so many failures in a row.
pub(super) fn back_off(failures: u32, reached: bool, asked_for: Option<Duration>, random: f64) -> Duration {
    let first = if reached { FIRST_AFTER_REFUSAL } else { FIRST_AFTER_SILENCE };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    // From three quarters of it to five.
    let spread = doubled.mul_f64(0.75 + random / 2.0);
    // Never before what the authority has asked for, and a little after it.
    let asked_for = asked_for.map(|time| time.min(LONGEST_HEEDED)).map(|time| time + time.mul_f64(random / 20.0));
    spread.max(asked_for.unwrap_or_default())
}

/// The time that is so far away.
pub(super) fn after(wait: Duration) -> i64 {
    super::unix_now().saturating_add(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX).saturating_add(1))
}

/// From 0 to 1.
pub(super) fn random() -> f64 {
    crate::services::random::number().map_or(0.5, |number| number as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;
    const NINETY: Validity = Validity { not_before: 0, not_after: 90 * DAY };

    fn days(days: u64) -> Option<Duration> {
        Some(Duration::from_secs(days * 24 * 3600))
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left_or_as_told() {
        assert_eq!(renewal(NINETY, None, 0.0), 60 * DAY);
        assert_eq!(renewal(NINETY, days(10), 0.0), 80 * DAY);
        assert_eq!(renewal(Validity { not_before: 0, not_after: 6 * DAY }, None, 0.0), 4 * DAY);
        let spread = renewal(NINETY, None, 1.0);
        assert!(spread < 60 * DAY && spread > 57 * DAY, "{spread}");
    }

    #[test]
    fn no_order_follows_an_order() {
        assert_eq!(renewal(NINETY, days(90), 0.0), 30 * DAY);
        assert_eq!(renewal(NINETY, days(10_000), 0.0), 30 * DAY);
        let odd = Validity { not_before: 10, not_after: 0 };
        assert_eq!(renewal(odd, days(1), 1.0), 0);
    }

    #[test]
    fn a_window_is_used_as_a_whole() {
        let window = Window { start: 100, end: 200 };
        assert_eq!([window.pick(0.0), window.pick(0.5), window.pick(1.0)], [100, 150, 200]);
        assert_eq!(Window { start: 100, end: 0 }.pick(1.0), 100);
    }

    #[test]
    fn waits_grow_and_have_an_end() {
        let wait = |failures| back_off(failures, true, None, 0.5).as_secs();
        assert_eq!([wait(1), wait(2), wait(3)], [60, 120, 240]);
        assert_eq!(wait(1000), LONGEST_WAIT.as_secs());
        assert_eq!(back_off(1, false, None, 0.5).as_secs(), 5);
        assert_ne!(back_off(1, true, None, 0.0), back_off(1, true, None, 1.0), "spread");
    }

    #[test]
    fn what_the_authority_asks_for_is_heeded() {
        let hour = Duration::from_secs(3600);
        let waited = back_off(1, true, Some(hour), 0.5);
        assert!(waited >= hour && waited < hour * 2, "{waited:?}");
        assert!(back_off(1, true, Some(hour), 0.0) >= hour);
        assert!(back_off(1, true, Some(Duration::MAX), 1.0) <= LONGEST_HEEDED * 2);
    }
}
