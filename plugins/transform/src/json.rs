//! Edits of JSON text in place: bytes that no rule names stay as they were, spaces, number forms and key order with them.

use std::{borrow::Cow, ops::Range};

use serde::de::{DeserializeOwned, IgnoredAny};

/// A path to members: the names of an RFC 6901 pointer, where `*` stands for every element of a list.
#[derive(Debug)]
pub(crate) struct Pointer(Vec<String>);

/// How deep a body may be nested.
const DEPTH: usize = 128;

impl Pointer {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest =
            text.strip_prefix('/').ok_or_else(|| format!("expected a path like \"/user/name\", not \"{text}\""))?;
        let names = rest.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        Ok(Self(names))
    }
}

/// Whether a text is JSON that can be edited. All functions below expect such a text.
pub(crate) fn is_json(text: &str) -> bool {
    parse::<IgnoredAny>(text).is_some() && depth(text) <= DEPTH
}

fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

fn depth(text: &str) -> usize {
    let (mut depth, mut most, mut at) = (0usize, 0, 0);
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                most = most.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    most
}

/// A member of an object or an element of a list, as ranges of the text.
#[derive(Debug, Clone)]
struct Member {
    /// Empty for an element.
    key: Range<usize>,
    value: Range<usize>,
    /// From the comma or bracket before it (excluded) to the comma or bracket after it (excluded).
    whole: Range<usize>,
}

/// Where a pointer leads.
enum Place<'a> {
    /// To a member that is there: where its container starts, and its index in it.
    Found { container: usize, member: Member, index: usize },
    /// Into a container that lacks it: the names that are missing.
    Missing { container: usize, names: &'a [String] },
}

/// What comes in the place of a range of the text.
type Edit<'a> = (Range<usize>, Cow<'a, str>);

/// Writes the text once, with all edits of a rule: they are in the order of the text and don't overlap. Answers whether there
/// were any.
fn apply(text: &mut String, edits: Vec<Edit<'_>>) -> bool {
    if edits.is_empty() {
        return false;
    }
    let more: usize = edits.iter().map(|(_, new)| new.len()).sum();
    let mut out = String::with_capacity(text.len() + more);
    let mut done = 0;
    for (range, new) in edits {
        out.push_str(&text[done..range.start]);
        out.push_str(&new);
        done = range.end;
    }
    out.push_str(&text[done..]);
    *text = out;
    true
}

/// Removes what the pointer leads to. Answers whether there was something.
pub(crate) fn remove(text: &mut String, pointer: &Pointer) -> bool {
    let found: Vec<(usize, usize)> = places(text, pointer)
        .into_iter()
        .filter_map(|place| match place {
            Place::Found { container, index, .. } => Some((container, index)),
            Place::Missing { .. } => None,
        })
        .collect();
    let mut edits = Vec::with_capacity(found.len());
    for of_one in found.chunk_by(|one, next| one.0 == next.0) {
        let Some((container, _)) = of_one.first() else { continue };
        let members = members(text, *container);
        let mut gone = vec![false; members.len()];
        for (_, index) in of_one {
            gone[*index] = true;
        }
        edits.extend(cuts(&members, &gone).map(|range| (range, Cow::Borrowed(""))));
    }
    apply(text, edits)
}

/// What to cut so that these members of a container are gone, with the commas that they leave over.
fn cuts<'a>(members: &'a [Member], gone: &'a [bool]) -> impl Iterator<Item = Range<usize>> + 'a {
    let last_kept = gone.iter().rposition(|gone| !gone);
    // Up to the last that stays, each goes with the comma behind it.
    let before = members
        .iter()
        .zip(gone)
        .take(last_kept.unwrap_or(0))
        .filter(|(_, gone)| **gone)
        .map(|(member, _)| member.whole.start..member.whole.end + 1);
    // All behind it go at once, with the comma before the first of them.
    let behind = match (last_kept, members.first(), members.last()) {
        (Some(kept), _, Some(last)) if kept + 1 < members.len() => Some(members[kept].whole.end..last.value.end),
        (None, Some(first), Some(last)) => Some(first.whole.start..last.whole.end),
        _ => None,
    };
    before.chain(behind)
}

