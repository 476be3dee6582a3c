//! `sluice plugin`: tools for authors of filters. They run components with the code that serves requests: the same engine, host functions,
//! pools and pipelines, without a socket. Nothing here prints; `main` does.

pub mod bench;
pub mod build;
pub mod check;
mod compare;
mod component;
pub mod docs;
mod exchange;
mod foreseen;
mod host_calls;
mod inspect;
mod junit;
mod languages;
pub mod new;
mod report;
mod run;
mod seen;
mod test;
#[cfg(test)]
mod tests;
mod update;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::compare::Failure;
pub use self::component::{Component, find};
pub use self::inspect::described;
pub use self::junit::junit;
pub use self::report::{json, text};
pub use self::run::CaseResult;
pub use self::test::{Selection, Summary, case_files, changed, test};
pub use self::update::update;

use crate::config::ConfigErrors;
use crate::filter::{LoadError, Runtime};
use crate::services::log_limit::visible;
use crate::wasm::{Observer, RuntimeError, RuntimeOptions};

/// Instances that there is room for: cases run one after the other.
const INSTANCES: u32 = 100;

/// Why a tool can't do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{origin}: {}", visible(&error.to_string()))]
    Load { origin: String, error: LoadError },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("can't start")]
    Start(#[source] io::Error),
    #[error("{0}")]
    Missing(String),
}

impl ToolError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> ToolError {
        let path = path.to_owned();
        move |source| ToolError::File { path, source }
    }
}

/// An engine for cases. With an observer it counts instructions, and is slower.
fn runtime(observer: Option<Arc<Observer>>, cache: Option<PathBuf>) -> Result<Arc<Runtime>, ToolError> {
    Ok(Runtime::new(RuntimeOptions { instances: INSTANCES, cache, observer, ..RuntimeOptions::default() })?)
}
