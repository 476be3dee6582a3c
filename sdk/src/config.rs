//! The filter's config: from JSON text to the filter's type, with errors that name the key; and value types for it.

use std::{borrow::Cow, fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Error;

/// Why a filter refuses its config. Shown as `key.path: message`, which the gateway turns into file and line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    message: String,
}

impl ConfigError {
    /// Refuses the value at `path` (such as `limits[1].window`; empty for the whole table).
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { path: path.into(), message: message.to_string() }
    }

    /// The path of the key, empty for the whole table.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// As the gateway takes it: with a colon in front where what comes before another one in the message would be read as a key.
    pub(crate) fn to_gateway(&self) -> String {
        if self.path.is_empty() && self.message.contains(": ") { format!(": {self}") } else { self.to_string() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

impl std::error::Error for ConfigError {}

impl From<Error> for ConfigError {
    fn from(error: Error) -> Self {
        match error {
            Error::WrongHook => Self::new("", "calls a function that has no meaning while the filter is made"),
            error => Self::new("", error),
        }
    }
}

/// Reads a config, with the key path in the error and the nearest known key for an unknown one.
pub(crate) fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, ConfigError> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    if let Ok(unit) = T::deserialize(Nothing) {
        return match serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(text) {
            Ok(table) => table.keys().next().map_or(Ok(unit), |key| Err(unknown(key, key, &[]))),
            Err(error) => Err(explain("", &message(&error))),
        };
    }
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        explain(if path == "." { "" } else { &path }, &message(&error.into_inner()))
    })
}

/// What only `()` and unit structs can be read from: filters without a config, which get an empty table.
struct Nothing;

impl<'de> Deserializer<'de> for Nothing {
    type Error = de::value::Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom(""))
    }

    fn deserialize_unit<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

/// The text of a JSON error without its position, which means nothing to somebody who wrote TOML.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn explain(path: &str, message: &str) -> ConfigError {
    let mut names = message.split('`').skip(1).step_by(2);
    let (parent, _) = path.rsplit_once('.').unwrap_or(("", path));
    if message.starts_with("unknown field ") {
        let key = names.next().unwrap_or_default();
        let path = if path == key || path.ends_with(&format!(".{key}")) { path.to_owned() } else { join(path, key) };
        return unknown(&path, key, &names.collect::<Vec<_>>());
    }
    if message.starts_with("missing field ") {
        let name = names.next().unwrap_or_default();
        let path = if path == name || path.ends_with(&format!(".{name}")) { parent } else { path };
        return ConfigError::new(join(path, name), "missing, and there is no default");
    }
    if message.starts_with("unknown variant ") {
        let unknown = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        return ConfigError::new(path, format!("unknown value `{unknown}`, expected one of: {}", known.join(", ")));
    }
    if message.starts_with("data did not match any variant ") {
        return ConfigError::new(path, "none of the forms that this value can have");
    }
    if message == "expected value" {
        // Of an enum, and all that serde_json says of it.
        return ConfigError::new(path, "expected a string or a table");
    }
    let wrong = |prefix: &str| message.strip_prefix(prefix)?.rsplit_once(", expected ");
    if let Some((found, wanted)) = wrong("invalid type: ").or_else(|| wrong("invalid value: ")) {
        return ConfigError::new(path, format!("expected {}, found {}", kind(wanted), value(found)));
    }
    if let Some((found, wanted)) = wrong("invalid length ") {
        let found = if wanted.starts_with("struct ") { "a list".to_owned() } else { format!("one of {found}") };
        return ConfigError::new(path, format!("expected {}, found {found}", kind(wanted)));
    }
    ConfigError::new(path, message)
}

/// The refusal of a key. The gateway points at the key, not at its value, where a message begins with `unknown key`.
fn unknown(path: &str, key: &str, known: &[&str]) -> ConfigError {
    let hint = match nearest(key, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "there are no keys here".to_owned(),
        None => format!("known keys: {}", known.join(", ")),
    };
    ConfigError::new(path, format!("unknown key `{key}`, {hint}"))
}

