//! Where a head or a trailer section ends. It is found before anything is parsed, so that a head that drips in costs one quick
//! search for each read, and a line feed without its carriage return is refused wherever it stands.

use super::HeadError;

/// How much of a head, or of a trailer section, is taken.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes from the start line to the empty line, both included.
    pub bytes: usize,
    /// Field lines.
    pub fields: usize,
}

/// What a server may do that is refused otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// RFC 9112 §2.2: lines of the head may end with a line feed alone.
    pub bare_line_feed: bool,
    /// RFC 9112 §6.3: the same `content-length` several times.
    pub repeated_content_length: bool,
}

/// A whole section.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    /// Behind the empty line.
    pub(super) end: usize,
    /// Field lines; the start line does not count.
    pub(super) fields: usize,
}

/// Finds the empty line that ends a section. `start_lines` is 1 for a head and 0 for trailers. `None`: it is not there yet.
pub(super) fn find_end(
    bytes: &[u8],
    start_lines: usize,
    limits: Limits,
    tolerance: Tolerance,
) -> Result<Option<Section>, HeadError> {
    let window = bytes.get(..limits.bytes).unwrap_or(bytes);
    let mut lines = 0;
    let mut start = 0;
    for feed in memchr::memchr_iter(b'\n', window) {
        // RFC 9112 §2.2 allows a bare line feed as an end of line. Who takes it reads other lines than who does not.
        let is_bare = feed == start || window.get(feed - 1) != Some(&b'\r');
        if is_bare && !tolerance.bare_line_feed {
            return Err(HeadError::Malformed("a line feed without a carriage return"));
        }
        if feed == start + usize::from(!is_bare) && lines >= start_lines {
            return Ok(Some(Section { end: feed + 1, fields: lines - start_lines }));
        }
        start = feed + 1;
        lines += 1;
        if lines > start_lines + limits.fields {
            return Err(HeadError::TooManyFields);
        }
    }
    if bytes.len() < limits.bytes {
        Ok(None)
    } else if lines < start_lines {
        Err(HeadError::TargetTooLong)
    } else {
        Err(HeadError::TooLarge)
    }
}

/// The first line with its end, once it is there.
pub(super) fn first(bytes: &[u8]) -> Option<&[u8]> {
    memchr::memchr(b'\n', bytes).and_then(|feed| bytes.get(..=feed))
}
