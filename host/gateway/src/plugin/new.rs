//! `sluice plugin new`: a project to start from, complete with its build, its cases and what to read first.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::ToolError;
use super::languages::{Language, named, names, of_project};
use crate::embedded;

/// The most characters of a name: it becomes that of a file, a filter and a type.
const LONGEST: usize = 64;

/// The folder in a project with the copy of the SDK: laid out as a checkout is, so that its parts find each other.
pub const COPY: &str = "sluice";

/// Makes the folder `parent/NAME`. With `sdk`, the folder `sdk` of a checkout, there is a link to that checkout in place of a copy. Answers the files.
pub fn new(parent: &Path, name: &str, language: &str, sdk: Option<&Path>) -> Result<Vec<PathBuf>, ToolError> {
    let language = named(language).ok_or_else(|| {
        ToolError::Missing(format!("there is no project to start from in `{language}`, expected one of: {}", names()))
    })?;
    check(name)?;
    let folder = parent.join(name);
    if folder.exists() {
        return Err(ToolError::Missing(format!("{}: it is there already", folder.display())));
    }
    let mut made = Vec::new();
    for (path, template) in language.files {
        let path = folder.join(filled(path, name, language));
        write(&path, filled(template, name, language).as_bytes())?;
        made.push(path);
    }
    let copy = folder.join(COPY);
    match sdk {
        None => write_sdk(language, &copy)?,
        Some(sdk) => {
            let sdk = std::fs::canonicalize(sdk).map_err(ToolError::file(sdk))?;
            symlink(sdk.parent().unwrap_or(&sdk), &copy).map_err(ToolError::file(&copy))?;
        }
    }
    made.push(copy);
    Ok(made)
}

/// Puts the SDK of this program's version in the place of the copy that a project has. Answers the copy's folder.
pub fn refresh(folder: &Path) -> Result<PathBuf, ToolError> {
    let copy = folder.join(COPY);
    let language = of_project(folder).filter(|_| copy.join("sdk").is_dir() && !copy.is_symlink()).ok_or_else(|| {
        ToolError::Missing(format!(
            "{}: this is no project with a copy of the SDK, as `sluice plugin new` makes it",
            folder.display()
        ))
    })?;
    std::fs::remove_dir_all(&copy).map_err(ToolError::file(&copy))?;
    write_sdk(language, &copy)?;
    Ok(copy)
}

fn write(path: &Path, content: &[u8]) -> Result<(), ToolError> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(ToolError::file(folder))?;
    std::fs::write(path, content).map_err(ToolError::file(path))
}

/// Writes the parts of the SDK that filters of this language use.
fn write_sdk(language: &Language, folder: &Path) -> Result<(), ToolError> {
    let is_used = |path: &str| {
        language.sdk.iter().any(|part| if part.ends_with('/') { path.starts_with(part) } else { path == *part })
    };
    for (path, content) in embedded::sdk() {
        if is_used(path) {
            write(&folder.join(path), content)?;
        } else if path == "Cargo.toml" && is_used("sdk/Cargo.toml") {
            write(&folder.join(path), workspace(content)?.as_bytes())?;
        }
    }
    Ok(())
}

