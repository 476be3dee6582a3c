//! The files as one tree of values that know their place: parsing, includes, and references to variables and files. What the
//! keys mean is the readers' job.

use std::fs;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Location};
use super::file::read_text;
use super::syntax::{Repeated, repeated, unclosed};

/// Where something is written: a file by its position in `Sources`, and the byte in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) offset: usize,
}

/// A value and its place. No `Debug`: it may be secret.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// It came from a variable or a file by reference and is not to be shown.
    pub(super) secret: bool,
    /// What it refers to, where the value is one reference and nothing else: it then takes the type that its key expects.
    pub(super) reference: Option<String>,
    /// The file, where that is one.
    pub(super) file: Option<PathBuf>,
}

pub(super) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<KeyValue>),
    /// There is an error for it already.
    Broken,
}

/// A key with its value.
pub(super) struct KeyValue {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Node {
    /// The entry of a table.
    pub(super) fn entry(&self, key: &str) -> Option<&KeyValue> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value as an error may show it.
    pub(super) fn shown(&self) -> String {
        if self.secret {
            return "…".to_owned();
        }
        match &self.value {
            Value::String(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(value) => value.to_string(),
            Value::Datetime(text) => text.clone(),
            Value::Array(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Broken => "…".to_owned(),
        }
    }

    /// The value as `--explain-key` shows it: lists with what is in them.
    pub(super) fn explained(&self) -> String {
        match &self.value {
            Value::Array(items) if !self.secret => {
                let items: Vec<String> = items.iter().map(Node::explained).collect();
                format!("[{}]", items.join(", "))
            }
            _ => self.shown(),
        }
    }

    /// All texts in it that are not to be shown.
    pub(super) fn secrets(&self) -> Vec<&str> {
        match &self.value {
            Value::String(text) if self.secret && !text.is_empty() => vec![text],
            Value::Array(items) => items.iter().flat_map(Node::secrets).collect(),
            Value::Table(entries) => entries.iter().flat_map(|entry| entry.node.secrets()).collect(),
            _ => Vec::new(),
        }
    }
}

impl KeyValue {
    /// The place to point at: tables are best known by their name, other values by themselves.
    pub(super) fn pointer(&self) -> Place {
        match self.node.value {
            Value::Table(_) => self.place,
            _ => self.node.place,
        }
    }
}

/// A text with its references resolved.
struct Resolved {
    text: String,
    /// Something in it came from a variable or a file.
    secret: bool,
    /// What it refers to, if the text is one reference.
    reference: Option<String>,
    file: Option<PathBuf>,
}

/// The files that were read.
pub(super) struct Sources {
    /// The configuration files, the main one first.
    pub(super) files: Vec<(PathBuf, String)>,
    /// Files that values refer to, and the directories of `include` patterns.
    pub(super) referenced: Vec<PathBuf>,
    /// The same for values that are what a listener shows or verifies.
    pub(super) of_listeners: Vec<PathBuf>,
    pub(super) errors: Vec<ConfigError>,
    /// A file is missing as a whole, so that what the others say can't be judged.
    pub(super) incomplete: bool,
}

impl Sources {
    pub(super) fn empty() -> Self {
        Self {
            files: Vec::new(),
            referenced: Vec::new(),
            of_listeners: Vec::new(),
            errors: Vec::new(),
            incomplete: false,
        }
    }

    /// Reads a file and all it includes. What can't be read is missing from the tree and has its error.
    pub(super) fn load(main: &Path) -> (Self, Vec<KeyValue>) {
        let mut sources = Self::empty();
        let mut root = sources.parse(main, None);
        let Some(at) = root.iter().position(|entry| entry.key == "include") else {
            return (sources, root);
        };
        let include = root.remove(at);
        for (pattern, place) in sources.patterns(&include) {
            for path in sources.matching(main, &pattern, place) {
                let place = Some((place, "include"));
                for entry in sources.parse(&path, place) {
                    sources.merge(&mut root, entry);
                }
            }
        }
        (sources, root)
    }

    /// The main file as a whole, where nothing more exact is known.
    pub(super) fn start(&self) -> Place {
        Place { file: 0, offset: 0 }
    }

    pub(super) fn locate(&self, place: Place) -> Location {
        let (file, text) = match self.files.get(place.file) {
            Some((path, text)) => (path.clone(), text.as_str()),
            None => (PathBuf::new(), ""),
        };
        let before = text.get(..place.offset).unwrap_or(text);
        let line = before.rfind('\n').map_or(before, |end| &before[end + 1..]);
        Location { file, line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }

    pub(super) fn error(&self, place: Place, key: &str, message: impl Into<String>) -> ConfigError {
        let Location { file, line, column } = self.locate(place);
        ConfigError { file, position: Some((line, column)), key: key.to_owned(), message: message.into() }
    }

    /// The directory that relative paths written at this place start from.
    pub(super) fn directory(&self, place: Place) -> &Path {
        let file = self.files.get(place.file).map(|(path, _)| path.as_path());
        file.and_then(Path::parent).unwrap_or(Path::new(""))
    }

    /// Reads a file that a value at this place names.
    pub(super) fn read(&mut self, place: Place, path: &str) -> Result<String, String> {
        let path = self.directory(place).join(path);
        let text = read_text(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()));
        self.referenced.push(path);
        text
    }

    fn push(&mut self, place: Place, key: &str, message: impl Into<String>) {
        let error = self.error(place, key, message);
        self.errors.push(error);
    }

    /// Parses a file to its entries. `named` says where and under which key the file is named.
    fn parse(&mut self, path: &Path, named: Option<(Place, &str)>) -> Vec<KeyValue> {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("cannot read `{}`: {error}", path.display());
                let error = match named {
                    Some((place, key)) => self.error(place, key, message),
                    None => {
                        let message = format!("cannot read the file: {error}");
                        ConfigError { file: path.to_owned(), position: None, key: String::new(), message }
                    }
                };
                self.errors.push(error);
                self.incomplete = true;
                return Vec::new();
            }
        };
        let file = self.files.len();
        self.files.push((path.to_owned(), text.clone()));
        let (table, errors) = DeTable::parse_recoverable(&text);
        if errors.is_empty() {
            return self.table(file, "", table.into_inner());
        }
        self.syntax(file, &text, errors);
        self.incomplete = true;
        Vec::new()
    }

