//! What later hooks of an exchange need of its request.

use sluice_filter::{Error, state};

/// Bytes of the numbers.
const NUMBERS: usize = 24;

/// What is kept.
#[derive(Default)]
pub(crate) struct Kept {
    /// The limit that responses show, what it has left and when it is whole again.
    pub(crate) index: usize,
    pub(crate) remaining: u64,
    pub(crate) reset_ms: u64,
    /// Index, key and amount of the limits, where the response counts, too.
    pub(crate) charged: Vec<(usize, String, u64)>,
}

impl Kept {
    /// Most are a few numbers, since each response reads it.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(NUMBERS);
        for number in [self.index as u64, self.remaining, self.reset_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        if !self.charged.is_empty() {
            bytes.extend(serde_json::to_vec(&self.charged)?);
        }
        state::set_bytes(&bytes)
    }

    pub(crate) fn read() -> Result<Option<Self>, Error> {
        let Some(bytes) = state::get_bytes()? else { return Ok(None) };
        let number =
            |i: usize| bytes.get(i * 8..i * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let charged = match bytes.get(NUMBERS..) {
            Some(rest) if !rest.is_empty() => serde_json::from_slice(rest)?,
            _ => Vec::new(),
        };
        let index = usize::try_from(number(0)).unwrap_or(usize::MAX);
        Ok(Some(Kept { index, remaining: number(1), reset_ms: number(2), charged }))
    }
}
