//! The texts of errors, one case for each kind, and what a good file comes to.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::model::*;
use super::*;
use crate::route::{FieldSpec, HostPattern, PathRewrite, ValuePattern};
use crate::services::Origin;
use crate::telemetry::LogLevel;
use crate::wasm::{FilterLimits, Mode};

mod acme;
mod cache;
mod compression;
mod filters;
mod health;
mod levels;
mod mutations;
mod pipelines;
mod reference;
mod releases;
mod tls;

/// Loads `text` as `gateway.toml` beside `files`.
fn load_with(text: &str, files: &[(&str, &str)]) -> (TempDir, Result<Loaded, ConfigErrors>) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files.iter().chain(&[("gateway.toml", text)]) {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let loaded = load(&directory.path().join("gateway.toml"));
    (directory, loaded)
}

/// The errors of a file, without the directory.
fn errors_with(text: &str, files: &[(&str, &str)]) -> String {
    let (directory, loaded) = load_with(text, files);
    let errors = loaded.expect_err("there are errors");
    let base = format!("{}/", directory.path().display());
    let lines: Vec<String> = errors.iter().map(|error| error.to_string().replace(&base, "")).collect();
    lines.join("\n")
}

const LISTENER: &str = "listeners.http = { bind = '127.0.0.1:0' }\n";

/// The errors of a file that has a listener in its first line.
fn errors(text: &str) -> String {
    errors_with(&format!("{LISTENER}{text}"), &[])
}

fn config(text: &str) -> Config {
    load_with(&format!("{LISTENER}{text}"), &[]).1.unwrap_or_else(|errors| panic!("{errors}")).config
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(errors(text), *expected, "of\n{text}");
    }
}

#[test]
fn files_that_are_not_there_or_not_toml() {
    let missing = load(Path::new("no/such.toml")).expect_err("there is none").to_string();
    assert!(missing.starts_with("no/such.toml: cannot read the file: "), "{missing}");
    assert!(missing.ends_with("\n1 error"), "{missing}");
    check(&[
        ("x = ", "gateway.toml:2:5: string values must be quoted, expected literal string"),
        ("[a]\n[a]\n", "gateway.toml:3:2: duplicate key `a`, also at 2:2"),
        ("[[x]]\n[x.s]\n[[x]]\n[x.s]\n  [x.s] # c\n", "gateway.toml:6:6: duplicate key `s`, also at 5:4"),
        ("[[x]]\n[x.s]\n[[x]]\ns = 1\n[x.s]\n", "gateway.toml:6:4: duplicate key `s`"),
        ("\"a=b\" = 1\n\"a=c\" = 2\n\"a=b\" = 3\n", "gateway.toml:4:1: duplicate key `\"a=b\"`, also at 2:1"),
        ("  \"é\" = 1\n\"é\" = 2", "gateway.toml:3:1: duplicate key `\"é\"`, also at 2:3"),
        ("x = [\n {a = 1, b = 2},\n {a = 1, a = 2},\n]\n", "gateway.toml:4:10: duplicate key `a`"),
        (
            "x = [\n  [{a = 1, a = 2}],\n]\ny = 1\ny = 1\r\n",
            "gateway.toml:3:12: duplicate key `a`\ngateway.toml:6:1: duplicate key `y`, also at 5:1",
        ),
        (
            "[a]\nx = 1\ny = 2\n[b]\n[a]\nx = 1\ny = [\n]\n[c]\nz = 1\nz = 1\n",
            "gateway.toml:6:2: duplicate key `a`, also at 2:2\ngateway.toml:12:1: duplicate key `z`, also at 11:1",
        ),
    ]);
    assert_eq!(
        errors_with("", &[]),
        "gateway.toml:1:1: there is no listener, expected a table like `[listeners.http]`"
    );
}

