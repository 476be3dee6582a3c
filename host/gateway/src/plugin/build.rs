//! `sluice plugin build`: runs the known build of a project's language, and looks at what comes out.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::component::{newest, of_file};
use super::languages::{Language, Tool, names, of_project};
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
    run(language, folder, &found(language, folder)?)?;
    let path = newest(folder).ok_or_else(|| {
        let command = language.command.join(" ");
        ToolError::Missing(format!("`{command}` has made no component in {}", folder.display()))
    })?;
    let component = of_file(&path)?;
    let plugin = runtime(None, cache)?.load(&component.bytes);
    let plugin = plugin.map_err(|error| ToolError::Load { origin: component.origin.clone(), error })?;
    Ok(Built { path, size: component.bytes.len(), hooks: plugin.hooks().iter().map(Hook::name).collect() })
}

/// The variables that tell the build which programs there are. `Err` says all that is missing.
fn found(language: &Language, folder: &Path) -> Result<Vec<(&'static str, OsString)>, ToolError> {
    let mut variables = Vec::new();
    let mut missing = Vec::new();
    for tool in language.tools {
        let set = tool.variable.and_then(env::var_os).filter(|value| !value.is_empty());
        match (find(tool, folder), tool.variable) {
            // The user knows better.
            (_, Some(variable)) if set.is_some() => variables.extend(set.map(|value| (variable, value))),
            (Some(program), Some(variable)) => variables.push((variable, program)),
            (Some(_), None) => {}
            (None, _) => missing.push(format!("  {} is missing: {}", tool.name, tool.get)),
        }
    }
    if missing.is_empty() {
        return Ok(variables);
    }
    Err(ToolError::Missing(format!("a build in {} needs more:\n{}", language.title, missing.join("\n"))))
}

/// The first program that will do, with its own arguments. What lies beside this program goes before what the search path has.
fn find(tool: &Tool, folder: &Path) -> Option<OsString> {
    let own = env::current_exe().unwrap_or_default();
    tool.programs.iter().find_map(|words| {
        let (name, arguments) = words.split_first()?;
        let beside = own.with_file_name(name);
        let program = if beside.is_file() { beside.into_os_string() } else { OsString::from(name) };
        let mut command = Command::new(&program);
        command.args(arguments).args(tool.probe).current_dir(folder).stdin(Stdio::null());
        let output = command.output().ok()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let path = Path::new(printed.trim());
        let will_do = output.status.success() && (!tool.prints_path || (path.is_absolute() && path.exists()));
        will_do.then(|| {
            arguments.iter().fold(program, |mut all, argument| {
                all.push(" ");
                all.push(argument);
                all
            })
        })
    })
}

fn run(language: &Language, folder: &Path, variables: &[(&'static str, OsString)]) -> Result<(), ToolError> {
    let (program, arguments) = language.command.split_first().expect("a build is a command");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).envs(variables.iter().cloned());
    let status = command.status().map_err(ToolError::file(Path::new(program)))?;
    if !status.success() {
        return Err(ToolError::Missing(format!("`{}` has failed: {status}", language.command.join(" "))));
    }
    Ok(())
}
