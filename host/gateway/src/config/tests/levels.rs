//! `[defaults]`, groups and what is inherited from them, references that stand for numbers, and where a value comes from.

use super::*;

#[test]
fn a_route_goes_before_its_group_and_that_before_the_defaults() {
    let config = config(
        "[defaults.route]\ntimeouts = { request = '1s', idle = '2s' }\npipeline = ['f', 'g']\nhost = 'upstream'\nupgrade = false\n\
         [groups.a.route]\ntimeouts = { request = '3s', connect = '4s' }\npipeline = ['g']\nlimits.body = 'unlimited'\n\
         [routes.plain]\nmatch = { path = '/p' }\nupstream = 'http://x'\n\
         [routes.grouped]\ngroup = 'a'\nmatch = { path = '/g' }\nupstream = 'http://x'\ntimeouts.connect = '5s'\nhost = 'keep'\n\
         [routes.answers]\nmatch = { path = '/a' }\nrespond = {}\npipeline = []\n\
         [filters.f]\n[filters.g]\n",
    );
    let [plain, grouped, answers] = &config.routes[..] else { panic!("three routes") };
    let seconds = |of: &Route| {
        let RouteTimeouts { request, connect, idle, .. } = &of.timeouts;
        (request.map(|t| t.as_secs()), connect.as_secs(), idle.map(|t| t.as_secs()))
    };
    assert_eq!(seconds(plain), (Some(1), 3, Some(2)));
    assert_eq!(seconds(grouped), (Some(3), 5, Some(2)));
    assert_eq!(plain.pipeline, ["f", "g"].map(|name| Step::Filter(Name::from(name))));
    assert_eq!(grouped.pipeline, [Step::Filter(Name::from("g"))], "lists replace");
    assert_eq!((&plain.host, &grouped.host), (&HostPolicy::Upstream, &HostPolicy::Keep));
    assert_eq!((plain.limits.body, grouped.limits.body), (Some(defaults::BODY_LIMIT), None));
    assert_eq!((plain.upgrade, answers.pipeline.len()), (false, 0));
}

#[test]
fn upstreams_inherit_too() {
    let config = config(
        "[defaults.upstream]\nbalance = 'least_request'\npool.max_idle = 7\n[groups.a.upstream]\npool.idle_timeout = '9s'\ntls.verify = false\n\
         [upstreams.u]\ngroup = 'a'\nbuiltin = 'echo'\npool.max_idle = 8\n[routes.r]\nmatch = {}\nupstream = 'http://x'\n",
    );
    let [u, anonymous] = &config.upstreams[..] else { panic!("two upstreams") };
    assert_eq!((&u.balancing.algorithm, &anonymous.balancing), (&Balance::LeastRequest, &u.balancing));
    assert_eq!((u.pool.max_idle, u.pool.idle_timeout.as_secs(), u.tls.verify), (8, 9, false));
    assert_eq!((anonymous.pool.max_idle, anonymous.tls.verify), (7, true));
}

#[test]
fn each_level_is_checked_at_its_place_and_once() {
    check(&[
        (
            "[defaults.route]\nupsteam = 'x'\nupgrad = true\ntimeouts = { request = 5 }\n[routes.a]\nmatch = {}\nrespond = {}\n[routes.b]\nmatch.path = '/b'\nrespond = {}\n",
            "gateway.toml:3:1: defaults.route.upsteam: unknown key, expected `host`, `pipeline`, `priority`, `timeouts`, `limits`, `criticality`, `upgrade`, `decompress_requests`, `retry`, `deadline`, `cache` or `compression`\n\
             gateway.toml:4:1: defaults.route.upgrad: unknown key, did you mean `upgrade`?\n\
             gateway.toml:5:24: defaults.route.timeouts.request: expected a duration like \"250ms\", \"2s\" or \"5m\", or \"off\", found 5",
        ),
        (
            "[groups.a.rout]\n[groups.b.upstream]\ndns.min_ttl = '10m'\npool = 1\n[groups.c.route]\npipeline = ['none']\n",
            "gateway.toml:2:11: groups.a.rout: unknown key, did you mean `route`?\n\
             gateway.toml:4:1: groups.b.upstream.dns: `min_ttl` is above `max_ttl`\n\
             gateway.toml:5:8: groups.b.upstream.pool: expected a table, found 1\n\
             gateway.toml:7:13: groups.c.route.pipeline[0]: unknown filter `none`",
        ),
        (
            "[groups.internal]\n[routes.a]\ngroup = 'intern'\nmatch = {}\nrespond = {}\n",
            "gateway.toml:4:9: routes.a.group: unknown group `intern`, did you mean `internal`?",
        ),
        ("defaults = 1\n", "gateway.toml:2:12: defaults: expected a table, found 1"),
        (
            "[defaults.upstream]\nprotocol = 'h2'\n[upstreams.u]\nendpoints = ['http://x']\n[upstreams.v]\nendpoints = ['https://x']\n",
            "gateway.toml:4:12: upstreams.u: `protocol`, inherited from gateway.toml:3:12: `h2` is for https endpoints; over http it is `h2c`",
        ),
        (
            "[defaults.upstream]\ndns.max_ttl = '5s'\n[upstreams.u]\nbuiltin = 'echo'\ndns.min_ttl = '6s'\n",
            "gateway.toml:6:1: upstreams.u.dns: `min_ttl` is above `max_ttl`",
        ),
    ]);
}

