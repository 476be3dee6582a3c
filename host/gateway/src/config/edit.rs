//! Changes numbers in a configuration file and leaves every other byte of it, comments among them, as it is.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::model::Revision;
use super::path::{KeyPart, render};
use super::tree::{KeyValue, Node, Place, Sources, Value};
use super::{Loaded, Location};

/// Why a file can't be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("`{0}` is not written in the configuration")]
    Missing(String),
    #[error("{at}: `{key}` is not written as a number, so it can't be changed here")]
    NoNumber { key: String, at: Location },
    #[error("`{0}` is written in another file than the others")]
    Spread(String),
}

impl Loaded {
    /// The file that has these integers, and its text with new ones in their places.
    pub fn with_integers(&self, edits: &[(Vec<KeyPart>, u32)]) -> Result<(PathBuf, String), EditError> {
        let mut places: Vec<(Place, u32)> = Vec::with_capacity(edits.len());
        for (path, number) in edits {
            let Some(node) = node_at(&self.root, path) else { return Err(EditError::Missing(render(path))) };
            if !matches!(node.value, Value::Integer(_)) {
                return Err(EditError::NoNumber { key: render(path), at: self.sources.locate(node.place) });
            }
            if places.first().is_some_and(|(first, _)| first.file != node.place.file) {
                return Err(EditError::Spread(render(path)));
            }
            places.push((node.place, *number));
        }
        // From the end, so that the places before stay right.
        places.sort_by_key(|(place, _)| std::cmp::Reverse(place.offset));
        let Some((path, text)) = places.first().and_then(|(place, _)| self.sources.files.get(place.file)) else {
            return Err(EditError::Missing(String::new()));
        };
        let mut text = text.clone();
        for (Place { offset, .. }, number) in places {
            let is_number = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-');
            let length = text.as_bytes()[offset..].iter().take_while(|b| is_number(b)).count();
            text.replace_range(offset..offset + length, &number.to_string());
        }
        Ok((path.clone(), text))
    }
}

/// The value at a path of keys.
fn node_at<'n>(root: &'n [KeyValue], path: &[KeyPart]) -> Option<&'n Node> {
    let mut keys = path.iter().map(|part| match part {
        KeyPart::Key(key) => Some(key.as_str()),
        KeyPart::Index(_) => None,
    });
    let first = keys.next()??;
    let mut node = &root.iter().find(|entry| entry.key == first)?.node;
    for key in keys {
        node = &node.entry(key?)?.node;
    }
    Some(node)
}

impl Sources {
    /// What the files say, to see whether they have changed.
    pub(super) fn revision(&self) -> Revision {
        let mut hash = Sha256::new();
        for (path, text) in &self.files {
            for part in [path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        Revision(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const FILE: &str = "# weights\nlisteners.http = { bind = '127.0.0.1:0' }\nupstreams.a = { builtin = \"echo\" }\n\
        upstreams.b = { builtin = \"echo\" }\n[routes.one]\nmatch = { path = \"/\" }  # é\n\
        upstreams = { a = 1_00, \"b\" = +0 } # 100 to 0\n[routes.two]\nmatch = { path = \"/two\" }\n\
        [routes.two.upstreams]\nb = 0x10\na = \"${env:NO_SUCH_WEIGHT:-3}\"\n";

    fn load() -> (tempfile::TempDir, Loaded) {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("gateway.toml"), FILE).expect("a file");
        let loaded = config::load(&directory.path().join("gateway.toml")).expect("a configuration");
        (directory, loaded)
    }

    fn path(route: &str, upstream: &str) -> Vec<KeyPart> {
        ["routes", route, "upstreams", upstream].map(KeyPart::from).to_vec()
    }

    #[test]
    fn numbers_change_and_nothing_else() {
        let (_directory, loaded) = load();
        let edits = [(path("one", "a"), 0), (path("one", "b"), 100), (path("two", "b"), 7)];
        let (_, text) = loaded.with_integers(&edits).expect("a text");
        let expected = FILE.replace("1_00", "0").replace("+0", "100").replace("0x10", "7");
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_no_number_is_left_alone() {
        let (_directory, loaded) = load();
        let refused = |edit| loaded.with_integers(&[edit]).expect_err("no number").to_string();
        let message = refused((path("two", "a"), 1));
        assert!(
            message.contains("gateway.toml:12:5: `routes.two.upstreams.a` is not written as a number"),
            "{message}"
        );
        assert_eq!(refused((path("two", "c"), 1)), "`routes.two.upstreams.c` is not written in the configuration");
    }

    #[test]
    fn a_revision_tells_texts_apart() {
        let (directory, loaded) = load();
        let again = || config::load(&directory.path().join("gateway.toml")).expect("a configuration").config.revision;
        assert_eq!(again(), loaded.config.revision);
        std::fs::write(directory.path().join("gateway.toml"), format!("{FILE}# more\n")).expect("a file");
        assert_ne!(again(), loaded.config.revision);
    }
}
