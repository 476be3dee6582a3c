//! Single fields of responses that caches read: `Age`, `Date`, `Expires`, `Last-Modified`, `Vary`, and the tags of a response.

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName};
use sluice_http::http::headers::tokens;
use smallvec::SmallVec;

use crate::date;
use crate::directives::delta_seconds;

/// RFC 9111 §5.1: the first member of the first line counts. A value that is no number of seconds is ignored.
pub fn age(headers: &HeaderMap) -> Option<Duration> {
    delta_seconds(tokens(headers.get(header::AGE)?.as_bytes()).next()?)
}

pub fn date(headers: &HeaderMap) -> Option<SystemTime> {
    date::parse(headers.get(header::DATE)?.as_bytes())
}

pub fn last_modified(headers: &HeaderMap) -> Option<SystemTime> {
    date::parse(headers.get(header::LAST_MODIFIED)?.as_bytes())
}

/// What `Expires` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    Absent,
    At(SystemTime),
    /// RFC 9111 §5.3: an invalid date, above all `0`, is one in the past.
    Past,
}

/// RFC 9111 §5.3 and §4.2.1: of several lines, the earliest time counts.
pub fn expires(headers: &HeaderMap) -> Expires {
    let mut earliest = Expires::Absent;
    for value in headers.get_all(header::EXPIRES) {
        earliest = match (earliest, date::parse(value.as_bytes())) {
            (Expires::Past, _) | (_, None) => Expires::Past,
            (Expires::Absent, Some(time)) => Expires::At(time),
            (Expires::At(before), Some(time)) => Expires::At(before.min(time)),
        };
    }
    earliest
}

/// A response that depends on more fields than this is as good as one that depends on all.
pub const MOST_VARYING: usize = 16;

/// The fields of the request that a response depends on (RFC 9110 §12.5.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// In the order of the field, each once. Empty: it depends on none.
    Fields(SmallVec<[HeaderName; 2]>),
    /// `*`, or a list that can't be read: no request ever matches.
    Any,
}

pub fn vary(headers: &HeaderMap) -> Vary {
    let mut names = SmallVec::new();
    for value in headers.get_all(header::VARY) {
        for member in tokens(value.as_bytes()) {
            match HeaderName::from_bytes(member) {
                // `*` is a token, and so it is a name to the parser.
                Ok(name) if name.as_str() != "*" => {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                Ok(_) | Err(_) => return Vary::Any,
            }
            if names.len() > MOST_VARYING {
                return Vary::Any;
            }
        }
    }
    Vary::Fields(names)
}

/// Takes the fields with the tags out of a head: they are for caches.
pub fn remove_tags(headers: &mut HeaderMap) {
    headers.remove(SURROGATE_KEY);
    headers.remove(CACHE_TAG);
}

/// More tags than this, and the response is not stored: a purge by a tag that was left out would miss it.
pub const MOST_TAGS: usize = 256;

const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MOST_TAGS} tags")]
pub struct TooManyTags;

/// The tags that a response can be purged by: `Surrogate-Key` has them between blanks, `Cache-Tag` between commas.
pub fn tags(headers: &HeaderMap) -> Result<Vec<&[u8]>, TooManyTags> {
    let mut found = Vec::new();
    let surrogate_keys = headers.get_all(SURROGATE_KEY).into_iter();
    let words = surrogate_keys.flat_map(|value| value.as_bytes().split(u8::is_ascii_whitespace));
    let cache_tags = headers.get_all(CACHE_TAG).into_iter().flat_map(|value| tokens(value.as_bytes()));
    for tag in words.filter(|word| !word.is_empty()).chain(cache_tags) {
        if found.len() == MOST_TAGS {
            return Err(TooManyTags);
        }
        found.push(tag);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;

    use super::*;

    fn lines(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn the_first_age_counts() {
        // RFC 9111 §5.1.
        let table: [(&[&str], Option<u64>); 13] = [
            (&["0"], Some(0)),
            (&["7200"], Some(7200)),
            (&["2147483648"], Some(1 << 31)),
            (&["99999999999999999999999"], Some(1 << 31)),
            (&["7200, 0"], Some(7200)),
            (&["0, 7200"], Some(0)),
            (&["7200", "0"], Some(7200)),
            (&["0", "7200"], Some(0)),
            (&["abc"], None),
            (&["-7200"], None),
            (&["7200.0"], None),
            (&["7200;foo=bar"], None),
            (&[""], None),
        ];
        for (values, seconds) in table {
            assert_eq!(age(&lines(header::AGE, values)), seconds.map(Duration::from_secs), "{values:?}");
        }
    }

    #[test]
    fn the_earliest_expires_counts() {
        // RFC 9111 §5.3 and §4.2.1.
        let (early, late) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        let at = |seconds| Expires::At(UNIX_EPOCH + Duration::from_secs(seconds));
        let table: [(&[&str], Expires); 7] = [
            (&[], Expires::Absent),
            (&[early], at(784_111_777)),
            (&["0"], Expires::Past),
            (&[early, late], at(784_111_777)),
            (&[late, early], at(784_111_777)),
            (&[late, "0"], Expires::Past),
            (&["0", late], Expires::Past),
        ];
        for (values, expected) in table {
            assert_eq!(expires(&lines(header::EXPIRES, values)), expected, "{values:?}");
        }
    }

    #[test]
    fn what_a_response_varies_by() {
        // RFC 9110 §12.5.5, RFC 9111 §4.1.
        let fields =
            |names: &[&'static str]| Vary::Fields(names.iter().map(|name| HeaderName::from_static(name)).collect());
        let many: Vec<_> = (0..=MOST_VARYING).map(|at| format!("f{at}")).collect();
        let table: [(&[&str], Vary); 14] = [
            (&[], fields(&[])),
            (&[""], fields(&[])),
            (&["Foo"], fields(&["foo"])),
            (&["Foo, bar ,, Foo"], fields(&["foo", "bar"])),
            (&["foo", "Bar"], fields(&["foo", "bar"])),
            (&["*"], Vary::Any),
            (&["*, *"], Vary::Any),
            (&["*", "*"], Vary::Any),
            (&[", *"], Vary::Any),
            (&["", "*"], Vary::Any),
            (&["*, Foo"], Vary::Any),
            (&["Foo, *"], Vary::Any),
            (&["Foo Bar"], Vary::Any),
            (&[&many.join(",")], Vary::Any),
        ];
        for (values, expected) in table {
            assert_eq!(vary(&lines(header::VARY, values)), expected, "{values:?}");
        }
    }

    #[test]
    fn tags_come_from_both_fields() {
        let mut headers = lines(SURROGATE_KEY, &["a  b", "c,d"]);
        headers.extend(lines(CACHE_TAG, &["e, f g,"]));
        let found: [&[u8]; 5] = [b"a", b"b", b"c,d", b"e", b"f g"];
        assert_eq!(tags(&headers).unwrap(), found);

        let full = vec!["t"; MOST_TAGS].join(" ");
        assert_eq!(tags(&lines(SURROGATE_KEY, &[&full])).unwrap().len(), MOST_TAGS);
        assert_eq!(tags(&lines(SURROGATE_KEY, &[&full, "t"])), Err(TooManyTags));
    }
}
