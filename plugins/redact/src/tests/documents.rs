//! Edits of JSON documents.

use super::*;
use crate::json::{NotJson, find};

/// What becomes of a document.
fn redacted(rules: &Rules, document: &str) -> Result<String, NotJson> {
    let edits = find(document.as_bytes(), rules)?;
    let digest = |subject: &[u8]| Ok::<_, NotJson>(format!("#{}#", String::from_utf8_lossy(subject).escape_debug()));
    let out = edits.apply(document.as_bytes(), |edit| rules.replacement(edit, digest))?;
    Ok(String::from_utf8(out).expect("UTF-8"))
}

fn by(pointers: &[&str], action: &str) -> Rules {
    rules(json!({ "rules": [{ "pointers": pointers, "action": action }], "hash_key": KEY }))
}

#[test]
fn pointers_lead_to_members_and_elements() {
    for (pointer, expected) in [
        ("/a", r#"{"a":X,"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("/b~1c/~0/1", r#"{"a":[1,{"a":2},{"c":3}],"b/c":{"~":[4,X]},"*":6,"0":7}"#),
        ("/a/0", r#"{"a":[X,{"a":2},{"c":3}],"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("/0", r#"{"a":[1,{"a":2},{"c":3}],"b/c":{"~":[4,5]},"*":6,"0":X}"#),
        ("/~2", r#"{"a":[1,{"a":2},{"c":3}],"b/c":{"~":[4,5]},"*":X,"0":7}"#),
        ("/*", r#"{"a":X,"b/c":X,"*":X,"0":X}"#),
        ("/a/*", r#"{"a":[X,X,X],"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("/a/*/*", r#"{"a":[1,{"a":X},{"c":X}],"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("/**/c", r#"{"a":[1,{"a":2},{"c":X}],"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("/**/a/a", r#"{"a":[1,{"a":2},{"c":3}],"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("/a/**/1", r#"{"a":[1,X,{"c":3}],"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("/**/**/1", r#"{"a":[1,X,{"c":3}],"b/c":{"~":[4,X]},"*":6,"0":7}"#),
        ("/a/01", r#"{"a":[1,{"a":2},{"c":3}],"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("/nothing/here", r#"{"a":[1,{"a":2},{"c":3}],"b/c":{"~":[4,5]},"*":6,"0":7}"#),
        ("", "X"),
    ] {
        let document = r#"{"a":[1,{"a":2},{"c":3}],"b/c":{"~":[4,5]},"*":6,"0":7}"#;
        let expected = expected.replace('X', "\"[redacted]\"");
        assert_eq!(redacted(&by(&[pointer], "mask"), document), Ok(expected), "{pointer}");
    }
}

#[test]
fn a_removed_member_takes_one_comma_with_it() {
    for (document, expected) in [
        (r#"{"x":1}"#, "{}"),
        (r#"{ "x" : 1 }"#, "{  }"),
        (r#"{"x":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{ "x": 1 , "a":2 }"#, r#"{ "a":2 }"#),
        (r#"{"a":2,"x":1}"#, r#"{"a":2}"#),
        (r#"{"a":2 , "x":1 }"#, r#"{"a":2  }"#),
        (r#"{"a":1,"x":{"x":[2]},"b":3}"#, r#"{"a":1,"b":3}"#),
        (r#"{"x":1,"x":2,"a":3,"x":4,"x":5}"#, r#"{"a":3}"#),
        (r#"{"x":1,"x":2}"#, "{}"),
        (r#"{"\u0078":1,"a":[{"x":1}]}"#, r#"{"a":[{}]}"#),
        (r#"[{"x":1,"b":{"x":2}},{"x":3}]"#, r#"[{"b":{}},{}]"#),
    ] {
        assert_eq!(redacted(&by(&["/**/x"], "remove"), document), Ok(expected.to_owned()), "{document}");
    }
    for (document, expected) in [("[1,2,3]", "[1,3]"), ("[1,2]", "[1]"), ("[1 , 2 ]", "[1  ]"), ("[1]", "[1]")] {
        assert_eq!(redacted(&by(&["/1"], "remove"), document), Ok(expected.to_owned()), "{document}");
    }
    assert_eq!(redacted(&by(&["/0", "/1"], "remove"), "[1, [2], 3]"), Ok("[3]".to_owned()));
    assert_eq!(redacted(&by(&["/*"], "remove"), "[ 1 , 2 ]"), Ok("[  ]".to_owned()));
    assert_eq!(redacted(&by(&[""], "remove"), " {} "), Ok(" null ".to_owned()));
}

#[test]
fn everything_else_keeps_its_bytes() {
    let document = "\u{feff} {\"id\" : 12345678901234567890123 ,\r\n\t\"x\":\"s\", \"e\":1E+2,\"d\":-0.10, \"d\":[ ],\"u\":\"\\u00e9\\/é\",\"x\":0}\n";
    let expected = document.replace("\"s\"", "\"[redacted]\"").replace("\"x\":0", "\"x\":\"[redacted]\"");
    assert_eq!(redacted(&by(&["/x"], "mask"), document), Ok(expected));
}

#[test]
fn a_value_is_hashed_by_its_text_and_other_values_by_their_bytes() {
    let document = r#"{"a":"\u0061\n","b":[1, 2],"c":null}"#;
    assert_eq!(
        redacted(&by(&["/*"], "hash"), document),
        Ok(r##"{"a":"#a\n#","b":"#[1, 2]#","c":"#null#"}"##.to_owned())
    );
}

#[test]
fn patterns_find_what_escapes_hide() {
    let rules = rules(json!({ "rules": [{ "detect": "email" }, { "pattern": "(?i)top secret", "action": "remove" }] }));
    for (document, expected) in [
        (r#""\u0061da\u0040example.org""#, r#""[redacted]""#),
        (r#""\nada@example.org\t""#, r#""\n[redacted]\t""#),
        (r#""to: ada@example\u002eorg\/x""#, r#""to: [redacted]\/x""#),
        (r#""é \ud83d\ude00 TOP SECRET!""#, r#""é \ud83d\ude00 !""#),
        (r#""\ud800 top secret""#, r#""\ud800 ""#),
        (r#"{"ada@example.org":{"top secret":1}}"#, r#"{"[redacted]":{"":1}}"#),
    ] {
        assert_eq!(redacted(&rules, document), Ok(expected.to_owned()));
    }
}

#[test]
fn a_number_in_which_something_is_found_goes_as_a_whole() {
    for (action, expected) in [("mask", "\"[redacted]\""), ("remove", "null"), ("hash", "\"#4111111111111111#\"")] {
        let rules = rules(json!({ "rules": [{ "detect": "card", "action": action }], "hash_key": KEY }));
        let document = r#"{"card":4111111111111111,"n":4111111111111112}"#;
        assert_eq!(redacted(&rules, document), Ok(document.replace("4111111111111111", expected)));
    }
}

#[test]
fn the_first_rule_decides_and_a_pointer_before_patterns() {
    let rules = rules(json!({ "rules": [
        { "detect": "email" },
        { "pointers": ["/a"], "action": "remove" },
        { "pointers": ["/*"], "action": "mask" },
    ] }));
    assert_eq!(redacted(&rules, r#"{"b":1,"a":"x@example.org"}"#), Ok(r#"{"b":"[redacted]"}"#.to_owned()));
}

#[test]
fn a_mask_is_escaped_where_json_needs_that() {
    let config = json!({ "rules": [{ "pattern": "x" }, { "pointers": ["/a"] }], "mask": "\"\\\n" });
    assert_eq!(redacted(&rules(config), r#"{"a":1,"b":"axb"}"#), Ok(r#"{"a":"\"\\\n","b":"a\"\\\nb"}"#.to_owned()));
}

#[test]
fn a_document_may_be_nested_as_deeply_as_most_parsers_go() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(find(nested(128).as_bytes(), &by(&["/**/x"], "mask")).is_ok());
    assert_eq!(find(nested(129).as_bytes(), &by(&["/**/x"], "mask")), Err(NotJson));
    assert_eq!(find(nested(1 << 20).as_bytes(), &by(&["/**/x"], "mask")), Err(NotJson));
    assert_eq!(find(b"\"\xff\"", &by(&["/x"], "mask")), Err(NotJson));
}

/// Whatever the document: it is read as serde reads it, and what is found at the pointers is gone from what comes out.
#[test]
fn documents_by_chance_are_read_as_serde_reads_them() {
    let rules = by(&["/**/x", "/0"], "remove");
    let pieces =
        ["{", "}", "[", "]", ",", ":", "\"x\"", "\"a\"", "1", "-0.5e1", "true", "null", " ", "\"\\u0078\"", "\"x"];
    let mut numbers = pieces::Numbers(7);
    let mut read = 0;
    for _ in 0..40_000 {
        let document: String = (0..numbers.below(12)).map(|_| pieces[numbers.below(pieces.len())]).collect();
        let parsed = serde_json::from_str::<Value>(&document);
        let out = redacted(&rules, &document);
        assert_eq!(parsed.is_ok(), out.is_ok(), "{document}");
        let Ok(out) = out else { continue };
        read += 1;
        let out: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{document}: {out}: {error}"));
        assert!(!has_x(&out), "{document}: {out}");
    }
    assert!(read > 200, "{read}");
}

fn has_x(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.contains_key("x") || members.values().any(has_x),
        Value::Array(elements) => elements.iter().any(has_x),
        _ => false,
    }
}
