//! When certificates expire, for a metric and for warnings. Of X.509 only the validity is read (RFC 5280 §4.1.2.5).

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const DAY: i64 = 24 * 3600;
/// An operator is warned this long before the end …
const WARN_BEFORE: i64 = 14 * DAY;
/// … but of a certificate that is made for a short time not before this part of it is left.
const WARN_PART: i64 = 3;

/// From when to when a certificate is valid, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    /// That of the certificate of a chain that expires first. `None` where there is no certificate that can be read.
    pub fn of_chain(pem: &str) -> Option<Validity> {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        certificates.filter_map(|certificate| read(&certificate)).min_by_key(|validity| validity.not_after)
    }

    /// What an operator should know about the certificate of this name at this time.
    pub fn warning(&self, name: &str, now: i64) -> Option<String> {
        let left = self.not_after.saturating_sub(now);
        let lifetime = self.not_after.saturating_sub(self.not_before).max(0);
        if left < 0 {
            return Some(format!("certificate `{name}` has expired {}", ago(-left)));
        }
        if self.not_before > now {
            return Some(format!("certificate `{name}` is not valid yet"));
        }
        (left <= WARN_BEFORE.min(lifetime / WARN_PART)).then(|| match left / DAY {
            0 => format!("certificate `{name}` expires in less than a day"),
            1 => format!("certificate `{name}` expires in 1 day"),
            days => format!("certificate `{name}` expires in {days} days"),
        })
    }
}

fn ago(seconds: i64) -> String {
    match seconds / DAY {
        0 => "today".to_owned(),
        1 => "1 day ago".to_owned(),
        days => format!("{days} days ago"),
    }
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`, the version of the certificate.
const VERSION: u8 = 0xa0;

/// The validity of a certificate in DER.
fn read(certificate: &[u8]) -> Option<Validity> {
    let mut certificate = Der(certificate).only(SEQUENCE)?;
    let mut fields = certificate.only(SEQUENCE)?;
    let (first, _) = fields.next()?;
    if first == VERSION {
        // The serial number is next.
        fields.next()?;
    }
    // Signature algorithm and issuer.
    fields.only(SEQUENCE)?;
    fields.only(SEQUENCE)?;
    let mut validity = fields.only(SEQUENCE)?;
    let mut time = || validity.next().and_then(|(tag, text)| seconds(tag, text));
    Some(Validity { not_before: time()?, not_after: time()? })
}

/// What is left to read of a value in DER (X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, if it has this tag.
    fn only(&mut self, tag: u8) -> Option<Der<'a>> {
        let (found, content) = self.next()?;
        (found == tag).then_some(Der(content))
    }
}

/// A time of RFC 5280 §4.1.2.5, which is always in UTC and to the second.
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let text = text.strip_suffix(b"Z")?;
    let number = |digits: &[u8]| {
        let digit = |number: i64, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'));
        digits.iter().try_fold(0, digit)
    };
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let parts: [&[u8]; 5] = rest.chunks(2).collect::<Vec<_>>().try_into().ok()?;
    let [month, day, hour, minute, second] = parts.map(number);
    let (month, day) = (month?, day?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * DAY + hour? * 3600 + minute? * 60 + second?)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. The year begins in March, so that the day of a leap year is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_month = (153 * month + 2) / 5;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + days_before_month + day - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(from: (i32, u8, u8), to: (i32, u8, u8)) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate")
    }

    #[test]
    fn the_certificate_that_expires_first_counts() {
        let early = certificate((1999, 12, 31), (2024, 2, 29));
        let late = certificate((2000, 3, 1), (9999, 12, 31));
        // As `date -u -d … +%s` says.
        let expected = Validity { not_before: 946_598_400, not_after: 1_709_164_800 };
        assert_eq!(Validity::of_chain(&(late.pem() + &early.pem())), Some(expected));
        assert_eq!(Validity::of_chain(&late.pem()).map(|validity| validity.not_after), Some(253_402_214_400));
    }

    #[test]
    fn what_is_no_certificate_has_no_validity() {
        let good = certificate((2020, 1, 1), (2030, 1, 1));
        let der = good.der();
        assert!(read(der).is_some());
        for length in 0..der.len().min(200) {
            let _ = read(&der[..length]);
        }
        for at in 0..200 {
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut broken = der.to_vec();
                broken[at] = value;
                let _ = read(&broken);
            }
        }
        assert_eq!(Validity::of_chain("no PEM"), None);
        for text in [&b"240229Z"[..], b"2402291200000Z", b"24022912000xZ", b"241329120000Z", b"240229120000"] {
            assert_eq!(seconds(UTC_TIME, text), None, "{}", text.escape_ascii());
        }
        assert_eq!(seconds(UTC_TIME, b"491231235959Z"), Some(2_524_607_999));
    }

    #[test]
    fn a_warning_comes_two_weeks_before_the_end_or_for_short_lives_a_third() {
        let long = Validity { not_before: 0, not_after: 90 * DAY };
        let said = |validity: Validity, now: i64| validity.warning("c", now).unwrap_or_default();
        assert_eq!(said(long, 75 * DAY), "");
        assert_eq!(said(long, 76 * DAY), "certificate `c` expires in 14 days");
        assert_eq!(said(long, 90 * DAY - 1), "certificate `c` expires in less than a day");
        assert_eq!(said(long, 91 * DAY), "certificate `c` has expired 1 day ago");
        assert_eq!(said(long, -1), "certificate `c` is not valid yet");
        let short = Validity { not_before: 0, not_after: 6 * DAY };
        assert_eq!(said(short, 3 * DAY), "");
        assert_eq!(said(short, 4 * DAY), "certificate `c` expires in 2 days");
    }
}
