//! Scripts: called by their hash, and sent whole where the store does not know them.

use std::sync::Arc;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use redis::{Cmd, ToRedisArgs, Value};

use super::store::{CallError, Store};

/// A script, and the hash by which a store knows it.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Script {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        Script { text, hash: HEXLOWER.encode(digest.as_ref()) }
    }

    /// Runs it, for a request or behind the requests. A store that has been emptied or restarted does not know it: then once more, with its
    /// text, and within the same time.
    pub(super) async fn run<K: ToRedisArgs, A: ToRedisArgs>(
        &self,
        store: &Arc<Store>,
        behind: bool,
        keys: &[K],
        arguments: &[A],
    ) -> Result<Value, CallError> {
        let command = |kind: &str, script: &str| -> Cmd {
            let mut command = redis::cmd(kind);
            command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
            command
        };
        let until = store.deadline(behind);
        match store.call(&command("EVALSHA", &self.hash), until, behind).await {
            Err(CallError::NoScript) => store.call(&command("EVAL", self.text), until, behind).await,
            answer => answer,
        }
    }
}
