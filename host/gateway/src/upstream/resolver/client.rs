//! Asks name servers for one kind of address, name by name of the search list.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};

use super::answers::{Answer, Kind};
use super::{ServiceAnswer, ServiceRecord};

/// Where a name server listens (RFC 1035 §4.2).
const PORT: u16 = 53;
/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The servers of a configuration, or else of the system.
pub(super) struct Client {
    resolver: TokioResolver,
    search: Vec<Name>,
    /// A name with more dots than this is asked for as it is written before the search list (`resolv.conf`).
    ndots: usize,
}

impl Client {
    /// A client that asks these servers for names as they are written, without the search domains of the system. Without servers it
    /// is the one that the system's files describe, and without those it asks a server on this machine, as the C library does.
    pub(super) fn new(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let of = |servers: &[SocketAddr]| {
            (ResolverConfig::from_name_servers(servers.iter().map(nameserver).collect()), ResolverOpts::default())
        };
        let (config, mut options) = if servers.is_empty() {
            read_system_conf().unwrap_or_else(|error| {
                tracing::warn!(%error, "no usable resolver configuration, names are asked for at 127.0.0.1");
                of(&[SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))])
            })
        } else {
            of(servers)
        };
        options.timeout = options.timeout.min(TIMEOUT);
        options.cache_size = 0; // the answers are kept elsewhere, and whoever asks needs a new one
        let (search, ndots) = (config.domain().into_iter().chain(config.search()).cloned().collect(), options.ndots);
        let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        Ok(Client { resolver: builder.with_options(options).build()?, search, ndots })
    }

    /// The answer of the first name of the search list that has such addresses. Without any, one failure on the way makes the whole a
    /// failure: the name that failed may have some.
    pub(super) async fn ask(&self, name: &str, kind: Kind) -> Result<Answer, NetError> {
        let record_type = match kind {
            Kind::V4 => RecordType::A,
            Kind::V6 => RecordType::AAAA,
        };
        let (mut failure, mut negative_ttl, mut no_such_name) = (None, None::<Duration>, true);
        for (rank, name) in self.names(Name::from_utf8(name)?).into_iter().enumerate() {
            let ttl = match self.resolver.lookup(name, record_type).await {
                Ok(found) => {
                    let (at, address) = (Instant::now(), |data: &RData| data.ip_addr());
                    let ttl = found.valid_until().saturating_duration_since(at);
                    let mut addresses: Vec<IpAddr> =
                        found.answers().iter().filter_map(|record| address(&record.data)).collect();
                    addresses.sort_unstable();
                    addresses.dedup();
                    if !addresses.is_empty() {
                        return Ok(Answer { addresses, no_such_name: false, rank, at, ttl });
                    }
                    no_such_name = false;
                    ttl
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) if !is_referral(&none) => {
                    no_such_name &= none.response_code == ResponseCode::NXDomain;
                    // RFC 2308 §5: without an SOA it is not to be kept.
                    none.negative_ttl.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.into()))
                }
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            negative_ttl = Some(negative_ttl.map_or(ttl, |known| known.min(ttl)));
        }
        match failure {
            Some(error) => Err(error),
            None => {
                let ttl = negative_ttl.unwrap_or_default();
                Ok(Answer { addresses: Vec::new(), no_such_name, rank: 0, at: Instant::now(), ttl })
            }
        }
    }

    /// The records of a service (RFC 2782), of the first name of the search list that has some.
    pub(super) async fn ask_service(&self, name: &str) -> Result<ServiceAnswer, NetError> {
        let (mut failure, mut negative_ttl) = (None, None::<Duration>);
        for name in self.names(Name::from_utf8(name)?) {
            let ttl = match self.resolver.lookup(name, RecordType::SRV).await {
                Ok(found) => {
                    let ttl = found.valid_until().saturating_duration_since(Instant::now());
                    let records: Vec<_> = found.answers().iter().filter_map(|record| service(&record.data)).collect();
                    if !records.is_empty() {
                        return Ok(ServiceAnswer { records, ttl });
                    }
                    ttl
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) if !is_referral(&none) => {
                    none.negative_ttl.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.into()))
                }
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            negative_ttl = Some(negative_ttl.map_or(ttl, |known| known.min(ttl)));
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(ServiceAnswer { records: Vec::new(), ttl: negative_ttl.unwrap_or_default() }),
        }
    }

    /// The names that a name may mean, in the order of `resolv.conf`.
    fn names(&self, name: Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name];
        }
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        let searched = self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = if usize::from(name.num_labels()) > self.ndots {
            std::iter::once(absolute).chain(searched).collect()
        } else {
            searched.chain([absolute]).collect()
        };
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

fn service(data: &RData) -> Option<ServiceRecord> {
    let RData::SRV(record) = data else { return None };
    // The target is a full name. Its last dot is left out: certificates have none. The root says that there is no such service.
    let target = record.target.to_utf8().trim_end_matches('.').to_ascii_lowercase();
    Some(ServiceRecord { priority: record.priority, weight: record.weight, port: record.port, target })
}

/// RFC 2308 §2.2: a server that only names others has not said that there is nothing.
fn is_referral(none: &NoRecords) -> bool {
    none.soa.is_none() && none.ns.is_some()
}

/// A server that is asked by UDP, and by TCP for what UDP has cut short (RFC 7766 §5).
fn nameserver(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_at_its_port_by_udp_and_tcp() {
        let address: SocketAddr = "[::1]:5353".parse().unwrap();
        let server = nameserver(&address);
        assert_eq!((server.ip, server.connections.len()), (address.ip(), 2));
        assert!(server.connections.iter().all(|connection| connection.port == 5353));
        assert!(Client::new(&[address]).is_ok());
    }

    #[tokio::test(flavor = "local")]
    async fn no_such_name_is_told_apart_from_no_such_address() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut client = Client::new(&[socket.local_addr().unwrap()]).unwrap();
        client.search = vec!["a.test.".parse().unwrap()];
        let server = tokio::task::spawn_local(async move {
            let mut packet = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                // The name ends with an empty label; type and class follow.
                let end = 12 + packet[12..length].iter().position(|byte| *byte == 0).unwrap();
                let name = String::from_utf8_lossy(&packet[12..end]).to_ascii_lowercase();
                let code = if name.contains("gone") || name.ends_with("a\u{4}test") { 3 } else { 0 };
                packet[2..12].copy_from_slice(&[0x85, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0]);
                socket.send_to(&packet[..end + 5], from).await.unwrap();
            }
        });
        for (name, no_such_name) in [("gone", true), ("known", false)] {
            let answer = client.ask(name, Kind::V6).await.unwrap();
            assert_eq!((answer.addresses.len(), answer.no_such_name), (0, no_such_name), "{name}");
        }
        server.abort();
    }

    #[test]
    fn a_short_name_is_searched_for_first_and_a_long_one_last() {
        let mut client = Client::new(&[SocketAddr::from(([127, 0, 0, 1], 9))]).unwrap();
        let names = |client: &Client, name: &str| {
            let names = client.names(Name::from_utf8(name).unwrap());
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&client, "orders"), "orders.", "named servers have no search list");
        client.search = ["a.test.", "b.test.", "a.test."].iter().map(|name| name.parse().unwrap()).collect();
        client.ndots = 1;
        assert_eq!(names(&client, "orders"), "orders.a.test. orders.b.test. orders.");
        assert_eq!(names(&client, "orders.shop"), "orders.shop. orders.shop.a.test. orders.shop.b.test.");
        assert_eq!(names(&client, "orders."), "orders.");
    }
}
