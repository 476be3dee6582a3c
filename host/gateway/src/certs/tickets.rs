//! Tickets of TLS sessions: how they are sealed, and with which keys. The time is cut into steps; each has a key of its own. It seals the
//! tickets of its step and opens them until the end of the next one. Gateways that share a secret derive the same keys from it, without
//! a word to each other. Without one, keys are made of chance and forgotten.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use crate::config::model::SessionTickets;

/// Bytes of the name of a key, which tickets begin with.
const NAME: usize = 16;
/// Bytes of a key.
const KEY: usize = 32;
/// What separates these keys from any others that might be derived from the same secret.
const PURPOSE: &[u8] = b"sluice session tickets 1";

/// The tickets of one scope.
pub(super) struct Tickets {
    /// Empty: keys are made of chance.
    secrets: Vec<Prk>,
    /// Where they are good. Keys of one scope open no tickets of another.
    scope: [u8; 32],
    rotation: Duration,
    keys: ArcSwap<Keys>,
    /// Held by whoever makes the keys of a new step.
    renewing: Mutex<()>,
}

/// The keys of a step.
struct Keys {
    step: u64,
    /// The first one seals; all open.
    keys: Vec<Arc<Key>>,
}

struct Key {
    name: [u8; NAME],
    key: LessSafeKey,
}

impl Tickets {
    pub(super) fn new(settings: &SessionTickets, scope: [u8; 32]) -> Result<Self, Unspecified> {
        let salt = Salt::new(HKDF_SHA256, PURPOSE);
        let secrets: Vec<Prk> =
            settings.secrets.iter().map(|secret| salt.extract(secret.expose().as_bytes())).collect();
        let step = step(since_epoch(), settings.rotation);
        let keys = match secrets.is_empty() {
            true => Keys { step, keys: vec![Arc::new(Key::by_chance()?)] },
            false => Keys { step, keys: derive(&secrets, &scope, step)? },
        };
        let rotation = settings.rotation;
        Ok(Tickets { secrets, scope, rotation, keys: ArcSwap::from_pointee(keys), renewing: Mutex::default() })
    }

    /// The keys of this moment.
    fn keys(&self, now: Duration) -> Result<Arc<Keys>, Unspecified> {
        let step = step(now, self.rotation);
        let known = self.keys.load();
        if known.step == step {
            return Ok(Arc::clone(&known));
        }
        let _one = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.keys.load_full();
        if known.step == step {
            return Ok(known);
        }
        let keys = match self.secrets.is_empty() {
            false => derive(&self.secrets, &self.scope, step)?,
            // The key of the step before opens tickets for one more step. A clock that was set back makes no older key of it.
            true => {
                let before = known.keys.first().filter(|_| known.step.abs_diff(step) == 1).cloned();
                std::iter::once(Arc::new(Key::by_chance()?)).chain(before).collect()
            }
        };
        let keys = Arc::new(Keys { step, keys });
        self.keys.store(Arc::clone(&keys));
        Ok(keys)
    }

    fn seal(&self, plain: &[u8], now: Duration) -> Result<Vec<u8>, Unspecified> {
        let keys = self.keys(now)?;
        keys.keys.first().ok_or(Unspecified)?.seal(plain)
    }

    fn open(&self, ticket: &[u8], now: Duration) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_first_chunk::<NAME>()?;
        let keys = self.keys(now).ok()?;
        keys.keys.iter().find(|key| key.name == *name)?.open(sealed)
    }
}

/// The keys of a step, for all secrets: first those that seal. The clocks of gateways differ, so those of the next step open tickets, too.
fn derive(secrets: &[Prk], scope: &[u8; 32], step: u64) -> Result<Vec<Arc<Key>>, Unspecified> {
    let steps = [Some(step), step.checked_sub(1), step.checked_add(1)];
    let each = steps.into_iter().flatten().flat_map(|step| secrets.iter().map(move |secret| (secret, step)));
    each.map(|(secret, step)| Key::derive(secret, scope, step).map(Arc::new)).collect()
}

impl Key {
    fn by_chance() -> Result<Self, Unspecified> {
        let mut material = [0; NAME + KEY];
        rand::fill(&mut material)?;
        Key::of(&material)
    }

    fn derive(secret: &Prk, scope: &[u8; 32], step: u64) -> Result<Self, Unspecified> {
        let mut material = [0; NAME + KEY];
        secret.expand(&[scope, &step.to_be_bytes()], Material)?.fill(&mut material)?;
        Key::of(&material)
    }

