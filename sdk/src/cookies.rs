//! Reads `Cookie` fields: one reader for all that looks at cookies, so that what one part of a filter has not seen, no other has, either.

/// A pair of a field.
struct Pair<'l> {
    /// As it was sent, without the blanks around it.
    text: &'l [u8],
    /// Its name and its value; none for a text without `=`.
    parts: Option<(&'l [u8], &'l [u8])>,
}

/// The pairs of a field. Servers trim names in ways of their own (`session =1` is a `session` in Go, Python and JavaScript, and in some of them
/// it may have a no-break space there): around a name, everything goes that no name of a cookie has (RFC 6265 §4.1.1).
fn pairs(line: &[u8]) -> impl Iterator<Item = Pair<'_>> {
    line.split(|byte| *byte == b';').map(|text| {
        let text = text.trim_ascii();
        let parts = text.iter().position(|byte| *byte == b'=').map(|at| (trimmed(&text[..at]), &text[at + 1..]));
        Pair { text, parts: parts.map(|(name, value)| (name, value.trim_ascii_start())) }
    })
}

fn trimmed(name: &[u8]) -> &[u8] {
    let begin = name.iter().position(u8::is_ascii_graphic).unwrap_or(name.len());
    let end = name.iter().rposition(u8::is_ascii_graphic).map_or(begin, |last| last + 1);
    &name[begin..end]
}

/// The values of the cookies of this name.
pub(crate) fn values<'l>(line: &'l [u8], name: &str) -> impl Iterator<Item = &'l [u8]> {
    pairs(line)
        .filter_map(|pair| pair.parts)
        .filter(move |(known, _)| *known == name.as_bytes())
        .map(|(_, value)| value)
}

/// The field without the cookies of this name. As it was where it has none.
pub(crate) fn without(line: &[u8], name: &str) -> Vec<u8> {
    let is_it = |pair: &Pair<'_>| pair.parts.is_some_and(|(known, _)| known == name.as_bytes());
    if !pairs(line).any(|pair| is_it(&pair)) {
        return line.to_vec();
    }
    pairs(line).filter(|pair| !is_it(pair)).map(|pair| pair.text).collect::<Vec<_>>().join(&b"; "[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_every_way_that_a_server_finds_it() {
        type Row = (&'static [u8], &'static [&'static [u8]], &'static [u8]);
        let rows: [Row; 8] = [
            (b"a=1; session=2", &[b"2"], b"a=1"),
            (b"session =forged; session=good", &[b"forged", b"good"], b""),
            (b"a=1;\tsession\t= x=y ;b", &[b"x=y"], b"a=1; b"),
            (b"session\xa0=1; \xc2\xa0session=2; \xe2\x80\x83session=3", &[b"1", b"2", b"3"], b""),
            (b"session\x85=1; b=2", &[b"1"], b"b=2"),
            (b"mysession=1; session2=2; session", &[], b"mysession=1; session2=2; session"),
            (b"se ssion=1", &[], b"se ssion=1"),
            (b"", &[], b""),
        ];
        for (line, expected, rest) in rows {
            let text = String::from_utf8_lossy(line);
            assert_eq!(values(line, "session").collect::<Vec<_>>(), expected, "{text}");
            assert_eq!(without(line, "session"), rest, "{text}");
        }
    }
}
