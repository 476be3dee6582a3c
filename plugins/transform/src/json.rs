//! Edits of JSON text in place: bytes that no rule names stay as they were, spaces, number forms and key order with them.

use std::borrow::Cow;

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
    key: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
    /// From the comma or bracket before it (excluded) to the comma or bracket after it (excluded).
    whole: std::ops::Range<usize>,
}

/// Where a pointer leads.
enum Place {
    /// To a member that is there: where its container starts, and its index in it.
    Found { container: usize, member: Member, index: usize },
    /// Into a container that lacks it: the names that are missing.
    Missing { container: usize, names: Vec<String> },
}

/// Removes what the pointer leads to. Answers whether there was something.
pub(crate) fn remove(text: &mut String, pointer: &Pointer) -> bool {
    let mut changed = false;
    // From the last to the first: the places before an edit stay where they are.
    for place in places(text, pointer).into_iter().rev() {
        if let Place::Found { container, index, .. } = place {
            let members = members(text, container);
            cut(text, &members, index);
            changed = true;
        }
    }
    changed
}

/// Cuts a member out, with the comma that it leaves over.
fn cut(text: &mut String, members: &[Member], index: usize) {
    let Some(member) = members.get(index) else { return };
    let range = if index + 1 < members.len() {
        member.whole.start..member.whole.end + 1
    } else if index > 0 {
        member.whole.start - 1..member.value.end
    } else {
        member.whole.clone()
    };
    text.replace_range(range, "");
}

/// Sets what the pointer leads to, making the objects on the way where they are missing.
pub(crate) fn set(text: &mut String, pointer: &Pointer, value: &str) -> bool {
    let mut changed = false;
    for place in places(text, pointer).into_iter().rev() {
        match place {
            Place::Found { member, .. } => text.replace_range(member.value, value),
            Place::Missing { container, names } => insert(text, container, &names, value),
        }
        changed = true;
    }
    changed
}

/// Sets what the pointer leads to only where it is missing.
pub(crate) fn add(text: &mut String, pointer: &Pointer, value: &str) -> bool {
    let mut changed = false;
    for place in places(text, pointer).into_iter().rev() {
        if let Place::Missing { container, names } = place {
            insert(text, container, &names, value);
            changed = true;
        }
    }
    changed
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
    let mut changed = false;
    for container in containers.into_iter().rev() {
        changed |= rename_in(text, container, from, to);
    }
    changed
}

fn rename_in(text: &mut String, container: usize, from: &str, to: &str) -> bool {
    if text.as_bytes().get(container) != Some(&b'{') {
        return false;
    }
    loop {
        let members = members(text, container);
        let Some(kept) = members.iter().rposition(|member| key(text, member) == from) else { return false };
        let other = members.iter().enumerate().position(|(index, member)| {
            let name = key(text, member);
            index != kept && (name == from || name == to)
        });
        match other {
            Some(index) => cut(text, &members, index),
            None => {
                text.replace_range(members[kept].key.clone(), &serde_json::Value::from(to).to_string());
                return true;
            }
        }
    }
}

fn insert(text: &mut String, container: usize, names: &[String], value: &str) {
    let is_list = text.as_bytes().get(container) == Some(&b'[');
    let Some((first, inner)) = names.split_first() else { return };
    let mut made = String::new();
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
    match members(text, container).last() {
        Some(last) => text.insert_str(last.value.end, &format!(",{made}")),
        None => text.insert_str(container + 1, &made),
    }
}

/// All places that a pointer leads to, in the order of the text.
fn places(text: &str, pointer: &Pointer) -> Vec<Place> {
    let mut out = Vec::new();
    walk(text, skip_space(text.as_bytes(), 0), &pointer.0, &mut out);
    out
}

fn walk(text: &str, at: usize, names: &[String], out: &mut Vec<Place>) {
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
        out.push(Place::Missing { container: at, names: names.to_vec() });
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
}
