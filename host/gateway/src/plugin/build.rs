//! `sluice plugin build`: runs the known build of a project's language, and looks at what comes out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::component::{newest, of_file};
use super::languages::{Tool, names, of_project};
use super::{ToolError, runtime};
use crate::filter::Hook;

/// What was built.
#[derive(Debug)]
pub struct Built {
    pub path: PathBuf,
    pub size: usize,
    pub hooks: Vec<&'static str>,
}

/// Builds the project in a folder. What the build prints goes where this process prints.
pub fn build(folder: &Path, cache: Option<PathBuf>) -> Result<Built, ToolError> {
    let language = of_project(folder).ok_or_else(|| {
        ToolError::Missing(format!(
            "{}: this is no project in a language that is known ({})",
            folder.display(),
            names()
        ))
    })?;
    let missing: Vec<String> = language.tools.iter().filter(|tool| !is_there(tool)).map(told).collect();
    if !missing.is_empty() {
        return Err(ToolError::Missing(format!("a build in {} needs more:\n{}", language.title, missing.join("\n"))));
    }
    let (program, arguments) = language.command.split_first().expect("a build is a command");
    let status = Command::new(program).args(arguments).current_dir(folder).stdin(Stdio::null()).status();
    let status = status.map_err(ToolError::file(Path::new(program)))?;
    if !status.success() {
        return Err(ToolError::Missing(format!("`{}` has failed: {status}", language.command.join(" "))));
    }
    let path = newest(folder).ok_or_else(|| {
        let command = language.command.join(" ");
        ToolError::Missing(format!("`{command}` has made no component in {}", folder.display()))
    })?;
    let component = of_file(&path)?;
    let plugin = runtime(None, cache)?.load(&component.bytes);
    let plugin = plugin.map_err(|error| ToolError::Load { origin: component.origin.clone(), error })?;
    Ok(Built { path, size: component.bytes.len(), hooks: plugin.hooks().iter().map(Hook::name).collect() })
}

fn is_there(tool: &Tool) -> bool {
    let Some((program, arguments)) = tool.probe.split_first() else { return true };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.is_ok_and(|output| {
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_folder = printed.starts_with('/');
        output.status.success() && printed.contains(tool.prints) && (!is_folder || Path::new(printed.trim()).exists())
    })
}

fn told(tool: &Tool) -> String {
    format!("  {} is missing: {}", tool.name, tool.get)
}
