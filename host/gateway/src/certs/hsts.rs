//! What hosts say of HTTPS: the field `Strict-Transport-Security` (RFC 6797 §6.1).

use std::sync::Arc;

use http::HeaderValue;

use super::by_name::ByName;
use crate::config::model::Hsts;

/// The fields of a listener.
#[derive(Debug)]
pub struct HstsPolicies {
    by_host: ByName<Option<Arc<HeaderValue>>>,
    has_hosts: bool,
    /// For hosts that no other is for.
    default: Option<Arc<HeaderValue>>,
}

impl HstsPolicies {
    /// `None` where nothing is said.
    pub fn new(policies: &[Hsts]) -> Option<Arc<Self>> {
        if policies.is_empty() {
            return None;
        }
        let mut made = HstsPolicies { by_host: ByName::new(), has_hosts: false, default: None };
        for policy in policies {
            let value = Arc::new(field(policy));
            for host in &policy.hosts {
                made.has_hosts = true;
                *made.by_host.entry(&host.to_string()) = Some(Arc::clone(&value));
            }
            if policy.hosts.is_empty() {
                made.default = Some(value);
            }
        }
        Some(Arc::new(made))
    }

    /// The field of responses for a host. Of a request that could not be read no host is known.
    pub fn find(&self, host: Option<&str>) -> Option<&Arc<HeaderValue>> {
        let named = host.filter(|_| self.has_hosts).and_then(|host| self.by_host.find_by_suffix(host));
        named.and_then(Option::as_ref).or(self.default.as_ref())
    }
}

fn field(policy: &Hsts) -> HeaderValue {
    let mut text = format!("max-age={}", policy.max_age.as_secs());
    if policy.include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if policy.preload {
        text.push_str("; preload");
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("max-age=0"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::route::HostPattern;

    fn hsts(hosts: &[&str], seconds: u64) -> Hsts {
        let hosts = hosts.iter().map(|host| HostPattern::parse(host).expect("a host")).collect();
        Hsts { hosts, max_age: Duration::from_secs(seconds), include_subdomains: false, preload: false }
    }

    #[test]
    fn the_host_chooses_and_others_have_the_one_without_hosts() {
        let found = |policies: &[Hsts], host| {
            let policies = HstsPolicies::new(policies).expect("some");
            policies.find(host).map(|value| value.to_str().expect("ASCII").to_owned()).unwrap_or_default()
        };
        let all = Hsts { include_subdomains: true, preload: true, ..hsts(&[], 31_536_000) };
        let both = [hsts(&["a.test", "*.b.test"], 10), all];
        assert_eq!(found(&both, Some("A.test")), "max-age=10");
        assert_eq!(found(&both, Some("y.x.b.test")), "max-age=10");
        for other in [Some("b.test"), Some("c.test"), None] {
            assert_eq!(found(&both, other), "max-age=31536000; includeSubDomains; preload", "{other:?}");
        }
        assert_eq!(found(&both[..1], Some("c.test")), "");
        assert_eq!(found(&[hsts(&[], 0)], None), "max-age=0");
        assert!(HstsPolicies::new(&[]).is_none());
    }
}
