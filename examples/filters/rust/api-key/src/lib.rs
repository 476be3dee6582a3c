//! Admits callers with an API key of the config, and says who they are.

use std::collections::HashMap;

use sluice_filter::{metrics, prelude::*};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    keys: HashMap<String, Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    account: i64,
}

impl Filter for ApiKey {
    type Config = Self;
    fn new(config: Self, _: &mut Setup) -> Result<Self, ConfigError> {
        Ok(config)
    }
}

impl OnRequest for ApiKey {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let Some(given) = request.header("x-api-key")? else {
            return refuse("key-missing", "an API key is needed");
        };
        let Some(key) = self.keys.get(&given) else {
            return refuse("key-unknown", "the API key is not valid");
        };
        context::set_consumer(&key.name)?;
        context::set("api-key.account", key.account)?;
        Ok(Verdict::Continue)
    }
}

fn refuse(reason: &str, detail: &str) -> Result<Verdict, Error> {
    metrics::count("refused", &[("reason", reason)], 1)?;
    let draft = Problem::new(401, "Unauthorized").detail(detail).draft().reason(reason);
    draft.header("www-authenticate", "ApiKey").send()
}

sluice_filter::export!(ApiKey: OnRequest);
