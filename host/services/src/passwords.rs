//! Passwords of consumers, verified with Argon2id on threads of their own: a hash takes tens of milliseconds and megabytes, too much for a
//! worker. Threads, queue and memory are bounded. What was verified is remembered under a keyed digest, so that a caller who sends its
//! password with each request pays once.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHasher, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordVerifier, Version};
use aws_lc_rs::hmac;
use lru::LruCache;
use tokio::sync::oneshot;

use crate::ServiceError;
use crate::consumers::{Account, BadCredential, Consumer, Consumers};

/// Passwords that may wait for their turn.
pub const MAX_WAITING: usize = 256;
/// How long they may. Who waits longer would be hashed for a call that has run out of time (`limits.wall`), and a flood would fail the filter of
/// everybody behind it.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// Passwords that are remembered.
pub const MAX_REMEMBERED: usize = 10_000;
/// The longest password, in bytes.
pub const MAX_PASSWORD: usize = 4096;
const SHARDS: usize = 16;

/// What a hash may cost: the operator chooses it, and a mistyped one must not take the machine down.
const MAX_MEMORY_KIB: u32 = 256 << 10;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;

/// What `sluice hash password` makes: the first choice of the OWASP Password Storage Cheat Sheet.
const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;

type Digest = [u8; 32];

/// Verifies passwords.
pub struct Passwords {
    jobs: SyncSender<Job>,
    queue: Mutex<Receiver<Job>>,
    remembered: Remembered,
}

/// What was verified, by digest. In shards, since each request of such a caller looks here.
struct Remembered {
    /// Of this process: what is in memory can't be compared with anything elsewhere.
    key: hmac::Key,
    shards: [Mutex<LruCache<Digest, ()>>; SHARDS],
}

struct Job {
    user: User,
    password: Box<[u8]>,
    reply: oneshot::Sender<bool>,
    since: Instant,
}

/// Whose password it is said to be.
struct User {
    consumer: Arc<Consumer>,
    /// Whether somebody has the name. Else consumer and hash are another's, which take as long.
    is_known: bool,
    hash: Box<str>,
    digest: Digest,
}

impl User {
    /// The consumer, if the password is right.
    fn whose(self, is_right: bool) -> Option<Arc<Consumer>> {
        (is_right && self.is_known).then_some(self.consumer)
    }
}

impl Default for Passwords {
    fn default() -> Self {
        let (jobs, queue) = sync_channel(MAX_WAITING);
        let key = crate::random::bytes_32();
        let room = NonZeroUsize::new(MAX_REMEMBERED / SHARDS).expect("it is not zero");
        let remembered = Remembered {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            shards: std::array::from_fn(|_| Mutex::new(LruCache::new(room))),
        };
        Passwords { jobs, queue: Mutex::new(queue), remembered }
    }
}

