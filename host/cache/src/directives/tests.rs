//! Tables of fields and what they say, by section.

use http::HeaderValue;

use super::*;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn response(lines: &[&str]) -> ResponseDirectives {
    let lines: Vec<_> = lines.iter().map(|line| ("cache-control", *line)).collect();
    ResponseDirectives::of(&headers(&lines))
}

fn request(line: &str) -> RequestDirectives {
    RequestDirectives::of(&headers(&[("cache-control", line)]))
}

fn secs(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

fn fields(names: &[&'static str]) -> Scope {
    Scope::Fields(names.iter().map(|name| HeaderName::from_static(name)).collect())
}

#[test]
fn max_age_is_read_as_it_is_sent() {
    // RFC 9111 §5.2.2.1, §1.2.2 and §4.2.1: `None` is no directive, zero an invalid one.
    let table: [(&[&str], Option<Duration>); 30] = [
        (&["max-age=3600"], secs(3600)),
        (&["MaX-aGe=3600"], secs(3600)),
        (&["max-age=\"3600\""], secs(3600)),
        (&["max-age=\"3\\600\""], secs(3600)),
        (&["max-age=003600"], secs(3600)),
        (&["foobar, max-age=3600"], secs(3600)),
        (&[",, max-age=3600 ,"], secs(3600)),
        (&["max-age=2147483647"], secs(2147483647)),
        (&["max-age=2147483648"], secs(1 << 31)),
        (&["max-age=99999999999"], secs(1 << 31)),
        (&["max-age=99999999999999999999999999999999"], secs(1 << 31)),
        (&["max-age=0"], secs(0)),
        (&["max-age=-3600"], secs(0)),
        (&["max-age=3600.0"], secs(0)),
        (&["max-age=3600a"], secs(0)),
        (&["max-age=a3600"], secs(0)),
        (&["max-age='3600'"], secs(0)),
        (&["max-age =3600"], secs(0)),
        (&["max-age= 3600"], secs(0)),
        (&["max-age="], secs(0)),
        (&["max-age"], secs(0)),
        (&["max-age=\"3600"], secs(0)),
        // The most restrictive of two counts, which is never more than the first.
        (&["max-age=1800, max-age=1"], secs(1)),
        (&["max-age=1, max-age=1800"], secs(1)),
        (&["max-age=1800", "max-age=1"], secs(1)),
        (&["max-age=1", "max-age=1800"], secs(1)),
        (&["extension=\"max-age=3600\", max-age=1"], secs(1)),
        (&["max-age=1, extension=\"max-age=3600\""], secs(1)),
        (&["extension=\"a, max-age=3600\""], None),
        (&["s-maxage=10, xmax-age=3"], None),
    ];
    for (lines, max_age) in table {
        assert_eq!(response(lines).max_age, max_age, "{lines:?}");
    }
}

#[test]
fn directives_of_responses() {
    // RFC 9111 §5.2.2, RFC 5861 §3 and §4, RFC 8246 §2.
    type Set = fn(&mut ResponseDirectives);
    let table: [(&str, Set); 18] = [
        ("no-store", |d| d.no_store = true),
        ("No-StOrE", |d| d.no_store = true),
        // What restricts counts also with an argument that it does not have.
        ("no-store=1", |d| d.no_store = true),
        ("no-store =", |d| d.no_store = true),
        ("extension=\"x, no-store", |d| d.no_store = true),
        ("must-revalidate=0", |d| d.must_revalidate = true),
        ("public", |d| d.public = true),
        // What permits does not.
        ("public=0", |_| {}),
        ("immutable=0", |_| {}),
        ("must-understand=0", |_| {}),
        ("publicly", |_| {}),
        ("must-revalidate", |d| d.must_revalidate = true),
        ("proxy-revalidate", |d| d.proxy_revalidate = true),
        ("must-understand, no-store", |d| (d.must_understand, d.no_store) = (true, true)),
        ("no-transform, immutable", |d| (d.no_transform, d.immutable) = (true, true)),
        ("s-maxage=5, max-age=60", |d| (d.s_maxage, d.max_age) = (secs(5), secs(60))),
        ("stale-while-revalidate=30, stale-if-error=86400", |d| {
            (d.stale_while_revalidate, d.stale_if_error) = (secs(30), secs(86400));
        }),
        ("stale-while-revalidate=x, stale-if-error", |d| {
            (d.stale_while_revalidate, d.stale_if_error) = (secs(0), secs(0));
        }),
    ];
    for (line, set) in table {
        let mut expected = ResponseDirectives::default();
        set(&mut expected);
        assert_eq!(response(&[line]), expected, "{line}");
    }
}

#[test]
fn qualified_directives_name_fields() {
    // RFC 9111 §5.2.2.4 and §5.2.2.7.
    let table: [(&[&str], Scope); 11] = [
        (&["no-cache"], Scope::Whole),
        (&["no-cache=\"a\""], fields(&["a"])),
        (&["no-cache=a"], fields(&["a"])),
        (&["no-cache=\"Set-Cookie, B\""], fields(&["set-cookie", "b"])),
        (&["no-cache=\"a\", no-cache=\"b\""], fields(&["a", "b"])),
        (&["no-cache=\"a\"", "no-cache"], Scope::Whole),
        (&["no-cache, no-cache=\"a\""], Scope::Whole),
        (&["no-cache=\"\""], Scope::Whole),
        (&["no-cache=\"a b\""], Scope::Whole),
        (&["no-cache=\"a"], Scope::Whole),
        (&["max-age=1"], Scope::Absent),
    ];
    for (lines, scope) in table {
        assert_eq!(response(lines).no_cache, scope, "{lines:?}");
        let private: Vec<_> = lines.iter().map(|line| line.replace("no-cache", "private")).collect();
        let private: Vec<_> = private.iter().map(String::as_str).collect();
        assert_eq!(response(&private).private, scope, "{private:?}");
    }
    let many: Vec<_> = (0..40).map(|at| format!("f{at}")).collect();
    assert_eq!(response(&[&format!("private=\"{}\"", many.join(","))]).private, Scope::Whole);
}

#[test]
fn directives_of_requests() {
    // RFC 9111 §5.2.1 and RFC 5861 §4.
    type Set = fn(&mut RequestDirectives);
    let table: [(&str, Set); 16] = [
        ("no-cache", |d| d.no_cache = true),
        ("no-store, no-transform", |d| (d.no_store, d.no_transform) = (true, true)),
        ("only-if-cached", |d| d.only_if_cached = true),
        ("max-age=0", |d| d.max_age = secs(0)),
        ("max-age=5, max-age=3", |d| d.max_age = secs(3)),
        ("max-age=x", |_| {}),
        ("max-age", |_| {}),
        ("min-fresh=20", |d| d.min_fresh = secs(20)),
        ("min-fresh=2, min-fresh=20", |d| d.min_fresh = secs(20)),
        ("max-stale", |d| d.max_stale = Some(MaxStale::Any)),
        ("max-stale=10", |d| d.max_stale = Some(MaxStale::For(Duration::from_secs(10)))),
        ("max-stale, max-stale=10", |d| d.max_stale = Some(MaxStale::For(Duration::from_secs(10)))),
        ("max-stale=10, max-stale", |d| d.max_stale = Some(MaxStale::For(Duration::from_secs(10)))),
        ("max-stale=x", |_| {}),
        ("stale-if-error=60", |d| d.stale_if_error = secs(60)),
        ("nothing-to-see-here", |_| {}),
    ];
    for (line, set) in table {
        let mut expected = RequestDirectives::default();
        set(&mut expected);
        assert_eq!(request(line), expected, "{line}");
    }
}

#[test]
fn pragma_counts_where_there_is_no_cache_control() {
    // RFC 9111 §5.4.
    let no_cache = |fields: &[(&'static str, &str)]| RequestDirectives::of(&headers(fields)).no_cache;
    assert!(no_cache(&[("pragma", "no-cache")]));
    assert!(no_cache(&[("pragma", "a, No-Cache")]));
    assert!(!no_cache(&[("pragma", "unrecognised-extension")]));
    assert!(!no_cache(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]));
    // Its meaning in responses was never specified.
    assert_eq!(ResponseDirectives::of(&headers(&[("pragma", "no-cache")])), ResponseDirectives::default());
}

#[test]
fn a_targeted_field_takes_the_place_of_cache_control() {
    // RFC 9213 §2.1 and §2.2. `None`: it does not count.
    type Set = fn(&mut ResponseDirectives);
    let table: [(&[&str], Option<Set>); 22] = [
        (&["max-age=3600"], Some(|d| d.max_age = secs(3600))),
        (&["max-age=2147483648"], Some(|d| d.max_age = secs(1 << 31))),
        (&["max-age=99999999999"], Some(|d| d.max_age = secs(1 << 31))),
        (&["max-age=0"], Some(|d| d.max_age = secs(0))),
        (&["max-age=-1"], Some(|d| d.max_age = secs(0))),
        (&["foobar, max-age=3600"], Some(|d| d.max_age = secs(3600))),
        (&["max-age=3600;a=b"], Some(|d| d.max_age = secs(3600))),
        (&["max-age=1, max-age=2"], Some(|d| d.max_age = secs(2))),
        (&["max-age=1", "no-store"], Some(|d| (d.max_age, d.no_store) = (secs(1), true))),
        (&["private"], Some(|d| d.private = Scope::Whole)),
        (&["no-cache"], Some(|d| d.no_cache = Scope::Whole)),
        (&["no-cache=\"a, b\""], Some(|d| d.no_cache = fields(&["a", "b"]))),
        (&["no-store=?0, max-age=9"], Some(|d| d.max_age = secs(9))),
        (&["stale-while-revalidate=5, immutable"], {
            Some(|d| (d.stale_while_revalidate, d.immutable) = (secs(5), true))
        }),
        (&["max-age =100"], None),
        (&["max-age= 100"], None),
        (&["MaX-aGe=3600"], None),
        (&["max-age=10000, &&&&&"], None),
        (&["max-age=\"10000\""], None),
        (&["max-age=1.5"], None),
        (&["max-age=(1 2)"], None),
        (&[""], None),
    ];
    for (lines, set) in table {
        let mut all: Vec<_> = lines.iter().map(|line| ("cdn-cache-control", *line)).collect();
        all.push(("cache-control", "max-age=77"));
        let mut expected = ResponseDirectives::default();
        match set {
            Some(set) => {
                expected.targeted = true;
                set(&mut expected);
            }
            None => expected.max_age = secs(77),
        }
        assert_eq!(ResponseDirectives::of(&headers(&all)), expected, "{lines:?}");
    }
}
