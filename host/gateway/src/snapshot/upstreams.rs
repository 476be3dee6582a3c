//! Upstreams of the configuration → upstreams to send to. One that has not changed is kept; of one that has, what is the same is shared
//! with the one before.

use std::sync::Arc;

use super::{Errors, Snapshot, key};
use crate::config::{Loaded, model};
use crate::http1::Tolerance;
use crate::telemetry::{Metrics, UpstreamId};
use crate::upstream::{
    ClientCertificate, EndpointRegistry, EndpointSpec, Place, Resolver, Sources, SpecError, TargetSpec, TlsSpec,
    Upstream, UpstreamSpec,
};

pub(super) fn build(
    loaded: &Loaded,
    before: Option<&Snapshot>,
    metrics: &Metrics,
    (registry, resolver, sources): (&Arc<EndpointRegistry>, &Arc<Resolver>, &Arc<Sources>),
    errors: &mut Errors,
) -> Vec<(Arc<Upstream>, UpstreamId)> {
    let mut built = Vec::new();
    let names: Vec<_> = loaded.config.upstreams.iter().map(|upstream| &upstream.name).collect();
    for upstream in &loaded.config.upstreams {
        if let Some(model::CircuitAnswer::Fallback(name)) =
            upstream.circuit_breaker.as_ref().map(|breaker| &breaker.answer)
            && (!names.contains(&name) || *name == upstream.name)
        {
            let at = key(&["upstreams", &upstream.name, "circuit_breaker", "fallback"]);
            let message = match *name == upstream.name {
                true => "an upstream can't be its own fallback".to_owned(),
                false => format!("unknown upstream `{name}`"),
            };
            errors.push(loaded.error_on(&at, message));
        }
        let spec = spec(upstream);
        let before = before.and_then(|before| before.upstreams.iter().find(|(known, _)| *known.name() == spec.name));
        let found = match before {
            Some((kept, _)) if kept.is_of(&spec, resolver) => Ok(Arc::clone(kept)),
            _ => {
                let before = before.map(|(before, _)| &**before);
                Upstream::with_sources(spec, registry, resolver, sources, before).map(Arc::new)
            }
        };
        match found {
            Ok(found) => built.push((found, metrics.upstream(&upstream.name))),
            Err(error) => {
                let at = match error {
                    SpecError::Files(_) => key(&["upstreams", &upstream.name, "files"]),
                    _ => key(&["upstreams", &upstream.name]),
                };
                errors.push(loaded.error_on(&at, error.to_string()));
            }
        }
    }
    built
}

fn spec(upstream: &model::Upstream) -> UpstreamSpec {
    UpstreamSpec {
        name: upstream.name.clone().into(),
        target: match &upstream.service {
            model::Service::Builtin(model::Builtin::Echo) => TargetSpec::Echo,
            model::Service::Builtin(model::Builtin::Status) => TargetSpec::Status,
            model::Service::Files(files) => TargetSpec::Files(Arc::new(files.clone())),
            model::Service::Discovery(source) => TargetSpec::Discovered(source.clone()),
            model::Service::Endpoints(endpoints) => TargetSpec::Endpoints(endpoints.iter().map(endpoint).collect()),
        },
        balancing: upstream.balancing.clone(),
        protocol: upstream.protocol,
        tls: TlsSpec {
            ca_pem: upstream.tls.ca.clone(),
            server_name: upstream.tls.server_name.clone(),
            verify: upstream.tls.verify,
            pins: upstream.tls.pins.clone(),
            client: upstream.tls.client.as_ref().map(|client| ClientCertificate {
                chain_pem: client.cert.clone(),
                key_pem: client.key.expose().to_owned(),
            }),
        },
        max_idle: upstream.pool.max_idle as usize,
        idle_timeout: upstream.pool.idle_timeout,
        ping_interval: upstream.pool.ping_interval,
        max_connection_age: upstream.pool.max_connection_age,
        max_requests_per_connection: upstream.pool.max_requests_per_connection,
        dns: upstream.dns,
        proxy_protocol: upstream.proxy_protocol,
        tolerance: Tolerance {
            bare_line_feed: upstream.tolerate.contains(&model::Deviation::BareLf),
            repeated_content_length: upstream.tolerate.contains(&model::Deviation::RepeatedContentLength),
        },
        circuit_breaker: upstream.circuit_breaker.clone(),
        limits: upstream.limits,
        max_tries: 0,
        health: upstream.health.clone(),
        outlier_detection: upstream.outlier_detection.clone(),
    }
}

fn endpoint(endpoint: &model::Endpoint) -> EndpointSpec {
    EndpointSpec {
        https: endpoint.is_https(),
        place: match &endpoint.address {
            model::EndpointAddress::Origin(origin) => Place::host(&origin.host, origin.port),
            model::EndpointAddress::Unix { name, .. } => Place::Unix(Arc::new(name.clone())),
        },
        weight: endpoint.weight,
        labels: endpoint.labels.clone(),
        priority: endpoint.priority,
    }
}
