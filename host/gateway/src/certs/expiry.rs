//! When certificates expire, for a metric and for warnings.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::x509::Fields;

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

/// The validity of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainValidity {
    /// Of the certificate itself, the first of the chain. Its end is the end for every client.
    pub leaf: Validity,
    /// Of the one that expires first. If it is another than the leaf, clients that know another way to an authority don't mind: chains keep
    /// certificates for old clients, such as a root that another authority has signed, for longer than these are valid.
    pub first_to_end: Validity,
}

impl ChainValidity {
    /// `None` where the first certificate can't be read. Others that can't be read don't count.
    pub fn of(pem: &str) -> Option<ChainValidity> {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        let validity = |fields: Fields| Validity { not_before: fields.not_before, not_after: fields.not_after };
        let mut validities = certificates.map(|certificate| Fields::read(&certificate).map(validity));
        let leaf = validities.next()??;
        let first_to_end = validities.flatten().fold(leaf, |first, other| match other.not_after < first.not_after {
            true => other,
            false => first,
        });
        Some(ChainValidity { leaf, first_to_end })
    }

    /// What an operator should know about the certificate of this name at this time.
    pub fn warning(&self, name: &str, now: i64) -> Option<String> {
        self.leaf.warning(&format!("certificate `{name}`"), now).or_else(|| {
            let other = Some(self.first_to_end).filter(|first| *first != self.leaf)?;
            other.warning(&format!("a certificate above it in the chain of `{name}`"), now)
        })
    }
}

impl Validity {
    fn warning(&self, what: &str, now: i64) -> Option<String> {
        let left = self.not_after.saturating_sub(now);
        let lifetime = self.not_after.saturating_sub(self.not_before).max(0);
        if left < 0 {
            return Some(format!("{what} has expired {}", ago(-left)));
        }
        if self.not_before > now {
            return Some(format!("{what} is not valid yet"));
        }
        (left <= WARN_BEFORE.min(lifetime / WARN_PART)).then(|| match left / DAY {
            0 => format!("{what} expires in less than a day"),
            1 => format!("{what} expires in 1 day"),
            days => format!("{what} expires in {days} days"),
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

impl Validity {
    /// That of the first certificate of a chain, which is the one of the host.
    pub fn of_leaf(pem: &str) -> Option<Validity> {
        let fields = Fields::read(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)?;
        Some(Validity { not_before: fields.not_before, not_after: fields.not_after })
    }
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
        let chain = ChainValidity::of(&(late.pem() + &early.pem())).expect("two certificates");
        assert_eq!((chain.first_to_end, chain.leaf.not_after), (expected, 253_402_214_400));
        let alone = ChainValidity::of(&late.pem()).expect("a certificate");
        assert_eq!((alone.leaf, alone.first_to_end), (chain.leaf, chain.leaf));
        let other_order = ChainValidity::of(&(early.pem() + &late.pem())).expect("two certificates");
        assert_eq!((other_order.leaf, other_order.first_to_end), (expected, expected));
    }

    #[test]
    fn a_warning_says_whether_it_is_the_certificate_or_one_above_it() {
        let validity = |not_after| Validity { not_before: 0, not_after };
        let (long, short) = (validity(90 * DAY), validity(30 * DAY));
        let chain = ChainValidity { leaf: long, first_to_end: short };
        let said = |day: i64| chain.warning("c", day * DAY).unwrap_or_default();
        assert_eq!(said(10), "");
        assert_eq!(said(29), "a certificate above it in the chain of `c` expires in 1 day");
        assert_eq!(said(40), "a certificate above it in the chain of `c` has expired 10 days ago");
        assert_eq!(said(89), "certificate `c` expires in 1 day");
    }

    #[test]
    fn what_is_no_certificate_has_no_validity() {
        assert_eq!(ChainValidity::of("no PEM"), None);
        let no_certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(ChainValidity::of(no_certificate), None);
    }

    #[test]
    fn a_warning_comes_two_weeks_before_the_end_or_for_short_lives_a_third() {
        let long = Validity { not_before: 0, not_after: 90 * DAY };
        let said = |validity: Validity, now: i64| validity.warning("certificate `c`", now).unwrap_or_default();
        assert_eq!(said(long, 75 * DAY), "");
        assert_eq!(said(long, 76 * DAY), "certificate `c` expires in 14 days");
        assert_eq!(said(long, 90 * DAY - 1), "certificate `c` expires in less than a day");
        assert_eq!(said(long, 91 * DAY), "certificate `c` has expired 1 day ago");
        assert_eq!(said(long, -1), "certificate `c` is not valid yet");
        let short = Validity { not_before: 0, not_after: 6 * DAY };
        assert_eq!(said(short, 3 * DAY), "");
        assert_eq!(said(short, 4 * DAY), "certificate `c` expires in 2 days");
    }

    #[test]
    fn the_first_certificate_is_the_one_of_the_host() {
        let [early, late] = [(2024, 2, 29), (2025, 2, 28)].map(|end| certificate((2000, 1, 1), end).pem());
        let end = |chain: String| Validity::of_leaf(&chain).map(|validity| validity.not_after);
        assert!(end(late.clone() + &early) > end(early + &late));
        assert_eq!(Validity::of_leaf("no PEM"), None);
    }
}
