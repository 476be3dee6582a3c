//! Which responses of a route are compressed, and how.

use super::ByteSize;
use crate::http::coding::{Coding, Level};
use crate::http::media_types::MediaTypes;

/// Compression of the responses of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// Those that are sent, the preferred ones first.
    pub encodings: Encodings,
    /// Shorter content is sent as it is.
    pub min_size: ByteSize,
    pub types: MediaTypes,
    /// Whether responses to requests with credentials are compressed, too.
    pub credentials: bool,
    /// Whether a worker lowers the levels while it has much to do.
    pub adaptive: bool,
    pub levels: Levels,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encodings(pub Vec<Coding>);

/// How much work is put into each coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    pub zstd: u32,
    pub br: u32,
    pub gzip: u32,
}

impl Levels {
    pub fn of(&self, coding: Coding) -> Level {
        let level = match coding {
            Coding::Zstd => self.zstd,
            Coding::Brotli => self.br,
            Coding::Gzip | Coding::Deflate => self.gzip,
        };
        Level { coding, level }
    }
}