    fn of(material: &[u8; NAME + KEY]) -> Result<Self, Unspecified> {
        let (name, key) = material.split_first_chunk::<NAME>().ok_or(Unspecified)?;
        // Nonces of chance are all that many gateways can agree on. With this cipher two equal ones among billions reveal no more than that
        // two tickets are equal.
        Ok(Key { name: *name, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key)?) })
    }

    /// The name, a nonce, and what was sealed.
    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let mut ticket = Vec::with_capacity(NAME + NONCE_LEN + plain.len() + AES_256_GCM_SIV.tag_len());
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(&nonce);
        let mut sealed = plain.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(self.name), &mut sealed)?;
        ticket.append(&mut sealed);
        Ok(ticket)
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, Aad::from(self.name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

/// The length of what is derived.
struct Material;

impl KeyType for Material {
    fn len(&self) -> usize {
        NAME + KEY
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Steps begin at the same moment at all gateways.
fn step(since_epoch: Duration, rotation: Duration) -> u64 {
    u64::try_from(since_epoch.as_millis() / rotation.as_millis().max(1)).unwrap_or(u64::MAX)
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// For as long at least a ticket is good, whenever it was made.
    fn lifetime(&self) -> u32 {
        u32::try_from(self.rotation.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, since_epoch()).ok()
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, since_epoch())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("rotation", &self.rotation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    /// In the middle of a step.
    const NOW: Duration = Duration::from_secs(1_800_000_000 + 1800);

    fn tickets(secrets: &[&str], scope: u8) -> Tickets {
        let secrets = secrets.iter().map(|secret| (*secret).to_owned().into()).collect();
        Tickets::new(&SessionTickets { secrets, rotation: HOUR }, [scope; 32]).expect("keys")
    }

    fn sealed(by: &Tickets, at: Duration) -> Vec<u8> {
        by.seal(b"a session", at).expect("a ticket")
    }

    fn opens(tickets: &Tickets, ticket: &[u8], at: Duration) -> bool {
        tickets.open(ticket, at).is_some_and(|plain| plain == b"a session")
    }

    #[test]
    fn a_ticket_is_good_until_the_end_of_the_step_after_its_own() {
        for secrets in [&[][..], &["a secret"]] {
            let tickets = tickets(secrets, 0);
            let ticket = sealed(&tickets, NOW);
            assert!(opens(&tickets, &ticket, NOW));
            assert!(opens(&tickets, &ticket, NOW + HOUR), "{secrets:?}");
            assert!(!opens(&tickets, &ticket, NOW + 2 * HOUR), "{secrets:?}");
            let ticket = sealed(&tickets, NOW + 2 * HOUR);
            assert!(!opens(&tickets, &ticket, NOW + 10 * HOUR), "nobody came for long: {secrets:?}");
        }
    }

    #[test]
    fn gateways_with_one_secret_open_each_others_tickets_though_their_clocks_differ() {
        let (one, other) = (tickets(&["a secret"], 0), tickets(&["a secret"], 0));
        assert!(opens(&other, &sealed(&one, NOW), NOW));
        assert!(opens(&other, &sealed(&one, NOW + HOUR), NOW), "the other one is late");
        assert!(opens(&other, &sealed(&one, NOW), NOW + HOUR), "the other one is ahead");
        assert!(!opens(&tickets(&["another one"], 0), &sealed(&one, NOW), NOW));
        assert!(!opens(&tickets(&[], 0), &sealed(&one, NOW), NOW));
        assert!(!opens(&tickets(&["a secret"], 1), &sealed(&one, NOW), NOW), "another scope");
    }

    #[test]
    fn secrets_change_without_a_lost_session() {
        let (before, between, after) = (tickets(&["old"], 0), tickets(&["new", "old"], 0), tickets(&["new"], 0));
        assert!(opens(&between, &sealed(&before, NOW), NOW));
        assert!(opens(&after, &sealed(&between, NOW), NOW));
        assert!(!opens(&after, &sealed(&before, NOW), NOW));
    }

    #[test]
    fn what_was_changed_cut_or_made_up_is_no_ticket() {
        let tickets = tickets(&[], 0);
        let ticket = sealed(&tickets, NOW);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(!opens(&tickets, &changed, NOW), "byte {at}");
            assert!(!opens(&tickets, &ticket[..at], NOW), "{at} bytes");
        }
        assert!(opens(&tickets, &ticket, NOW));
        assert_ne!(ticket, sealed(&tickets, NOW));
    }
}
