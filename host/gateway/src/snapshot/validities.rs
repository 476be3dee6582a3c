//! When the certificates of a configuration begin and end.

use crate::certs::{ChainValidity, OrderedPlace};
use crate::config::model::Config;

/// The certificates of listeners and those that the gateway shows to upstreams, with what is said of them.
#[derive(Debug, Clone, Default)]
pub struct Validities {
    /// Those whose text is configured, by name.
    configured: Vec<(String, ChainValidity)>,
    /// Where those are that are ordered. What is in a place changes.
    ordered: Vec<OrderedPlace>,
    /// The certificates of each listener with TLS.
    listeners: Vec<(String, Vec<String>)>,
}

impl Validities {
    pub fn of(config: &Config, ordered: &[OrderedPlace]) -> Self {
        let own = config.certificates.iter().map(|certificate| (certificate.name.to_string(), &certificate.cert.text));
        let clients = config.upstreams.iter().filter_map(|upstream| {
            let client = upstream.tls.client.as_ref()?;
            Some((format!("upstreams.{}.tls.cert", upstream.name), &client.cert))
        });
        let read = |(name, chain): (String, &String)| Some((name, ChainValidity::of(chain)?));
        let with_tls = config.listeners.iter().filter_map(|listener| Some((listener, listener.tls.as_ref()?)));
        Validities {
            configured: own.chain(clients).filter_map(read).collect(),
            ordered: ordered.to_vec(),
            listeners: with_tls
                .map(|(listener, tls)| {
                    (listener.name.to_string(), tls.certificates.iter().map(ToString::to_string).collect())
                })
                .collect(),
        }
    }

    /// All as they are now, by name. Those on demand are too many.
    pub fn all(&self) -> Vec<(String, ChainValidity)> {
        let ordered = self.ordered.iter().filter_map(|place| match place {
            OrderedPlace::One(place) => Some((place.name().to_owned(), place.chain_validity()?)),
            OrderedPlace::OnDemand(_) => None,
        });
        self.configured.iter().cloned().chain(ordered).collect()
    }

    /// What an operator should know now.
    pub fn warnings(&self) -> impl Iterator<Item = String> + use<> {
        let now = jiff::Timestamp::now().as_second();
        self.all().into_iter().filter_map(move |(name, validity)| validity.warning(&name, now))
    }

    /// A listener all of whose certificates have expired: no client can verify one. One host of many whose certificate has expired is a
    /// matter of that host, and taking the gateway out would take the others with it. One that is ordered never counts: without traffic the
    /// authority could not validate it either, and it would stay so.
    pub fn expired_listener(&self) -> Option<&str> {
        let now = jiff::Timestamp::now().as_second();
        let is_over = |name: &String| {
            self.configured.iter().any(|(known, validity)| known == name && validity.leaf.not_after < now)
        };
        let expired = |(_, certificates): &&(String, Vec<String>)| certificates.iter().all(is_over);
        self.listeners.iter().find(expired).map(|(name, _)| &**name)
    }
}
