//! Each kind of block has a rule; one that has none is an error, so that nothing is shown that nobody has tried.

use std::fs;

use crate::markdown::{Block, Page, pages, root};

/// What is done with a block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A configuration, or a part of one, that the gateway accepts (`configs`).
    Config,
    /// The manifest of a filter's crate.
    Manifest,
    /// A file that later commands of the page use (`sessions`).
    File(String),
    /// Commands with what they print (`sessions`).
    Console,
    /// Commands that succeed (`sessions`).
    Shell,
    /// A JSON value on each line, or one over all lines.
    Json,
    /// Rust that the SDK's own documentation tests compile.
    DocTest,
    /// A drawing, lines of a log as a terminal shows them, or what is for another gateway (`theirs`).
    Text,
}

pub(crate) fn rule(page: &Page, block: &Block) -> Option<Rule> {
    if block.has_mark("theirs") {
        return Some(Rule::Text);
    }
    if let Some(file) = block.mark("file") {
        return Some(Rule::File(file.to_owned()));
    }
    let manifest = ["[package]", "[dev-dependencies]"].iter().any(|table| block.text.starts_with(table));
    match &*block.kind {
        "toml" if manifest => Some(Rule::Manifest),
        "toml" => Some(Rule::Config),
        "console" => Some(Rule::Console),
        "sh" => Some(Rule::Shell),
        "json" => Some(Rule::Json),
        "rust" if page.path == "sdk/README.md" => Some(Rule::DocTest),
        "text" => Some(Rule::Text),
        _ => None,
    }
}

#[test]
fn every_block_has_a_rule() {
    let marks = |block: &Block| {
        block.marks.iter().all(|mark| ["file", "onto", "run", "theirs"].contains(&mark.split('=').next().unwrap()))
    };
    let mut wrong = Vec::new();
    for page in pages() {
        for block in page.blocks() {
            if rule(&page, &block).is_none() || !marks(&block) {
                wrong.push(format!("{}:{}: `{}` {:?}", page.path, block.line, block.kind, block.marks));
            }
        }
    }
    assert!(wrong.is_empty(), "no rule for these blocks:\n{}", wrong.join("\n"));
}

#[test]
fn json_is_json() {
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| rule(&page, block) == Some(Rule::Json)) {
            let values = serde_json::Deserializer::from_str(&block.text).into_iter::<serde_json::Value>();
            let read: Result<Vec<_>, _> = values.collect();
            assert!(read.is_ok_and(|values| !values.is_empty()), "{}:{}: not JSON", page.path, block.line);
        }
    }
}

/// The page of the SDK has the manifest of the book, which is built (`sessions`), under another name.
#[test]
fn manifests_are_the_one_that_is_built() {
    let table = |text: &str| text.parse::<toml::Table>().expect("a manifest");
    let book =
        Page { path: String::new(), text: fs::read_to_string(root().join("docs/src/filters/write.md")).unwrap() };
    let built = book.blocks().into_iter().find(|block| block.mark("file") == Some("Cargo.toml")).expect("a manifest");
    let mut built = table(&built.text);
    built["package"]["name"] = "hello".into();
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| rule(&page, block) == Some(Rule::Manifest)) {
            let shown = table(&block.text);
            if shown.contains_key("package") {
                assert_eq!(shown, built, "{}:{}", page.path, block.line);
            }
        }
    }
}
