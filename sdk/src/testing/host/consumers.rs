//! `consumers` and `passwords`.

use std::sync::Arc;

use sluice_services::consumers::{self as native, Consumer, CredentialKind};

use super::crypto::to_guest;
use super::{Error, during, in_exchange, unless};
pub(crate) use crate::bindings::sluice::filter::consumers::ConsumerTokenRules;
use crate::bindings::sluice::filter::consumers::{ConsumerClaims, ConsumerLabel, ConsumerToken};
use crate::testing::consumers::KnownConsumer;
use crate::testing::{Phase, World};

/// As `unless`, with the grant.
fn granted<T>(act: impl FnOnce(&mut World) -> Result<T, Error>) -> Result<T, Error> {
    unless(Phase::OnComplete, |world| {
        if world.services.grants["consumers"] != true {
            return Err(Error::NotGranted("grants.consumers = true".to_owned()));
        }
        act(world)
    })
}

fn identify(world: &mut World, consumer: &Consumer, method: &str) -> String {
    let labels = consumer.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let plan = consumer.plan.as_deref().map(str::to_owned);
    world.exchange.known_consumer = Some(KnownConsumer { plan, labels, method: method.to_owned() });
    world.exchange.consumer = Some(consumer.name.to_string());
    consumer.name.to_string()
}

pub(crate) fn authenticate(kind: &str, credential: &str) -> Result<Option<String>, Error> {
    granted(|world| {
        let kind = CredentialKind::from_name(kind)
            .ok_or_else(|| Error::Invalid(format!("there are no credentials of the kind `{kind}`")))?;
        let set = Arc::clone(&world.services.gateway.consumers.current());
        Ok(set.find(kind, credential).map(|consumer| identify(world, consumer, kind.name())))
    })
}

pub(crate) fn recall_password(username: &str, password: &[u8]) -> Result<Option<String>, Error> {
    granted(|world| {
        let gateway = Arc::clone(&world.services.gateway);
        let found = gateway.passwords.recall(&gateway.consumers, username, password);
        Ok(found.map(|consumer| identify(world, &consumer, "password")))
    })
}

pub(crate) fn vouch(name: &str, method: &str) -> Result<bool, Error> {
    granted(|world| {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if !(1..=64).contains(&method.len()) || !method.bytes().all(is_word) {
            return Err(Error::Invalid("a method has 1 to 64 letters, digits, `-`, `_`, `.` or `:`".to_owned()));
        }
        let set = Arc::clone(&world.services.gateway.consumers.current());
        Ok(set.named(name).map(|consumer| identify(world, consumer, method)).is_some())
    })
}

pub(crate) fn token_verifier(rules: &ConsumerTokenRules) -> Result<u32, Error> {
    during(&[Phase::Configure], |world| {
        let ConsumerTokenRules { algorithms, typ } = rules.clone();
        world.services.consumer_verifiers.push(native::ConsumerTokenVerifier::new(algorithms, typ));
        Ok(world.services.consumer_verifiers.len() as u32 - 1)
    })
}

pub(crate) fn verify_token(verifier: u32, token: &[u8]) -> Result<ConsumerToken, Error> {
    granted(|world| {
        let found = world.services.consumer_verifiers.get(verifier as usize);
        let found = found.ok_or_else(|| Error::Invalid(format!("token verifier {verifier}")))?;
        Ok(match found.verify(&world.services.gateway, token)? {
            native::ConsumerToken::Good { consumer, payload } => {
                ConsumerToken::Good(ConsumerClaims { consumer, payload })
            }
            native::ConsumerToken::Refused(refusal) => ConsumerToken::Refused(to_guest(refusal)),
            native::ConsumerToken::UnknownIssuer => ConsumerToken::UnknownIssuer,
            native::ConsumerToken::WrongAudience => ConsumerToken::WrongAudience,
        })
    })
}

fn of_known<T>(read: impl FnOnce(&KnownConsumer) -> Option<T>) -> Result<Option<T>, Error> {
    in_exchange(|world| Ok(world.exchange.known_consumer.as_ref().and_then(read)))
}

pub(crate) fn known() -> Result<bool, Error> {
    Ok(of_known(|_| Some(()))?.is_some())
}

pub(crate) fn plan() -> Result<Option<String>, Error> {
    of_known(|known| known.plan.clone())
}

pub(crate) fn label(name: &str) -> Result<Option<String>, Error> {
    of_known(|known| known.labels.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
}

pub(crate) fn labels() -> Result<Vec<ConsumerLabel>, Error> {
    let label = |(name, value): &(String, String)| ConsumerLabel { name: name.clone(), value: value.clone() };
    Ok(of_known(|known| Some(known.labels.iter().map(label).collect()))?.unwrap_or_default())
}

pub(crate) fn method() -> Result<Option<String>, Error> {
    of_known(|known| Some(known.method.clone()))
}

pub(crate) mod passwords {
    use super::{Arc, Error, granted, identify};

    pub(crate) fn authenticate(username: &str, password: &[u8]) -> Result<Option<String>, Error> {
        granted(|world| {
            let gateway = Arc::clone(&world.services.gateway);
            let found = gateway.passwords.authenticate_here(&gateway.consumers, username, password);
            Ok(found.map(|consumer| identify(world, &consumer, "password")))
        })
    }
}
