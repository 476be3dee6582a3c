//! Parameters of a query: found by their decoded name, in every spelling that an upstream may take for it.

/// The values of a parameter, decoded.
pub(super) fn values(query: &str, name: &str) -> Vec<String> {
    pairs(query).filter(|(key, _)| decoded(key) == name.as_bytes()).map(|(_, value)| text(decoded(value))).collect()
}

/// Whether there is such a parameter.
pub(super) fn has(query: &str, name: &str) -> bool {
    pairs(query).any(|(key, _)| decoded(key) == name.as_bytes())
}

/// The query without this parameter; the others stay as they were sent. None where nothing is left.
pub(super) fn without(query: &str, name: &str) -> Option<String> {
    let kept: Vec<String> =
        query.split('&').filter(|pair| decoded(split(pair).0) != name.as_bytes()).map(encoded).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// What clients send beyond RFC 3986 §3.4, and a filter may not set, is encoded; all else stays.
fn encoded(pair: &str) -> String {
    let bytes = pair.as_bytes();
    let is_escape =
        |at: usize| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let mut out = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        let fits = match byte {
            b'%' => is_escape(at),
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?[]".contains(byte),
        };
        if fits {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(split)
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// As forms are decoded (WHATWG URL §5.1): `%xx`, and `+` for a space.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    out
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_name_is_found_and_removed() {
        let query = "a=1&key=s%2B1&k%65y=two+2&b=%6b&key&keys=3&=4";
        assert_eq!(values(query, "key"), ["s+1", "two 2", ""]);
        assert_eq!(without(query, "key").as_deref(), Some("a=1&b=%6b&keys=3&=4"));
        assert!(has("%6B%65%79=1", "key") && !has("keyy=1", "key") && !has("", "key"));
        assert_eq!(without("key=1", "key"), None);
        assert_eq!(without("key=1&q=a|b%&s=\u{fc}&ok=%7c", "key").as_deref(), Some("q=a%7Cb%25&s=%C3%BC&ok=%7c"));
        assert_eq!(values("key=%ff%2&key=%", "key"), ["\u{fffd}%2", "%"]);
    }
}
