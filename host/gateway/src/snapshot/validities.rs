//! When the certificates of a configuration begin and end.

use crate::certs::Validity;
use crate::config::model::Config;

/// The certificates of listeners and those that the gateway shows to upstreams, with what is said of them.
#[derive(Debug, Clone, Default)]
pub struct Validities {
    /// By name.
    pub all: Vec<(String, Validity)>,
    /// The ends of the certificates of each listener with TLS.
    of_listeners: Vec<(String, Vec<i64>)>,
}

impl Validities {
    pub fn of(config: &Config) -> Self {
        let own = config.certificates.iter().map(|certificate| (certificate.name.to_string(), &certificate.cert.text));
        let clients = config.upstreams.iter().filter_map(|upstream| {
            let client = upstream.tls.client.as_ref()?;
            Some((format!("upstreams.{}.tls.cert", upstream.name), &client.cert))
        });
        let read = |(name, chain): (String, &String)| Some((name, Validity::of_chain(chain)?));
        let all: Vec<(String, Validity)> = own.chain(clients).filter_map(read).collect();
        let end = |name: &str| all.iter().find(|(known, _)| known == name).map(|(_, validity)| validity.not_after);
        let with_tls = config.listeners.iter().filter_map(|listener| Some((listener, listener.tls.as_ref()?)));
        let of_listeners = with_tls
            .map(|(listener, tls)| {
                (listener.name.to_string(), tls.certificates.iter().filter_map(|name| end(name)).collect())
            })
            .collect();
        Validities { all, of_listeners }
    }

    /// What an operator should know now.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let now = jiff::Timestamp::now().as_second();
        self.all.iter().filter_map(move |(name, validity)| validity.warning(name, now))
    }

    /// A listener all of whose certificates have expired: no client can verify one. One host of many whose certificate has expired is a
    /// matter of that host, and taking the gateway out would take the others with it.
    pub fn expired_listener(&self) -> Option<&str> {
        let now = jiff::Timestamp::now().as_second();
        let is_over = |ends: &Vec<i64>| !ends.is_empty() && ends.iter().all(|end| *end < now);
        self.of_listeners.iter().find(|(_, ends)| is_over(ends)).map(|(name, _)| &**name)
    }
}
