//! `state` and `context`: what a filter keeps for its later hooks, and what it hands to other filters.

use wasmtime::Result as Outcome;

use super::{Interfaces, invalid};
use crate::abi::define::Define;
use crate::abi::{Bytes, List, Str};
use crate::bindings::{Error, context};
use crate::call::state::CallState;
use crate::exchange::{Caller, ContextError, Value, entry_bytes};
use crate::filter::HookSet;

/// Bytes of a filter's private slot.
const MAX_STATE: usize = 64 << 10;
/// Bytes of a consumer's name.
const MAX_CONSUMER: usize = 1024;

/// Defines `state` and `context`.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    state_functions(&mut linker.interface("state")?)?;
    context_functions(&mut linker.interface("context")?)
}

fn state_functions(at: &mut impl Define) -> Outcome<()> {
    at.function::<(), _>("get", |state, ()| Ok(state.slot()))?;
    at.function::<(Bytes,), _>("set", |state, (value,)| Ok(state.set_slot(value)))
}

fn context_functions(at: &mut impl Define) -> Outcome<()> {
    at.function::<(Str,), _>("get", |state, (key,)| Ok(state.fact(key)))?;
    at.function::<(Str, List<Str>), _>("get-path", |state, (key, path)| Ok(state.part_of_fact(key, &path)))?;
    at.function::<(Str, context::Value), _>("set", |state, (key, value)| Ok(state.set_fact(key, value)))?;
    at.function::<(Str,), _>("writer", |state, (key,)| Ok(state.writer(key)))?;
    at.function::<(), _>("consumer", |state, ()| Ok(state.consumer()))?;
    at.function::<(Str,), _>("set-consumer", |state, (name,)| Ok(state.set_consumer(name)))
}

impl CallState {
    fn slot(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.exchange(HookSet::ALL)?.state(self.index).map(|bytes| bytes.to_vec()))
    }

    fn set_slot(&mut self, value: &[u8]) -> Result<(), Error> {
        let index = self.index;
        self.hook(HookSet::ALL)?;
        if value.len() > MAX_STATE {
            return Err(Error::TooLarge(MAX_STATE as u64));
        }
        self.keep(value.len())?;
        self.exchange_mut(HookSet::ALL)?.set_state(index, bytes::Bytes::copy_from_slice(value));
        Ok(())
    }

    fn fact(&self, key: &str) -> Result<Option<context::Value>, Error> {
        Ok(self.exchange(HookSet::ALL)?.context.entry(key).map(|entry| to_guest(entry.value.clone())))
    }

    fn part_of_fact(&mut self, key: &str, path: &[&str]) -> Result<Option<context::Value>, Error> {
        self.hook(HookSet::ALL)?;
        let exchange = self.exchange.as_deref_mut().ok_or(Error::WrongHook)?;
        let part = exchange.context_path(key, path, &self.shared.budget);
        Ok(part.map_err(|_| self.lack_memory())?.map(to_guest))
    }

    fn set_fact(&mut self, key: &str, value: context::Value) -> Result<(), Error> {
        let writer = self.shared.name.clone();
        let value = from_guest(value);
        self.hook(HookSet::CONTEXT_WRITES)?;
        // Once as the key of the undo record.
        self.keep(entry_bytes(key, &value) + key.len())?;
        let exchange = self.exchange_mut(HookSet::CONTEXT_WRITES)?;
        exchange.set_context(key, value, writer).map_err(|error| match error {
            ContextError::TooLarge(limit) => Error::TooLarge(limit),
            error @ ContextError::Json { .. } => invalid(error.to_string()),
        })
    }

    fn writer(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.exchange(HookSet::ALL)?.context.entry(key).map(|entry| entry.writer.to_string()))
    }

    fn consumer(&self) -> Result<Option<String>, Error> {
        Ok(self.exchange(HookSet::ALL)?.context.consumer().map(|name| name.to_string()))
    }

    fn set_consumer(&mut self, name: &str) -> Result<(), Error> {
        self.hook(HookSet::CONTEXT_WRITES)?;
        if name.len() > MAX_CONSUMER {
            return Err(Error::TooLarge(MAX_CONSUMER as u64));
        }
        self.keep(name.len())?;
        self.exchange_mut(HookSet::CONTEXT_WRITES)?.set_caller(Caller { name: name.into(), known: None });
        Ok(())
    }
}

fn to_guest(value: Value) -> context::Value {
    match value {
        Value::Text(text) => context::Value::Text(text),
        Value::Integer(number) => context::Value::Integer(number),
        Value::Float(number) => context::Value::Float(number),
        Value::Boolean(truth) => context::Value::Boolean(truth),
        Value::Texts(texts) => context::Value::Texts(texts),
        Value::Json(json) => context::Value::Json(json),
    }
}

fn from_guest(value: context::Value) -> Value {
    match value {
        context::Value::Text(text) => Value::Text(text),
        context::Value::Integer(number) => Value::Integer(number),
        context::Value::Float(number) => Value::Float(number),
        context::Value::Boolean(truth) => Value::Boolean(truth),
        context::Value::Texts(texts) => Value::Texts(texts),
        context::Value::Json(json) => Value::Json(json),
    }
}
