//! `PUT /api/v1/routes/{name}/weights`: moves traffic between the upstreams of a route, for a release or a way back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::Call;
use super::problem::Problem;
use crate::control::{Weights, WeightsChange, WeightsError};

/// What is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedWeights {
    /// A weight for each upstream of the route.
    weights: Weights,
    /// Whether to write them into the configuration file, too. Its comments and all else in it stay.
    #[serde(default)]
    save: bool,
}

/// What was done.
#[derive(Serialize, JsonSchema)]
pub(super) struct ChangedWeights {
    route: String,
    before: Weights,
    weights: Weights,
    /// The configuration file has them.
    saved: bool,
    /// How long they hold.
    note: String,
}

pub(super) async fn put(call: Call, wanted: WantedWeights) -> Result<ChangedWeights, Problem> {
    let Call { control, config_file, name, client, .. } = call;
    let route = name.clone();
    let change = move || {
        let file = wanted.save.then_some(config_file.as_path());
        control.set_weights(&route, wanted.weights, file, client)
    };
    let changed = tokio::task::spawn_blocking(change).await;
    let changed = changed.map_err(|_| Problem::internal("the weights can't be changed; the log says why"))?;
    let WeightsChange { before, after, saved } = changed.map_err(|error| problem(&name, &error))?;
    let note = match &saved {
        Some(file) => format!("written to `{}`: they hold from now on", file.display()),
        None => "not saved: they hold until the next reload or restart, which goes by the file".to_owned(),
    };
    Ok(ChangedWeights { route: name, before, weights: after, saved: saved.is_some(), note })
}

fn problem(route: &str, error: &WeightsError) -> Problem {
    let detail = crate::chain(error);
    match error {
        WeightsError::UnknownRoute(_) => Problem::unknown("route", route),
        WeightsError::NoSplit(_)
        | WeightsError::OtherUpstreams(_)
        | WeightsError::AllZero
        | WeightsError::TooLarge(_) => Problem::unprocessable(detail),
        WeightsError::FileChanged | WeightsError::Edit(_) => Problem::conflict(detail),
        WeightsError::Write(..) => Problem::internal(detail),
    }
}
