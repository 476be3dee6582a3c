//! Filters: named uses of a plugin, in the order of a pipeline. What a verdict or a failure means for an exchange is decided here; how
//! a component is called is in `wasm`.

mod body;
mod chain;
mod complete;
mod flow;
mod groups;
mod pieces;
mod pipeline;
mod turns;
mod verdict;

use std::sync::Arc;

pub use body::{BodyFailure, BodySource, BodySourceError};
pub use chain::{FilterFailure, RequestOutcome, ResponseOutcome};
pub use complete::CompleteQueue;
pub use flow::Flow;
pub(crate) use pieces::TURN;
pub use pieces::{PieceOutcome, PiecesError};
pub use pipeline::{LocalPipeline, Pipeline, PipelineError, Traversal, WorkerFilters};

pub use crate::config::model::{FailurePolicy, Step};
pub use crate::wasm::{
    FilterError, FilterLimits, FilterStats, Grants, HeaderGrant, Hook, HookSet, Interests, LoadError, Mode, Plugin,
    Runtime,
};

use crate::services::log_limit::LogLimit;
use crate::services::{KeySet, Services};
use crate::wasm::{Program, ProgramSpec};

/// What a filter is made of.
pub struct FilterSpec {
    pub name: Arc<str>,
    pub plugin: Arc<Plugin>,
    /// The name of the plugin in the configuration: counters and values are private to it.
    pub plugin_name: Arc<str>,
    /// The JSON text of the filter's config table; `{}` when there is none.
    pub config: String,
    pub failure: FailurePolicy,
    pub mode: Mode,
    pub limits: FilterLimits,
    pub grants: Grants,
    pub services: Arc<Services>,
    /// The file of the plugin, which a fresh filter needs to start quickly.
    pub component: Option<Arc<[u8]>>,
}

/// A filter that has taken its config. Shared by all workers.
pub struct Filter {
    pub(crate) program: Arc<Program>,
    failure: FailurePolicy,
    hooks: HookSet,
    plugin_name: Arc<str>,
    /// So that a filter that fails for every exchange doesn't fill the log.
    failure_log: LogLimit,
}

impl Filter {
    /// Tries the config on an instance. `LoadError::Refused` has the filter's own message. Slow: not for a worker, and not
    /// within an async runtime.
    pub fn new(spec: FilterSpec) -> Result<Arc<Filter>, LoadError> {
        let program = Program::new(
            spec.plugin,
            ProgramSpec {
                name: spec.name,
                config: spec.config,
                mode: spec.mode,
                limits: spec.limits,
                grants: spec.grants,
                plugin: spec.plugin_name.clone(),
                services: spec.services,
                component: spec.component,
            },
        )?;
        let off = program.interests().off;
        let hooks = program.plugin().hooks().iter().filter(|hook| !off.contains(*hook)).collect();
        Ok(Arc::new(Filter {
            program: Arc::new(program),
            failure: spec.failure,
            hooks,
            plugin_name: spec.plugin_name,
            failure_log: LogLimit::default(),
        }))
    }

    pub fn name(&self) -> &Arc<str> {
        self.program.name()
    }

    /// The name of its plugin in the configuration.
    pub fn plugin_name(&self) -> &Arc<str> {
        &self.plugin_name
    }

    pub fn plugin(&self) -> &Arc<Plugin> {
        self.program.plugin()
    }

    /// The key sets that it verifies with.
    pub fn key_sets(&self) -> &[Arc<KeySet>] {
        self.program.key_sets()
    }

    pub fn failure(&self) -> FailurePolicy {
        self.failure
    }

    /// The hooks it is called for: exported and not switched off.
    pub fn hooks(&self) -> HookSet {
        self.hooks
    }

    /// What it needs to be granted, as a `grants` table: by its config if it says so, else as its plugin says for all.
    pub fn needs(&self) -> Option<&serde_json::Value> {
        let own = self.program.interests().needs.as_ref();
        own.or(self.plugin().description().grants.as_ref())
    }

    /// What it has asked for when it took its config.
    pub fn interests(&self) -> &Interests {
        self.program.interests()
    }

    /// What was odd when its hooks were tried at load.
    pub fn warnings(&self) -> &[String] {
        self.program.warnings()
    }

    /// Hooks that failed when they were tried at load, and how.
    pub fn trial_failures(&self) -> &[String] {
        self.program.trial_failures()
    }

    /// It goes live. Makes an instance for the first call of a worker, if that is worth it and there is time, and says whether. Slow: not for a
    /// worker, and not within an async runtime.
    pub fn prewarm(&self, is_time: bool) -> Result<bool, FilterError> {
        self.program.prewarm(is_time)
    }

    /// What calls of filters of this name have cost since the start of the process.
    pub fn stats(&self) -> FilterStats {
        self.program.stats()
    }
}

#[cfg(test)]
mod tests;
