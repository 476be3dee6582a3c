//! Ready-made patterns with what a regular expression can't check: card numbers (Luhn), IBANs (ISO 13616), e-mail addresses, tokens and API keys.

use serde::Deserialize;

use super::pattern::{LONGEST, Next};

/// What is looked for.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Detector {
    /// Card numbers of 13 to 19 digits, also in groups.
    Card,
    /// E-mail addresses.
    Email,
    /// International bank account numbers, also in groups.
    Iban,
    /// Bearer tokens, JSON web tokens, and API keys of well-known services.
    Token,
}

/// What is to be said of one place in a text.
enum Here {
    No,
    /// It begins here and ends there.
    Until(usize),
    /// As `Until`, and what follows of the same kind belongs to it.
    Beyond(usize),
    /// The text ends too early.
    Undecided,
}

impl Detector {
    /// The first one that begins at `from` or later; bytes before that are looked at, too.
    pub(crate) fn next(self, text: &[u8], from: usize, is_last: bool) -> Next {
        if self == Detector::Email {
            return email(text, from, is_last);
        }
        for at in from..text.len() {
            let here = match self {
                Detector::Card if matches!(text[at], b'2'..=b'6') && !follows_word(text, at) => card(text, at, is_last),
                Detector::Iban if text[at].is_ascii_alphabetic() && !follows_word(text, at) => iban(text, at, is_last),
                Detector::Token if FIRST.contains(&text[at]) && !follows_word(text, at) => token(text, at, is_last),
                Detector::Card | Detector::Iban | Detector::Token | Detector::Email => Here::No,
            };
            match here {
                Here::No => {}
                Here::Until(end) => return Next::Found { range: at..end, is_open: false },
                Here::Beyond(end) => return Next::Found { range: at..end, is_open: true },
                Here::Undecided => return Next::Undecided(at),
            }
        }
        Next::Nothing
    }

    /// Whether a token can have this byte: the characters of RFC 6750 §2.1.
    pub(crate) fn is_of_token(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
    }
}

fn follows_word(text: &[u8], at: usize) -> bool {
    at.checked_sub(1).is_some_and(|before| text[before].is_ascii_alphanumeric())
}

/// The byte at a place; an error where the text may go on there and has not been seen.
fn look(text: &[u8], at: usize, is_last: bool) -> Result<Option<u8>, ()> {
    match text.get(at) {
        Some(byte) => Ok(Some(*byte)),
        None if is_last => Ok(None),
        None => Err(()),
    }
}

