//! Names to addresses, for all workers: a cache over the name servers of the configuration, or else of the system, that asks again by TTL
//! and keeps the last good answer for a while when DNS fails. IPv4 and IPv6 addresses are asked for apart, so that one that never
//! comes holds up nothing (RFC 8305). A snapshot has a resolver; a reload shares it if the servers are the same, and else only its answers.

mod answers;
mod client;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use hickory_resolver::net::NetError;
use tokio::sync::watch;

use self::answers::{Answers, Kind, Servers};
use self::client::Client;
use crate::background::Background;
pub use crate::config::model::{DnsPolicy, LookupFamily};

/// How long a caller waits for a new answer while an old one is at hand.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the addresses of one kind wait for those of the other (RFC 8305 §8, "resolution delay").
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// How long the address of a literal may be used.
const LITERAL: Duration = Duration::from_secs(86_400);

/// The addresses of a name.
pub type Addresses = Arc<[IpAddr]>;

/// Why a name has no addresses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DnsError {
    #[error("no address for `{name}`")]
    Lookup { name: Arc<str>, source: Arc<NetError> },
    #[error("no records of the service `{name}`")]
    Service { name: Arc<str>, source: Arc<NetError> },
    #[error("no address for `{0}`: its name servers say that it has none")]
    NoAddress(Arc<str>),
    #[error("no address for `{0}`: the gateway is shutting down")]
    Stopped(Arc<str>),
}

/// Addresses of a name, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// None if there are none, or none is known.
    pub addresses: Addresses,
    /// They are those of an earlier time: the name servers failed when they were asked again. One kind of address that is fresh makes
    /// the whole fresh.
    pub stale: bool,
    /// How long they are good without asking again.
    pub fresh_until: Instant,
    /// When there is something to ask for. It is earlier than `fresh_until` while one kind of address is missing or old.
    pub refresh_at: Instant,
}

/// What name servers say of a service.
#[derive(Debug, Clone)]
pub(super) struct ServiceAnswer {
    /// None if they say that there are none.
    pub(super) records: Vec<ServiceRecord>,
    pub(super) ttl: Duration,
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceRecord {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    /// Without the last dot; empty if the service is not available.
    pub(super) target: String,
}

/// Asks name servers.
pub struct Resolver {
    servers: Servers,
    /// Made, and the configuration of the system read, when the first name is asked for.
    client: OnceLock<Result<Client, Arc<NetError>>>,
    /// They are used to their end, whoever is asked from now on.
    answers: Arc<Answers>,
    /// Questions under way, so that many who need a name ask once.
    asking: Mutex<HashMap<(Arc<str>, Kind), Question>>,
    /// Where questions are asked; `None` where the caller runs.
    background: Option<Background>,
}

/// A question under way. Its answer is among the answers once it has ended.
type Question = watch::Receiver<Option<Result<(), DnsError>>>;
type Waiting = Pin<Box<dyn Future<Output = Result<(), DnsError>> + Send>>;

impl Resolver {
    /// A resolver without answers yet.
    pub fn new(servers: &[SocketAddr], background: Option<Background>) -> Arc<Self> {
        Self::with_answers(servers, Arc::default(), background)
    }

    fn with_answers(servers: &[SocketAddr], answers: Arc<Answers>, background: Option<Background>) -> Arc<Self> {
        let (client, asking) = (OnceLock::new(), Mutex::default());
        Arc::new(Resolver { servers: servers.into(), client, answers, asking, background })
    }

    /// One that asks these servers and has the answers of this one; this one if it asks them.
    #[must_use]
    pub fn with_servers(self: &Arc<Self>, servers: &[SocketAddr]) -> Arc<Self> {
        if *self.servers == *servers {
            return Arc::clone(self);
        }
        Self::with_answers(servers, Arc::clone(&self.answers), self.background.clone())
    }

