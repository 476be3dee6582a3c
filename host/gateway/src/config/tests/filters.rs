//! Filters, their plugins and secrets: errors, and what a good file comes to.

use super::*;

#[test]
fn filters_stay_within_their_plugin() {
    let plugin = "[plugins.p]\nsha256 = 'ab'\n[plugins.p.grants]\nhttp = ['https://a:443']\nbody = false\nread_headers = ['cookie']\nkv_quota = 10\n";
    let filter = "[filters.f]\nplugin = 'p'\nconfig = 1\n[filters.f.grants]\nhttp = ['https://a', 'https://b']\nbody = true\nread_headers = ['accept', 'cookie', 'authorization', '*']\nkv_quota = 11\nkv = ['x']\n[filters.g]\nlimits = { cpu = '5s' }\n";
    assert_eq!(
        errors(&format!("{plugin}{filter}[pipelines]\ndefault = ['h']\n")).replace("gateway.toml:", ""),
        "3:10: plugins.p.sha256: expected 64 hexadecimal digits, found \"ab\"\n\
         11:10: filters.f.config: expected a table, found 1\n\
         13:22: filters.f.grants.http[1]: the grants of the plugin do not include `https://b`\n\
         14:8: filters.f.grants.body: the grants of the plugin do not include it\n\
         15:37: filters.f.grants.read_headers[2]: the grants of the plugin do not include `authorization`\n\
         15:54: filters.f.grants.read_headers[3]: the grants of the plugin do not include `*`\n\
         16:12: filters.f.grants.kv_quota: the grants of the plugin do not include so much\n\
         18:10: filters.g: the limit `cpu` is above `wall`\n\
         21:12: pipelines.default[0]: unknown filter `h`"
    );
}

#[test]
fn errors_of_a_plugin_point_into_the_config_of_its_filter() {
    let text = "[filters.limit.config]\nlimits = [\n  { key = 'ip' },\n  { key = 'ip', window = '1x' },\n]\n[filters.bare]\n\
                [filters.body.config]\nrename = { '/a.b' = 1, '/a' = 2 }\nkey = '${file:k}'\npem = '${file:p}'\n";
    let (directory, loaded) = load_with(&format!("{LISTENER}{text}"), &[("k", "hunter2"), ("p", "hunter\n3")]);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    let base = format!("{}/gateway.toml:", directory.path().display());
    let cases = [
        (
            "limit",
            "limits[1].window: expected a duration",
            "5:26: filters.limit.config.limits[1].window: expected a duration",
        ),
        ("limit", "limits[1].amount: missing", "5:3: filters.limit.config.limits[1].amount: missing"),
        ("limit", "[0]: odd", "2:16: filters.limit.config[0]: odd"),
        ("limit", "no good: at all", "2:16: filters.limit.config: no good: at all"),
        ("limit", ": limits: all", "2:16: filters.limit.config: limits: all"),
        ("limit", "broken", "2:16: filters.limit.config: broken"),
        ("body", "rename./a.b: odd", "9:21: filters.body.config.rename.\"/a.b\": odd"),
        ("body", "rename./b.c: odd", "8:15: filters.body.config: rename./b.c: odd"),
        ("body", "key: odd `hunter2`", "10:7: filters.body.config.key: odd `…`"),
        ("body", "pem: expected 1, found \"hunter\\n3\"", "11:7: filters.body.config.pem: expected 1, found \"…\""),
        (
            "limit",
            "limits[1].window: unknown key `window`, did you mean `windows`?",
            "5:17: filters.limit.config.limits[1].window: unknown key `window`, did you mean `windows`?",
        ),
        ("limit", "limits[1].x: unknown key `x`", "5:3: filters.limit.config.limits[1].x: unknown key `x`"),
        ("bare", "key: missing", "7:10: filters.bare.config.key: missing"),
        ("none", "key: missing", "2:2: filters.none.config.key: missing"),
    ];
    for (filter, message, expected) in cases {
        assert_eq!(loaded.error_at(filter, message).to_string().replace(&base, ""), expected);
    }
    let path = |parts: &[&str]| parts.iter().map(|part| KeyPart::from(*part)).collect::<Vec<_>>();
    let found = loaded.locate(&path(&["listeners", "http", "bind"])).map(|at| (at.line, at.column));
    assert_eq!(found, Some((1, 27)));
    assert_eq!(loaded.locate(&path(&["listeners", "http", "tls"])), None);
}

#[test]
fn a_filter_config_is_json_in_the_order_of_the_file() {
    let config = config("[filters.f.config]\nz = 1\na = [1.5, true, { y = 'é', x = 1979-05-27 }]\nm.k = -2\n");
    assert_eq!(config.filters[0].config.expose(), r#"{"z":1,"a":[1.5,true,{"y":"é","x":"1979-05-27"}],"m":{"k":-2}}"#);
    assert_eq!(config.plugins[0].name.as_str(), "f");
}

#[test]
fn secrets_are_not_shown() {
    let text = format!(
        "{LISTENER}[filters.f]\nconfig = {{ token = 'a ${{file:t}}' }}\ngrants = {{ secrets = {{ s = '${{file:t}}' }} }}\n"
    );
    let (_directory, loaded) = load_with(&text, &[("t", "hunter2\n")]);
    let loaded = loaded.unwrap();
    let filter = &loaded.config.filters[0];
    assert_eq!(filter.config.expose(), r#"{"token":"a hunter2"}"#);
    assert_eq!(filter.grants.services.secrets.find("s").ok(), Some("hunter2"));
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

/// A token without its quotes, and a key without its first line.
#[test]
fn what_stands_in_the_place_of_a_secret_is_not_shown() {
    let key = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC".repeat(9);
    let text = format!(
        "{LISTENER}[admin]\nbind = '127.0.0.1:0'\ntoken = 1234567890123456\n[certificates.a]\ncert = 'x.pem'\nkey = '{key}'\n"
    );
    let errors = load_with(&text, &[]).1.unwrap_err().to_string();
    assert!(errors.contains("admin.token: expected a string") && errors.contains("certificates.a.key: "), "{errors}");
    assert!(!errors.contains("1234567890123456") && !errors.contains("MIIEvQ"), "{errors}");
}

#[test]
fn what_a_filter_leaves_out_comes_from_its_plugin() {
    let config = config(
        "[plugins.p]\nlimits = { cpu = '9ms', memory = '1MiB' }\ngrants = { http = ['HTTP://A:80'], kv = ['x'] }\ninstances.mode = 'fresh'\n\
         [filters.f]\nplugin = 'p'\nlimits.cpu = '7ms'\ngrants.kv = ['x']\non_error = 'open'\n",
    );
    let filter = &config.filters[0];
    assert_eq!((filter.limits.cpu.as_millis(), filter.limits.memory), (7, 1 << 20));
    assert_eq!(filter.limits.wall, FilterLimits::default().wall);
    let granted = Origin { https: false, host: "a".into(), port: 80 };
    assert!(filter.grants.services.http.check(&granted).is_ok() && filter.grants.services.check_kv("x").is_ok());
    assert_eq!((filter.mode, filter.on_error), (Mode::Fresh, FailurePolicy::Open));
}
