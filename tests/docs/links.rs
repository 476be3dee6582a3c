//! Links lead somewhere, and the book's table of contents is whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::markdown::{Page, pages, root};

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Where a relative link leads, below the root, and its anchor.
fn target(page: &Page, link: &str) -> (PathBuf, Option<String>) {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor.to_owned())));
    let here = Path::new(&page.path);
    let target = if path.is_empty() { here.to_owned() } else { here.parent().expect("a folder").join(path) };
    (normal(&target), anchor)
}

#[test]
fn every_relative_link_leads_somewhere() {
    let (pages, root) = (pages(), root());
    let mut broken = Vec::new();
    let mut seen = 0;
    for page in &pages {
        for (line, link) in page.links().into_iter().filter(|(_, link)| !link.contains("://")) {
            seen += 1;
            let (path, anchor) = target(page, &link);
            if !root.join(&path).exists() {
                broken.push(format!("{}:{line}: {link}: no such file", page.path));
                continue;
            }
            let Some(anchor) = anchor else { continue };
            let of = pages.iter().find(|other| Path::new(&other.path) == path);
            if !of.is_some_and(|of| of.anchors().contains(&anchor)) {
                broken.push(format!("{}:{line}: {link}: no such heading", page.path));
            }
        }
    }
    assert!(seen > 100, "{seen} links: is this the right pattern?");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_summary_names_every_page_of_the_book_once() {
    let pages = pages();
    let summary = pages.iter().find(|page| page.path == "docs/src/SUMMARY.md").expect("a summary");
    let named: Vec<_> = summary.links().into_iter().map(|(_, link)| target(summary, &link).0).collect();
    let once: BTreeSet<_> = named.iter().cloned().collect();
    assert_eq!(once.len(), named.len(), "a page is named twice");
    let written: BTreeSet<_> = pages
        .iter()
        .filter(|page| page.path.starts_with("docs/src/") && page.path != summary.path)
        .map(|page| PathBuf::from(&page.path))
        .collect();
    let missing: Vec<_> = written.difference(&once).collect();
    assert!(missing.is_empty(), "SUMMARY.md does not name {missing:?}");
    // mdBook is not needed to read its one setting that these tests rely on.
    let book = fs::read_to_string(root().join("docs/book.toml")).expect("a book");
    assert!(book.contains("create-missing = false"), "a missing page must be an error");
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).expect("the README").lines().count();
    assert!(lines <= 170, "README.md has {lines} lines; the book in docs/ has room");
}
