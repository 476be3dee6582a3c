//! `sluice plugin test`: finds the cases of a plugin, runs them and sums up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::component::{find, in_folder, newer_source, of_file, shipped};
use super::run::{CaseResult, Runner};
use super::{Component, ToolError};
use crate::config::load_cases;
use crate::config::model::cases::{CaseComponent, CaseFile};

/// The folder of a plugin with its cases.
const FOLDER: &str = "cases";

/// What is to be run.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Folders of plugins, and files of cases.
    pub paths: Vec<PathBuf>,
    /// The component to try, instead of the one that is found.
    pub component: Option<PathBuf>,
    /// Only cases that have this in their name.
    pub filter: Option<String>,
}

/// What came of all cases.
#[derive(Debug, Default)]
pub struct Summary {
    pub results: Vec<CaseResult>,
    /// Sources that were changed after the component was built.
    pub newer: BTreeSet<PathBuf>,
}

impl Summary {
    pub fn passed(&self) -> usize {
        self.results.iter().filter(|result| result.passed()).count()
    }

    pub fn failed(&self) -> usize {
        self.results.len() - self.passed()
    }
}

/// Runs cases; `cache` is where compiled components are kept. That some fail is no error; that one can't be run is, and so is that there is none.
pub fn test(selection: &Selection, cache: Option<PathBuf>) -> Result<Summary, ToolError> {
    let mut runner = Runner::observing(cache)?;
    let mut summary = Summary::default();
    for path in case_files(&selection.paths)? {
        let file = load_cases(&path)?;
        let mut cases = file.cases.iter().filter(|case| is_chosen(selection, &case.name)).peekable();
        if cases.peek().is_none() {
            continue;
        }
        let component = component(selection, &path, &file)?;
        if let (None, None, Some(built)) = (&selection.component, &file.component, &component.path) {
            summary.newer.extend(newer_source(&plugin_folder(&path), built));
        }
        let plugin = runner.load(component)?;
        summary.results.extend(cases.map(|case| runner.run(&path, &file, case, &plugin)));
    }
    if summary.results.is_empty() {
        let named = selection.filter.as_ref().map(|name| format!(" whose name has `{name}`")).unwrap_or_default();
        return Err(ToolError::Missing(format!("there is no case{named}")));
    }
    Ok(summary)
}

pub(super) fn is_chosen(selection: &Selection, name: &str) -> bool {
    selection.filter.as_ref().is_none_or(|part| name.contains(part.as_str()))
}

/// The files of cases that are meant, in the order of their names.
pub fn case_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ToolError> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let folder = path.join(FOLDER);
        let folder = if folder.is_dir() { folder } else { path.clone() };
        let entries = std::fs::read_dir(&folder).map_err(ToolError::file(&folder))?;
        let files = entries.flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|e| e == "toml")).collect();
        // A manifest of cargo is no file of cases.
        files.retain(|file| !(folder == *path && file.file_name().is_some_and(|name| name == "Cargo.toml")));
        if files.is_empty() {
            return Err(ToolError::Missing(format!("{}: there is no file `{FOLDER}/*.toml`", path.display())));
        }
        files.sort();
        found.extend(files);
    }
    Ok(found)
}

/// What a file of cases tries: what the command says, else what the file says, else what is built in the folder of the plugin.
pub(super) fn component(selection: &Selection, path: &Path, file: &CaseFile) -> Result<Component, ToolError> {
    if let Some(path) = &selection.component {
        return find(path);
    }
    match &file.component {
        Some(CaseComponent::File(path)) => of_file(path),
        Some(CaseComponent::Shipped(name)) => shipped(name)
            .ok_or_else(|| ToolError::Missing(format!("{}: `{name}` is no shipped plugin", path.display()))),
        None => in_folder(&plugin_folder(path)),
    }
}

/// The folder of the plugin that a file of cases is of.
fn plugin_folder(cases: &Path) -> PathBuf {
    let full = std::fs::canonicalize(cases).unwrap_or_else(|_| cases.to_owned());
    let folder = full.parent().unwrap_or(Path::new("."));
    let is_cases = folder.file_name().is_some_and(|name| name == FOLDER);
    folder.parent().filter(|_| is_cases).unwrap_or(folder).to_owned()
}

/// What tells that cases or their component have changed: the newest change of a file, and how many files there are.
pub fn changed(selection: &Selection) -> (SystemTime, usize) {
    let files = case_files(&selection.paths).unwrap_or_default();
    let components = files.iter().filter_map(|path| super::component::newest(&plugin_folder(path)));
    let all: Vec<PathBuf> = components.chain(selection.component.clone()).chain(files.clone()).collect();
    let times = all.iter().filter_map(|path| path.metadata().and_then(|file| file.modified()).ok());
    (times.max().unwrap_or(SystemTime::UNIX_EPOCH), all.len())
}