impl Passwords {
    /// Verifies passwords until the process ends: for threads that do nothing else.
    pub fn work(&self) {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = next else { return };
            self.answer(job, Instant::now());
        }
    }

    /// Verifies the next password that comes in this time, if one does: for a thread that is not to outlive something.
    pub fn work_for(&self, time: Duration) {
        let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(time);
        if let Ok(job) = next {
            self.answer(job, Instant::now());
        }
    }

    fn answer(&self, job: Job, now: Instant) {
        // Who has gone needs no answer, and who has waited for too long gets none.
        if !job.reply.is_closed() && now.saturating_duration_since(job.since) <= MAX_WAIT {
            let verified = self.verify(&job.user, &job.password);
            let _ = job.reply.send(verified);
        }
    }

    /// The consumer that has this password, if that was verified before. None says nothing of the password.
    pub fn recall(&self, consumers: &Consumers, name: &str, password: &[u8]) -> Option<Arc<Consumer>> {
        let user = self.user(consumers, name, password)?;
        let is_right = self.remembered.has(&user.digest);
        user.whose(is_right)
    }

    /// The consumer that has this password, on the thread of the caller: for tests.
    pub fn authenticate_here(&self, consumers: &Consumers, name: &str, password: &[u8]) -> Option<Arc<Consumer>> {
        let user = self.user(consumers, name, password)?;
        let verified = self.verify(&user, password);
        user.whose(verified)
    }

    /// The consumer that has this password. A name that nobody has takes as long as a wrong password. Errors: `Unavailable` when
    /// [`MAX_WAITING`] wait, and after a wait of half a second.
    pub async fn authenticate(
        &self,
        consumers: &Consumers,
        name: &str,
        password: &[u8],
    ) -> Result<Option<Arc<Consumer>>, ServiceError> {
        let Some(user) = self.user(consumers, name, password) else { return Ok(None) };
        if self.remembered.has(&user.digest) {
            return Ok(user.whose(true));
        }
        let consumer = Arc::clone(&user.consumer);
        let (reply, verified) = oneshot::channel();
        // The other end is here, so it fails only where the queue is full.
        self.jobs
            .try_send(Job { user, password: password.into(), reply, since: Instant::now() })
            .map_err(|_| ServiceError::Unavailable(format!("{MAX_WAITING} passwords wait to be verified already")))?;
        let verified = verified
            .await
            .map_err(|_| ServiceError::Unavailable("the passwords before it take too long".to_owned()))?;
        Ok(verified.then_some(consumer))
    }

    /// None where there are no passwords at all, or this can be none.
    fn user(&self, consumers: &Consumers, name: &str, password: &[u8]) -> Option<User> {
        if password.len() > MAX_PASSWORD {
            return None;
        }
        let set = consumers.current();
        let Account { consumer, hash, is_known } = set.account(name)?;
        let digest = self.remembered.digest(name, hash, password);
        Some(User { consumer: Arc::clone(consumer), is_known, hash: hash.into(), digest })
    }

    fn verify(&self, user: &User, password: &[u8]) -> bool {
        // It may have waited behind a request of the same caller.
        if self.remembered.has(&user.digest) {
            return user.is_known;
        }
        let is_right = is_password(&user.hash, password);
        // A name that nobody has may come with the password of the one whose hash was taken.
        let is_right = is_right && user.is_known;
        if is_right {
            self.remembered.add(user.digest);
        }
        is_right
    }
}

impl Remembered {
    /// Of name, hash and password together: a changed hash is another digest.
    fn digest(&self, name: &str, hash: &str, password: &[u8]) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), hash.as_bytes(), password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, LruCache<Digest, ()>> {
        let [first, ..] = *digest;
        self.shards[usize::from(first) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, digest: &Digest) -> bool {
        self.shard(digest).get(digest).is_some()
    }

    fn add(&self, digest: Digest) {
        self.shard(&digest).put(digest, ());
    }
}

