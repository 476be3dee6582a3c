//! `interest`, `log`, `clock` and `random`: what needs no exchange.

use wasmtime::Result as Outcome;

use super::{Interfaces, invalid};
use crate::abi::define::Define;
use crate::abi::{List, Str};
use crate::bindings::{Error, log};
use crate::call::state::{CallState, Stage};
use crate::filter::{BodyInterest, Hook, HookSet, MediaInterest, MediaPattern};
use sluice_services::log_limit;

/// Content types that a filter may list.
const MAX_TYPES: usize = 64;
/// Bytes of what a filter says it needs.
const MAX_NEEDS: usize = 64 << 10;

impl CallState {
    fn body_interest(&self, hook: Hook, max_bytes: u64, types: &[&str]) -> Result<BodyInterest, Error> {
        let types = self.media_interest(hook, types)?;
        Ok(BodyInterest { max_bytes: max_bytes.min(self.shared.limits.max_body), asked_bytes: max_bytes, types })
    }

    fn media_interest(&self, hook: Hook, types: &[&str]) -> Result<MediaInterest, Error> {
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
            |text: &&str| MediaPattern::parse(text).ok_or_else(|| invalid(format!("`{text}` is not a content type")));
        types.iter().map(parse).collect::<Result<_, _>>().map(MediaInterest)
    }
}

/// Defines `interest`, `log`, `clock` and `random`.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    interest_functions(&mut linker.interface("interest")?)?;
    log_functions(&mut linker.interface("log")?)?;
    clock_functions(&mut linker.interface("clock")?)?;
    random_functions(&mut linker.interface("random")?)
}

fn interest_functions(at: &mut impl Define) -> Outcome<()> {
    at.function::<(Str, bool), _>("hook", |state, (name, wanted)| Ok(state.want_hook(name, wanted)))?;
    at.function::<(u64, List<Str>), _>("request-body", |state, (most, types)| {
        let interest = state.body_interest(Hook::OnRequestBody, most, &types);
        Ok(interest.map(|interest| state.interests.request_body = Some(interest)))
    })?;
    at.function::<(u64, List<Str>), _>("response-body", |state, (most, types)| {
        let interest = state.body_interest(Hook::OnResponseBody, most, &types);
        Ok(interest.map(|interest| state.interests.response_body = Some(interest)))
    })?;
    at.function::<(List<Str>,), _>("request-chunks", |state, (types,)| {
        let interest = state.media_interest(Hook::OnRequestChunk, &types);
        Ok(interest.map(|interest| state.interests.request_chunks = Some(interest)))
    })?;
    at.function::<(List<Str>,), _>("response-chunks", |state, (types,)| {
        let interest = state.media_interest(Hook::OnResponseChunk, &types);
        Ok(interest.map(|interest| state.interests.response_chunks = Some(interest)))
    })?;
    at.function::<(List<Str>,), _>("response-events", |state, (types,)| {
        let interest = state.media_interest(Hook::OnResponseEvent, &types);
        Ok(interest.map(|interest| state.interests.response_events = Some(interest)))
    })?;
    at.function::<(Str,), _>("needs", |state, (grants,)| Ok(state.need(grants)))
}

fn log_functions(at: &mut impl Define) -> Outcome<()> {
    at.procedure::<(log::Level, Str)>("log", |state, (level, message)| {
        state.log(to_tracing(level), message);
        Ok(())
    })?;
    at.function::<(log::Level,), _>("enabled", |state, (level,)| Ok(state.is_logged(level)))?;
    at.procedure::<(Str,)>("fail", |state, (reason,)| {
        state.failed.get_or_insert_with(|| log_limit::cut(reason).to_owned());
        Ok(())
    })
}

fn clock_functions(at: &mut impl Define) -> Outcome<()> {
    at.function::<(), _>("now-us", |state, ()| Ok(state.since_epoch().as_micros() as u64))?;
    at.function::<(), _>("monotonic-ns", |state, ()| Ok(state.monotonic_ns()))
}

fn random_functions(at: &mut impl Define) -> Outcome<()> {
    at.function::<(u32,), _>("bytes", |state, (length,)| {
        Ok(state.hook(HookSet::ALL).and_then(|_| Ok(state.random().bytes(length)?)))
    })?;
    at.function::<(), _>("number", |state, ()| {
        Ok(state.hook(HookSet::ALL).and_then(|_| Ok(state.random().number()?)))
    })
}

impl CallState {
    fn need(&mut self, grants: &str) -> Result<(), Error> {
        if self.stage != Stage::Configure {
            return Err(Error::WrongHook);
        }
        if grants.len() > MAX_NEEDS {
            return Err(Error::TooLarge(MAX_NEEDS as u64));
        }
        let table: serde_json::Map<_, _> =
            serde_json::from_str(grants).map_err(|error| invalid(format!("not a JSON object: {error}")))?;
        self.interests.needs = Some(table.into());
        Ok(())
    }

    fn want_hook(&mut self, name: &str, wanted: bool) -> Result<(), Error> {
        if self.stage != Stage::Configure {
            return Err(Error::WrongHook);
        }
        let hook = Hook::from_name(name).ok_or_else(|| invalid(format!("`{name}` is not a hook")))?;
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

    fn is_logged(&self, level: log::Level) -> bool {
        match &self.shared.observer {
            Some(observer) => observer.hears(to_tracing(level)),
            None => is_logged(level),
        }
    }
}

fn is_logged(level: log::Level) -> bool {
    match level {
        log::Level::Trace => tracing::enabled!(target: "sluice::filter", tracing::Level::TRACE),
        log::Level::Debug => tracing::enabled!(target: "sluice::filter", tracing::Level::DEBUG),
        log::Level::Info => tracing::enabled!(target: "sluice::filter", tracing::Level::INFO),
        log::Level::Warn => tracing::enabled!(target: "sluice::filter", tracing::Level::WARN),
        log::Level::Error => tracing::enabled!(target: "sluice::filter", tracing::Level::ERROR),
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