/// What serde expects, in words of TOML instead of Rust.
fn kind(wanted: &str) -> Cow<'_, str> {
    let list = ["a tuple of size ", "an array of length "].into_iter().find_map(|prefix| wanted.strip_prefix(prefix));
    if let Some(length) = list {
        return format!("a list of {length}").into();
    }
    Cow::Borrowed(match wanted {
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32768 to 32767",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i64" | "i128" | "isize" => "a whole number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number from 0",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a character" => "one character",
        "a sequence" => "a list",
        "a map" => "a table",
        _ if wanted.starts_with("a nonzero ") => "a whole number other than 0",
        _ if wanted.starts_with("struct ") || wanted.contains("tagged enum ") => "a table",
        _ if wanted.starts_with("tuple ") => "a list",
        _ if wanted.starts_with("enum ") => "a string",
        _ => wanted,
    })
}

/// What serde has found, as it is written in TOML.
fn value(found: &str) -> &str {
    match found {
        "map" => "a table",
        "sequence" => "a list",
        _ => match found.split_once(' ') {
            Some(("string", text)) => text,
            Some(("integer" | "boolean", text)) => text.trim_matches('`'),
            _ => found.strip_prefix("floating point ").map_or(found, |text| text.trim_matches('`')),
        },
    }
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = (unknown.chars().count() / 3).max(1);
    known.iter().map(|name| (distance(unknown, name), *name)).filter(|(d, _)| *d <= limit).min().map(|(_, name)| name)
}

/// The edit distance with swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A number and its unit, split: `"1.5"` is refused, `"15m"` is `(15, "m")`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// What a duration in a config looks like.
const DURATIONS: &str = "a duration like \"250ms\", \"30s\", \"5m\", \"1h\" or \"7d\"";

/// A duration in a config: text such as `"250ms"`, `"30s"`, `"1m"`, `"12h"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    /// The whole milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// So many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }
}

impl Deref for Duration {
    type Target = std::time::Duration;
    fn deref(&self) -> &std::time::Duration {
        &self.0
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected {DURATIONS}, not \"{text}\"");
        let (number, unit) = number_and_unit(text).ok_or_else(refused)?;
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        number.checked_mul(unit).map(|ms| Self(std::time::Duration::from_millis(ms))).ok_or_else(refused)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(DURATIONS)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.as_millis()))
    }
}

/// A size in a config: a number of bytes, or text such as `"64KiB"`, `"1MiB"`, `"10MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected a size like \"512B\", \"64KiB\" or \"1MiB\", not \"{text}\"");
        let (number, unit) = number_and_unit(text).ok_or_else(refused)?;
        let unit = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "KiB" => 1 << 10,
            "MB" => 1_000_000,
            "MiB" => 1 << 20,
            "GB" => 1_000_000_000,
            "GiB" => 1 << 30,
            _ => return Err(refused()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(refused)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;
        impl de::Visitor<'_> for Size {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size like \"64KiB\" or a number of bytes")
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Size)
    }
}

