//! `state` and `context`: what a filter keeps for its later hooks, and what it hands to other filters.

use bytes::Bytes;

use super::super::bindings::{Error, context, state};
use super::super::state::CallState;
use super::{anywhere, before_completion, invalid};
use crate::exchange::{ContextError, Value};

/// Bytes of a filter's private slot.
const MAX_STATE: usize = 64 << 10;
/// Bytes of a consumer's name.
const MAX_CONSUMER: usize = 1024;

impl state::Host for CallState {
    fn get(&mut self) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.exchange(anywhere)?.state(self.index).map(|bytes| bytes.to_vec()))
    }

    fn set(&mut self, value: Vec<u8>) -> Result<(), Error> {
        let index = self.index;
        let exchange = self.exchange_mut(anywhere)?;
        if value.len() > MAX_STATE {
            return Err(Error::TooLarge(MAX_STATE as u64));
        }
        exchange.set_state(index, Bytes::from(value));
        Ok(())
    }
}

impl context::Host for CallState {
    fn get(&mut self, key: String) -> Result<Option<context::Value>, Error> {
        Ok(self.exchange(anywhere)?.context.entry(&key).map(|entry| to_guest(entry.value.clone())))
    }

    fn get_path(&mut self, key: String, path: Vec<String>) -> Result<Option<context::Value>, Error> {
        Ok(self.exchange(anywhere)?.context.path(&key, &path).map(to_guest))
    }

    fn set(&mut self, key: String, value: context::Value) -> Result<(), Error> {
        let writer = self.shared.name.clone();
        let exchange = self.exchange_mut(before_completion)?;
        exchange.set_context(&key, from_guest(value), writer).map_err(|error| match error {
            ContextError::TooLarge(limit) => Error::TooLarge(limit),
            error @ ContextError::Json { .. } => invalid(error.to_string()),
        })
    }

    fn writer(&mut self, key: String) -> Result<Option<String>, Error> {
        Ok(self.exchange(anywhere)?.context.entry(&key).map(|entry| entry.writer.to_string()))
    }

    fn consumer(&mut self) -> Result<Option<String>, Error> {
        Ok(self.exchange(anywhere)?.context.consumer().map(|name| name.to_string()))
    }

    fn set_consumer(&mut self, name: String) -> Result<(), Error> {
        let exchange = self.exchange_mut(before_completion)?;
        if name.len() > MAX_CONSUMER {
            return Err(Error::TooLarge(MAX_CONSUMER as u64));
        }
        exchange.set_consumer(name.into());
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
