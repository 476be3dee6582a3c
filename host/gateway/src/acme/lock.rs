//! The lock of an order in a state: one gateway orders, and when it dies the lock ends soon.

use std::time::Duration;

use tokio::time::sleep;

use super::sharing::new_holder;
use crate::services::state::{RecordError, Records};

/// How long a lock outlives its holder.
const LIFE: Duration = Duration::from_secs(60);
const HOLD_EVERY: Duration = Duration::from_secs(15);

pub(super) struct Lock<'a> {
    records: &'a Records,
    name: String,
    holder: String,
}

impl<'a> Lock<'a> {
    /// None: another gateway has it.
    pub(super) async fn take(records: &'a Records, what: &str) -> Result<Option<Self>, RecordError> {
        let lock = Lock { records, name: format!("lock:{what}"), holder: new_holder() };
        Ok(records.lock(&lock.name, &lock.holder, LIFE).await?.then_some(lock))
    }

    /// Holds it until this is dropped, and ends only when it is lost. A state that is away for a moment loses nothing.
    pub(super) async fn hold(&self) {
        let mut silent = Duration::ZERO;
        loop {
            sleep(HOLD_EVERY).await;
            match self.records.hold(&self.name, &self.holder, LIFE).await {
                Ok(true) => silent = Duration::ZERO,
                Ok(false) => return,
                Err(_) if silent >= LIFE => return,
                Err(_) => silent += HOLD_EVERY,
            }
        }
    }

    pub(super) async fn release(self) {
        // It ends by itself.
        let _ = self.records.unlock(&self.name, &self.holder).await;
    }
}
