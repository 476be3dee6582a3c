//! The operator's service that says which names get a certificate on demand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::timeout;
use url::Url;

use crate::config::model::OnDemand;
use crate::outbound::{OutboundClient, Tls};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Its body is not read for more than this, and means nothing.
const MAX_BODY: usize = 64 * 1024;

pub(super) struct Asking {
    on_demand: OnDemand,
    outbound: Arc<OutboundClient>,
    tls: Tls,
}

impl Asking {
    pub(super) fn new(on_demand: OnDemand, outbound: Arc<OutboundClient>, tls: Tls) -> Arc<Self> {
        Arc::new(Asking { on_demand, outbound, tls })
    }

    /// Certificates in an hour.
    pub(super) fn rate(&self) -> u32 {
        self.on_demand.rate
    }

    /// Whether a name is asked for at all: a host name that the configuration allows.
    pub(super) fn may_ask(&self, host: &str) -> bool {
        let hosts = &self.on_demand.hosts;
        is_public_name(host) && (hosts.is_empty() || hosts.iter().any(|pattern| pattern.holds(host)))
    }

    /// Whether a name gets a certificate. None: nobody has said so.
    pub(super) async fn agrees(&self, host: &str) -> Option<bool> {
        let mut url = Url::parse(&self.on_demand.ask).ok()?;
        url.query_pairs_mut().append_pair("domain", host);
        let call = self.outbound.request(&self.tls, (Method::GET, url), (HeaderMap::new(), Bytes::new()), MAX_BODY);
        match timeout(TIMEOUT, call).await {
            Ok(Ok(answer)) if answer.status.is_server_error() => None,
            Ok(Ok(answer)) => Some(answer.status == StatusCode::OK),
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "it can't be asked whether a name gets a certificate");
                None
            }
            Err(_) => None,
        }
    }
}

/// Whether a server name is one that an authority can know: labels of letters, digits and hyphens, at least two. A client sends what it likes.
fn is_public_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    host.len() <= 253
        && host.contains('.')
        && host.split('.').all(is_label)
        && !host.rsplit('.').next().is_some_and(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_an_authority_can_know_are_asked_for() {
        for good in ["a.test", "a-b.c1.example", "xn--bcher-kva.example"] {
            assert!(is_public_name(good), "{good}");
        }
        for bad in [
            "",
            "localhost",
            "a..b",
            ".a.b",
            "a.b.",
            "a_b.test",
            "../x.test",
            "1.2.3.4",
            "-a.test",
            "a.test/x",
            "A.test",
        ] {
            assert!(!is_public_name(bad), "{bad}");
        }
        assert!(!is_public_name(&format!("{}.test", "a".repeat(64))));
    }
}
