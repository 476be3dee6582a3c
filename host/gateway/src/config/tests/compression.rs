//! What is wrong with `compression`.

use super::errors;

#[test]
fn compression_of_routes() {
    let route = |lines: &str| {
        format!("upstreams.u = {{ builtin = 'echo' }}\nroutes.r.match.path = '/'\nroutes.r.upstream = 'u'\n{lines}\n")
    };
    for (lines, expected) in [
        ("routes.r.compression = 'yes'", "routes.r.compression: expected true, false or a table, found \"yes\""),
        ("routes.r.compression.encodings = []", "routes.r.compression.encodings: expected at least one"),
        (
            "routes.r.compression.encodings = ['br', 'gzip', 'br']",
            "routes.r.compression.encodings: has an encoding twice",
        ),
        (
            "compression.encodings = ['deflate']",
            "compression.encodings[0]: expected \"zstd\" or \"br\" or \"gzip\", found \"deflate\"",
        ),
        (
            "compression.types = ['text']",
            "compression.types[0]: expected a media type, as `text/html`, `text/*` or `application/*+json`, found \"text\"",
        ),
        ("compression.levels.gzip = 10", "compression.levels.gzip: expected an integer from 1 to 9, found 10"),
        ("compression.levels.br = 12", "compression.levels.br: expected an integer from 0 to 11, found 12"),
        (
            "routes.r.compression.levels.zstd = 0",
            "routes.r.compression.levels.zstd: expected an integer from 1 to 19, found 0",
        ),
        ("routes.r.compression.level = 1", "routes.r.compression.level: unknown key, did you mean `levels`?"),
    ] {
        let found = errors(&route(lines));
        assert!(found.ends_with(expected) && found.lines().count() == 1, "of\n{lines}\n{found}");
    }
}
