//! `interest`, `log`, `clock` and `random`: what needs no exchange.

use super::super::bindings::{Error, clock, interest, log, random};
use super::super::interest::{BodyInterest, MediaPattern};
use super::super::state::{CallState, Stage};
use super::super::{Hook, wasi};
use super::{anywhere, invalid};
use crate::services::log_limit;

/// Content types that a filter may list.
const MAX_TYPES: usize = 64;

impl CallState {
    fn body_interest(&self, hook: Hook, max_bytes: u64, types: &[String]) -> Result<BodyInterest, Error> {
        if self.stage != Stage::Configure {
            return Err(Error::WrongHook);
        }
        self.see_bodies()?;
        if !self.shared.exports.contains(hook) {
            return Err(invalid(format!("this component does not export {hook}")));
        }
        if types.len() > MAX_TYPES {
            return Err(Error::TooLarge(MAX_TYPES as u64));
        }
        let parse =
            |text: &String| MediaPattern::parse(text).ok_or_else(|| invalid(format!("`{text}` is not a content type")));
        let types = types.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(BodyInterest { max_bytes: max_bytes.min(self.shared.limits.max_body), types })
    }
}

impl interest::Host for CallState {
    fn hook(&mut self, name: String, wanted: bool) -> Result<(), Error> {
        if self.stage != Stage::Configure {
            return Err(Error::WrongHook);
        }
        let hook = Hook::from_name(&name).ok_or_else(|| invalid(format!("`{name}` is not a hook")))?;
        if !self.shared.exports.contains(hook) {
            return Err(invalid(format!("this component does not export {hook}")));
        }
        if wanted {
            self.interests.off.remove(hook);
        } else {
            self.interests.off.insert(hook);
        }
        Ok(())
    }

    fn request_body(&mut self, max_bytes: u64, content_types: Vec<String>) -> Result<(), Error> {
        self.interests.request_body = Some(self.body_interest(Hook::OnRequestBody, max_bytes, &content_types)?);
        Ok(())
    }

    fn response_body(&mut self, max_bytes: u64, content_types: Vec<String>) -> Result<(), Error> {
        self.interests.response_body = Some(self.body_interest(Hook::OnResponseBody, max_bytes, &content_types)?);
        Ok(())
    }
}

impl log::Host for CallState {
    fn log(&mut self, level: log::Level, message: String) {
        CallState::log(self, to_tracing(level), &message);
    }

    fn enabled(&mut self, level: log::Level) -> bool {
        match level {
            log::Level::Trace => tracing::enabled!(target: "sluice::filter", tracing::Level::TRACE),
            log::Level::Debug => tracing::enabled!(target: "sluice::filter", tracing::Level::DEBUG),
            log::Level::Info => tracing::enabled!(target: "sluice::filter", tracing::Level::INFO),
            log::Level::Warn => tracing::enabled!(target: "sluice::filter", tracing::Level::WARN),
            log::Level::Error => tracing::enabled!(target: "sluice::filter", tracing::Level::ERROR),
        }
    }

    fn fail(&mut self, reason: String) {
        self.failed.get_or_insert_with(|| log_limit::cut(&reason).to_owned());
    }
}

fn to_tracing(level: log::Level) -> tracing::Level {
    match level {
        log::Level::Trace => tracing::Level::TRACE,
        log::Level::Debug => tracing::Level::DEBUG,
        log::Level::Info => tracing::Level::INFO,
        log::Level::Warn => tracing::Level::WARN,
        log::Level::Error => tracing::Level::ERROR,
    }
}

impl clock::Host for CallState {
    fn now_us(&mut self) -> u64 {
        wasi::since_epoch().as_micros() as u64
    }

    fn monotonic_ns(&mut self) -> u64 {
        wasi::monotonic_ns()
    }
}

impl random::Host for CallState {
    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, Error> {
        self.hook(anywhere)?;
        Ok(crate::services::random::bytes(length)?)
    }

    fn number(&mut self) -> Result<u64, Error> {
        self.hook(anywhere)?;
        Ok(crate::services::random::number()?)
    }
}
