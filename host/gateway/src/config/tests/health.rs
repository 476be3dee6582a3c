//! `health` and `outlier_detection` of upstreams.

use super::*;

fn upstream(lines: &str) -> String {
    format!("[upstreams.u]\nendpoints = ['http://x']\n{lines}\n[routes.r]\nmatch = {{}}\nupstream = 'u'\n")
}

#[test]
fn checks_inherit_key_by_key_and_can_be_switched_off() {
    let with = |lines: &str| {
        let defaults = "[defaults.upstream]\nhealth = { path = '/up', interval = '9s' }\noutlier_detection = {}\n";
        config(&format!("{defaults}{}", upstream(lines))).upstreams.remove(0)
    };
    let HealthCheck { probe, interval, unhealthy_threshold, .. } =
        with("health.unhealthy_threshold = 7").health.expect("those of the defaults");
    let Probe::Http(http) = probe else { panic!("HTTP unless told otherwise") };
    assert_eq!((http.path.as_str(), interval.as_secs(), unhealthy_threshold), ("/up", 9, 7));
    assert!(http.expected_statuses.contains(204) && !http.expected_statuses.contains(302));
    assert_eq!(with("").outlier_detection, Some(OutlierDetection::default()), "an empty table switches it on");
    assert_eq!(with("health.type = 'off'").health, None);
    assert_eq!(
        with("health.type = 'tcp'").health.map(|check| check.probe),
        Some(Probe::Tcp),
        "the path is not its own"
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cases = [
        ("health = { type = 'tcp', path = '/' }", "`path` means nothing to checks of this type"),
        ("health = { service_name = 'a' }", "`service_name` means nothing to checks of this type"),
        ("health = { type = 'tls' }", "checks of the type `tls` are for https endpoints"),
        (
            "health = { method = 'HEAD', body_contains = 'up' }",
            "has a `body_contains`, and the `method` HEAD gets no body",
        ),
        ("health = { interval = '1ms' }", "an `interval` is at least 10ms"),
        ("health = { path = 'up' }", "expected a path like \"/healthz\""),
        ("health = { expected_statuses = [99] }", "expected an integer from 100 to 599"),
        ("health = { expected_statuses = ['300-200'] }", "expected a status like 200 or a range like \"200-299\""),
        ("health = { headers = { content-length = '1' } }", "`content-length` is set by the gateway itself"),
        ("health = { host = 'a b' }", "expected a host like \"orders.internal\""),
        ("outlier_detection = { interval = '1ms' }", "an `interval` is at least 10ms"),
        ("outlier_detection = { max_ejection_time = '1s' }", "`max_ejection_time` is below `base_ejection_time`"),
        ("outlier_detection = { latency_factor = 1 }", "expected 0, or 2 or more"),
        ("outlier_detection = { max_ejection_percent = 0 }", "expected an integer from 1 to 100"),
    ];
    for (lines, expected) in cases {
        let errors = errors(&upstream(lines));
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{lines}: {errors}");
    }
    let grpc = "checks of the type `grpc` are HTTP/2";
    let cases = [
        ("endpoints = ['https://a']\nprotocol = 'http/1.1'\nhealth.type = 'grpc'", grpc),
        ("discovery = { consul = 'a', scheme = 'https' }\nprotocol = 'http/1.1'\nhealth.type = 'grpc'", grpc),
        ("discovery.srv = 'a'\nhealth.type = 'tls'", "`tls` are for https endpoints: say `scheme = \"https\"`"),
        ("builtin = 'echo'\nhealth.type = 'tcp'", "`health` means nothing to a `builtin` upstream"),
        ("builtin = 'echo'\nbalance = 'random'", "`balance` means nothing to a `builtin` upstream"),
        ("builtin = 'echo'\noutlier_detection = {}", "`outlier_detection` means nothing to a `builtin` upstream"),
    ];
    for (lines, expected) in cases {
        let errors = errors(&format!("[upstreams.u]\n{lines}"));
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{lines}: {errors}");
    }
    for lines in [
        "endpoints = ['https://a']\nhealth.type = 'grpc'",
        "endpoints = ['http://a']\nprotocol = 'http/1.1'\nhealth.type = 'grpc'",
        "discovery = { srv = 'a', scheme = 'https' }\nhealth.type = 'tls'",
        "discovery.file = 'a.json'\nhealth.type = 'tls'",
    ] {
        config(&format!("[upstreams.u]\n{lines}"));
    }
}
