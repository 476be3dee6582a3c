//! How many log lines a filter may write: so many a second, the rest dropped and counted.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// The lines a filter may write in one second, over all workers.
pub const LINES_PER_SECOND: u64 = 100;
/// The bytes of a line; what is longer is cut.
pub const LINE_BYTES: usize = 8 * 1024;

/// The budget of one filter, shared by its instances.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// The second (of the Unix epoch) in the high 44 bits, the lines written in it in the low 20.
    second_and_lines: AtomicU64,
    dropped: AtomicU64,
}

const LINES_BITS: u32 = 20;
const LINES_MASK: u64 = (1 << LINES_BITS) - 1;

impl LogLimit {
    /// Whether a line may be written at this time (microseconds since the Unix epoch). A refused line is counted.
    pub fn allow(&self, now_us: u64) -> bool {
        let second = now_us / 1_000_000;
        let taken = self.second_and_lines.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            if old >> LINES_BITS != second {
                return Some(second << LINES_BITS | 1);
            }
            (old & LINES_MASK < LINES_PER_SECOND).then_some(old + 1)
        });
        if taken.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// How many lines were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The line, cut at a character's border to at most [`LINE_BYTES`].
pub fn cut(line: &str) -> &str {
    let mut end = line.len().min(LINE_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default()
}

/// A text of a plugin or another stranger as one line that can be shown: what could end the line, steer a terminal or turn the direction
/// of writing is escaped.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_steering) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_steering(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// The same, with the line breaks of the text: the lines behind the first begin with `indent`, so that none passes for a line of the gateway.
pub fn visible_lines(text: &str, indent: &str) -> String {
    let lines: Vec<_> = text.lines().map(visible).collect();
    lines.join(&format!("\n{indent}"))
}

fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_a_hundred_lines() {
        let limit = LogLimit::default();
        let passed = (0..250).filter(|_| limit.allow(5_000_000)).count();
        assert_eq!((passed, limit.dropped()), (100, 150));
        assert!(limit.allow(6_000_000));
        // A calendar set back starts a new second too.
        assert!(limit.allow(5_000_000));
    }

    #[test]
    fn what_could_forge_a_line_is_escaped() {
        assert_eq!(visible("näive — text"), "näive — text");
        assert_eq!(
            visible("a\nb\r\t\u{1b}[2J\u{9b}\u{202e}\u{2028}"),
            "a\\nb\\r\\t\\u{1b}[2J\\u{9b}\\u{202e}\\u{2028}"
        );
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let line = "é".repeat(LINE_BYTES);
        assert_eq!(cut(&line).len(), LINE_BYTES);
        let line = format!("x{line}");
        assert_eq!(cut(&line).len(), LINE_BYTES - 1);
        assert_eq!(cut("short"), "short");
    }
}