    /// Says what is broken. The parser goes on after an error, but mistakes most of what follows; so only keys that are there twice
    /// and the first other error count, and of a table that is there twice not its keys.
    fn syntax(&mut self, file: usize, text: &str, errors: Vec<toml::de::Error>) {
        let span = |error: &toml::de::Error| error.span().unwrap_or_default();
        let mut errors: Vec<_> = errors.iter().map(|error| (span(error), error.message())).collect();
        errors.sort_by_key(|(span, _)| span.start);
        let mut follows = 0;
        for (span, message) in errors {
            let offset = span.start;
            let place = Place { file, offset };
            if message == "duplicate key" {
                // Keys of a table that is there twice are taken for keys of the first one.
                if offset < follows {
                    continue;
                }
                let Repeated { before, end } = repeated(text, offset);
                let also = before.map(|before| {
                    let Location { line, column, .. } = self.locate(Place { file, offset: before });
                    format!(", also at {line}:{column}")
                });
                let key = text.get(span).unwrap_or_default();
                self.push(place, "", format!("duplicate key `{key}`{}", also.unwrap_or_default()));
                follows = end;
                continue;
            }
            let hint = unclosed(text, offset).map(|(kind, opened)| {
                let Location { line, column, .. } = self.locate(Place { file, offset: opened });
                format!(" (the {kind} that begins at {line}:{column} has not ended)")
            });
            self.push(place, "", format!("{message}{}", hint.unwrap_or_default()));
            return;
        }
    }

    fn table(&mut self, file: usize, path: &str, table: DeTable<'_>) -> Vec<KeyValue> {
        let mut entries: Vec<KeyValue> = Vec::with_capacity(table.len());
        for (key, value) in table {
            let place = Place { file, offset: key.span().start };
            let key = key.into_inner().into_owned();
            let node = self.node(file, &join(path, &key), value);
            entries.push(KeyValue { key, place, node });
        }
        // The parser's map is sorted by name; filters see their config in the order of the file.
        entries.sort_by_key(|entry| entry.place.offset);
        entries
    }

