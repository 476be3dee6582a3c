//! Which coding a client wants: `Accept-Encoding` (RFC 9110 §12.5.3) and its weights (§12.4.2).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;
use smallvec::SmallVec;

use super::Coding;
use crate::http::headers::tokens;

/// A weight in thousandths.
type Weight = u16;

const FULL: Weight = 1000;

/// What is said of one coding, of `identity` and of all others.
#[derive(Default)]
struct Accepted {
    codings: SmallVec<[(Coding, Weight); 4]>,
    identity: Option<Weight>,
    others: Option<Weight>,
}

/// The coding of `offered` that the client likes best, the first one of those that it likes equally. None: it gets the content as it is, also
/// where it accepts neither that nor any of these.
pub fn preferred(request: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    acceptable(request, offered).first().copied()
}

/// Those of `offered` that the client takes at least as well as none, the one that it likes best first; of those that it likes equally, in their order.
pub fn acceptable(request: &HeaderMap, offered: &[Coding]) -> SmallVec<[Coding; 3]> {
    // Without the field everything is acceptable, and who does not ask for a coding often can't take it off.
    if offered.is_empty() || !request.contains_key(ACCEPT_ENCODING) {
        return SmallVec::new();
    }
    let accepted = Accepted::of(request);
    let identity = accepted.identity.unwrap_or(0);
    let weighted = offered.iter().map(|coding| (*coding, accepted.weight(*coding)));
    let mut fine: SmallVec<[(Coding, Weight); 3]> =
        weighted.filter(|(_, weight)| *weight > 0 && *weight >= identity).collect();
    // Stable.
    fine.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    fine.into_iter().map(|(coding, _)| coding).collect()
}

impl Accepted {
    fn of(request: &HeaderMap) -> Accepted {
        let mut accepted = Accepted::default();
        for value in request.get_all(ACCEPT_ENCODING) {
            for member in tokens(value.as_bytes()) {
                let (name, weight) = match member.iter().position(|byte| *byte == b';') {
                    Some(end) => (member[..end].trim_ascii(), weight(&member[end + 1..])),
                    None => (member, Some(FULL)),
                };
                let Some(weight) = weight else { continue };
                if name == b"*" {
                    accepted.others = Some(weight);
                } else if name.eq_ignore_ascii_case(b"identity") {
                    accepted.identity = Some(weight);
                } else if let Some(coding) = Coding::parse(name) {
                    accepted.codings.push((coding, weight));
                }
            }
        }
        accepted
    }

    fn weight(&self, coding: Coding) -> Weight {
        let named = self.codings.iter().find(|(named, _)| *named == coding);
        named.map(|(_, weight)| *weight).or(self.others).unwrap_or(0)
    }
}

/// The value of `q`; none if it is malformed: such a member says nothing.
pub(super) fn weight(parameter: &[u8]) -> Option<Weight> {
    let mut parts = parameter.splitn(2, |byte| *byte == b'=');
    let (name, value) = (parts.next()?.trim_ascii(), parts.next()?.trim_ascii());
    if !name.eq_ignore_ascii_case(b"q") {
        return None;
    }
    let (whole, fraction) = match value {
        [whole @ (b'0' | b'1')] => (*whole, &b""[..]),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] if fraction.len() <= 3 => (*whole, fraction),
        _ => return None,
    };
    let mut thousandths = Weight::from(whole - b'0') * FULL;
    for (digit, place) in fraction.iter().zip([100, 10, 1]) {
        if !digit.is_ascii_digit() {
            return None;
        }
        thousandths += Weight::from(digit - b'0') * place;
    }
    (thousandths <= FULL).then_some(thousandths)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
        }
        headers
    }

    fn chosen(values: &[&'static str], offered: &[Coding]) -> Option<Coding> {
        preferred(&headers(values), offered)
    }

    /// RFC 9110 §12.5.3, with the rule of each line.
    #[test]
    fn the_field_decides() {
        use Coding::{Brotli, Gzip, Zstd};
        for (values, expected, why) in [
            (&[][..], None, "no field: nothing is asked for"),
            (&[""], None, "an empty field: identity"),
            (&["gzip, deflate, br, zstd"], Some(Zstd), "equal weights: the order of the gateway"),
            (&["gzip, br"], Some(Brotli), "one that is not named is not acceptable"),
            (&["br;q=0.5, gzip;q=0.8"], Some(Gzip), "the highest weight"),
            (&["br;q=0.5", "gzip;q=0.8"], Some(Gzip), "two fields are one list"),
            (&["gzip;q=0"], None, "0: not acceptable"),
            (&["gzip;q=0.000"], None, "0: not acceptable"),
            (&["gzip;q=0.001"], Some(Gzip), "a little is acceptable"),
            (&["*"], Some(Zstd), "an asterisk: all that are not named"),
            (&["*;q=0.1, gzip"], Some(Gzip), "a named one before the asterisk"),
            (&["zstd;q=0, *"], Some(Brotli), "the asterisk is not for a named one"),
            (&["*;q=0"], None, "nothing is acceptable: the content as it is"),
            (&["identity;q=0, gzip;q=0.5"], Some(Gzip), "identity is refused"),
            (&["identity;q=0"], None, "nothing is acceptable: the content as it is"),
            (&["identity, gzip;q=0.5"], None, "identity is wanted more"),
            (&["identity;q=0.5, gzip;q=0.5"], Some(Gzip), "equal weights"),
            (&["X-GZIP"], Some(Gzip), "§8.4.1.3: another name of gzip"),
            (&["GZip ; Q=0.5"], Some(Gzip), "names have no case"),
            (&["deflate"], None, "never sent"),
            (&["gzip;q=1.001, br;q=0.1"], Some(Brotli), "a malformed weight says nothing"),
            (&["gzip;q=0.1234"], None, "a malformed weight says nothing"),
            (&["gzip;q=-1", "gzip;x=1"], None, "a malformed weight says nothing"),
            (&["gzip;q=1.000"], Some(Gzip), "a full weight"),
        ] {
            assert_eq!(chosen(values, &ALL), expected, "{values:?}: {why}");
        }
        assert_eq!(chosen(&["gzip, zstd"], &[Gzip, Zstd]), Some(Gzip), "the order of the route");
        assert_eq!(chosen(&["zstd"], &[Gzip]), None);
    }
    /// The others are there for who does not have the best one.
    #[test]
    fn all_that_are_fine_are_known_in_their_order() {
        use Coding::{Brotli, Gzip, Zstd};
        for (values, expected) in [
            (&[][..], &[][..]),
            (&["gzip, deflate, br, zstd"], &[Zstd, Brotli, Gzip]),
            (&["gzip", "br"], &[Brotli, Gzip]),
            (&["br;q=0.5, gzip;q=0.9"], &[Gzip, Brotli]),
            (&["br;q=0.500, gzip ; q = 0.501"], &[Gzip, Brotli]),
            (&["*, br;q=0"], &[Zstd, Gzip]),
            (&["identity;q=0.5, gzip, br;q=0.4"], &[Gzip]),
            (&["identity;q=0, zstd;Q=0.001"], &[Zstd]),
            (&["br;level=1"], &[]),
        ] {
            assert_eq!(acceptable(&headers(values), &ALL)[..], *expected, "{values:?}");
        }
        let both = headers(&["gzip, br"]);
        assert_eq!(acceptable(&both, &[Gzip, Brotli])[..], [Gzip, Brotli], "the order of the gateway");
        assert!(acceptable(&both, &[]).is_empty());
    }
}