    /// The addresses of a name. IP literals and `localhost` (RFC 6761 §6.3) need no DNS. When DNS fails, the last good
    /// answer is given again, and the next question goes out after the lower bound.
    pub async fn resolve(self: &Arc<Self>, name: &Arc<str>, policy: DnsPolicy) -> Result<Resolution, DnsError> {
        let now = Instant::now();
        if let Some(addresses) = literal(name, policy.lookup_family) {
            let until = now + LITERAL;
            return Ok(Resolution { addresses, stale: false, fresh_until: until, refresh_at: until });
        }
        let old = self.known(name, policy);
        if old.has_addresses() && old.fresh_until > now {
            return Ok(old);
        }
        let mut questions = self.ask_due(name, policy);
        let answer = self.first_answer(name, policy, &mut questions);
        let failure = if old.has_addresses() {
            tokio::time::timeout(PATIENCE, answer).await.unwrap_or(None)
        } else {
            answer.await
        };
        let found = self.known(name, policy);
        if found.has_addresses() && !found.stale && found.fresh_until > now {
            return Ok(found);
        }
        // Whoever needs the name next shall not wait as long.
        questions.iter().for_each(|(kind, _)| self.answers.failed(name, *kind));
        let found = self.known(name, policy);
        if !found.has_addresses() {
            return Err(failure.unwrap_or_else(|| DnsError::NoAddress(name.clone())));
        }
        let reason = failure.map_or_else(|| "no answer in time".to_owned(), |error| crate::chain(&error));
        tracing::warn!(name = &**name, reason, "dns failed, the last good answer is used");
        Ok(found)
    }

    /// Asks for the records of a service, where the caller runs. Nothing is kept.
    pub(super) async fn services(&self, name: &Arc<str>) -> Result<ServiceAnswer, DnsError> {
        let answer = match self.client() {
            Ok(client) => client.ask_service(name).await.map_err(Arc::new),
            Err(error) => Err(error.clone()),
        };
        answer.map_err(|source| DnsError::Service { name: name.clone(), source })
    }

    /// Asks for what is due of a name and waits until all is answered or has failed.
    pub(super) async fn refresh(self: &Arc<Self>, name: &Arc<str>, policy: DnsPolicy) {
        let mut questions = self.ask_due(name, policy);
        let mut failure = None;
        while let Some(outcome) = next(&mut questions).await {
            failure = outcome.err().or(failure);
        }
        if let Some(error) = failure.filter(|_| self.known(name, policy).stale) {
            tracing::warn!(name = &**name, reason = crate::chain(&error), "dns failed, the last good answer is used");
        }
    }

    /// What is at hand, fresh or not.
    pub(super) fn known(&self, name: &str, policy: DnsPolicy) -> Resolution {
        self.answers.resolution(name, policy, &self.servers, Instant::now())
    }

    /// As if a server had answered.
    #[cfg(test)]
    pub(super) fn learn(&self, name: &str, addresses: &[IpAddr]) {
        let of = |v4: bool| answers::Answer {
            addresses: addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect(),
            no_such_name: false,
            rank: 0,
            at: Instant::now(),
            ttl: Duration::from_secs(60),
        };
        self.answers.answered(&name.into(), Kind::V4, of(true), &self.servers);
        self.answers.answered(&name.into(), Kind::V6, of(false), &self.servers);
    }

    /// Runs a future where questions are asked.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match &self.background {
            Some(background) => background.spawn("dns", move || future).detach(),
            None => drop(tokio::spawn(future)),
        }
    }

    /// Waits until there is something fresh, and a moment longer for the rest, or until all questions have ended. Answers the first
    /// failure.
    async fn first_answer(
        &self,
        name: &str,
        policy: DnsPolicy,
        questions: &mut Vec<(Kind, Waiting)>,
    ) -> Option<DnsError> {
        let mut failure = None;
        loop {
            let known = self.known(name, policy);
            let outcome = if known.has_addresses() && !known.stale && known.fresh_until > Instant::now() {
                tokio::time::timeout(RESOLUTION_DELAY, next(questions)).await.unwrap_or(None)
            } else {
                next(questions).await
            };
            match outcome {
                None => return failure,
                Some(Ok(())) => {}
                Some(Err(error)) => failure = failure.or(Some(error)),
            }
        }
    }

    /// Asks for what is due. A question goes on when nobody waits for it any more.
    fn ask_due(self: &Arc<Self>, name: &Arc<str>, policy: DnsPolicy) -> Vec<(Kind, Waiting)> {
        let due = self.answers.due(name, policy, &self.servers, Instant::now());
        due.map(|kind| (kind, self.ask(name, kind))).collect()
    }

    fn ask(self: &Arc<Self>, name: &Arc<str>, kind: Kind) -> Waiting {
        let mut question = self.question(name, kind);
        let name = name.clone();
        Box::pin(async move {
            match question.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(outcome)) => outcome.clone(),
                Ok(None) | Err(_) => Err(DnsError::Stopped(name)),
            }
        })
    }

    fn question(self: &Arc<Self>, name: &Arc<str>, kind: Kind) -> Question {
        let key = (name.clone(), kind);
        let mut asking = self.asking();
        // Its sender has gone if the background stopped in the middle.
        if let Some(question) = asking.get(&key).filter(|question| question.has_changed().is_ok()) {
            return question.clone();
        }
        let (told, question) = watch::channel(None);
        asking.insert(key.clone(), question.clone());
        drop(asking);
        let this = Arc::clone(self);
        self.spawn(async move {
            let outcome = this.lookup(&key.0, kind).await;
            this.asking().remove(&key);
            told.send_replace(Some(outcome));
        });
        question
    }

    async fn lookup(&self, name: &Arc<str>, kind: Kind) -> Result<(), DnsError> {
        let found = match self.client() {
            Ok(client) => client.ask(name, kind).await.map_err(Arc::new),
            Err(error) => Err(error.clone()),
        };
        match found {
            Ok(answer) => self.answers.answered(name, kind, answer, &self.servers),
            Err(source) => {
                self.answers.failed(name, kind);
                return Err(DnsError::Lookup { name: name.clone(), source });
            }
        }
        Ok(())
    }

    fn client(&self) -> Result<&Client, &Arc<NetError>> {
        self.client.get_or_init(|| Client::new(&self.servers).map_err(Arc::new)).as_ref()
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<(Arc<str>, Kind), Question>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolution {
    pub(super) fn has_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }
}