#[test]
fn broken_toml_is_one_error() {
    let rest = "[admin]\nbind = '127.0.0.1:0'\n[routes.r]\nmatch = { path = '/' }\nrespond = {}\n";
    let cases = [
        (
            "pipelines.a = ['x',\n  'y'\n",
            "4:1: missing comma between array elements, expected `,` (the list that begins at 2:15 has not ended)",
        ),
        (
            "[pipelines]\na = [\n  ['x'], # ]\n  \"]\",\n",
            "6:2: string values must be quoted, expected literal string (the list that begins at 3:5 has not ended)",
        ),
        (
            "upstreams.u = { builtin = 'echo', dns = { min_ttl = '1s' }\n",
            "3:1: missing key for inline table element, expected `,` (the table that begins at 2:15 has not ended)",
        ),
        ("pipelines.a = ['x', 'y' 'z']\n", "2:25: missing comma between array elements, expected `,`"),
        ("[[x]]\n[pipelines\na = 1 2\n", "3:11: unclosed table, expected `]`"),
        (
            "a = 1\na = 2\nb = 1\nb = 2\nc = 1 2\nd = 1 2\n",
            "3:1: duplicate key `a`, also at 2:1\ngateway.toml:5:1: duplicate key `b`, also at 4:1\n",
        ),
    ];
    for (text, expected) in cases {
        let found = errors(&format!("{text}{rest}"));
        assert!(found.starts_with(&format!("gateway.toml:{expected}")), "{found}\nof\n{text}");
        assert_eq!(
            found.lines().count(),
            expected.lines().count().max(1) + usize::from(expected.ends_with('\n')),
            "{found}"
        );
    }
}

#[test]
fn unknown_keys_name_the_nearest() {
    check(&[
        ("[gatway]\n", "gateway.toml:2:2: gatway: unknown key, did you mean `gateway`?"),
        (
            "[listeners.b]\nbnid = '127.0.0.1:0'\n",
            "gateway.toml:2:12: listeners.b: the key `bind` is missing\n\
             gateway.toml:3:1: listeners.b.bnid: unknown key, did you mean `bind`?",
        ),
        (
            "[admin]\nbind = '127.0.0.1:0'\nüx = 1",
            "gateway.toml:4:1: invalid unquoted key, expected letters, numbers, `-`, `_`",
        ),
        (
            "[telemetry]\n\"q q\" = 1",
            "gateway.toml:3:1: telemetry.\"q q\": unknown key, expected `access_log` or `log_level`",
        ),
        (
            "[routes.r]\nmatch = { path = '/', headers = { a = { regx = 'x' } } }\nrespond = {}",
            "gateway.toml:3:35: routes.r.match.headers.a: needs either `regex` or `present`\n\
             gateway.toml:3:41: routes.r.match.headers.a.regx: unknown key, did you mean `regex`?",
        ),
    ]);
}

#[test]
fn values_of_the_wrong_kind() {
    check(&[
        ("gateway = 1", "gateway.toml:2:11: gateway: expected a table, found 1"),
        ("gateway.workers = 0", "gateway.toml:2:19: gateway.workers: expected an integer from 1 to 1024, found 0"),
        ("gateway.reload = 'yes'", "gateway.toml:2:18: gateway.reload: expected true or false, found \"yes\""),
        (
            "gateway.shutdown_timeout = '5 s'",
            "gateway.toml:2:28: gateway.shutdown_timeout: expected a duration like \"250ms\", \"2s\", \"5m\", \"1h\" or \"1d\", found \"5 s\"",
        ),
        (
            "gateway.max_buffered_memory = -1",
            "gateway.toml:2:31: gateway.max_buffered_memory: expected a size like \"64KiB\", \"1MiB\" or \"10MB\", or a number of bytes, found -1",
        ),
        (
            "gateway.request_id_header = 'a b'",
            "gateway.toml:2:29: gateway.request_id_header: expected a header name, found \"a b\"",
        ),
        (
            "gateway.nameservers = ['10.0.0.53', '::1', '[::1]:5353', 'dns.example', '10.0.0.53:0']",
            "gateway.toml:2:58: gateway.nameservers[3]: expected an address like \"10.0.0.53\", \"10.0.0.53:5353\" or \"[::1]:53\", found \"dns.example\"\n\
             gateway.toml:2:73: gateway.nameservers[4]: expected an address like \"10.0.0.53\", \"10.0.0.53:5353\" or \"[::1]:53\", found \"10.0.0.53:0\"",
        ),
        (
            "telemetry.access_log = 'jsn'",
            "gateway.toml:2:24: telemetry.access_log: expected \"auto\" or \"json\" or \"console\" or \"off\" (did you mean \"json\"?), found \"jsn\"",
        ),
        (
            "[admin]\nbind = '127.0.0.1'",
            "gateway.toml:3:8: admin.bind: expected an address like \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/run/sluice/http.sock\", found \"127.0.0.1\"",
        ),
        (
            "gateway.workers = 99999999999999999999",
            "gateway.toml:2:19: gateway.workers: the integer `99999999999999999999` is out of range",
        ),
        (
            "[listeners.'a b']\nbind = '127.0.0.1:0'",
            "gateway.toml:2:12: listeners.\"a b\": a name has only letters, digits, `-`, `_` and `.`",
        ),
    ]);
}

