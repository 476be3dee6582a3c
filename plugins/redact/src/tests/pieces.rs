//! A text in pieces gives what the whole text gives, wherever it is cut.

use super::*;
use crate::pattern::{AROUND, LONGEST};
use crate::window::Window;

/// Numbers that look random and are the same each time.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

fn several() -> Rules {
    rules(json!({
        "rules": [
            { "detect": "card" },
            { "detect": "iban", "action": "hash" },
            { "detect": "email", "action": "remove" },
            { "detect": "token" },
            { "pattern": r"\bINT-[0-9]{2,5}\b" },
            { "pattern": r"^start|end$|(?m:^line)" },
            { "pattern": r"é{1,3}|ab|abc" },
        ],
        "hash_key": KEY,
    }))
}

fn digest(subject: &[u8]) -> Result<String, Error> {
    Ok(format!("#{}#", String::from_utf8_lossy(subject)))
}

/// What becomes of a text that comes in these pieces. Between any two, the window is kept as bytes.
fn redacted(rules: &Rules, pieces: &[&[u8]]) -> (Vec<u8>, Vec<(usize, u64)>) {
    let (mut out, mut window, mut counts) = (Vec::new(), Window::default(), Edits::default());
    let mut held = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        held.extend_from_slice(piece);
        let (decided, edits) = window.push(rules, &held, at + 1 == pieces.len());
        out.extend(edits.apply(&held[..decided], |edit| rules.replacement(edit, digest)).expect("no failure"));
        counts.absorb(&edits);
        held.drain(..decided);
        assert!(held.len() <= LONGEST + AROUND, "{}", held.len());
        window = Window::from_bytes(&window.to_bytes()).expect("a window");
    }
    assert_eq!(held, b"");
    (out, counts.counts().collect())
}

#[test]
fn one_cut_anywhere_changes_nothing() {
    let rules = several();
    let text = "start é card 4111 1111 1111 1111 12/27, DE89 3704 0044 0532 0130 00; ada@example.org! INT-12345 INT-123456 \
                Bearer abcdefgh12345678 éééé abcab\nline AKIAIOSFODNN7EXAMPLE eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln end"
        .as_bytes();
    let whole = redacted(&rules, &[text]);
    let expected = "[redacted] [redacted] card [redacted] 12/27, #DE89 3704 0044 0532 0130 00#; ! [redacted] INT-123456 \
                    [redacted] [redacted][redacted] [redacted]c[redacted]\n[redacted] [redacted] [redacted] [redacted]";
    assert_eq!(String::from_utf8_lossy(&whole.0), expected);
    for cut in 0..=text.len() {
        let (first, second) = text.split_at(cut);
        assert_eq!(redacted(&rules, &[first, second]), whole, "{cut}");
    }
    let single: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(redacted(&rules, &single), whole);
}

#[test]
fn any_cuts_of_any_text_change_nothing() {
    let rules = several();
    let words: Vec<Vec<u8>> = [
        "4111 1111 1111 1111",
        "4111111111111111",
        "4111",
        "-",
        " ",
        "1",
        "DE89370400440532013000",
        "DE89 3704",
        "ada@",
        "example.org",
        "@",
        ".",
        "org",
        "Bearer ",
        "bear",
        "eyJ",
        "abcdefgh12345678",
        "sk-",
        "AKIA",
        "INT-12",
        "345",
        "é",
        "\u{1F600}",
        "ab",
        "c",
        "\n",
        "line",
        "start",
        "end",
        "x",
        "\u{0}",
    ]
    .iter()
    .map(|word| word.as_bytes().to_vec())
    .chain([vec![0xff], vec![0xc3], "y".repeat(LONGEST).into_bytes(), "7".repeat(70).into_bytes()])
    .collect();
    let mut numbers = Numbers(42);
    for _ in 0..400 {
        let text: Vec<u8> = (0..numbers.below(30)).flat_map(|_| words[numbers.below(words.len())].clone()).collect();
        let whole = redacted(&rules, &[&text]);
        let (mut pieces, mut rest) = (Vec::new(), &text[..]);
        let most = if text.len() > 1000 { 800 } else { 9 };
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(numbers.below(most).min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        pieces.push(&[]);
        assert_eq!(redacted(&rules, &pieces), whole, "{:?}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn no_more_is_kept_back_than_may_be_the_beginning_of_something() {
    let rules = rules(json!({ "rules": [{ "detect": "card" }, { "detect": "email" }, { "detect": "token" }] }));
    for (piece, kept) in [("hello world. ", 0), ("hello", 5), ("id 4111 1111", 9), ("a@b.org", 7), ("x sk-abc", 6)] {
        let mut window = Window::default();
        let (decided, _) = window.push(&rules, piece.as_bytes(), false);
        assert_eq!(piece.len() - decided, kept, "{piece}");
    }
}