/// Sets what the pointer leads to, making the objects on the way where they are missing.
pub(crate) fn set(text: &mut String, pointer: &Pointer, value: &str) -> bool {
    let edits = places(text, pointer)
        .into_iter()
        .filter_map(|place| match place {
            Place::Found { member, .. } => Some((member.value, Cow::Borrowed(value))),
            Place::Missing { container, names } => insertion(text, container, names, value),
        })
        .collect();
    apply(text, edits)
}

/// Sets what the pointer leads to only where it is missing.
pub(crate) fn add(text: &mut String, pointer: &Pointer, value: &str) -> bool {
    let edits = places(text, pointer)
        .into_iter()
        .filter_map(|place| match place {
            Place::Found { .. } => None,
            Place::Missing { container, names } => insertion(text, container, names, value),
        })
        .collect();
    apply(text, edits)
}

/// Gives members another name; one that has this name already goes.
pub(crate) fn rename(text: &mut String, pointer: &Pointer, to: &str) -> bool {
    let Some(from) = pointer.0.last().filter(|from| *from != to) else { return false };
    let mut containers: Vec<usize> = places(text, pointer)
        .into_iter()
        .filter_map(|place| match place {
            Place::Found { container, .. } => Some(container),
            Place::Missing { .. } => None,
        })
        .collect();
    containers.dedup();
    let name = serde_json::Value::from(to).to_string();
    let mut edits = Vec::with_capacity(containers.len());
    for container in containers {
        rename_in(text, container, (from, to), &name, &mut edits);
    }
    apply(text, edits)
}

/// `name` is `to` as JSON.
fn rename_in<'a>(text: &str, container: usize, (from, to): (&str, &str), name: &'a str, edits: &mut Vec<Edit<'a>>) {
    if text.as_bytes().get(container) != Some(&b'{') {
        return;
    }
    let members = members(text, container);
    // The last of a name is the one that readers take.
    let Some(kept) = members.iter().rposition(|member| key(text, member) == from) else { return };
    let named = |member: &Member| {
        let key = key(text, member);
        key == from || key == to
    };
    let gone: Vec<bool> = members.iter().enumerate().map(|(index, member)| index != kept && named(member)).collect();
    let first = edits.len();
    edits.extend(cuts(&members, &gone).map(|range| (range, Cow::Borrowed(""))));
    let renamed = members[kept].key.clone();
    let place = edits[first..].partition_point(|(range, _)| range.start < renamed.start);
    edits.insert(first + place, (renamed, Cow::Borrowed(name)));
}

/// Adds a member behind the last of a container, in as many new objects as there are names after the first.
fn insertion<'a>(text: &str, container: usize, names: &[String], value: &str) -> Option<Edit<'a>> {
    let is_list = text.as_bytes().get(container) == Some(&b'[');
    let (first, inner) = names.split_first()?;
    let last = members(text, container).pop();
    let mut made = String::new();
    if last.is_some() {
        made.push(',');
    }
    if !is_list {
        made.push_str(&serde_json::Value::from(first.as_str()).to_string());
        made.push(':');
    }
    for name in inner {
        made.push('{');
        made.push_str(&serde_json::Value::from(name.as_str()).to_string());
        made.push(':');
    }
    made.push_str(value);
    made.extend(std::iter::repeat_n('}', inner.len()));
    let at = last.map_or(container + 1, |last| last.value.end);
    Some((at..at, Cow::Owned(made)))
}

/// All places that a pointer leads to, in the order of the text.
fn places<'a>(text: &str, pointer: &'a Pointer) -> Vec<Place<'a>> {
    let mut out = Vec::new();
    walk(text, skip_space(text.as_bytes(), 0), &pointer.0, &mut out);
    out
}