/// The workspace of the crates in a copy: what their manifests inherit, without the other members and the profiles.
fn workspace(manifest: &[u8]) -> Result<String, ToolError> {
    let broken = |why: String| ToolError::Missing(format!("the manifest of the workspace is broken: {why}"));
    let mut manifest: toml::Table =
        String::from_utf8_lossy(manifest).parse().map_err(|error: toml::de::Error| broken(error.to_string()))?;
    manifest.retain(|key, _| key == "workspace");
    let workspace = manifest.get_mut("workspace").and_then(toml::Value::as_table_mut);
    let workspace = workspace.ok_or_else(|| broken("there is no table `workspace`".to_owned()))?;
    workspace.retain(|key, _| ["resolver", "package", "lints"].contains(&key));
    workspace.insert("members".to_owned(), vec!["host/services", "sdk"].into());
    Ok(manifest.to_string())
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

fn filled(template: &str, name: &str, language: &Language) -> String {
    template
        .replace("{{code}}", language.code)
        .replace("{{memory}}", language.memory)
        .replace("{{editor}}", language.editor)
        .replace("{{language}}", language.title)
        .replace("{{build}}", &language.command.join(" "))
        .replace("{{name}}", name)
        .replace("{{type}}", &type_name(name))
        .replace("{{sdk}}", &format!("./{COPY}/sdk"))
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
    use super::super::languages::LANGUAGES;
    use super::*;

    /// The text of a file of a project.
    fn text(path: PathBuf) -> String {
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn a_project_is_complete_in_each_language() {
        for language in LANGUAGES {
            let parent = tempfile::tempdir().expect("a folder");
            let made = new(parent.path(), "block-agents", language.name, None).expect("a project");
            let folder = parent.path().join("block-agents");
            for file in [language.marker, ".gitignore", "README.md", "cases/block-agents.toml", "sluice"] {
                assert!(made.contains(&folder.join(file)), "{}: {file}", language.name);
            }
            for path in made.iter().filter(|path| path.is_file()) {
                let text = text(path.clone());
                let placeholders = ["name", "type", "sdk", "language", "build", "code", "memory", "editor"];
                let left = placeholders.iter().find(|word| text.contains(&format!("{{{{{word}}}}}")));
                assert_eq!(left, None, "{}", path.display());
            }
            assert_eq!(of_project(&folder).map(|found| found.name), Some(language.name));
            crate::config::load_cases(&folder.join("cases/block-agents.toml")).expect("cases");
            // What its manifests and Makefiles name is there.
            for part in language.sdk {
                assert!(folder.join(COPY).join(part).exists(), "{}: {part}", language.name);
            }
        }
    }

    #[test]
    fn a_project_is_never_written_over() {
        let parent = tempfile::tempdir().expect("a folder");
        new(parent.path(), "block-agents", "rust", None).expect("a project");
        let manifest = text(parent.path().join("block-agents/Cargo.toml"));
        assert!(manifest.parse::<toml::Table>().is_ok() && manifest.contains("name = \"block-agents\""), "{manifest}");
        let code = text(parent.path().join("block-agents/src/lib.rs"));
        assert!(code.contains("struct BlockAgents {"), "{code}");
        let again = new(parent.path(), "block-agents", "rust", None).expect_err("it is there");
        assert!(again.to_string().ends_with("it is there already"), "{again}");
    }

    #[test]
    fn a_project_in_a_checkout_can_use_its_sdk() {
        let parent = tempfile::tempdir().expect("a folder");
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk");
        new(parent.path(), "a", "c", Some(&sdk)).expect("a project");
        let linked = parent.path().join("a/sluice");
        assert!(linked.is_symlink() && linked.join("sdk/c/sluice.h").is_file());
        let refused = refresh(&parent.path().join("a")).expect_err("there is no copy").to_string();
        assert!(refused.contains("no project with a copy of the SDK"), "{refused}");
    }

    #[test]
    fn a_copy_of_the_sdk_is_brought_up_to_date() {
        let parent = tempfile::tempdir().expect("a folder");
        new(parent.path(), "a", "zig", None).expect("a project");
        let project = parent.path().join("a");
        std::fs::write(project.join("sluice/sdk/c/sluice.h"), "old").expect("a file");
        std::fs::write(project.join("sluice/sdk/c/gone.h"), "old").expect("a file");
        assert_eq!(refresh(&project).expect("a copy"), project.join("sluice"));
        assert!(text(project.join("sluice/sdk/c/sluice.h")).contains("SLUICE_CONFIGURE"));
        assert!(!project.join("sluice/sdk/c/gone.h").exists());
    }

    #[test]
    fn names_and_languages_are_checked() {
        let refused = |name: &str, language: &str| {
            new(Path::new("/nowhere"), name, language, None).expect_err("refused").to_string()
        };
        for name in ["", "A", "a b", "-a", "a-", "a--b", "../a", "9a", "ä", &"a".repeat(65)] {
            assert!(refused(name, "rust").contains("is no name for a plugin"), "{name}");
        }
        assert!(refused("a", "cobol").contains("expected one of: rust, go, typescript, javascript, python, zig, c"));
        assert_eq!(type_name("a-b2-cd"), "AB2Cd");
    }
}
