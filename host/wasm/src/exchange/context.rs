//! Typed facts handed from filter to filter within an exchange. They never leave the gateway.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use sluice_services::consumers::Consumer;

/// At most this many keys in one exchange.
const MAX_KEYS: usize = 64;
/// At most this many bytes of one value.
const MAX_VALUE: usize = 64 * 1024;

/// A fact.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Texts(Vec<String>),
    /// JSON text that is known to parse.
    Json(String),
}

/// A fact with the filter that wrote it.
#[derive(Debug, Clone)]
pub struct ContextEntry {
    pub key: String,
    pub value: Value,
    pub writer: Arc<str>,
    parsed: OnceCell<Parsed>,
}

/// JSON text as a tree, which may be many times as large.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    tree: serde_json::Value,
    pub(super) bytes: usize,
}

impl Parsed {
    fn new(text: &str) -> Parsed {
        let tree = serde_json::from_str(text).unwrap_or_default();
        Parsed { bytes: tree_bytes(&tree), tree }
    }
}

/// The memory of a tree, without the node itself.
fn tree_bytes(tree: &serde_json::Value) -> usize {
    use serde_json::Value;
    match tree {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.capacity(),
        Value::Array(items) => items.capacity() * size_of::<Value>() + items.iter().map(tree_bytes).sum::<usize>(),
        // An index map: a vector of hashes, names and values, and a table of indices; both have room to grow.
        Value::Object(members) => {
            let entry = size_of::<(u64, String, Value)>() + 2 * size_of::<usize>();
            let room = members.len().next_power_of_two().max(4) * entry;
            room + members.iter().map(|(name, value)| name.capacity() + tree_bytes(value)).sum::<usize>()
        }
    }
}

impl ContextEntry {
    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        entry_bytes(&self.key, &self.value) + self.parsed.get().map_or(0, |parsed| parsed.bytes)
    }
}

/// What a fact takes in the context.
pub fn entry_bytes(key: &str, value: &Value) -> usize {
    size_of::<ContextEntry>() + key.len() + value.bytes()
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Value::Text(text) | Value::Json(text) => text.len(),
            Value::Texts(texts) => texts.iter().map(|text| text.len() + size_of_val(text)).sum(),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => 0,
        }
    }
}

/// Why a fact was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("the JSON of context key `{key}` does not parse: {source}")]
    Json { key: String, source: serde_json::Error },
    #[error("more than {0}")]
    TooLarge(u64),
}

/// Who sends the request, as a filter has found out.
#[derive(Debug, Clone)]
pub struct Caller {
    pub name: Arc<str>,
    /// None for a name that a filter has only said: it has no plan and no labels, even if a consumer has the same name.
    pub known: Option<KnownConsumer>,
}

/// A consumer of the operator's, and how it was found.
#[derive(Debug, Clone)]
pub struct KnownConsumer {
    pub consumer: Arc<Consumer>,
    pub method: Cow<'static, str>,
}

/// All facts of one exchange. Few, so a vector is searched.
#[derive(Debug, Clone, Default)]
pub struct Context {
    entries: Vec<ContextEntry>,
    caller: Option<Caller>,
}

impl Context {
    /// The entry of a key.
    pub fn entry(&self, key: &str) -> Option<&ContextEntry> {
        self.entries.iter().find(|e| e.key == key)
    }

    /// All entries, in the order in which their keys were first set.
    pub fn entries(&self) -> impl Iterator<Item = &ContextEntry> {
        self.entries.iter()
    }