    fn node(&mut self, file: usize, path: &str, value: Spanned<DeValue<'_>>) -> Node {
        let place = Place { file, offset: value.span().start };
        let (mut secret, mut reference, mut from) = (false, None, None);
        let value = match value.into_inner() {
            DeValue::String(text) => match self.resolve(place, path, &text) {
                Some(resolved) => {
                    (secret, reference, from) = (resolved.secret, resolved.reference, resolved.file);
                    Value::String(resolved.text)
                }
                None => Value::Broken,
            },
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    self.push(place, path, format!("the integer `{number}` is out of range"));
                    Value::Broken
                }
            },
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Datetime(value) => Value::Datetime(value.to_string()),
            DeValue::Array(items) => Value::Array(
                items.into_iter().enumerate().map(|(i, item)| self.node(file, &format!("{path}[{i}]"), item)).collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(file, path, table)),
        };
        Node { place, value, secret, reference, file: from }
    }

    /// Puts variables and files in the place of their references; none when one of them has an error.
    fn resolve(&mut self, place: Place, path: &str, text: &str) -> Option<Resolved> {
        let mut resolved =
            Resolved { text: String::with_capacity(text.len()), secret: false, reference: None, file: None };
        let mut complete = true;
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                resolved.text.push_str(before);
                resolved.text.push_str("${");
                rest = after;
                continue;
            }
            resolved.text.push_str(before);
            let Some((reference, after)) = after.split_once('}') else {
                self.push(place, path, "a `${` without its `}` (a literal `${` is written `$${`)");
                return None;
            };
            let is_whole = rest.len() == text.len() && before.is_empty() && after.is_empty();
            rest = after;
            match self.refer(place, reference) {
                Ok(value) => {
                    resolved.text.push_str(&value.text);
                    resolved.secret |= value.secret;
                    resolved.reference = value.reference.filter(|_| is_whole);
                    resolved.file = value.file.filter(|_| is_whole);
                }
                Err(message) => {
                    self.push(place, path, message);
                    complete = false;
                }
            }
        }
        resolved.text.push_str(rest);
        complete.then_some(resolved)
    }

    /// The value of one reference, here without its braces. A default is written in the file, so it is no secret.
    fn refer(&mut self, place: Place, reference: &str) -> Result<Resolved, String> {
        match reference.split_once(':') {
            Some(("env", name)) => {
                let (name, default) = match name.split_once(":-") {
                    // The reference ends at the first brace, so an inner one would leave half of itself in the value.
                    Some((_, default)) if default.contains("${") => {
                        return Err("the default of a reference can't have a reference in it".to_owned());
                    }
                    Some((name, default)) => (name, Some(default)),
                    None => (name, None),
                };
                let is_named = !name.is_empty() && !name.contains(['=', '\0']);
                match std::env::var_os(name).filter(|_| is_named) {
                    // As in a shell, an empty variable has the default, too.
                    Some(value) if !(value.is_empty() && default.is_some()) => match value.into_string() {
                        Ok(text) => {
                            let reference = Some(format!("the environment variable `{name}`"));
                            Ok(Resolved { text, secret: true, reference, file: None })
                        }
                        Err(_) => Err(format!("the environment variable `{name}` is not UTF-8")),
                    },
                    _ => match default {
                        Some(text) => Ok(Resolved {
                            text: text.to_owned(),
                            secret: false,
                            reference: Some(format!("the default of the environment variable `{name}`")),
                            file: None,
                        }),
                        None => Err(format!("the environment variable `{name}` is not set")),
                    },
                }
            }
            // An editor's newline at the end is not a part of the secret.
            Some(("file", name)) => self.read(place, name).map(|text| {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
                let file = Some(self.directory(place).join(name));
                Resolved { text, secret: true, reference: Some(format!("the file `{name}`")), file }
            }),
            _ => Err(format!(
                "unknown reference `${{{reference}}}`, expected `${{env:NAME}}`, `${{env:NAME:-default}}` or `${{file:PATH}}` (a \
                 literal `${{` is written `$${{`)"
            )),
        }
    }

    fn patterns(&mut self, include: &KeyValue) -> Vec<(String, Place)> {
        let Value::Array(items) = &include.node.value else {
            self.push(include.node.place, "include", "expected a list of file patterns");
            return Vec::new();
        };
        let mut patterns = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match &item.value {
                Value::String(text) => patterns.push((text.clone(), item.place)),
                _ => self.push(item.place, &format!("include[{i}]"), "expected a string"),
            }
        }
        patterns
    }

    /// The files that a pattern stands for, sorted. Only the last part of the path can have a `*`.
    fn matching(&mut self, main: &Path, pattern: &str, place: Place) -> Vec<PathBuf> {
        let base = main.parent().unwrap_or(Path::new(""));
        let (directory, name) = match pattern.rsplit_once('/') {
            Some((directory, name)) => (base.join(if directory.is_empty() { "/" } else { directory }), name),
            None => (base.to_owned(), pattern),
        };
        if pattern.strip_suffix(name).is_some_and(|directory| directory.contains('*')) {
            self.push(place, "include", format!("`{pattern}`: only the file name can have a `*`"));
            return Vec::new();
        }
        if !name.contains('*') {
            return vec![directory.join(name)];
        }
        // The directory of `conf.d/*.toml` need not exist: nothing is included then.
        let listed = if directory.as_os_str().is_empty() { fs::read_dir(".") } else { fs::read_dir(&directory) };
        let names = listed.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        self.referenced.push(if directory.as_os_str().is_empty() { ".".into() } else { directory.clone() });
        let mut names: Vec<String> = names.filter(|file| matches_glob(name, file)).collect();
        names.sort();
        let paths = names.into_iter().map(|name| directory.join(name)).filter(|path| path.is_file() && path != main);
        paths.collect()
    }

    /// Adds an entry of an included file. Files can add names to a section, but not keys to the table of one name.
    fn merge(&mut self, root: &mut Vec<KeyValue>, entry: KeyValue) {
        if entry.key == "include" {
            self.push(entry.place, "include", "an included file can't include others");
            return;
        }
        let Some(section) = root.iter_mut().find(|known| known.key == entry.key) else {
            root.push(entry);
            return;
        };
        let named = super::NAMED_SECTIONS.contains(&entry.key.as_str());
        let key = entry.key;
        match (&mut section.node.value, entry.node.value) {
            (Value::Table(known), Value::Table(added)) if named => {
                for item in added {
                    match known.iter().find(|other| other.key == item.key) {
                        Some(other) => {
                            let first = self.locate(other.place);
                            self.push(item.place, &join(&key, &item.key), format!("is already defined at {first}"));
                        }
                        None => known.push(item),
                    }
                }
            }
            _ => {
                let first = self.locate(section.place);
                self.push(entry.place, &key, format!("is already defined at {first}"));
            }
        }
    }
}

/// A key path with one more key, quoted where TOML would.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'*');
    match (path.is_empty(), bare) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{key:?}"),
        (false, true) => format!("{path}.{key}"),
        (false, false) => format!("{path}.{key:?}"),
    }
}

/// Whether a file name fits a pattern in which `*` is any run of characters. Hidden files fit only a pattern that starts with a dot.
fn matches_glob(pattern: &str, name: &str) -> bool {
    fn fits(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|skip| name.get(skip..).is_some_and(|name| fits(rest, name))),
            Some((byte, rest)) => name.split_first().is_some_and(|(first, name)| first == byte && fits(rest, name)),
        }
    }
    name.starts_with('.') == pattern.starts_with('.') && fits(pattern.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_file_names() {
        for (pattern, name) in [("*.toml", "a.toml"), ("a*b*", "axxbyy"), ("*", "x"), (".*", ".x")] {
            assert!(matches_glob(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.toml", "a.tom"), ("*.toml", ".a.toml"), ("*", ".x"), ("a*b", "axbc")] {
            assert!(!matches_glob(pattern, name), "{pattern} {name}");
        }
    }
}
