//! Hides members of JSON response bodies, by their names.

use sluice_filter::{prelude::*, serde_json, serde_json::Value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redact {
    fields: Vec<String>,
}

impl Filter for Redact {
    type Config = Self;
    fn new(config: Self, setup: &mut Setup) -> Result<Self, ConfigError> {
        setup.response_body(1 << 20, &["application/json"])?;
        Ok(config)
    }
}

impl OnResponseBody for Redact {
    fn on_response_body(&self, response: &Response) -> Result<Verdict, Error> {
        let Ok(mut body) = serde_json::from_slice::<Value>(&response.body()?) else {
            let problem = Problem::new(502, "Bad Gateway").detail("the upstream's answer is not JSON");
            return problem.draft().reason("not-json").send();
        };
        self.hide(&mut body);
        response.set_body(body.to_string())?;
        Ok(Verdict::Continue)
    }
}

impl Redact {
    fn hide(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide(item)),
            Value::Object(members) => {
                for (name, member) in members {
                    if self.fields.contains(name) { *member = "[redacted]".into() } else { self.hide(member) }
                }
            }
            _ => {}
        }
    }
}

sluice_filter::export!(Redact: OnResponseBody);