#[test]
fn listeners_and_certificates() {
    check(&[
        (
            "listeners.a.bind = '127.0.0.1:80'\nlisteners.b.bind = '127.0.0.1:80'",
            "gateway.toml:3:20: listeners.b.bind: the address 127.0.0.1:80 is already that of `listeners.a.bind`",
        ),
        (
            "listeners.a.bind = '127.0.0.1:80'\nlisteners.b.bind = '0.0.0.0:80'",
            "gateway.toml:3:20: listeners.b.bind: the address 0.0.0.0:80 overlaps with 127.0.0.1:80 of `listeners.a.bind`",
        ),
        (
            "listeners.a.bind = '0.0.0.0:80'\nlisteners.b.bind = '[::]:80'",
            "gateway.toml:3:20: listeners.b.bind: the address [::]:80 overlaps with 0.0.0.0:80 of `listeners.a.bind`",
        ),
        (
            "[listeners.a]\nbind = '127.0.0.1:0'\ntls = { certificates = ['mian'] }\nprotocols = []\n[certificates.main]\ncert = 'none.pem'\nkey = '-----BEGIN CERTIFICATE-----'\n",
            "gateway.toml:4:25: listeners.a.tls.certificates[0]: unknown certificate `mian`, did you mean `main`?\n\
             gateway.toml:5:13: listeners.a.protocols: expected at least one\n\
             gateway.toml:7:8: certificates.main.cert: cannot read `none.pem`: No such file or directory (os error 2)\n\
             gateway.toml:8:7: certificates.main.key: there is no PEM block `PRIVATE KEY` in it",
        ),
        (
            "[listeners.a]\nbind = '127.0.0.1:0'\ntrusted_proxies = ['10.0.0.0/33']",
            "gateway.toml:4:20: listeners.a.trusted_proxies[0]: expected an address or network like \"10.0.0.0/8\", found \"10.0.0.0/33\"",
        ),
    ]);
}

#[test]
fn matches() {
    check(&[
        ("[routes.r]\nrespond = {}", "gateway.toml:2:9: routes.r: the key `match` is missing"),
        ("[routes.r]\nmatch = []\nrespond = {}", "gateway.toml:3:9: routes.r.match: expected at least one match"),
        (
            "[routes.r]\nrespond = {}\n[[routes.r.match]]\npath = 'a'\n[[routes.r.match]]\npath = '/a'\npath_regex = '('\nmethods = ['get']\nhost = '*'",
            "gateway.toml:5:8: routes.r.match[0].path: the path pattern `a` does not start with a slash\n\
             gateway.toml:6:1: routes.r.match[1]: has both `path` and `path_regex`\n\
             gateway.toml:8:14: routes.r.match[1].path_regex: `(` is not a regular expression: unclosed group\n\
             gateway.toml:9:12: routes.r.match[1].methods[0]: expected a method like \"GET\", found \"get\"\n\
             gateway.toml:10:8: routes.r.match[1].host: leave the key out to take every host",
        ),
        (
            "[routes.r]\nmatch = { headers = { a = '1', A = '2' } }\nrespond = {}",
            "gateway.toml:3:36: routes.r.match.headers.A: is named twice",
        ),
        (
            "[routes.r]\nmatch = { cookies = { a = 1, b = { present = false } } }\nrespond = {}",
            "gateway.toml:3:27: routes.r.match.cookies.a: expected a string, `{ regex = \"…\" }` or `{ present = true }`, found 1\n\
             gateway.toml:3:46: routes.r.match.cookies.b.present: can only be true",
        ),
    ]);
}