fn walk<'a>(text: &str, at: usize, names: &'a [String], out: &mut Vec<Place<'a>>) {
    let Some((name, rest)) = names.split_first() else { return };
    let list = match text.as_bytes().get(at) {
        Some(b'{') => false,
        Some(b'[') => true,
        // A pointer into a text, number, boolean or null leads nowhere.
        _ => return,
    };
    let all = members(text, at);
    let mut any = false;
    for (index, member) in all.into_iter().enumerate() {
        let named = if list { name == "*" || name.parse() == Ok(index) } else { key(text, &member) == name.as_str() };
        if named {
            any = true;
            if rest.is_empty() {
                out.push(Place::Found { container: at, member, index });
            } else {
                walk(text, member.value.start, rest, out);
            }
        }
    }
    // Into a list, only `-` (RFC 6901 §4: behind the last) adds an element.
    if !any && (!list || name == "-") {
        out.push(Place::Missing { container: at, names });
    }
}

fn key<'a>(text: &'a str, member: &Member) -> Cow<'a, str> {
    let written = &text[member.key.clone()];
    match written.get(1..written.len().saturating_sub(1)) {
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        _ => Cow::Owned(parse::<String>(written).unwrap_or_default()),
    }
}

/// The members of the container that starts at `at`.
fn members(text: &str, at: usize) -> Vec<Member> {
    let bytes = text.as_bytes();
    let object = bytes[at] == b'{';
    let mut out = Vec::new();
    let mut start = at + 1;
    loop {
        let mut next = skip_space(bytes, start);
        if matches!(bytes.get(next), None | Some(b'}' | b']')) {
            return out;
        }
        let mut key = next..next;
        if object {
            key.end = end_of_string(bytes, next);
            // The colon is there: the text is JSON.
            next = skip_space(bytes, skip_space(bytes, key.end) + 1);
        }
        let value = next..end_of_value(bytes, next);
        let end = skip_space(bytes, value.end);
        out.push(Member { key, value, whole: start..end });
        if bytes.get(end) != Some(&b',') {
            return out;
        }
        start = end + 1;
    }
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Behind the closing quote of the string that starts at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn end_of_value(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(bytes, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                // The end of the container of a bare number or word.
                if depth == 0 {
                    return at;
                }
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, edit: impl FnOnce(&mut String) -> bool) -> String {
        let mut text = text.to_owned();
        edit(&mut text);
        assert!(is_json(&text), "{text}");
        text
    }

    fn at(text: &str) -> Pointer {
        Pointer::parse(text).unwrap()
    }

    #[test]
    fn removes() {
        let text = r#"{ "a": 1.0, "b": [1, 2, 3], "c": {"d": "}"} }"#;
        assert_eq!(edited(text, |t| remove(t, &at("/a"))), r#"{ "b": [1, 2, 3], "c": {"d": "}"} }"#);
        assert_eq!(edited(text, |t| remove(t, &at("/c"))), r#"{ "a": 1.0, "b": [1, 2, 3] }"#);
        assert_eq!(edited(text, |t| remove(t, &at("/b/1"))), r#"{ "a": 1.0, "b": [1, 3], "c": {"d": "}"} }"#);
        assert_eq!(edited(text, |t| remove(t, &at("/b/*"))), r#"{ "a": 1.0, "b": [], "c": {"d": "}"} }"#);
        assert_eq!(edited(text, |t| remove(t, &at("/x/y"))), text);
        assert_eq!(edited(r#"{"\u0061":1,"a":2}"#, |t| remove(t, &at("/a"))), "{}");
        assert_eq!(edited(r#"[{"a":1},{"b":1,"a":1}]"#, |t| remove(t, &at("/*/a"))), r#"[{},{"b":1}]"#);
    }

    #[test]
    fn sets_and_adds() {
        assert_eq!(edited(r#"{"a" : 1e3}"#, |t| set(t, &at("/a"), "true")), r#"{"a" : true}"#);
        assert_eq!(edited("{}", |t| set(t, &at("/a/b"), "1")), r#"{"a":{"b":1}}"#);
        assert_eq!(edited(r#"{"l":[1]}"#, |t| set(t, &at("/l/-"), "2")), r#"{"l":[1,2]}"#);
        assert_eq!(edited(r#"{"a":1}"#, |t| add(t, &at("/a"), "2")), r#"{"a":1}"#);
        assert_eq!(edited(r#"{"a":1 }"#, |t| add(t, &at("/b~1c"), "2")), r#"{"a":1,"b/c":2 }"#);
        assert_eq!(edited(r#"[{},{"a":2}]"#, |t| set(t, &at("/*/a"), "1")), r#"[{"a":1},{"a":1}]"#);
        assert_eq!(edited("3", |t| set(t, &at("/a"), "1")), "3");
    }

    #[test]
    fn renames() {
        assert_eq!(edited(r#"{"a" : 1, "b": 2}"#, |t| rename(t, &at("/a"), "c")), r#"{"c" : 1, "b": 2}"#);
        assert_eq!(edited(r#"{"a": 1, "b": 2}"#, |t| rename(t, &at("/a"), "b")), r#"{"b": 1}"#);
        assert_eq!(edited(r#"{"b": 2, "a": 1}"#, |t| rename(t, &at("/a"), "b")), r#"{ "b": 1}"#);
        assert_eq!(edited(r#"{"b": 2}"#, |t| rename(t, &at("/a"), "b")), r#"{"b": 2}"#);
        assert_eq!(
            edited(r#"[{"a":1},{"b":2},{"a":{"a":3}}]"#, |t| rename(t, &at("/*/a"), "b")),
            r#"[{"b":1},{"b":2},{"b":{"a":3}}]"#
        );
    }

    /// Of members that go together, each takes one comma with it.
    #[test]
    fn removes_several_of_a_container() {
        let cases = [
            (r#"{"x":1,"a":1,"a":2,"b":3,"a":4}"#, r#"{"x":1,"b":3}"#),
            (r#"{"a":1, "a":2}"#, "{}"),
            (r#"{ "a":1, "x":1 , "a":2 , "a":3 }"#, r#"{ "x":1  }"#),
            (r#"{"a":{"a":1},"b":{"a":2}}"#, r#"{"b":{"a":2}}"#),
        ];
        for (text, left) in cases {
            assert_eq!(edited(text, |t| remove(t, &at("/a"))), left);
        }
        assert_eq!(edited(r#"{"a":1,"b":2,"a":3,"b":4,"c":5}"#, |t| rename(t, &at("/a"), "b")), r#"{"b":3,"c":5}"#);
        assert_eq!(edited(r#"{"b":2,"x":0,"a":3,"b":4,"b":5}"#, |t| rename(t, &at("/a"), "b")), r#"{"x":0,"b":3}"#);
        assert_eq!(
            edited(r#"{"a":{"c":1},"a":{}}"#, |t| set(t, &at("/a/b"), "1")),
            r#"{"a":{"c":1,"b":1},"a":{"b":1}}"#
        );
        assert_eq!(edited("[[1],[2,3],[]]", |t| remove(t, &at("/*/*"))), "[[],[],[]]");
    }

    /// 100 bytes an item; an edit that moves the rest of the text for each item takes seconds here.
    #[test]
    fn many_hits_take_linear_time() {
        let padding = "p".repeat(70);
        let items = |item: String| format!("[{}]", vec![item; 3000].join(","));
        let list = items(format!(r#"{{"a": 1, "pad": "{padding}", "c": [1]}}"#));
        let object = format!(r#"{{{}"x": 0}}"#, format!(r#""a": "{padding}", "b": 1,"#).repeat(3000));
        let begun = std::time::Instant::now();
        for text in [&list, &object] {
            for path in ["/*/a", "/*/new/er", "/*", "/a", "/*/c/-", "/*/c/0"] {
                for edit in [
                    remove,
                    |t: &mut String, p: &Pointer| set(t, p, "17"),
                    |t: &mut String, p: &Pointer| add(t, p, "[]"),
                    |t: &mut String, p: &Pointer| rename(t, p, "b"),
                ] {
                    edited(text, |text| edit(text, &at(path)));
                }
            }
        }
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
        let begun = std::time::Instant::now();
        assert_eq!(edited(&object, |t| remove(t, &at("/a"))).matches("\"a\"").count(), 0);
        assert!(begun.elapsed().as_millis() < 1000, "{:?}", begun.elapsed());
    }
}
