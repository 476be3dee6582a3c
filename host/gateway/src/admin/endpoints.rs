//! The table of endpoints. An endpoint that is added here is served and documented.

use http::StatusCode;
use serde_json::json;

use super::endpoint::Endpoint;
use super::{JSON, api, cache, cache_lookup, certificates, pages, upstreams, weights};
use crate::telemetry::Exposition;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::text("/", super::TEXT, "This list.", pages::index),
        Endpoint::quick("/healthz", "Whether the process lives.", pages::health),
        Endpoint::quick("/readyz", "Whether the gateway takes requests: 200 or 503.", pages::readiness),
        Endpoint::text("/metrics", Exposition::CONTENT_TYPE, "Prometheus metrics.", pages::metrics),
        Endpoint::text("/api/v1/openapi.json", JSON, "This API as an OpenAPI 3.1 document.", pages::openapi),
        Endpoint::json("/api/v1/status", "The process, its configuration and its last reload.", api::status),
        Endpoint::json("/api/v1/routes", "The routes, in the order of the configuration.", api::routes),
        Endpoint::json("/api/v1/upstreams", "The upstreams and their endpoints.", upstreams::upstreams),
        Endpoint::json_named(
            "/api/v1/upstreams/{name}",
            "One upstream, its endpoints and what is known of their addresses.",
            upstreams::upstream,
        ),
        Endpoint::json("/api/v1/plugins", "The plugins that filters use.", api::plugins),
        Endpoint::json("/api/v1/filters", "The filters that routes use.", api::filters),
        Endpoint::json(
            "/api/v1/certificates",
            "The certificates of listeners, and how orders for them go.",
            certificates::certificates,
        ),
        Endpoint::json_query(
            "/api/v1/cache/lookup",
            "What the cache has for a request, and what it would do with it and why. Nothing is sent and nothing changes.",
            cache_lookup::PARAMETERS,
            cache_lookup::lookup,
        )
        .problem(StatusCode::NOT_FOUND, "No route takes the request."),
        Endpoint::change(
            "/api/v1/reload",
            "Loads the configuration again, as SIGHUP does, and waits for it.",
            api::reload,
        )
        .problem(StatusCode::UNPROCESSABLE_ENTITY, "The configuration is refused; the running one stays."),
        Endpoint::post(
            "/api/v1/cache/purge",
            "Takes stored responses away at once, by URL, prefix, host or tag; with `soft`, makes them stale.",
            json!({ "prefix": "https://example.com/catalogue", "soft": false }),
            cache::purge,
        )
        .problem(StatusCode::UNPROCESSABLE_ENTITY, "It does not say one thing that can be purged."),
        Endpoint::put_named(
            "/api/v1/routes/{name}/weights",
            "Changes the weights of a route's upstreams, at once for all workers; with `save`, in the configuration file, too.",
            json!({ "weights": { "blue": 0, "green": 100 } }),
            weights::put,
        )
        .problem(StatusCode::CONFLICT, "The weights can't be saved; nothing has changed.")
        .problem(StatusCode::UNPROCESSABLE_ENTITY, "The weights are not those of the route's upstreams."),
    ]
}