    /// A part of a JSON value by the names of the members from the outside in; an array of strings comes as `Texts`.
    pub fn path(&self, key: &str, path: &[impl AsRef<str>]) -> Option<Value> {
        let entry = self.entry(key)?;
        let Value::Json(text) = &entry.value else {
            return path.is_empty().then(|| entry.value.clone());
        };
        let mut at = &entry.parsed.get_or_init(|| Parsed::new(text)).tree;
        for name in path {
            at = at.get(name.as_ref())?;
        }
        Some(match at {
            serde_json::Value::Null => return None,
            serde_json::Value::String(s) => Value::Text(s.clone()),
            serde_json::Value::Bool(b) => Value::Boolean(*b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(i) => Value::Integer(i),
                // As text it keeps all its digits.
                None if n.is_u64() => Value::Json(n.to_string()),
                None => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::Array(items) if items.iter().all(serde_json::Value::is_string) => {
                Value::Texts(items.iter().filter_map(|i| i.as_str().map(str::to_owned)).collect())
            }
            other => Value::Json(other.to_string()),
        })
    }

    /// The JSON of a key as a tree, where there is none yet: it is kept with [`Context::keep_parsed`], so that [`Context::path`] finds it.
    pub(super) fn parse(&self, key: &str) -> Option<Parsed> {
        let entry = self.entry(key)?;
        let Value::Json(text) = &entry.value else { return None };
        entry.parsed.get().is_none().then(|| Parsed::new(text))
    }

    pub(super) fn keep_parsed(&self, key: &str, parsed: Parsed) {
        if let Some(entry) = self.entry(key) {
            // It is empty: nothing was parsed in between.
            let _ = entry.parsed.set(parsed);
        }
    }

    /// The memory of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(ContextEntry::bytes).sum::<usize>()
            + self.caller.as_ref().map_or(0, |caller| caller.name.len())
    }

    /// Sets a key and answers what was there before, for the journal.
    pub fn set(&mut self, key: &str, value: Value, writer: Arc<str>) -> Result<Option<ContextEntry>, ContextError> {
        let size = match &value {
            Value::Text(s) | Value::Json(s) => s.len(),
            Value::Texts(list) => list.iter().map(|s| s.len() + 1).sum(),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => 8,
        };
        if size + key.len() > MAX_VALUE {
            return Err(ContextError::TooLarge(MAX_VALUE as u64));
        }
        if let Value::Json(text) = &value {
            serde_json::from_str::<serde::de::IgnoredAny>(text)
                .map_err(|source| ContextError::Json { key: key.to_owned(), source })?;
        }
        let entry = ContextEntry { key: key.to_owned(), value, writer, parsed: OnceCell::new() };
        if let Some(at) = self.entries.iter_mut().find(|e| e.key == key) {
            return Ok(Some(std::mem::replace(at, entry)));
        }
        if self.entries.len() >= MAX_KEYS {
            return Err(ContextError::TooLarge(MAX_KEYS as u64));
        }
        self.entries.push(entry);
        Ok(None)
    }

    /// Puts back what `set` answered.
    pub(super) fn restore(&mut self, key: &str, before: Option<ContextEntry>) {
        self.entries.retain(|e| e.key != key);
        self.entries.extend(before);
    }

    /// The name of the authenticated caller.
    pub fn consumer(&self) -> Option<&Arc<str>> {
        self.caller.as_ref().map(|caller| &caller.name)
    }

    /// The caller, if it is a consumer of the operator's.
    pub fn known_consumer(&self) -> Option<&KnownConsumer> {
        self.caller.as_ref()?.known.as_ref()
    }

    /// Says who the caller is and answers who it was before, for the journal.
    pub fn set_caller(&mut self, caller: Option<Caller>) -> Option<Caller> {
        std::mem::replace(&mut self.caller, caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_reached_by_path_with_their_type() {
        let mut context = Context::default();
        let json = r#"{"realm_access":{"roles":["a","b"]},"n":3,"u":9223372036854775809,"deep":{"x":1.5}}"#;
        context.set("auth.claims", Value::Json(json.into()), "jwt".into()).unwrap();
        let path = |p: &[&str]| context.path("auth.claims", &p.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        assert_eq!(path(&["realm_access", "roles"]), Some(Value::Texts(vec!["a".into(), "b".into()])));
        assert_eq!(path(&["n"]), Some(Value::Integer(3)));
        assert_eq!(path(&["u"]), Some(Value::Json("9223372036854775809".into())));
        assert_eq!(path(&["deep"]), Some(Value::Json(r#"{"x":1.5}"#.into())));
        assert_eq!(path(&["none", "x"]), None);
    }

    #[test]
    fn bad_json_and_too_many_keys_are_refused() {
        let mut context = Context::default();
        assert!(matches!(context.set("k", Value::Json("{".into()), "f".into()), Err(ContextError::Json { .. })));
        for i in 0..MAX_KEYS {
            context.set(&format!("k{i}"), Value::Integer(1), "f".into()).unwrap();
        }
        assert!(matches!(context.set("more", Value::Integer(1), "f".into()), Err(ContextError::TooLarge(64))));
        assert!(context.set("k0", Value::Integer(2), "f".into()).unwrap().is_some(), "a known key can still be set");
    }
}