#[test]
fn actions() {
    let route = "[routes.r]\nmatch = { path = '/a/{id}/**' }\n";
    let cases = [
        ("", "2:9: routes.r: needs exactly one of `upstream`, `upstreams`, `redirect` and `respond`"),
        (
            "upstream = 'a'\nrespond = {}\n[upstreams.a]\nbuiltin = 'echo'",
            "2:9: routes.r: needs exactly one of `upstream`, `upstreams`, `redirect` and `respond`",
        ),
        (
            "upstream = 'ordrs'\n[upstreams.orders]\nbuiltin = 'echo'",
            "4:12: routes.r.upstream: unknown upstream `ordrs`, did you mean `orders`?",
        ),
        (
            "upstream = 'ftp://x'",
            "4:12: routes.r.upstream: expected an origin like \"http://host:port\", found \"ftp://x\"",
        ),
        (
            "upstreams = { a = 0 }\n[upstreams.a]\nbuiltin = 'echo'",
            "4:1: routes.r.upstreams: at least one upstream needs a weight above 0",
        ),
        ("upstreams = {}", "4:1: routes.r.upstreams: expected at least one upstream"),
        (
            "redirect = { status = 304, path = '/{x}' }",
            "4:23: routes.r.redirect.status: expected 301, 302, 303, 307 or 308, found 304\n4:35: routes.r.redirect.path: the parameter `x` is not in the path of every match",
        ),
        (
            "redirect = {}",
            "4:1: routes.r.redirect: leads to where it comes from: needs `scheme`, `host`, `port`, `path`, `strip_prefix` or `replace_prefix`",
        ),
        (
            "respond = { status = 204, body = 'x', headers = { content-length = '1' } }",
            "4:1: routes.r.respond: a response with status 204 has no body\n4:68: routes.r.respond.headers.content-length: `content-length` is set by the gateway itself",
        ),
        ("respond = {}\nrewrite = { path = '/' }", "2:9: routes.r: `rewrite` is only for routes with an upstream"),
        (
            "upstream = 'http://a'\nrewrite = { replace_prefix = '/x' }",
            "5:1: routes.r.rewrite: `replace_prefix` needs `strip_prefix`, as not every match has a path of literals and `/**`",
        ),
        (
            "upstream = 'http://a'\nrewrite = { path = '/x', strip_prefix = '/a/' }",
            "5:1: routes.r.rewrite: `path` excludes `strip_prefix` and `replace_prefix`\n5:41: routes.r.rewrite.strip_prefix: expected a path like \"/api\", found \"/a/\"",
        ),
        (
            "upstream = 'http://a'\nhost = 'a b'",
            "5:8: routes.r.host: expected \"keep\", \"upstream\" or a host name, found \"a b\"",
        ),
        ("upstream = 'http://a'\npipeline = 'x'", "5:12: routes.r.pipeline: unknown pipeline `x`"),
        ("upstream = 'http://a'\npipeline = ['x']", "5:13: routes.r.pipeline[0]: unknown filter `x`"),
        (
            "upstream = 'http://a'\ntimeouts = { connect = 'off' }",
            "5:24: routes.r.timeouts.connect: expected a duration like \"250ms\", \"2s\", \"5m\", \"1h\" or \"1d\", found \"off\"",
        ),
        (
            "upstream = 'http://a'\nlimits = { body = 'none' }",
            "5:19: routes.r.limits.body: expected a size like \"64KiB\" or \"10MB\", a number of bytes, or \"unlimited\", found \"none\"",
        ),
    ];
    for (text, expected) in cases {
        let found = errors(&format!("{route}{text}")).replace("gateway.toml:", "");
        assert_eq!(found, expected, "of\n{text}");
    }
}

#[test]
fn upstreams() {
    let cases = [
        ("", "2:12: upstreams.u: needs exactly one of `endpoints`, `discovery`, `builtin` and `files`"),
        ("endpoints = []", "3:13: upstreams.u.endpoints: expected at least one endpoint"),
        (
            "endpoints = ['http://a', 'http://a:80', 'http://b/x']",
            "3:26: upstreams.u.endpoints[1]: the endpoint a:80 is listed twice\n3:41: upstreams.u.endpoints[2]: expected an origin like \"http://host:port\", found \"http://b/x\"",
        ),
        (
            "endpoints = [{ url = 'http://a', weight = 0 }]",
            "3:13: upstreams.u.endpoints: at least one endpoint needs a weight above 0",
        ),
        (
            "endpoints = ['http://a']\nprotocol = 'h2'",
            "4:12: upstreams.u.protocol: `h2` is for https endpoints; over http it is `h2c`",
        ),
        (
            "builtin = 'echo'\ntls = { cert = '-----BEGIN CERTIFICATE-----' }",
            "4:1: upstreams.u.tls: `cert` and `key` go together",
        ),
        ("builtin = 'echo'\ndns = { min_ttl = '10m' }", "4:1: upstreams.u.dns: `min_ttl` is above `max_ttl`"),
    ];
    for (text, expected) in cases {
        let found = errors(&format!("[upstreams.u]\n{text}")).replace("gateway.toml:", "");
        assert_eq!(found, expected, "of\n{text}");
    }
}

