//! What the operator writes.

use serde::Deserialize;
use sluice_filter::{ByteSize, ConfigError};

use super::detect::Detector;
use super::pattern::{LONGEST, Pattern};
use super::pointer::Pointer;
use super::rules::{Action, Mask, Rules};

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    rules: Vec<Rule>,
    #[serde(default = "default_messages")]
    pub(crate) messages: Vec<Message>,
    #[serde(default = "default_json")]
    pub(crate) json: Vec<String>,
    #[serde(default = "default_events")]
    pub(crate) events: Vec<String>,
    #[serde(default = "default_text")]
    pub(crate) text: Vec<String>,
    #[serde(default)]
    pub(crate) not_json: NotJson,
    #[serde(default = "default_max_body")]
    pub(crate) max_body: ByteSize,
    #[serde(default = "default_mask")]
    mask: String,
    #[serde(default)]
    pub(crate) hash_key: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    pointers: Option<Vec<String>>,
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    detect: Option<Detector>,
    #[serde(default)]
    action: Action,
}

/// Which messages are redacted.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Message {
    Request,
    Response,
}

/// What becomes of a body of a JSON type that is no JSON.
#[derive(Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "lowercase")]
pub(crate) enum NotJson {
    #[default]
    Refuse,
    Pass,
}

/// How many rules there may be, and pointers in all of them.
const RULES: usize = 64;
const POINTERS: usize = 256;
/// How long a mask may be: a short text becomes at most so much longer for each thing that is found in it.
const MASK: usize = 256;
/// A key that can be guessed makes digests that can be reversed.
const KEY: usize = 16;

impl Config {
    /// The rules, or what is wrong with them.
    pub(crate) fn rules(&mut self) -> Result<Rules, ConfigError> {
        if self.rules.is_empty() || self.rules.len() > RULES {
            return Err(ConfigError::new("rules", format!("expected 1 to {RULES} rules")));
        }
        if self.messages.is_empty() {
            return Err(ConfigError::new("messages", "expected `request`, `response` or both"));
        }
        if self.mask.len() > MASK {
            return Err(ConfigError::new("mask", format!("expected at most {MASK} bytes")));
        }
        let mut rules = Rules { mask: Mask::new(std::mem::take(&mut self.mask)), ..Rules::default() };
        for (at, rule) in std::mem::take(&mut self.rules).into_iter().enumerate() {
            let key = |name: &str| format!("rules[{at}].{name}");
            let name = rule.name.unwrap_or_else(|| format!("rule{at}"));
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if !(1..=48).contains(&name.len()) || !name.bytes().all(is_word) {
                return Err(ConfigError::new(key("name"), "expected 1 to 48 letters, digits, `-`, `_` and `.`"));
            }
            if rule.action == Action::Hash {
                match &self.hash_key {
                    Some(secret) if secret.len() >= KEY => {}
                    Some(_) => return Err(ConfigError::new("hash_key", format!("expected at least {KEY} bytes"))),
                    None => return Err(ConfigError::new(key("action"), "`hash` needs `hash_key`")),
                }
            }
            match (rule.pointers, rule.pattern, rule.detect) {
                (Some(pointers), None, None) => {
                    if pointers.is_empty() || pointers.len() + rules.pointers.len() > POINTERS {
                        let why = format!("expected at least one pointer, and at most {POINTERS} in all rules");
                        return Err(ConfigError::new(key("pointers"), why));
                    }
                    for (nth, text) in pointers.iter().enumerate() {
                        let pointer = text.parse::<Pointer>();
                        let pointer =
                            pointer.map_err(|why| ConfigError::new(format!("rules[{at}].pointers[{nth}]"), why))?;
                        rules.pointers.add(at, pointer);
                    }
                }
                (None, Some(text), None) => {
                    let pattern = Pattern::regex(&text).map_err(|why| ConfigError::new(key("pattern"), why))?;
                    if !self.text.is_empty() && !pattern.is_bounded() {
                        let why = format!(
                            "a text in pieces needs a pattern that never takes more than {LONGEST} bytes: write `x{{1,64}}` in place of `x+`, or set `text = []`"
                        );
                        return Err(ConfigError::new(key("pattern"), why));
                    }
                    rules.patterns.add(at, pattern);
                }
                (None, None, Some(detector)) => rules.patterns.add(at, Pattern::Detector(detector)),
                _ => {
                    let why = "expected one of `pointers`, `pattern` and `detect`";
                    return Err(ConfigError::new(format!("rules[{at}]"), why));
                }
            }
            rules.list.push((name, rule.action));
        }
        Ok(rules)
    }
}

fn default_messages() -> Vec<Message> {
    vec![Message::Response]
}

fn default_json() -> Vec<String> {
    vec!["application/json".to_owned(), "*/*+json".to_owned()]
}

fn default_events() -> Vec<String> {
    let types = [
        "text/event-stream",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
    ];
    types.map(str::to_owned).to_vec()
}

fn default_text() -> Vec<String> {
    vec!["text/plain".to_owned()]
}

fn default_max_body() -> ByteSize {
    ByteSize(1 << 20)
}

fn default_mask() -> String {
    "[redacted]".to_owned()
}
