//! Bounds the bodies that the filters of one worker work on at once: a guest takes memory in proportion to the body that it has, and only
//! calls that are suspended can be many.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What turns are counted in, in bytes.
const UNIT: u64 = 1024;

/// Turns for calls with a body, first come, first served.
#[derive(Debug)]
pub(super) struct BodyTurns {
    units: Arc<Semaphore>,
    all: u32,
}

/// The right to call a filter with a body.
pub(super) type BodyTurn = OwnedSemaphorePermit;

impl BodyTurns {
    /// Turns for bodies of so many bytes together.
    pub(super) fn new(bytes: u64) -> Rc<BodyTurns> {
        let all = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS as u32);
        Rc::new(BodyTurns { units: Arc::new(Semaphore::new(all as usize)), all })
    }

    /// A turn for a body of this length. One that is larger than all turns together is alone.
    pub(super) async fn take(&self, length: usize) -> BodyTurn {
        let units = u32::try_from((length as u64).div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.all);
        Arc::clone(&self.units).acquire_many_owned(units).await.expect("nobody closes it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "local")]
    async fn bodies_take_turns_by_their_size() {
        let turns = BodyTurns::new(10 * UNIT);
        let take = async |length| tokio::time::timeout(std::time::Duration::ZERO, turns.take(length)).await.ok();
        let small = take(3000).await.unwrap();
        let other = take(7 * 1024).await.unwrap();
        assert!(take(1).await.is_none(), "all are taken");
        drop(other);
        assert!(take(1 << 40).await.is_none(), "a huge one waits for all");
        drop(small);
        let huge = take(1 << 40).await.unwrap();
        assert!(take(0).await.is_none(), "and is alone");
        drop(huge);
        assert!(take(0).await.is_some());
    }
}
