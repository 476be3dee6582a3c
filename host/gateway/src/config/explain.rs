//! What the value of a key is and where it comes from, for who wonders about a configuration.

use std::fmt;
use std::path::Path;

use super::error::ConfigErrors;
use super::read::{Explained, Reader, ValueSource, nearest};
use super::tree::Sources;

/// Why a key is not explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("there is no key `{key}`{}", hint(.nearest.as_deref()))]
    Unknown { key: String, nearest: Option<String> },
}

/// Says of a key (`routes.api.timeouts.request`), or of all keys of a table, which value it has and why.
pub fn explain(path: &Path, key: &str) -> Result<Vec<Explained>, ExplainError> {
    let (sources, root) = Sources::load(path);
    if sources.incomplete {
        return Err(ConfigErrors::new(sources.errors).into());
    }
    let reader = Reader::explaining(sources);
    super::read(&reader.root(&root));
    let (sources, explained) = reader.into_explained();
    if !sources.errors.is_empty() {
        return Err(ConfigErrors::new(sources.errors).into());
    }
    let is_below =
        |path: &str| path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    let nearest = nearest(key, explained.iter().map(|one| one.key.as_str())).map(str::to_owned);
    let found: Vec<_> = explained.into_iter().filter(|one| is_below(&one.key)).collect();
    if found.is_empty() { Err(ExplainError::Unknown { key: key.to_owned(), nearest }) } else { Ok(found) }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|key| format!(", did you mean `{key}`?")).unwrap_or_default()
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, source } = self;
        match source {
            ValueSource::Written { key: own, at } if own == key => write!(f, "{key} = {value}\n    {at}"),
            ValueSource::Written { key: other, at } => write!(f, "{key} = {value}\n    {at}, from {other}"),
            ValueSource::SameAs(other) => write!(f, "{key} = {value}\n    the same as {other}"),
            ValueSource::Default => write!(f, "{key} = {value}\n    the default"),
        }
    }
}
