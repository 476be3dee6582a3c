//! The smallest useful filter: copies a request header and sets a response header.

use sluice_filter::prelude::*;

/// The filter's table in `gateway.toml` is the filter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    copy_from: String,
    copy_to: String,
    response_header: String,
    response_value: String,
}

impl Filter for Header {
    type Config = Self;
    fn new(config: Self, _: &mut Setup) -> Result<Self, ConfigError> {
        Ok(config)
    }
}

impl OnRequest for Header {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        if let Some(value) = request.header(&self.copy_from)? {
            request.set_header(&self.copy_to, &value)?;
        }
        Ok(Verdict::Continue)
    }
}

impl OnResponse for Header {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        response.set_header(&self.response_header, &self.response_value)?;
        Ok(Verdict::Continue)
    }
}

sluice_filter::export!(Header: OnRequest, OnResponse);

#[cfg(test)]
mod tests {
    use sluice_filter::testing::{Exchange, Harness, ResponseMessage};

    use super::*;

    #[test]
    fn copies_and_sets() {
        let config = r#"{"copy_from": "x-in", "copy_to": "x-out", "response_header": "x-gw", "response_value": "1"}"#;
        let filter = Harness::<Header>::new(config.parse().unwrap()).unwrap();
        let mut exchange = Exchange::get("/").header("x-in", "a");
        assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
        assert_eq!(exchange.request.headers.get("x-out"), Some("a"));
        exchange.respond(ResponseMessage::new(200));
        assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
        assert_eq!(exchange.response.headers.get("x-gw"), Some("1"));
    }
}
