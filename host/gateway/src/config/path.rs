//! Paths of keys, as errors have them and as plugins name the keys of their config: `limits[1].window`.

use super::tree::{Node, Value, join};

/// One step of a key path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    Key(String),
    /// From 0.
    Index(usize),
}

impl From<&str> for KeyPart {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for KeyPart {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// As errors show it.
pub(super) fn render(path: &[KeyPart]) -> String {
    path.iter().fold(String::new(), |path, part| match part {
        KeyPart::Key(key) => join(&path, key),
        KeyPart::Index(index) => format!("{path}[{index}]"),
    })
}

/// Splits `limits[1].window: message`. The keys that are there may have any characters; after them only bare keys are taken
/// for a path. `: message` has none.
pub(super) fn split<'m>(node: Option<&Node>, message: &'m str) -> (Vec<KeyPart>, &'m str) {
    if let Some(message) = message.strip_prefix(": ") {
        return (Vec::new(), message);
    }
    let mut steps = Vec::new();
    let mut rest = message;
    let mut node = node;
    while let Some(at) = node {
        let (step, inner, after) = match &at.value {
            Value::Table(entries) => {
                let text = if steps.is_empty() { rest } else { rest.strip_prefix('.').unwrap_or_default() };
                let ends = |after: &str| after.starts_with(['.', '[']) || after.starts_with(": ");
                let fits = entries.iter().filter(|entry| !entry.key.is_empty());
                let fits = fits.filter_map(|entry| Some((entry, text.strip_prefix(entry.key.as_str())?)));
                let longest = fits.filter(|(_, after)| ends(after)).max_by_key(|(entry, _)| entry.key.len());
                let Some((entry, after)) = longest else { break };
                (KeyPart::from(entry.key.as_str()), &entry.node, after)
            }
            Value::Array(items) => {
                let index = rest.strip_prefix('[').and_then(|text| text.split_once(']'));
                let parsed = index.and_then(|(index, after)| Some((index.parse::<usize>().ok()?, after)));
                let Some((index, after)) = parsed else { break };
                let Some(item) = items.get(index) else { break };
                (KeyPart::from(index), item, after)
            }
            _ => break,
        };
        steps.push(step);
        rest = after;
        node = Some(inner);
    }
    if let Some(message) = rest.strip_prefix(": ").filter(|_| !steps.is_empty()) {
        return (steps, message);
    }
    match rest.split_once(": ").and_then(|(key, message)| Some((parse(key.strip_prefix('.').unwrap_or(key))?, message)))
    {
        Some((more, message)) => {
            steps.extend(more);
            (steps, message)
        }
        None => (Vec::new(), message),
    }
}

/// Reads `limits[1].window`. None for what is no key path.
fn parse(text: &str) -> Option<Vec<KeyPart>> {
    let mut parts = Vec::new();
    for step in text.split('.') {
        let (key, indexes) = step.split_at(step.find('[').unwrap_or(step.len()));
        let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !key.bytes().all(bare) || key.is_empty() && (!parts.is_empty() || indexes.is_empty()) {
            return None;
        }
        if !key.is_empty() {
            parts.push(KeyPart::from(key));
        }
        if !indexes.is_empty() {
            for index in indexes.strip_prefix('[')?.strip_suffix(']')?.split("][") {
                parts.push(KeyPart::Index(index.parse().ok()?));
            }
        }
    }
    Some(parts)
}
