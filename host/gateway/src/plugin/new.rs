//! `sluice plugin new`: a project to start from, complete with its build, its cases and what to read first.

use std::path::{Path, PathBuf};

use super::ToolError;
use super::languages::{Language, named, names};

/// The most characters of a name: it becomes that of a file, a filter and a type.
const LONGEST: usize = 64;

/// Makes the folder `parent/NAME`. `sdk` is that of the language, where it is not in a checkout of Sluice around here. Answers the files.
pub fn new(parent: &Path, name: &str, language: &str, sdk: Option<&Path>) -> Result<Vec<PathBuf>, ToolError> {
    let language = named(language).ok_or_else(|| {
        ToolError::Missing(format!("there is no project to start from in `{language}`, expected one of: {}", names()))
    })?;
    check(name)?;
    let folder = parent.join(name);
    if folder.exists() {
        return Err(ToolError::Missing(format!("{}: it is there already", folder.display())));
    }
    let sdk = match sdk {
        Some(sdk) => std::fs::canonicalize(sdk).map_err(ToolError::file(sdk))?,
        None => find_sdk(parent)?,
    };
    let mut made = Vec::new();
    for (path, template) in language.files {
        let path = folder.join(filled(path, name, language, &sdk));
        let directory = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(directory).map_err(ToolError::file(directory))?;
        std::fs::write(&path, filled(template, name, language, &sdk)).map_err(ToolError::file(&path))?;
        made.push(path);
    }
    Ok(made)
}

fn check(name: &str) -> Result<(), ToolError> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_good = name.len() <= LONGEST
        && name.bytes().all(is_letter)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && !name.contains("--");
    if is_good {
        return Ok(());
    }
    Err(ToolError::Missing(format!(
        "`{name}` is no name for a plugin: expected lower-case letters, digits and single `-`, up to {LONGEST}, with a letter first"
    )))
}

/// The SDK of the checkout in or beside which the project lies.
fn find_sdk(parent: &Path) -> Result<PathBuf, ToolError> {
    let start = std::fs::canonicalize(parent).map_err(ToolError::file(parent))?;
    let places = start.ancestors().flat_map(|folder| [folder.join("sdk"), folder.join("sluice/sdk")]);
    let is_sdk = |folder: &PathBuf| folder.join("public-api.txt").is_file() && folder.join("Cargo.toml").is_file();
    places.into_iter().find(is_sdk).ok_or_else(|| {
        ToolError::Missing(format!(
            "there is no checkout of Sluice at or above {}: say with `--sdk` where its folder `sdk` is",
            start.display()
        ))
    })
}

fn filled(template: &str, name: &str, language: &Language, sdk: &Path) -> String {
    let code = language.files.iter().map(|(path, _)| *path).find(|path| path.starts_with("src/"));
    template
        .replace("{{name}}", name)
        .replace("{{type}}", &type_name(name))
        .replace("{{sdk}}", &sdk.to_string_lossy())
        .replace("{{language}}", language.title)
        .replace("{{command}}", &language.command.join(" "))
        .replace("{{files}}", &format!("`{}`", code.unwrap_or(language.marker)))
}

/// `BlockAgents` for `block-agents`.
fn type_name(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_complete_and_never_written_over() {
        let parent = tempfile::tempdir().expect("a folder");
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk");
        let made = new(parent.path(), "block-agents", "rust", Some(&sdk)).expect("a project");
        for file in ["Cargo.toml", "src/lib.rs", ".gitignore", "README.md", "cases/block-agents.toml", "schema.json"] {
            let path = parent.path().join("block-agents").join(file);
            assert!(made.contains(&path), "{file}");
            let text = std::fs::read_to_string(&path).expect("a file");
            assert!(!text.contains("{{") || file == "src/lib.rs", "{file}: {text}");
        }
        let manifest = std::fs::read_to_string(parent.path().join("block-agents/Cargo.toml")).expect("a manifest");
        assert!(manifest.parse::<toml::Table>().is_ok() && manifest.contains("name = \"block-agents\""), "{manifest}");
        let code = std::fs::read_to_string(parent.path().join("block-agents/src/lib.rs")).expect("code");
        assert!(code.contains("struct BlockAgents {") && !code.contains("{{type}}"), "{code}");
        crate::config::load_cases(&parent.path().join("block-agents/cases/block-agents.toml")).expect("cases");
        let again = new(parent.path(), "block-agents", "rust", Some(&sdk)).expect_err("it is there");
        assert!(again.to_string().ends_with("it is there already"), "{again}");
    }

    #[test]
    fn names_and_languages_are_checked() {
        let refused = |name: &str, language: &str| {
            new(Path::new("/nowhere"), name, language, None).expect_err("refused").to_string()
        };
        for name in ["", "A", "a b", "-a", "a-", "a--b", "../a", "9a", "ä", &"a".repeat(65)] {
            assert!(refused(name, "rust").contains("is no name for a plugin"), "{name}");
        }
        assert!(refused("a", "cobol").contains("expected one of: rust"));
        assert_eq!(type_name("a-b2-cd"), "AB2Cd");
    }
}