#[test]
fn references() {
    check(&[
        (
            "gateway.plugin_dir = '${env:SLUICE_NO_SUCH}'",
            "gateway.toml:2:22: gateway.plugin_dir: the environment variable `SLUICE_NO_SUCH` is not set",
        ),
        (
            "gateway.plugin_dir = '${home}'",
            "gateway.toml:2:22: gateway.plugin_dir: unknown reference `${home}`, expected `${env:NAME}`, `${env:NAME:-default}` or `${file:PATH}` (a literal `${` is written `$${`)",
        ),
        (
            "gateway.plugin_dir = '${env:A'",
            "gateway.toml:2:22: gateway.plugin_dir: a `${` without its `}` (a literal `${` is written `$${`)",
        ),
        (
            "gateway.plugin_dir = '${env:SLUICE_NO_SUCH:-${env:PATH}}'",
            "gateway.toml:2:22: gateway.plugin_dir: the default of a reference can't have a reference in it",
        ),
        (
            "admin.bind = '${env:PATH}'",
            "gateway.toml:2:14: admin.bind: expected an address like \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/run/sluice/http.sock\", found … (the environment variable `PATH`)",
        ),
    ]);
    let text = "[routes.r]\nmatch = { path = '/' }\nrespond = { body = 'a${file:x/b.txt}c $${d}' }\n";
    let (directory, loaded) = load_with(&format!("{LISTENER}{text}"), &[("x/b.txt", "B\n")]);
    let loaded = loaded.unwrap();
    assert!(matches!(&loaded.config.routes[0].action, Action::Respond { body, .. } if body == "aBc ${d}"));
    assert_eq!(loaded.files, ["gateway.toml", "x/b.txt"].map(|name| directory.path().join(name)));
}