/// ISO/IEC 7812: 13 to 19 digits, with one space or hyphen between any two. Behind the number may be other digits, such as a date: of several ends
/// that fit, the last one counts.
fn card(text: &[u8], begin: usize, is_last: bool) -> Here {
    let mut digits = [0; 19];
    let (mut count, mut at, mut end) = (0, begin, None);
    while let Some(byte) = text.get(at).copied().filter(u8::is_ascii_digit) {
        digits[count] = byte - b'0';
        count += 1;
        at += 1;
        let Ok(next) = look(text, at, is_last) else { return Here::Undecided };
        if count >= 13 && !next.is_some_and(|byte| byte.is_ascii_alphanumeric()) && luhn(&digits[..count]) {
            end = Some(at);
        }
        if count == digits.len() {
            break;
        }
        if let Some(b' ' | b'-') = next {
            if look(text, at + 1, is_last).is_err() {
                return Here::Undecided;
            }
            at += 1;
        }
    }
    end.map_or(Here::No, Here::Until)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let doubled = u32::from(*digit) * if at % 2 == 1 { 2 } else { 1 };
            doubled / 10 + doubled % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The length of an IBAN by its country (the registry of ISO 13616).
const IBANS: &str = "\
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 \
    ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 \
    LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 \
    PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 \
    YE30";

fn length_of_iban(country: &[u8]) -> Option<usize> {
    let known = IBANS.split(' ').filter_map(|word| word.split_at_checked(2));
    known.filter(|(name, _)| name.as_bytes() == country).find_map(|(_, length)| length.parse().ok())
}

/// An account number of the length of its country, with one space between any two characters behind the first four, whose check digits are right.
fn iban(text: &[u8], begin: usize, is_last: bool) -> Here {
    let mut letters = [0; 34];
    let (mut count, mut at, mut length) = (0, begin, letters.len());
    while count < length {
        let Ok(byte) = look(text, at, is_last) else { return Here::Undecided };
        let Some(byte) = byte.filter(u8::is_ascii_alphanumeric) else { return Here::No };
        letters[count] = byte.to_ascii_uppercase();
        count += 1;
        at += 1;
        match count {
            1 | 2 if !byte.is_ascii_alphabetic() => return Here::No,
            3 | 4 if !byte.is_ascii_digit() => return Here::No,
            4 => match length_of_iban(&letters[..2]) {
                Some(known) => length = known,
                None => return Here::No,
            },
            _ => {}
        }
        if count >= 4 && count < length && text.get(at) == Some(&b' ') {
            at += 1;
        }
    }
    match look(text, at, is_last) {
        Err(()) => Here::Undecided,
        Ok(Some(byte)) if byte.is_ascii_alphanumeric() => Here::No,
        Ok(_) if has_check_digits(&letters[..length]) => Here::Until(at),
        Ok(_) => Here::No,
    }
}

/// ISO 7064, MOD 97-10: what is behind the first four characters, then those, as a number.
fn has_check_digits(letters: &[u8]) -> bool {
    let (head, rest) = letters.split_at(4);
    let remainder = rest.iter().chain(head).fold(0, |sum: u32, letter| match letter {
        b'0'..=b'9' => (sum * 10 + u32::from(letter - b'0')) % 97,
        _ => (sum * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    remainder == 1
}

/// RFC 5321 §4.5.3.1: the most that stands before the `@`, and behind it.
const LOCAL: usize = 64;
const DOMAIN: usize = 255;

fn is_of_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~.-".contains(&byte)
}

/// The first address (RFC 5322 §3.4.1 without quotes and comments), whose domain has a dot and ends in letters.
fn email(text: &[u8], from: usize, is_last: bool) -> Next {
    let mut searched = from;
    while let Some(at) = text[searched..].iter().position(|byte| *byte == b'@').map(|at| searched + at) {
        let begin = begin_of_local(text, from, at);
        searched = at + 1;
        if begin == at {
            continue;
        }
        match domain(&text[at + 1..], is_last) {
            Here::Until(length) | Here::Beyond(length) => {
                return Next::Found { range: begin..at + 1 + length, is_open: false };
            }
            Here::Undecided => return Next::Undecided(begin),
            Here::No => {}
        }
    }
    match begin_of_local(text, from, text.len()) {
        begin if is_last || begin == text.len() => Next::Nothing,
        begin => Next::Undecided(begin),
    }
}

/// Where the part of an address begins that ends at a place. A dot does not begin one.
fn begin_of_local(text: &[u8], from: usize, end: usize) -> usize {
    let least = end.saturating_sub(LOCAL).max(from);
    text[least..end].iter().rposition(|byte| !is_of_local(*byte)).map_or(least, |before| least + before + 1)
}

/// How much of a text is a domain, if it begins with one.
fn domain(text: &[u8], is_last: bool) -> Here {
    let (mut at, mut labels, mut end) = (0, 0, None);
    loop {
        let begin = at;
        loop {
            if at > DOMAIN {
                return end.map_or(Here::No, Here::Until);
            }
            match look(text, at, is_last) {
                Err(()) => return Here::Undecided,
                Ok(Some(byte)) if byte.is_ascii_alphanumeric() || byte == b'-' => at += 1,
                Ok(_) => break,
            }
        }
        let label = without_hyphens(&text[begin..at]);
        if label.is_empty() || label[0] == b'-' {
            break;
        }
        labels += 1;
        // What follows the letters of the last label need not belong to the address: `ada@example.org-`.
        let letters = label.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let top = if label.starts_with(b"xn--") { label.len() } else { letters };
        if labels > 1 && top > 1 {
            end = Some(begin + top);
        }
        if label.len() < at - begin || text.get(at) != Some(&b'.') {
            break;
        }
        at += 1;
    }
    end.map_or(Here::No, Here::Until)
}

fn without_hyphens(label: &[u8]) -> &[u8] {
    let hyphens = label.iter().rev().take_while(|byte| **byte == b'-').count();
    &label[..label.len() - hyphens]
}

/// How keys of well-known services begin, and how much follows at least.
const KEYS: &[(&[u8], usize)] = &[
    (b"AIza", 35),
    (b"AKIA", 16),
    (b"ASIA", 16),
    (b"SG.", 40),
    (b"dop_v1_", 40),
    (b"gho_", 30),
    (b"ghp_", 30),
    (b"ghr_", 30),
    (b"ghs_", 30),
    (b"ghu_", 30),
    (b"github_pat_", 22),
    (b"glpat-", 20),
    (b"hf_", 30),
    (b"npm_", 30),
    (b"rk_live_", 16),
    (b"rk_test_", 16),
    (b"shpat_", 32),
    (b"sk-", 20),
    (b"sk_live_", 16),
    (b"sk_test_", 16),
    (b"xapp-", 20),
    (b"xoxa-", 20),
    (b"xoxb-", 20),
    (b"xoxp-", 20),
    (b"xoxr-", 20),
    (b"xoxs-", 20),
    (b"ya29.", 20),
];
/// How all of them, a JSON web token and the word `Bearer` begin.
const FIRST: &[u8] = b"ABSbdeghnrsxy";
/// How much of a bearer token there is at least, and how many blanks before it at most.
const BEARER: usize = 8;
const BLANKS: usize = 8;

fn token(text: &[u8], begin: usize, is_last: bool) -> Here {
    let rest = &text[begin..];
    let mut is_cut = false;
    for (prefix, least) in KEYS {
        if rest.starts_with(prefix) {
            match run(text, begin, begin + prefix.len(), *least, is_last, |byte| {
                byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
            }) {
                Here::No => {}
                here => return here,
            }
        }
        is_cut |= rest.len() < prefix.len() && prefix.starts_with(rest);
    }
    // RFC 7519: a JSON object in base64url, and two more parts.
    if rest.starts_with(b"eyJ") {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let dots = rest.iter().take(LONGEST).take_while(|byte| is_part(**byte) || **byte == b'.');
        let dots = dots.filter(|byte| **byte == b'.').count();
        match run(text, begin, begin + 3, 8, is_last, |byte| is_part(byte) || byte == b'.') {
            Here::Until(_) if dots < 2 => {}
            Here::No => {}
            here => return here,
        }
    }
    is_cut |= rest.len() < 3 && b"eyJ".starts_with(rest);
    // RFC 6750 §2.1; the scheme has no case (RFC 9110 §11.1).
    let word = &rest[..rest.len().min(6)];
    if word.eq_ignore_ascii_case(&b"bearer"[..word.len()]) {
        is_cut |= word.len() < 6;
        let blanks = rest[word.len()..].iter().take(BLANKS).take_while(|byte| **byte == b' ').count();
        is_cut |= word.len() + blanks == rest.len();
        if word.len() == 6 && blanks > 0 {
            match run(text, begin, begin + 6 + blanks, BEARER, is_last, Detector::is_of_token) {
                Here::No => {}
                here => return here,
            }
        }
    }
    if is_cut && !is_last { Here::Undecided } else { Here::No }
}

/// What goes on from `at` with these bytes, if there are enough of them.
fn run(text: &[u8], begin: usize, at: usize, least: usize, is_last: bool, fits: impl Fn(u8) -> bool) -> Here {
    let end = at + text[at..].iter().take_while(|byte| fits(**byte)).count();
    if end - begin >= LONGEST {
        return Here::Beyond(begin + LONGEST);
    }
    match end == text.len() && !is_last {
        true => Here::Undecided,
        false if end - at < least => Here::No,
        false => Here::Until(end),
    }
}
