//! Requests that share a key, and requests that must not.

use http::HeaderValue;

use super::*;

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn secret() -> Secret {
    Secret::new([7; 16])
}

fn key_of(rule: &KeyRule, change: impl FnOnce(&mut KeyInput<'_>)) -> Key {
    let headers = HeaderMap::new();
    let mut input = KeyInput {
        group: "shop",
        upstream: "web",
        scheme: "https",
        host: "example.com",
        path: "/a",
        query: None,
        headers: &headers,
        consumer: None,
        parts: &[],
    };
    change(&mut input);
    rule.key(&input, &secret())
}

#[test]
fn every_part_of_the_target_tells_responses_apart() {
    // RFC 9111 §2.
    let rule = KeyRule::default();
    let parts: [fn(&mut KeyInput<'_>); 8] = [
        |_| {},
        |input| input.group = "other",
        |input| input.upstream = "canary",
        |input| input.scheme = "http",
        |input| input.host = "example.org",
        |input| input.path = "/A",
        |input| input.query = Some(""),
        |input| input.query = Some("a=1"),
    ];
    let keys: std::collections::HashSet<_> = parts.iter().map(|change| key_of(&rule, change)).collect();
    assert_eq!(keys.len(), parts.len());
    assert_eq!(key_of(&rule, |_| {}), key_of(&rule, |_| {}));
}

#[test]
fn key_collisions_by_moving_text_between_parts() {
    let rule = KeyRule::default();
    let with =
        |host, path, query| key_of(&rule, move |input| (input.host, input.path, input.query) = (host, path, query));
    let keys = [
        with("example.com", "/a/b", None),
        with("example.com/a", "/b", None),
        with("example.com", "/a", Some("/b")),
        with("example.com", "/a?/b", None),
        with("example.co", "m/a/b", None),
    ];
    let distinct: std::collections::HashSet<_> = keys.into_iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn another_secret_is_another_key() {
    let headers = HeaderMap::new();
    let input = KeyInput {
        group: "",
        upstream: "",
        scheme: "http",
        host: "a",
        path: "/",
        query: None,
        headers: &headers,
        consumer: None,
        parts: &[],
    };
    let rule = KeyRule::default();
    assert_ne!(rule.key(&input, &secret()), rule.key(&input, &Secret::new([8; 16])));
}

fn same_query(rule: &QueryRule, one: &str, other: &str) -> bool {
    let of = |query| {
        let mut digest = secret().digest(KEY);
        rule.write(Some(query), &mut digest);
        digest.finish()
    };
    of(one) == of(other)
}

#[test]
fn the_whole_query_counts_as_it_is() {
    assert!(same_query(&QueryRule::All, "a=1&b=2", "a=1&b=2"));
    assert!(!same_query(&QueryRule::All, "a=1&b=2", "b=2&a=1"));
    assert!(!same_query(&QueryRule::All, "a=1", "a=1&"));
}

#[test]
fn chosen_pairs_count_in_the_chosen_order() {
    let only = QueryRule::Only(vec!["id".into(), "page".into()]);
    let table = [
        ("id=1&page=2", "page=2&id=1", true),
        ("id=1&utm=x", "id=1&utm=y", true),
        ("id=1", "id=2", false),
        ("id=1", "", false),
        ("id=", "id", false),
        ("id=1&id=2", "id=2&id=1", false),
        ("id=1&id=2", "id=1", false),
        ("id=1&page=1", "id=1&id=page=1", false),
    ];
    for (one, other, same) in table {
        assert_eq!(same_query(&only, one, other), same, "{one} {other}");
    }
}

#[test]
fn a_purge_names_what_the_key_has() {
    let only = QueryRule::Only(vec!["id".into(), "page".into()]);
    let except = QueryRule::Except(vec!["utm".into()]);
    let table: [(&QueryRule, Option<&str>, Option<&str>); 12] = [
        (&QueryRule::All, Some("b=2&a=1"), Some("b=2&a=1")),
        (&QueryRule::All, Some(""), Some("")),
        (&QueryRule::All, None, None),
        (&only, Some("page=2&a=1&id=1"), Some("id=1&page=2")),
        (&only, Some("x;id=2&id=1"), Some("id=1&x;id=2")),
        (&only, Some("a=1"), None),
        (&only, Some(""), None),
        (&only, None, None),
        (&except, Some("b=2&utm=x&a=1"), Some("b=2&a=1")),
        (&except, Some("utm=x"), None),
        (&except, Some("&"), None),
        (&except, None, None),
    ];
    for (rule, query, expected) in table {
        assert_eq!(rule.canonical(query).as_deref(), expected, "{rule:?} {query:?}");
        // It is a form of its own.
        assert_eq!(rule.canonical(expected).as_deref(), expected, "{rule:?} {expected:?}");
    }
}

#[test]
fn parameter_cloaking() {
    // What an upstream may read as a chosen parameter is in the key.
    let only = QueryRule::Only(vec!["id".into()]);
    let except = QueryRule::Except(vec!["utm".into()]);
    for (one, other) in [
        ("id=1&utm=x;id=2", "id=1&utm=x"),
        ("id=1&utm=x%3bid=2", "id=1&utm=x"),
        ("id=1&%69d=2", "id=1"),
        ("id=1&i%64=2", "id=1"),
        ("id=1&id[]=2", "id=1"),
        ("id=1&id%5b%5d=2", "id=1"),
        ("id=1&ID=2", "id=1"),
        ("id=1&+id=2", "id=1"),
    ] {
        assert!(!same_query(&only, one, other), "{one} {other}");
        assert!(!same_query(&except, one, other), "{one} {other}");
    }
    // PHP makes `_` of these, and ends a name at NUL; `qs` of Node reads the last one so.
    let only = QueryRule::Only(vec!["user_id".into()]);
    let names = [
        "user.id",
        "user[id",
        "user%20id",
        "user+id",
        "User.ID",
        "%20user.id",
        "user_id%00x",
        "user.id[]",
        "[user_id]",
    ];
    for name in names {
        assert!(!same_query(&only, &format!("user_id=1&{name}=2"), "user_id=1"), "{name}");
    }
    let dotted = QueryRule::Only(vec!["user.id".into()]);
    assert!(!same_query(&dotted, "user.id=1&user_id=2", "user.id=1"));
    assert!(same_query(&only, "user_id=1&userid=2", "user_id=1"));
    assert!(same_query(&except, "id=1&utm=x", "id=1"));
    assert!(same_query(&except, "id=1&%75tm=x", "id=1"));
    assert!(!same_query(&except, "id=1&utm[]=x", "id=1"));
    assert!(!same_query(&except, "a=1&b=2", "b=2&a=1"));
}

#[test]
fn chosen_headers_cookies_and_the_consumer_count() {
    let rule = KeyRule {
        headers: vec![HeaderName::from_static("x-tenant")],
        cookies: vec!["theme".into()],
        consumer: true,
        ..KeyRule::default()
    };
    let with = |rule: &KeyRule, fields: &[_], consumer| {
        let fields = headers(fields);
        let input = KeyInput {
            group: "",
            upstream: "",
            scheme: "http",
            host: "a",
            path: "/",
            query: None,
            headers: &fields,
            consumer,
            parts: &[],
        };
        rule.key(&input, &secret())
    };
    let base = with(&rule, &[], None);
    assert_eq!(with(&rule, &[("x-other", "1"), ("cookie", "session=9")], None), base);
    for fields in [
        [("x-tenant", "a"), ("x-other", "")],
        [("x-tenant", ""), ("x-other", "")],
        [("cookie", "theme=dark"), ("x-other", "")],
        [("cookie", "theme"), ("x-other", "")],
        [("cookie", "a=b; theme=dark; theme=light"), ("x-other", "")],
    ] {
        assert_ne!(with(&rule, &fields, None), base, "{fields:?}");
    }
    assert_eq!(with(&rule, &[("cookie", "a=1; theme=dark")], None), with(&rule, &[("cookie", "theme=dark;b=2")], None));
    assert_ne!(with(&rule, &[], Some("ann")), base);
    assert_ne!(with(&rule, &[], Some("ann")), with(&rule, &[], Some("bob")));
    let shared = KeyRule { consumer: false, ..rule };
    assert_eq!(with(&shared, &[], Some("ann")), with(&shared, &[], Some("bob")));
}

/// Each of them is the cookie for some server, so none has the key of a request without it.
#[test]
fn a_cookie_is_in_the_key_however_a_server_may_read_its_name() {
    let rule = KeyRule { cookies: vec!["user_id".into()], ..KeyRule::default() };
    let with = |line: &[u8]| {
        let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_bytes(line).unwrap())]);
        let input = KeyInput {
            group: "shop",
            upstream: "web",
            scheme: "https",
            host: "example.com",
            path: "/a",
            query: None,
            headers: &headers,
            consumer: None,
            parts: &[],
        };
        rule.key(&input, &secret())
    };
    let none = with(b"other=1; user=1; user_ids=1; xuser_id=1");
    assert_eq!(none, with(b"a=user_id=1"));
    let lines: [&[u8]; 10] = [
        b"user_id=1",
        b"user_id =1",
        b"user_id\xa0=1",
        b"\xc2\xa0user_id=1",
        b"a=\xff; user_id=1",
        b"user.id=1",
        b"User_ID=1",
        b"user[id=1",
        b"user_id[x]=1",
        b"user%5fid=1",
    ];
    for line in lines {
        assert_ne!(with(line), none, "{}", String::from_utf8_lossy(line));
    }
    // A server that takes only one of them for it answers them differently.
    assert_ne!(with(b"user.id=1"), with(b"user_id=1"));
}