/// The outcome of the question that ends next; `None` when there is none left.
async fn next(questions: &mut Vec<(Kind, Waiting)>) -> Option<Result<(), DnsError>> {
    std::future::poll_fn(|cx| {
        for i in 0..questions.len() {
            if let Poll::Ready(outcome) = questions[i].1.as_mut().poll(cx) {
                drop(questions.swap_remove(i));
                return Poll::Ready(Some(outcome));
            }
        }
        if questions.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// The addresses of names that never go to DNS.
pub(super) fn literal(name: &str, family: LookupFamily) -> Option<Addresses> {
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(Arc::new([address]));
    }
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let local = bare.eq_ignore_ascii_case("localhost")
        || bare.len() > 10
            && bare.is_char_boundary(bare.len() - 10)
            && bare[bare.len() - 10..].eq_ignore_ascii_case(".localhost");
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    local.then(|| match family {
        LookupFamily::All => Arc::new([v4, v6]) as Addresses,
        LookupFamily::V4Only | LookupFamily::V4Preferred => Arc::new([v4]),
        LookupFamily::V6Only | LookupFamily::Auto => Arc::new([v6]),
    })
}

#[cfg(test)]
mod tests {
    use super::answers::Answer;
    use super::*;

    #[test]
    fn literals_and_localhost_never_go_to_dns() {
        let both = |name| literal(name, LookupFamily::All);
        assert_eq!(both("127.0.0.1").unwrap().len(), 1);
        assert_eq!(*both("[::1]").unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(both("localhost").unwrap().len(), 2);
        assert_eq!(both("a.LocalHost.").unwrap().len(), 2);
        assert!(both("notlocalhost").is_none() && both("localhost.example").is_none());
        assert!(both("ääääääääää").is_none());
        let local = |family| literal("localhost", family).unwrap()[0].is_ipv4();
        assert!(local(LookupFamily::V4Only) && !local(LookupFamily::V6Only));
    }

    #[tokio::test(flavor = "local")]
    async fn a_good_answer_outlives_the_server() {
        // Nobody answers there (RFC 5737), and the port is taken by no server of names.
        let resolver = Resolver::new(&[SocketAddr::from(([127, 0, 0, 1], 9))], None);
        let name: Arc<str> = "gone.test".into();
        let addresses = vec![IpAddr::from([192, 0, 2, 1])];
        let at = Instant::now() - Duration::from_secs(600);
        let old = Answer { addresses: addresses.clone(), no_such_name: false, rank: 0, at, ttl: Duration::ZERO };
        resolver.answers.answered(&name, Kind::V4, old, &resolver.servers);
        let policy = DnsPolicy { min_ttl: Duration::from_secs(60), ..DnsPolicy::default() };
        let answer = resolver.resolve(&name, policy).await.unwrap();
        assert_eq!(*answer.addresses, addresses);
        assert!(answer.fresh_until > Instant::now() + Duration::from_secs(50));
        let short = DnsPolicy { max_stale: Duration::from_secs(60), ..policy };
        assert!(resolver.resolve(&name, short).await.is_err(), "but not for ever");
    }

    /// Answers questions for IPv4 addresses at once, and those for IPv6 addresses when it is told to.
    async fn slow_for_ipv6(socket: tokio::net::UdpSocket, go: Arc<tokio::sync::Notify>) {
        let mut packet = [0; 512];
        let (mut held, mut asked) = (Vec::new(), 0);
        loop {
            let (length, from) = tokio::select! {
                received = socket.recv_from(&mut packet) => received.unwrap(),
                () = go.notified() => {
                    for (answer, from) in held.drain(..) {
                        let answer: Vec<u8> = answer;
                        socket.send_to(&answer, from).await.unwrap();
                    }
                    continue;
                }
            };
            asked += 1;
            assert!(asked < 20, "one question of each kind, and repetitions");
            // The question ends with a name of 11 bytes, type and class; what EDNS adds behind it is left out.
            let question = packet[..12 + 11 + 4].to_vec();
            let is_v6 = question[24] == 28;
            assert!(length >= question.len());
            let mut answer = question;
            answer[2..12].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            // The name of the question, its type, class IN, 60 s.
            answer.extend([0xc0, 12, 0, if is_v6 { 28 } else { 1 }, 0, 1, 0, 0, 0, 60]);
            if is_v6 {
                answer.extend([0, 16]);
                answer.extend(Ipv6Addr::LOCALHOST.octets());
                held.push((answer, from));
            } else {
                answer.extend([0, 4, 127, 0, 0, 1]);
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    }

    #[tokio::test(flavor = "local")]
    async fn addresses_that_come_late_join_those_in_use() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::new(&[socket.local_addr().unwrap()], None);
        let go = Arc::new(tokio::sync::Notify::new());
        let server = tokio::task::spawn_local(slow_for_ipv6(socket, go.clone()));
        let (name, policy): (Arc<str>, _) = ("late.test".into(), DnsPolicy::default());
        let first = resolver.resolve(&name, policy).await.unwrap();
        assert_eq!(*first.addresses, [IpAddr::from([127, 0, 0, 1])]);
        let now = Instant::now();
        assert!(first.fresh_until > now && first.refresh_at <= now, "usable, and one kind is missing");
        go.notify_one();
        resolver.refresh(&name, policy).await;
        let both = resolver.resolve(&name, policy).await.unwrap();
        assert_eq!(both.addresses.len(), 2);
        assert!(both.refresh_at > now + Duration::from_secs(50));
        server.abort();
    }

    #[tokio::test(flavor = "local")]
    async fn a_kind_that_fell_silent_holds_up_no_request() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::new(&[socket.local_addr().unwrap()], None);
        let server = tokio::task::spawn_local(slow_for_ipv6(socket, Arc::default()));
        let (name, policy): (Arc<str>, _) = ("late.test".into(), DnsPolicy::default());
        let at = Instant::now() - Duration::from_secs(600);
        let addresses = vec![IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let old = Answer { addresses, no_such_name: false, rank: 0, at, ttl: Duration::ZERO };
        resolver.answers.answered(&name, Kind::V6, old, &resolver.servers);
        for turn in 0..3 {
            let found = resolver.resolve(&name, policy).await.unwrap();
            assert_eq!((found.addresses.len(), found.stale), (2, false), "turn {turn}");
            assert!(found.fresh_until > Instant::now() + Duration::from_secs(30), "turn {turn}");
            let asking = resolver.asking().keys().map(|(_, kind)| *kind).collect::<Vec<_>>();
            assert_eq!(asking, [Kind::V6], "turn {turn}: it was not waited for, and may still come");
        }
        server.abort();
    }

    #[tokio::test(flavor = "local")]
    async fn answers_are_shared_with_who_asks_other_servers() {
        let [one, two] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let first = Resolver::new(&[one], None);
        assert!(Arc::ptr_eq(&first, &first.with_servers(&[one])));
        let second = first.with_servers(&[two]);
        assert!(!Arc::ptr_eq(&first, &second));
        first.learn("known.test", &[[192, 0, 2, 1].into()]);
        let known = |resolver: &Resolver| resolver.known("known.test", DnsPolicy::default()).addresses;
        assert!(!known(&second).is_empty() && known(&first) == known(&second));
    }
}
