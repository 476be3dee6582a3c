//! Every key of the configuration has a test that shows it to change behaviour: this table says which.

use std::collections::{BTreeMap, BTreeSet};

/// The sources of the tests that the table may name.
const SOURCES: &[(&str, &str)] = &[
    ("admin", include_str!("admin.rs")),
    ("bodies", include_str!("bodies.rs")),
    ("client_auth", include_str!("client_auth.rs")),
    ("errors", include_str!("errors.rs")),
    ("filters", include_str!("filters.rs")),
    ("grants", include_str!("grants.rs")),
    ("headers", include_str!("headers.rs")),
    ("http2", include_str!("http2.rs")),
    ("limits", include_str!("limits.rs")),
    ("names", include_str!("names.rs")),
    ("observability", include_str!("observability.rs")),
    ("plugins", include_str!("plugins.rs")),
    ("proxying", include_str!("proxying.rs")),
    ("reload", include_str!("reload.rs")),
    ("routing", include_str!("routing.rs")),
    ("settings", include_str!("settings.rs")),
    ("shutdown", include_str!("shutdown.rs")),
    ("timeouts", include_str!("timeouts.rs")),
    ("tls", include_str!("tls.rs")),
    ("upstreams", include_str!("upstreams.rs")),
];

/// A key, and the test that changes it and sees the difference.
const TABLE: &[(&str, &str)] = &[
    ("admin.bind", "observability::health_and_readiness"),
    ("admin.token", "admin::the_token_guards_a_reload"),
    ("certificates.*.cert", "tls::certificates_by_server_name"),
    ("certificates.*.hosts", "tls::hosts_of_a_certificate_can_be_named"),
    ("certificates.*.key", "tls::certificates_by_server_name"),
    ("defaults.route", "settings::what_routes_and_upstreams_share"),
    ("defaults.upstream", "settings::what_routes_and_upstreams_share"),
    ("filters.*.config", "filters::edits_reach_the_origin_and_the_client"),
    ("filters.*.grants.body", "grants::bodies_can_be_withheld"),
    ("filters.*.grants.http", "filters::outbound_calls"),
    ("filters.*.grants.kv", "grants::spaces_of_the_key_value_store_and_their_quota"),
    ("filters.*.grants.kv_quota", "grants::spaces_of_the_key_value_store_and_their_quota"),
    ("filters.*.grants.read_headers", "grants::credentials_are_hidden_unless_granted"),
    ("filters.*.grants.secrets.*", "grants::secrets_by_name"),
    ("filters.*.grants.write_headers", "grants::credentials_cannot_be_set_unless_granted"),
    ("filters.*.instances.max", "filters::the_queue_for_an_instance_is_bounded"),
    ("filters.*.instances.mode", "filters::a_fresh_instance_remembers_nothing_and_a_reused_one_is_renewed"),
    ("filters.*.instances.queue", "filters::the_queue_for_an_instance_is_bounded"),
    ("filters.*.instances.uses", "filters::a_fresh_instance_remembers_nothing_and_a_reused_one_is_renewed"),
    ("filters.*.limits.body", "bodies::the_operator_bounds_the_body_a_filter_may_buffer"),
    ("filters.*.limits.cpu", "settings::the_cpu_time_of_a_call"),
    ("filters.*.limits.http_body", "settings::the_answer_to_an_outbound_call_is_bounded"),
    ("filters.*.limits.memory", "settings::the_memory_of_an_instance"),
    ("filters.*.limits.table_elements", "settings::the_tables_of_an_instance"),
    ("filters.*.limits.wall", "settings::the_time_of_a_call_with_its_waits"),
    ("filters.*.on_error", "filters::open_and_closed"),
    ("filters.*.plugin", "filters::in_by_order_and_out_in_reverse"),
    ("gateway.cache_dir", "settings::compiled_plugins_are_kept"),
    ("gateway.max_buffered_memory", "limits::buffered_memory_of_all_exchanges"),
    ("gateway.max_connections", "limits::connections_of_a_listener_and_of_all"),
    ("gateway.nameservers", "names::the_name_servers_of_the_gateway"),
    ("gateway.plugin_dir", "settings::the_folder_of_plugins"),
    ("gateway.reload", "reload::a_changed_file_is_left_alone_when_told_so"),
    ("gateway.request_id_header", "headers::the_name_of_the_request_id_header"),
    ("gateway.shutdown_delay", "shutdown::a_delay_lets_load_balancers_turn_away_before_connections_are_refused"),
    ("gateway.shutdown_timeout", "shutdown::the_deadline_cuts_what_does_not_end"),
    ("gateway.workers", "settings::the_number_of_workers"),
    ("groups.*.route", "settings::what_routes_and_upstreams_share"),
    ("groups.*.upstream", "settings::what_routes_and_upstreams_share"),
    ("include", "reload::included_files_count"),
    ("listeners.*.bind", "settings::a_fixed_address"),
    ("listeners.*.limits.head", "limits::head_size"),
    ("listeners.*.limits.headers", "limits::header_count"),
    ("listeners.*.limits.streams", "limits::streams_of_a_connection"),
    ("listeners.*.max_connections", "limits::connections_of_a_listener_and_of_all"),
    ("listeners.*.protocols", "http2::prior_knowledge_can_be_switched_off"),
    ("listeners.*.timeouts.handshake", "timeouts::a_tls_handshake_that_never_ends"),
    ("listeners.*.timeouts.header", "timeouts::a_head_that_never_ends"),
    ("listeners.*.timeouts.idle", "timeouts::an_idle_connection"),
    ("listeners.*.tls.certificates", "tls::certificates_by_server_name"),
    ("listeners.*.tls.client_auth", "client_auth::an_optional_certificate_may_be_missing_but_not_bad"),
    ("listeners.*.tls.client_auth.ca", "client_auth::an_optional_certificate_may_be_missing_but_not_bad"),
    (
        "listeners.*.tls.client_auth.crl",
        "client_auth::a_revoked_certificate_is_refused_also_in_a_session_that_began_before",
    ),
    (
        "listeners.*.tls.client_auth.forward",
        "client_auth::upstreams_get_the_certificate_where_asked_and_never_that_of_a_stranger",
    ),
    (
        "listeners.*.tls.client_auth.hosts",
        "client_auth::a_host_with_another_policy_than_the_server_name_is_misdirected",
    ),
    ("listeners.*.tls.client_auth.mode", "client_auth::an_optional_certificate_may_be_missing_but_not_bad"),
    ("listeners.*.tls.min_version", "tls::the_minimum_version"),
    ("listeners.*.trusted_proxies", "headers::trusted_proxies_are_believed"),
    ("pipelines.*", "settings::pipelines_by_name_and_by_default"),
    ("plugins.*.file", "settings::a_plugin_file_and_its_hash"),
    ("plugins.*.grants.body", "settings::what_a_plugin_s_table_says_is_for_all_its_filters"),
    ("plugins.*.grants.http", "settings::what_a_plugin_s_table_says_is_for_all_its_filters"),
    ("plugins.*.grants.kv", "settings::what_a_plugin_s_table_says_is_for_all_its_filters"),
    ("plugins.*.grants.kv_quota", "settings::what_a_plugin_s_table_says_is_for_all_its_filters"),
    ("plugins.*.grants.read_headers", "grants::a_plugin_narrowed_on_the_filter"),
    ("plugins.*.grants.secrets.*", "settings::what_a_plugin_s_table_says_is_for_all_its_filters"),
    ("plugins.*.grants.write_headers", "settings::what_a_plugin_s_table_says_is_for_all_its_filters"),
    ("plugins.*.instances.max", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.instances.mode", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.instances.queue", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.instances.uses", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.limits.body", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.limits.cpu", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.limits.http_body", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.limits.memory", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.limits.table_elements", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.limits.wall", "settings::the_instances_and_limits_of_a_plugin"),
    ("plugins.*.call", "settings::a_plugin_that_is_called_as_a_component"),
    ("plugins.*.sha256", "settings::a_plugin_file_and_its_hash"),
    ("routes.*.group", "settings::what_routes_and_upstreams_share"),
    ("routes.*.host", "headers::host_policies"),
    ("routes.*.limits.body", "limits::body_size_by_length_and_by_count"),
    ("routes.*.match", "routing::several_matches_of_a_route"),
    ("routes.*.match.client_ip", "routing::methods_headers_query_cookie_client_ip"),
    ("routes.*.match.cookies.*", "routing::methods_headers_query_cookie_client_ip"),
    ("routes.*.match.cookies.*.present", "settings::values_by_regex_and_presence"),
    ("routes.*.match.cookies.*.regex", "settings::values_by_regex_and_presence"),
    ("routes.*.match.headers.*", "routing::methods_headers_query_cookie_client_ip"),
    ("routes.*.match.headers.*.present", "routing::methods_headers_query_cookie_client_ip"),
    ("routes.*.match.headers.*.regex", "routing::methods_headers_query_cookie_client_ip"),
    ("routes.*.match.host", "routing::hosts"),
    ("routes.*.match.methods", "routing::methods_headers_query_cookie_client_ip"),
    ("routes.*.match.path", "routing::paths"),
    ("routes.*.match.path_regex", "routing::paths"),
    ("routes.*.match.query.*", "routing::methods_headers_query_cookie_client_ip"),
    ("routes.*.match.query.*.present", "settings::values_by_regex_and_presence"),
    ("routes.*.match.query.*.regex", "settings::values_by_regex_and_presence"),
    ("routes.*.pipeline", "filters::in_by_order_and_out_in_reverse"),
    ("routes.*.priority", "routing::the_more_precise_route_wins_and_priority_beats_it"),
    ("routes.*.redirect.host", "routing::redirects"),
    ("routes.*.redirect.path", "routing::redirects"),
    ("routes.*.redirect.port", "routing::redirects"),
    ("routes.*.redirect.scheme", "routing::redirects"),
    ("routes.*.redirect.status", "routing::redirects"),
    ("routes.*.respond.body", "routing::direct_responses"),
    ("routes.*.respond.headers.*", "routing::direct_responses"),
    ("routes.*.respond.status", "routing::direct_responses"),
    ("routes.*.rewrite.path", "routing::rewrites"),
    ("routes.*.rewrite.replace_prefix", "routing::rewrites"),
    ("routes.*.rewrite.strip_prefix", "routing::rewrites"),
    ("routes.*.timeouts.connect", "timeouts::an_address_that_never_accepts"),
    ("routes.*.timeouts.first_byte", "timeouts::an_upstream_that_never_answers"),
    ("routes.*.timeouts.idle", "timeouts::a_body_that_stops_half_way"),
    ("routes.*.timeouts.request", "timeouts::an_upstream_that_never_answers"),
    ("routes.*.upgrade", "proxying::upgrades_can_be_forbidden"),
    ("routes.*.upstream", "upstreams::round_robin_by_weight"),
    ("routes.*.upstreams.*", "routing::weights_split_the_traffic"),
    ("telemetry.access_log", "observability::the_access_log_can_be_off_and_readable"),
    ("telemetry.log_level", "observability::the_log_level"),
    ("upstreams.*.balance", "upstreams::the_way_of_balancing"),
    ("upstreams.*.builtin", "upstreams::the_built_in_upstreams"),
    ("upstreams.*.dns.max_ttl", "names::an_answer_is_used_no_longer_than_told"),
    ("upstreams.*.dns.min_ttl", "names::an_answer_is_used_no_shorter_than_told"),
    ("upstreams.*.endpoints", "upstreams::the_next_endpoint_on_connect_failure"),
    ("upstreams.*.endpoints.labels.*", "filters::select_upstream_chooses"),
    ("upstreams.*.endpoints.url", "upstreams::round_robin_by_weight"),
    ("upstreams.*.endpoints.weight", "upstreams::round_robin_by_weight"),
    ("upstreams.*.group", "settings::what_routes_and_upstreams_share"),
    ("upstreams.*.pool.idle_timeout", "upstreams::idle_connections_are_let_go"),
    ("upstreams.*.pool.max_idle", "upstreams::idle_connections_are_bounded"),
    ("upstreams.*.protocol", "upstreams::h2c_upstreams"),
    ("upstreams.*.tls.ca", "upstreams::tls_with_an_authority_of_its_own"),
    ("upstreams.*.tls.cert", "upstreams::client_certificates"),
    ("upstreams.*.tls.key", "upstreams::client_certificates"),
    ("upstreams.*.tls.server_name", "upstreams::the_name_in_the_certificate_counts"),
    ("upstreams.*.tls.verify", "upstreams::tls_with_an_authority_of_its_own"),
];

#[test]
fn every_key_has_a_test() {
    let table: BTreeMap<&str, &str> = TABLE.iter().copied().collect();
    assert_eq!(table.len(), TABLE.len(), "a key is in the table twice");
    let keys: BTreeSet<String> = sluice::config::keys().into_iter().map(|key| key.path).collect();
    let untested: Vec<&String> = keys.iter().filter(|key| !table.contains_key(key.as_str())).collect();
    assert!(untested.is_empty(), "no end-to-end test for: {untested:#?}");
    let gone: Vec<&&str> = table.keys().filter(|key| !keys.contains(**key)).collect();
    assert!(gone.is_empty(), "no such key: {gone:#?}");
}

#[test]
fn every_test_of_the_table_exists_and_names_the_key() {
    for (key, test) in TABLE {
        let (module, name) = test.split_once("::").expect("module::test");
        let source = SOURCES.iter().find(|(m, _)| *m == module).unwrap_or_else(|| panic!("no module `{module}`")).1;
        let start = source.find(&format!("\nfn {name}()")).unwrap_or_else(|| panic!("no test `{test}`"));
        assert!(source[..start].ends_with("#[test]"), "`{test}` is no test");
        // Helpers write what many tests of a module share, so the word is looked for in the whole module.
        let word = key.rsplit('.').find(|part| *part != "*").expect("a word");
        let written =
            source.contains(word) || ["bind", "routes", "upstream", "plugin", "config", "key", "cert"].contains(&word);
        assert!(written, "`{module}` never writes `{word}` of `{key}`");
    }
}
