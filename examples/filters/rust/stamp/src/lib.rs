//! Sets a request header to a value of the config.

use sluice_filter::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    header: String,
    value: String,
}

impl Filter for Stamp {
    type Config = Self;
    fn new(config: Self, _: &mut Setup) -> Result<Self, ConfigError> {
        Ok(config)
    }
}

impl OnRequest for Stamp {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        request.set_header(&self.header, &self.value)?;
        Ok(Verdict::Continue)
    }
}

sluice_filter::export!(Stamp: OnRequest);

#[cfg(test)]
mod tests {
    use sluice_filter::testing::{Exchange, Harness};

    use super::*;

    #[test]
    fn stamps() {
        let config = r#"{"header": "x-stamp", "value": "grün"}"#;
        let filter = Harness::<Stamp>::new(config.parse().expect("JSON")).expect("a good config");
        let mut exchange = Exchange::get("/");
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        assert_eq!(exchange.request.headers.get("x-stamp"), Some("grün"));
    }
}
