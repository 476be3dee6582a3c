//! What the ready-made patterns take for what they look for.

use super::*;
use crate::pattern::{Found, LONGEST};

/// The text with what is found in brackets.
fn marked(detect: &str, text: &str) -> String {
    let rules = rules(json!({ "rules": [{ "detect": detect }] }));
    let (mut out, mut at) = (String::new(), 0);
    for found in rules.patterns.all(text.as_bytes()) {
        let range = found.range;
        out += &format!("{}<{}>", &text[at..range.start], &text[range.clone()]);
        at = range.end;
    }
    out + &text[at..]
}

fn check(detect: &str, cases: &[&str]) {
    for case in cases {
        assert_eq!(marked(detect, &case.replace(['<', '>'], "")), *case);
    }
}

#[test]
fn card_numbers_have_luhns_digit() {
    check(
        "card",
        &[
            "<4111111111111111>",
            "card: <4111 1111 1111 1111>, 12/27",
            "<4111 1111 1111 1111> 12/27",
            "<4111-1111-1111-1111>",
            "<378282246310005> <6011111111111117> <5555555555554444> <30569309025904> <3530111333300000>",
            "4111111111111112",
            "x4111111111111111 and 94111111111111111",
            "41111111111111110000000",
            "4111  1111 1111 1111",
            "(<4222222222222>)",
            "<6304000000000000> <2223003122003222>",
            "1234567890123",
        ],
    );
}

#[test]
fn ibans_have_the_length_of_their_country_and_check_digits() {
    check(
        "iban",
        &[
            "<DE89370400440532013000>",
            "to <DE89 3704 0044 0532 0130 00> please",
            "<GB29NWBK60161331926819>, <gb29nwbk60161331926819>",
            "<MT84MALT011000012345MTLCAST001S> <NO9386011117947>",
            "DE88370400440532013000",
            "DE8937040044053201300",
            "DE893704004405320130001",
            "XX89370400440532013000",
            "xDE89370400440532013000",
            "<FR1420041010050500013M02606>.",
        ],
    );
}

#[test]
fn addresses_have_a_domain_with_a_dot() {
    check(
        "email",
        &[
            "<ada@example.org>",
            "Ada <<ada.l+x@mail.example.co.uk>>, hello".replace("<<", "(<").replace(">>", ">)").as_str(),
            "mail <a@b.io>.",
            "<a@xn--80ak6aa92e.com>",
            "ada@localhost, @example.org, a@b.c, a@-b.org, a@b..org, a@10.0.0.1",
            "mailto:<ada@example.org>?subject=x",
            "<a@b.org>-x",
            "ü<a@b.org>ü",
            "a@<b@c.org>",
        ],
    );
}

#[test]
fn tokens_are_known_by_how_they_begin() {
    check(
        "token",
        &[
            "authorization: <Bearer abcdefgh12345678>",
            "<bearer   mF_9.B5f-4.1JqM==> next",
            "bearer of news",
            "<eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl>",
            "eyJhbGciOiJIUzI1NiJ9",
            "<sk-proj-abcdefghijklmnopqrstuvwxyz0123456789>",
            "<AKIAIOSFODNN7EXAMPLE> <ghp_abcdefghijklmnopqrstuvwxyz0123456789>",
            "ask-me-anything-you-like-now, sk-short",
            "key=<AIzaSyA-abcdefghijklmnopqrstuvwxyz12345>&x",
        ],
    );
}

#[test]
fn a_token_is_found_whole_however_long_it_is() {
    let rules = rules(json!({ "rules": [{ "detect": "token" }] }));
    let text = format!("a Bearer {} b", "x".repeat(20_000));
    let edits = |found: Vec<Found>| found.iter().map(|one| (one.range.clone(), one.is_rest)).collect();
    let found: Vec<_> = edits(rules.patterns.all(text.as_bytes()).collect());
    assert_eq!(found, [(2..2 + LONGEST, false), (2 + LONGEST..20_009, true)]);
}
