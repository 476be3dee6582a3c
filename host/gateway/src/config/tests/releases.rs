//! What is wrong with `sticky`, `mirror` and `fault`.

use super::errors;

#[test]
fn splits_mirrors_and_faults() {
    let route =
        |lines: &str| format!("upstreams.u = {{ builtin = 'echo' }}\n[routes.r]\nmatch = {{ path = '/' }}\n{lines}\n");
    for (lines, expected) in [
        ("upstream = 'u'\nsticky = { by = 'ip' }", "routes.r: `sticky` is only for routes with `upstreams`"),
        (
            "upstreams = { u = 1 }\nsticky = { by = 'user' }",
            r#"routes.r.sticky.by: expected "ip", "consumer", "header:NAME", "cookie:NAME", "query:NAME" or "param:NAME", found "user""#,
        ),
        ("upstreams = { u = 1 }\nsticky = { by = [] }", "routes.r.sticky.by: expected at least one"),
        (
            "upstreams = { u = 1 }\nsticky = { by = 'ip', max_age = '1d' }",
            "routes.r.sticky: `max_age` is only for a cookie: `by` names none",
        ),
        ("upstream = 'u'\nmirror = { percent = 5 }", "routes.r.mirror: the key `upstream` is missing"),
        (
            "upstream = 'u'\nmirror = { upstream = 'u', percent = 100.1 }",
            "routes.r.mirror.percent: expected a number from 0 to 100, found 100.1",
        ),
        ("respond = {}\nmirror = { upstream = 'u' }", "routes.r: `mirror` is only for routes with an upstream"),
        ("upstream = 'u'\nfault = {}", "routes.r.fault: needs `delay`, `abort` or `slow_body`"),
        (
            "upstream = 'u'\nfault = { abort = { status = 503, grpc_status = 14 } }",
            "routes.r.fault.abort: needs either `status` or `grpc_status`",
        ),
        (
            "upstream = 'u'\nfault = { slow_body = { bytes_per_second = 0 } }",
            "routes.r.fault.slow_body.bytes_per_second: expected more than 0 bytes",
        ),
    ] {
        let found = errors(&route(lines));
        assert!(found.ends_with(expected) && found.lines().count() == 1, "of\n{lines}\n{found}");
    }
}