#[test]
fn files_that_are_included_can_add_groups() {
    let main = format!("include = ['more.toml']\n{LISTENER}[routes.r]\ngroup = 'a'\nmatch = {{}}\nrespond = {{}}\n");
    let (_directory, loaded) = load_with(&main, &[("more.toml", "[groups.a.route]\npriority = 3\n")]);
    assert_eq!(loaded.unwrap().config.routes[0].priority, 3);
    let wrong = [("more.toml", "[groups.a.route]\npriority = 'high'\n")];
    assert_eq!(
        errors_with(&main, &wrong),
        "more.toml:2:12: groups.a.route.priority: expected an integer from -1000000 to 1000000, found \"high\""
    );
}

#[test]
fn a_reference_takes_the_type_that_is_expected() {
    let unset = "${env:SLUICE_NO_SUCH:-";
    let config = config(&format!(
        "[gateway]\nworkers = '{unset}3}}'\nreload = '{unset}false}}'\nmax_buffered_memory = '${{env:SLUICE_NO_SUCH:-1048576}}'\n\
         shutdown_timeout = '{unset}7s}}'\nplugin_dir = '/a/{unset}b}}/c'\nrequest_id_header = '{unset}x-a}}'\n"
    ));
    let gateway = &config.gateway;
    assert_eq!((gateway.workers.get(), gateway.reload, gateway.max_buffered_memory), (3, false, ByteSize(1 << 20)));
    assert_eq!((gateway.shutdown_timeout.as_secs(), gateway.plugin_dir.to_str()), (7, Some("/a/b/c")));
    let files = [("n", "12\n"), ("secret", "hunter2")];
    let text = "[gateway]\nmax_connections = '${file:n}'\nworkers = '${file:secret}'\nreload = '${env:PATH}'\nmax_buffered_memory = '${file:secret}'\nshutdown_timeout = '${env:SLUICE_NO_SUCH:-soon}'\n";
    assert_eq!(
        errors_with(&format!("{LISTENER}{text}"), &files),
        "gateway.toml:4:11: gateway.workers: expected an integer from 1 to 1024, found … (the file `secret`)\n\
         gateway.toml:5:10: gateway.reload: expected true or false, found … (the environment variable `PATH`)\n\
         gateway.toml:6:23: gateway.max_buffered_memory: expected a size like \"64KiB\", \"1MiB\" or \"10MB\", or a number of bytes, found … (the file `secret`)\n\
         gateway.toml:7:20: gateway.shutdown_timeout: expected a duration like \"250ms\", \"2s\", \"5m\", \"1h\" or \"1d\", found \"soon\" (the default of the environment variable `SLUICE_NO_SUCH`)"
    );
    check(&[
        (
            "gateway.workers = '1${env:SLUICE_NO_SUCH:-2}'",
            "gateway.toml:2:19: gateway.workers: expected an integer from 1 to 1024, found \"12\"",
        ),
        (
            "gateway.workers = '3'",
            "gateway.toml:2:19: gateway.workers: expected an integer from 1 to 1024, found \"3\"",
        ),
        (
            "gateway.workers = '${env:SLUICE_NO_SUCH}'",
            "gateway.toml:2:19: gateway.workers: the environment variable `SLUICE_NO_SUCH` is not set",
        ),
    ]);
}

/// What is said of a key, without the directory.
fn explained(text: &str, key: &str) -> String {
    let (directory, _) = load_with(&format!("{LISTENER}{text}"), &[("t", "hunter2")]);
    let base = format!("{}/", directory.path().display());
    let found = explain(&directory.path().join("gateway.toml"), key);
    let lines = match found {
        Ok(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        Err(error) => error.to_string(),
    };
    lines.replace(&base, "")
}

#[test]
fn a_value_says_where_it_comes_from() {
    let text = "[defaults.route]\ntimeouts = { idle = '2s' }\n[groups.a.route]\ntimeouts.request = '3s'\n\
                [routes.api]\ngroup = 'a'\nmatch = {}\nupstream = 'u'\ntimeouts.connect = '1s'\n[upstreams.u]\nbuiltin = 'echo'\n\
                [plugins.p]\nlimits.cpu = '1ms'\n[filters.f]\nplugin = 'p'\nconfig.key = 'hunter2'\ngrants.secrets.s = 'hunter2'\n";
    let cases = [
        (
            "routes.api.timeouts",
            "routes.api.timeouts.request = \"3s\"\n    gateway.toml:5:20, from groups.a.route.timeouts.request\n\
             routes.api.timeouts.connect = \"1s\"\n    gateway.toml:10:20\n\
             routes.api.timeouts.first_byte = \"30s\"\n    the default\n\
             routes.api.timeouts.idle = \"2s\"\n    gateway.toml:3:21, from defaults.route.timeouts.idle\n\
             routes.api.timeouts.max_stream_duration = \"off\"\n    the default",
        ),
        (
            "listeners.http.max_connections",
            "listeners.http.max_connections = 10000\n    the same as gateway.max_connections",
        ),
        ("filters.f.limits.cpu", "filters.f.limits.cpu = \"1ms\"\n    gateway.toml:14:14, from plugins.p.limits.cpu"),
        ("filters.f.grants.secrets.s", "filters.f.grants.secrets.s = …\n    gateway.toml:18:20"),
        ("filters.f.config", "filters.f.config = a table\n    gateway.toml:17:1"),
        ("gateway.workers", "gateway.workers = one for each core\n    the default"),
        (
            "routes.api.timeouts.requst",
            "there is no key `routes.api.timeouts.requst`, did you mean `routes.api.timeouts.request`?",
        ),
        ("x", "there is no key `x`"),
    ];
    for (key, expected) in cases {
        assert_eq!(explained(text, key), expected, "of {key}");
    }
    assert_eq!(explained("gateway.workers = 0", "gateway.reload").lines().count(), 2, "a configuration with errors");
}
