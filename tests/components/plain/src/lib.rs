//! A filter of the SDK without a config. It says that it needs grants, one of which there is not, and panics without its service.
#![allow(clippy::unwrap_used, reason = "a refusal should trap")]

use sluice_filter::{kv, prelude::*};

struct Plain;

impl Filter for Plain {
    type Config = ();

    fn new((): (), _: &mut Setup) -> Result<Self, ConfigError> {
        Ok(Plain)
    }

    fn describe() -> Describe {
        Describe {
            grants: Some(
                r#"{"kv": ["sessions"], "http": ["https://auth.test"], "secrets": {"token": "of the service"}, "files": ["/etc"]}"#,
            ),
            ..Describe::default()
        }
    }
}

impl OnRequest for Plain {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        kv::set("sessions", "last", b"x", None).unwrap();
        request.set_header("x-plain", "1")?;
        Ok(Verdict::Continue)
    }
}

sluice_filter::export!(Plain: OnRequest);
