//! What a component exports and says of itself, for programs.

use serde_json::{Value as Json, json};

use crate::filter::Plugin;

/// All that `sluice plugin inspect` shows.
pub fn described(plugin: &Plugin, size: usize) -> Json {
    let about = plugin.description();
    let hooks: Vec<_> = plugin.hooks().iter().map(|hook| hook.name()).collect();
    json!({
        "name": about.name, "version": about.version, "description": about.description, "sha256": plugin.sha256(),
        "size": size, "interface": format!("sluice:filter@{}", plugin.interface_version()), "hooks": hooks,
        "imports": plugin.imports(), "waits": plugin.waits(), "called_directly": plugin.not_direct().is_none(),
        "why_not_directly": plugin.not_direct(), "authenticates": about.authenticates, "grants": about.grants,
        "config": about.config, "docs": about.docs,
    })
}