/// Whether it is the hash's password.
fn is_password(hash: &str, password: &[u8]) -> bool {
    // It was checked when it was read.
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// The hash of a password, in PHC format: Argon2id with 19 MiB, two passes and one lane.
pub fn hash(password: &[u8]) -> String {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the parameters are within their bounds");
    let salt = SaltString::encode_b64(&crate::random::bytes_32()[..16]).expect("16 bytes are a salt");
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(password, &salt);
    hash.expect("the parameters are within their bounds").to_string()
}

/// Refuses what is no hash of Argon2id, or costs too much to verify.
pub(crate) fn check_hash(text: &str) -> Result<(), BadCredential> {
    let hash = PasswordHash::new(text).map_err(|_| BadCredential::Password)?;
    let is_whole = hash.salt.is_some() && hash.hash.is_some() && hash.version == Some(Version::V0x13.into());
    if hash.algorithm != argon2::ARGON2ID_IDENT || !is_whole {
        return Err(BadCredential::Password);
    }
    let params = Params::try_from(&hash).map_err(|_| BadCredential::Password)?;
    if params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_PASSES || params.p_cost() > MAX_LANES {
        return Err(BadCredential::Cost);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::consumers::{ConsumerSet, ConsumerSpec, Credential};

    /// As cheap as Argon2id may be.
    fn cheap(password: &[u8]) -> String {
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        argon.hash_password(password, &salt).unwrap().to_string()
    }

    fn consumers(users: &[(&str, &str)]) -> Consumers {
        let spec = |(user, hash): &(&str, &str)| {
            let credentials = vec![Credential::password(user, hash).unwrap()];
            Cow::Owned(ConsumerSpec { name: format!("consumer-{user}"), credentials, ..ConsumerSpec::default() })
        };
        let consumers = Consumers::default();
        consumers.publish(Arc::new(ConsumerSet::new(&users.iter().map(spec).collect::<Vec<_>>()).unwrap()));
        consumers
    }

    fn name(found: Option<Arc<Consumer>>) -> Option<String> {
        found.map(|consumer| consumer.name.to_string())
    }

    #[test]
    fn hashes_are_checked_when_they_are_read() {
        assert_eq!(check_hash(&hash(b"x")), Ok(()));
        let right = cheap(b"x");
        assert_eq!(check_hash(&right), Ok(()));
        let wrong = [
            "",
            "x",
            "$argon2id$v=19$m=8,t=1,p=1",
            &right.replace("argon2id", "argon2i"),
            &right.replace("v=19", "v=16"),
            "$2b$12$abcdefghijklmnopqrstuu",
        ];
        for text in wrong {
            assert_eq!(check_hash(text), Err(BadCredential::Password), "{text}");
        }
        for costly in ["m=300000,t=1,p=1", "m=8,t=17,p=1", "m=256,t=1,p=17"] {
            assert_eq!(check_hash(&right.replace("m=8,t=1,p=1", costly)), Err(BadCredential::Cost), "{costly}");
        }
    }

    #[test]
    fn a_password_is_verified_once_and_forgotten_with_its_hash() {
        let (a, b) = (cheap(b"secret-a"), cheap(b"secret-b"));
        let known = consumers(&[("a", &a), ("b", &b)]);
        let passwords = Passwords::default();
        assert_eq!(name(passwords.recall(&known, "a", b"secret-a")), None, "nothing was verified yet");
        assert_eq!(name(passwords.authenticate_here(&known, "a", b"secret-a")).as_deref(), Some("consumer-a"));
        assert_eq!(name(passwords.recall(&known, "a", b"secret-a")).as_deref(), Some("consumer-a"));
        for (user, password) in [("a", "secret-b"), ("b", "secret-a"), ("c", "secret-a"), ("", ""), ("a", "")] {
            assert_eq!(name(passwords.authenticate_here(&known, user, password.as_bytes())), None, "{user} {password}");
            assert_eq!(name(passwords.recall(&known, user, password.as_bytes())), None, "{user} {password}");
        }
        let changed = consumers(&[("a", &cheap(b"another"))]);
        assert_eq!(name(passwords.recall(&changed, "a", b"secret-a")), None, "the password was changed");
    }

    #[test]
    fn the_password_of_another_does_not_open_a_name_that_nobody_has() {
        // The only hash there is stands in for every name that nobody has.
        let known = consumers(&[("a", &cheap(b"secret"))]);
        let passwords = Passwords::default();
        for _ in 0..2 {
            assert_eq!(name(passwords.authenticate_here(&known, "nobody", b"secret")), None);
        }
        assert_eq!(name(passwords.recall(&known, "nobody", b"secret")), None);
    }

    #[tokio::test]
    async fn too_many_are_refused_and_the_rest_is_served() {
        let known = Arc::new(consumers(&[("a", &cheap(b"secret"))]));
        let passwords = Arc::new(Passwords::default());
        let ask = |password: &'static [u8]| {
            let (known, passwords) = (Arc::clone(&known), Arc::clone(&passwords));
            tokio::spawn(async move { passwords.authenticate(&known, "a", password).await })
        };
        let waiting: Vec<_> = (0..MAX_WAITING).map(|_| ask(b"secret")).collect();
        tokio::task::yield_now().await;
        assert!(matches!(ask(b"wrong").await.unwrap(), Err(ServiceError::Unavailable(_))));
        let worker = Arc::clone(&passwords);
        std::thread::spawn(move || worker.work());
        for answer in waiting {
            assert_eq!(name(answer.await.unwrap().unwrap()).as_deref(), Some("consumer-a"));
        }
        assert_eq!(name(ask(b"wrong").await.unwrap().unwrap()), None);
    }

    #[tokio::test]
    async fn who_has_waited_too_long_is_told_so_and_costs_no_hash() {
        let known = consumers(&[("a", &cheap(b"secret"))]);
        let passwords = Passwords::default();
        for (waited, is_answered) in [(MAX_WAIT, true), (MAX_WAIT + Duration::from_millis(1), false)] {
            let hashing = async {
                let job = passwords.queue.lock().unwrap().recv().unwrap();
                let now = job.since + waited;
                passwords.answer(job, now);
            };
            let (answer, ()) = tokio::join!(passwords.authenticate(&known, "a", b"wrong"), hashing);
            assert_eq!(answer.is_ok(), is_answered, "{waited:?}");
        }
    }
}
