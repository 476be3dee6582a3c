//! The languages that filters are written in: how a project is known, what builds it, and what a new one begins with. A language is a row.

use std::path::Path;

/// A language, and how filters in it are built.
pub(super) struct Language {
    /// As `--lang` has it.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    /// A project of this language has this file.
    pub(super) marker: &'static str,
    /// What the build needs.
    pub(super) tools: &'static [Tool],
    /// The build.
    pub(super) command: &'static [&'static str],
    /// The files of a new project: path and template.
    pub(super) files: &'static [(&'static str, &'static str)],
}

/// Something that has to be there.
pub(super) struct Tool {
    /// For people.
    pub(super) name: &'static str,
    /// A command that succeeds where it is there, with a text that its output then has.
    pub(super) probe: &'static [&'static str],
    pub(super) prints: &'static str,
    pub(super) get: &'static str,
}

const CASES: (&str, &str) = ("cases/{{name}}.toml", include_str!("../../templates/cases.toml.tmpl"));
const README: (&str, &str) = ("README.md", include_str!("../../templates/README.md.tmpl"));

pub(super) const LANGUAGES: [Language; 1] = [Language {
    name: "rust",
    title: "Rust",
    marker: "Cargo.toml",
    tools: &[
        Tool {
            name: "cargo",
            probe: &["cargo", "--version"],
            prints: "cargo",
            get: "install Rust with rustup (https://rustup.rs)",
        },
        Tool {
            name: "the target wasm32-wasip2 of Rust",
            probe: &["rustc", "--print", "target-libdir", "--target", "wasm32-wasip2"],
            prints: "/",
            get: "rustup target add wasm32-wasip2",
        },
    ],
    command: &["cargo", "build", "--release", "--target", "wasm32-wasip2"],
    files: &[
        ("Cargo.toml", include_str!("../../templates/rust/Cargo.toml.tmpl")),
        ("src/lib.rs", include_str!("../../templates/rust/lib.rs.tmpl")),
        ("schema.json", include_str!("../../templates/rust/schema.json.tmpl")),
        (".gitignore", include_str!("../../templates/rust/gitignore.tmpl")),
        CASES,
        README,
    ],
}];

/// The language of this name.
pub(super) fn named(name: &str) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| language.name == name)
}

/// The language of the project in a folder.
pub(super) fn of_project(folder: &Path) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| folder.join(language.marker).is_file())
}

/// `rust, …`
pub(super) fn names() -> String {
    LANGUAGES.iter().map(|language| language.name).collect::<Vec<_>>().join(", ")
}
