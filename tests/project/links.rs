//! What documents link to is there.

use std::path::{Path, PathBuf};

use regex::Regex;

use crate::path;

/// The documents that lie outside of `docs/`.
fn documents() -> Vec<PathBuf> {
    let in_folder = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.collect::<Vec<_>>()
    };
    let mut found = in_folder(path(""));
    for example in in_folder(path("examples")) {
        if example.is_dir() {
            found.extend(in_folder(example));
        } else {
            found.push(example);
        }
    }
    found.retain(|file| file.extension().is_some_and(|ending| ending == "md"));
    found
}

#[test]
fn links_to_files_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#: ]+)(?:#[^)]*)?\)").expect("a pattern");
    let mut broken = Vec::new();
    let documents = documents();
    assert!(documents.len() > 8, "{documents:?}");
    for document in &documents {
        let text = std::fs::read_to_string(document).expect("a document");
        let folder = document.parent().unwrap_or(Path::new("."));
        for target in link.captures_iter(&text).map(|found| found[1].to_owned()) {
            if !folder.join(&target).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
