//! Which content codings a client accepts (RFC 9110 §12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;
use smallvec::SmallVec;

use crate::config::model::ContentCoding;
use crate::http::headers::tokens;

/// Of the codings that there may be, those that the client takes at least as well as none, the best first. Without the field none is chosen, though
/// any would be acceptable: who sends no such field may not know codings.
pub(super) fn acceptable(request: &HeaderMap, offered: &[ContentCoding]) -> SmallVec<[ContentCoding; 3]> {
    let mut found = SmallVec::new();
    if offered.is_empty() || !request.contains_key(ACCEPT_ENCODING) {
        return found;
    }
    let identity = weight(request, b"identity").unwrap_or(0);
    let mut weights: SmallVec<[(u16, ContentCoding); 3]> = offered
        .iter()
        .map(|&coding| (weight(request, coding.name().as_bytes()).unwrap_or(0), coding))
        .filter(|(weight, _)| *weight > 0 && *weight >= identity)
        .collect();
    // Stable: equal weights stay in the order of the configuration.
    weights.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    found.extend(weights.into_iter().map(|(_, coding)| coding));
    found
}

/// The weight of a coding in thousandths, its own or that of `*`. A member that is not well-formed says nothing.
fn weight(request: &HeaderMap, coding: &[u8]) -> Option<u16> {
    let mut any = None;
    for value in request.get_all(ACCEPT_ENCODING) {
        for member in tokens(value.as_bytes()) {
            let (name, weight) = match member.iter().position(|byte| *byte == b';') {
                Some(end) => (member[..end].trim_ascii(), qvalue(&member[end + 1..])),
                None => (member, Some(1000)),
            };
            let Some(weight) = weight else { continue };
            if name.eq_ignore_ascii_case(coding) || coding == b"gzip" && name.eq_ignore_ascii_case(b"x-gzip") {
                return Some(weight);
            }
            if name == b"*" {
                any = Some(weight);
            }
        }
    }
    any
}

/// `q=0.5` (RFC 9110 §12.4.2) in thousandths.
fn qvalue(parameter: &[u8]) -> Option<u16> {
    let (b"q" | b"Q", value) = parameter.trim_ascii().split_at_checked(1)? else { return None };
    let (whole, fraction) = match value.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start() {
        [whole @ (b'0' | b'1')] => (*whole, &b""[..]),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] if fraction.len() <= 3 => (*whole, fraction),
        _ => return None,
    };
    let mut thousandths = 0;
    for at in 0..3 {
        let digit = fraction.get(at).copied().unwrap_or(b'0');
        thousandths = thousandths * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    let weight = u16::from(whole - b'0') * 1000 + thousandths;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_a_client_accepts() {
        use ContentCoding::{Brotli, Gzip, Zstd};
        let all = [Brotli, Zstd, Gzip];
        let table: [(&[&str], &[ContentCoding]); 20] = [
            (&[], &[]),
            (&[""], &[]),
            (&["gzip"], &[Gzip]),
            (&["gzip, deflate, br, zstd"], &[Brotli, Zstd, Gzip]),
            (&["gzip", "br"], &[Brotli, Gzip]),
            (&["br;q=0.5, gzip;q=0.9"], &[Gzip, Brotli]),
            (&["br;q=0.500, gzip ; q = 0.501"], &[Gzip, Brotli]),
            (&["br;q=0"], &[]),
            (&["br;q=0.000, gzip"], &[Gzip]),
            (&["*"], &[Brotli, Zstd, Gzip]),
            (&["*;q=0"], &[]),
            (&["*;q=0, gzip"], &[Gzip]),
            (&["*, br;q=0"], &[Zstd, Gzip]),
            (&["X-GZIP"], &[Gzip]),
            (&["identity"], &[]),
            (&["identity, gzip;q=0.5"], &[]),
            (&["identity;q=0.5, gzip"], &[Gzip]),
            (&["identity;q=0, zstd;Q=0.001"], &[Zstd]),
            (&["br;q=2, zstd;q=0.1234, gzip;q=x"], &[]),
            (&["br;level=1"], &[]),
        ];
        for (values, expected) in table {
            let mut request = HeaderMap::new();
            for value in values {
                request.append(ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(acceptable(&request, &all)[..], *expected, "{values:?}");
        }
        let request = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"))]);
        assert_eq!(acceptable(&request, &[Gzip, Brotli])[..], [Gzip, Brotli]);
        assert!(acceptable(&request, &[]).is_empty());
    }
}