/// Whether a text is a token (RFC 9110 §5.6.2), as the names of headers, cookies and methods are.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(rename = "issuer")]
        _issuer: String,
        #[serde(default, rename = "limits")]
        _limits: Vec<Limit>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limit {
        #[serde(rename = "window")]
        _window: Duration,
        #[serde(default, rename = "kind")]
        _kind: Kind,
    }

    #[derive(Debug, Deserialize, Default)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        #[default]
        FixedWindow,
    }

    fn refusal(text: &str) -> String {
        parse::<Sample>(text).expect_err("refused").to_string()
    }

    #[test]
    fn errors_name_the_key() {
        assert_eq!(refusal(r#"{"isuer": "a"}"#), "isuer: unknown key `isuer`, did you mean `issuer`?");
        assert_eq!(refusal(r#"{}"#), "issuer: missing, and there is no default");
        assert_eq!(
            refusal(r#"{"issuer": "a", "limits": [{"window": "1s"}, {"window": "1 hour"}]}"#),
            "limits[1].window: expected a duration like \"250ms\", \"30s\", \"5m\", \"1h\" or \"7d\", not \"1 hour\""
        );
        assert_eq!(refusal(r#"{"issuer": "a", "limits": [{}]}"#), "limits[0].window: missing, and there is no default");
        assert_eq!(
            refusal(r#"{"issuer": "a", "limits": [{"windw": "1s"}]}"#),
            "limits[0].windw: unknown key `windw`, did you mean `window`?"
        );
        assert_eq!(
            refusal(r#"{"issuer": "a", "limits": [{"window": "1s", "kind": "x"}]}"#),
            "limits[0].kind: unknown value `x`, expected one of: fixed-window"
        );
        assert_eq!(refusal(r#"{"issuer": 3}"#), "issuer: expected a string, found 3");
    }

    #[test]
    fn errors_speak_toml() {
        #[derive(Debug, Deserialize)]
        #[serde(untagged)]
        enum Either {
            Name(#[allow(dead_code, reason = "only its form counts")] String),
            Names(#[allow(dead_code, reason = "only its form counts")] Vec<String>),
        }

        #[track_caller]
        fn says<T: de::DeserializeOwned + fmt::Debug>(value: &str, expected: &str) {
            #[derive(Debug, Deserialize)]
            struct Holder<T> {
                #[serde(rename = "a")]
                _a: T,
            }
            let error = parse::<Holder<T>>(&format!("{{\"a\": {value}}}")).expect_err(value);
            assert_eq!(error.to_string(), format!("a: {expected}"), "{value}");
        }
        says::<Limit>("\"blue\"", "expected a table, found \"blue\"");
        says::<Limit>("[]", "expected a table, found a list");
        says::<u8>("300", "expected a whole number from 0 to 255, found 300");
        says::<u64>("-1", "expected a whole number from 0, found -1");
        says::<i64>("1.5", "expected a whole number, found 1.5");
        says::<std::num::NonZeroU32>("0", "expected a whole number other than 0, found 0");
        says::<f64>("true", "expected a number, found true");
        says::<bool>("\"a, expected b\"", "expected true or false, found \"a, expected b\"");
        says::<Vec<u8>>("{}", "expected a list, found a table");
        says::<(u8, u8)>("[1]", "expected a list of 2, found one of 1");
        says::<(u8, u8)>("1", "expected a list of 2, found 1");
        says::<std::collections::BTreeMap<String, u8>>("[1]", "expected a table, found a list");
        says::<Kind>("3", "expected a string or a table");
        says::<Either>("3", "none of the forms that this value can have");
        says::<Duration>("300", "expected a duration like \"250ms\", \"30s\", \"5m\", \"1h\" or \"7d\", found 300");
        says::<ByteSize>("true", "expected a size like \"64KiB\" or a number of bytes, found true");
    }

    #[test]
    fn what_is_about_the_whole_table_names_no_key() {
        let about = |path, message: &str| ConfigError::new(path, message).to_gateway();
        assert_eq!(about("", "a: b"), ": a: b");
        assert_eq!(about("", "a word"), "a word");
        assert_eq!(about("key", "a: b"), "key: a: b");
        let called = ConfigError::from(Error::WrongHook).to_gateway();
        assert_eq!(called, "calls a function that has no meaning while the filter is made");
    }

    #[test]
    fn no_config_is_an_empty_table() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Unit;

        assert_eq!((parse("{}"), parse(""), parse("{}")), (Ok(()), Ok(()), Ok(Unit)));
        let refused = parse::<()>(r#"{"name": 1}"#).expect_err("a key");
        assert_eq!(refused.to_string(), "name: unknown key `name`, there are no keys here");
        assert_eq!(parse::<Option<Sample>>("{}").expect_err("no `()`").path(), "issuer");
        assert!(parse::<Vec<u8>>("{}").is_err() && parse::<()>("[]").is_err());
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!("90s".parse::<Duration>().expect("valid").as_millis(), 90_000);
        assert!("90".parse::<Duration>().is_err());
        assert_eq!("64KiB".parse::<ByteSize>(), Ok(ByteSize(65_536)));
        assert_eq!(serde_json::from_str::<ByteSize>("12").expect("valid"), ByteSize(12));
        assert!("-1B".parse::<ByteSize>().is_err());
    }
}