#[test]
fn includes() {
    let route = "match = { path = '/' }\nrespond = { body = '${file:body.txt}' }\n";
    let main = format!("include = ['conf.d/*.toml']\n{LISTENER}[routes.main]\n{route}").replace("${file:body.txt}", "");
    let files = [
        ("conf.d/b.toml", format!("[routes.b]\n{route}[telemetry]\nlog_level = 'debug'")),
        ("conf.d/a.toml", format!("[routes.a]\n{route}")),
        ("conf.d/c.txt", "not this".to_owned()),
        ("conf.d/body.txt", "B".to_owned()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (directory, loaded) = load_with(&main, &files);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<&str> = loaded.config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["main", "a", "b"]);
    assert_eq!(loaded.config.telemetry.log_level, LogLevel::Debug);
    let expected = ["gateway.toml", "conf.d/a.toml", "conf.d/b.toml", "conf.d", "conf.d/body.txt"];
    assert_eq!(loaded.files, expected.map(|name| directory.path().join(name)));

    let twice = [
        (
            "conf.d/a.toml",
            "[routes.main]\nmatch = { path = '/x' }\nrespond = {}\n[listeners]\nhttp.bind = '127.0.0.1:0'",
        ),
        ("conf.d/b.toml", "include = ['x']\n[gateway]\n"),
    ];
    assert_eq!(
        errors_with(&format!("{main}[gateway]\n"), &twice),
        "conf.d/a.toml:1:9: routes.main: is already defined at gateway.toml:3:9\n\
         conf.d/a.toml:5:1: listeners.http: is already defined at gateway.toml:2:11\n\
         conf.d/b.toml:1:1: include: an included file can't include others\n\
         conf.d/b.toml:2:2: gateway: is already defined at gateway.toml:6:2"
    );
    assert_eq!(
        errors_with("include = ['a/*/b.toml', 'none.toml', 1]", &[]),
        "gateway.toml:1:12: include: `a/*/b.toml`: only the file name can have a `*`\n\
         gateway.toml:1:26: include: cannot read `none.toml`: No such file or directory (os error 2)\n\
         gateway.toml:1:39: include[2]: expected a string"
    );
}

#[test]
fn the_number_of_errors_is_at_the_end() {
    let (_directory, loaded) = load_with("gateway.workers = 0\ngateway.reload = 1\n", &[]);
    let text = loaded.expect_err("there are errors").to_string();
    assert!(text.ends_with("\n3 errors"), "{text}");
}

#[test]
fn routes_and_upstreams() {
    let config = config(
        "[routes.a]\nmatch = { host = ['A.example', '*.b.example'], path = '/a/**', headers = { X-A = { present = true } } }\n\
         upstream = 'http://LOCALHOST:3000/'\nrewrite = { replace_prefix = '/v2' }\ntimeouts = { request = 'off' }\nlimits.body = 'unlimited'\n\
         [routes.b]\nmatch = {}\nupstream = 'http://localhost:3000'\npipeline = []\nhost = 'upstream'\n\
         [routes.c]\nmatch = {}\nredirect.host = 'x.example'\npipeline = 'two'\n\
         [upstreams.u]\nendpoints = ['https://[::1]', { url = 'http://b:81', weight = 3, labels = { zone = 'z' } }]\n\
         [filters.f]\n[filters.g]\n[pipelines]\ndefault = ['f']\ntwo = ['g', 'f']\n",
    );
    let [a, b, c] = &config.routes[..] else { panic!("three routes") };
    let one = &a.matches[0];
    assert_eq!(one.hosts, [HostPattern::Exact("a.example".into()), HostPattern::Wildcard("b.example".into())]);
    let field = FieldSpec { name: http::HeaderName::from_static("x-a"), value: ValuePattern::Present };
    assert_eq!(one.headers, [field]);
    assert_eq!(a.rewrite, Some(PathRewrite::ReplacePrefix { prefix: "/a".into(), with: "/v2".into() }));
    assert_eq!((a.timeouts.request, a.limits.body), (None, None));
    assert_eq!(a.pipeline, [Step::Filter(Name::from("f"))]);
    assert_eq!((b.pipeline.len(), &b.host), (0, &HostPolicy::Upstream));
    assert_eq!(c.pipeline, ["g", "f"].map(|name| Step::Filter(Name::from(name))));
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["u", "http://localhost:3000"]);
    let Service::Endpoints(endpoints) = &config.upstreams[0].service else { panic!("endpoints") };
    let shown: Vec<_> = endpoints.iter().map(|e| (e.is_https(), e.authority(), e.weight)).collect();
    assert_eq!(shown, [(true, "[::1]:443".to_owned(), 1), (false, "b:81".to_owned(), 3)]);
}

#[test]
fn nameservers() {
    let config = config("gateway.nameservers = ['10.0.0.53', '::1', '[::1]:5353']\n");
    let expected = ["10.0.0.53:53", "[::1]:53", "[::1]:5353"].map(|address| address.parse().unwrap());
    assert_eq!(config.gateway.nameservers, expected);
}

fn tour() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway.toml")).unwrap()
}

#[test]
fn the_tour_shows_the_defaults() {
    let tour = tour();
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_alphabetic()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    let written: String = tour.lines().map(|line| uncomment(line) + "\n").collect();
    assert!(written.lines().count() == tour.lines().count() && written != tour);
    let show = |text: &str| {
        let (directory, loaded) = load_with(text, &[]);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
        format!("{:#?}", loaded.config).replace(&directory.path().display().to_string(), "")
    };
    assert_eq!(show(&tour), show(&written));
}

#[test]
fn the_tour_shows_every_key() {
    let tour = tour();
    let words: BTreeSet<&str> =
        tour.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    let keys: Vec<String> = keys().into_iter().map(|key| key.path).collect();
    for key in &keys {
        for step in key.split('.').filter(|step| *step != "*") {
            assert!(words.contains(step), "`{key}` is not in gateway.toml");
        }
    }
    for key in ["include", "gateway.workers", "listeners.*.tls.certificates", "routes.*.timeouts.first_byte"] {
        assert!(keys.iter().any(|known| known == key), "{key}");
    }
    for key in
        ["routes.*.match.headers.*.regex", "upstreams.*.endpoints.url", "filters.*.grants.secrets.*", "pipelines.*"]
    {
        assert!(keys.iter().any(|known| known == key), "{key}");
    }
    assert!(!keys.iter().any(|key| key.ends_with(".timeouts") || key.is_empty()), "tables are not keys");
}
