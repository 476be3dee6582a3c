//! What is wrong with `cache`.

use super::errors;

#[test]
fn caches_of_routes() {
    let route =
        |lines: &str| format!("upstreams.u = {{ builtin = 'echo' }}\n[routes.r]\nmatch = {{ path = '/' }}\n{lines}\n");
    for (lines, expected) in [
        (
            "upstream = 'u'\ncache = { query = ['a'], ignore_query = ['b'] }",
            "routes.r.cache: has `query` and `ignore_query`, expected one of them",
        ),
        (
            "upstream = 'u'\ncache = { negative_statuses = [404] }",
            "routes.r.cache: `negative_statuses` is for a `negative_ttl`",
        ),
        ("upstream = 'u'\ncache = { headers = ['a b'] }", "routes.r.cache.headers[0]: `a b` is not a header name"),
        (
            "upstream = 'u'\ncache = { purge = {} }",
            "routes.r.cache.purge: expected at least one of `token`, `addresses` and `consumers`: otherwise, anybody may purge",
        ),
        (
            "upstream = 'u'\ncache = { purge = { token = 'short' } }",
            "routes.r.cache.purge.token: expected a token of at least 16 visible ASCII characters",
        ),
        ("respond = {}\ncache = {}", "routes.r: `cache` is only for routes with an upstream"),
    ] {
        let found = errors(&route(lines));
        assert!(found.ends_with(expected) && found.lines().count() == 1, "of\n{lines}\n{found}");
    }
}
