//! Plugins and filters.

use std::path::PathBuf;

use super::{Name, Secret};
use crate::services::state::{Limits, Values};
use crate::wasm::{CallMode, FilterLimits, Grants, Mode};

/// A component file.
#[derive(Debug, Clone)]
pub struct Plugin {
    pub name: Name,
    /// None: `NAME.wasm` in `Gateway::plugin_dir`, or else the embedded one.
    pub file: Option<PathBuf>,
    /// What the file has to hash to.
    pub sha256: Option<[u8; 32]>,
    pub call: CallMode,
    /// None: in the memory of each gateway.
    pub state: Option<PluginState>,
}

/// Where the limits and values of a plugin are.
#[derive(Debug, Clone)]
pub struct PluginState {
    /// A name in `Config::states`.
    pub name: Name,
    pub limits: Limits,
    pub values: Values,
}

/// A named use of a plugin. Mode, limits and grants are its own, else those of the plugin, else the defaults.
#[derive(Debug, Clone)]
pub struct Filter {
    pub name: Name,
    /// A name in `Config::plugins`.
    pub plugin: Name,
    /// JSON text of its config table, in the order of the file; `{}` without one.
    pub config: Secret,
    pub on_error: FailurePolicy,
    pub on_failed_trial: TrialPolicy,
    pub mode: Mode,
    pub limits: FilterLimits,
    pub grants: Grants,
}

/// What becomes of an exchange when a filter gives no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailurePolicy {
    /// The exchange gets an error.
    #[default]
    Closed,
    /// As if the filter were not there, for the rest of that exchange.
    Open,
}

/// What becomes of a configuration in which a hook of a filter fails in the trial at load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialPolicy {
    /// It is refused.
    Refuse,
    /// It is loaded, with a warning.
    Warn,
}
