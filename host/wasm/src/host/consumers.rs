//! The operator's consumers: found by a credential or a password, and what is known of the caller.

use std::borrow::Cow;
use std::sync::Arc;

use wasmtime::{Result as Outcome, StoreContextMut};

use super::crypto::{MAX_KEY_SETS, check_names, told};
use super::waiting::{self, Paused};
use super::{Interfaces, invalid};
use crate::abi::define::Define;
use crate::abi::{Bytes, Str};
use crate::bindings::{Error, consumers};
use crate::call::state::{CallState, Stage};
use crate::exchange::{Caller, KnownConsumer};
use crate::filter::HookSet;
use sluice_services::consumers::{Consumer, ConsumerToken, ConsumerTokenVerifier, CredentialKind};

/// Bytes of a method that a filter names.
const MAX_METHOD: usize = 64;

/// The method of those that were found by their password.
const PASSWORD: &str = "password";

/// Defines `consumers`.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("consumers")?;
    at.function::<(Str, Str), _>("authenticate", |state, (kind, credential)| Ok(state.authenticate(kind, credential)))?;
    at.function::<(Str, Bytes), _>("recall-password", |state, (user, password)| {
        Ok(state.recall_password(user, password))
    })?;
    at.function::<(Str, Str), _>("vouch", |state, (name, method)| Ok(state.vouch(name, method)))?;
    at.function::<(consumers::ConsumerTokenRules,), _>("token-verifier", |state, (rules,)| {
        Ok(state.declare_consumer_verifier(rules))
    })?;
    at.function::<(u32, Bytes), _>("verify-token", |state, (verifier, token)| {
        Ok(state.verify_consumer_token(verifier, token))
    })?;
    at.function::<(), _>("known", |state, ()| Ok(state.known_consumer().map(|known| known.is_some())))?;
    at.function::<(), _>("plan", |state, ()| {
        Ok(state.known_consumer().map(|known| Some(known?.consumer.plan.as_ref()?.to_string())))
    })?;
    at.function::<(Str,), _>("label", |state, (name,)| {
        Ok(state.known_consumer().map(|known| Some(known?.consumer.label(name)?.to_owned())))
    })?;
    at.function::<(), _>("labels", |state, ()| Ok(state.labels()))?;
    at.function::<(), _>("method", |state, ()| {
        Ok(state.known_consumer().map(|known| Some(known?.method.clone().into_owned())))
    })
}

/// Defines `passwords`, whose one function waits.
pub(crate) fn link_waiting(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("passwords")?;
    at.waiting::<(Str, Bytes), _>("authenticate", |cx, (user, password)| {
        Box::pin(authenticate_password(cx, user, password))
    })
}

async fn authenticate_password(
    mut cx: StoreContextMut<'_, CallState>,
    user: String,
    password: Vec<u8>,
) -> Outcome<Result<Option<String>, Error>> {
    let Paused { meter, left } = waiting::pause(cx.data_mut())?;
    let services = cx.data().may_identify().and_then(|()| Ok(Arc::clone(&cx.data().services()?.services)));
    // Also a call that is refused lets the worker go on, and look at the wall deadline.
    tokio::task::yield_now().await;
    let answer = match services {
        Ok(services) => {
            let verified = services.passwords.authenticate(&services.consumers, &user, &password);
            match tokio::time::timeout(left, verified).await {
                Ok(found) => found.map_err(Error::from),
                Err(_) => Err(Error::Timeout),
            }
        }
        Err(refused) => Err(refused),
    };
    waiting::resume(&mut cx, &meter);
    Ok(answer.and_then(|found| found.map(|consumer| cx.data_mut().identify(consumer, PASSWORD.into())).transpose()))
}

impl CallState {
    /// Whether the filter may find out and say who the caller is.
    fn may_identify(&self) -> Result<(), Error> {
        self.hook(HookSet::CONTEXT_WRITES)?;
        self.services()?;
        if !self.shared.grants.services.consumers {
            return Err(Error::NotGranted("grants.consumers = true".into()));
        }
        Ok(())
    }

    fn authenticate(&mut self, kind: &str, credential: &str) -> Result<Option<String>, Error> {
        self.may_identify()?;
        let kind = CredentialKind::from_name(kind)
            .ok_or_else(|| invalid(format!("there are no credentials of the kind `{kind}`")))?;
        let found = self.services()?.services.consumers.current().find(kind, credential).cloned();
        found.map(|consumer| self.identify(consumer, kind.name().into())).transpose()
    }

    fn recall_password(&mut self, user: &str, password: &[u8]) -> Result<Option<String>, Error> {
        self.may_identify()?;
        let services = &self.services()?.services;
        let found = services.passwords.recall(&services.consumers, user, password);
        found.map(|consumer| self.identify(consumer, PASSWORD.into())).transpose()
    }

    fn vouch(&mut self, name: &str, method: &str) -> Result<bool, Error> {
        self.may_identify()?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        if !(1..=MAX_METHOD).contains(&method.len()) || !method.bytes().all(is_word) {
            return Err(invalid(format!("a method has 1 to {MAX_METHOD} letters, digits, `-`, `_`, `.` or `:`")));
        }
        let found = self.services()?.services.consumers.current().named(name).cloned();
        let Some(consumer) = found else { return Ok(false) };
        self.identify(consumer, method.to_owned().into()).map(|_| true)
    }

    fn declare_consumer_verifier(&mut self, rules: consumers::ConsumerTokenRules) -> Result<u32, Error> {
        if self.stage != Stage::Configure {
            return Err(Error::WrongHook);
        }
        if self.resources.consumer_verifiers.len() >= MAX_KEY_SETS {
            return Err(Error::TooLarge(MAX_KEY_SETS as u64));
        }
        check_names(&rules.algorithms, rules.typ.as_deref())?;
        self.resources.consumer_verifiers.push(ConsumerTokenVerifier::new(rules.algorithms, rules.typ));
        Ok(self.resources.consumer_verifiers.len() as u32 - 1)
    }

    fn verify_consumer_token(&self, number: u32, token: &[u8]) -> Result<consumers::ConsumerToken, Error> {
        self.may_identify()?;
        let verifier = usize::try_from(number).ok().and_then(|number| self.resources.consumer_verifiers.get(number));
        let verifier = verifier.ok_or_else(|| invalid(format!("there is no token verifier {number}")))?;
        Ok(match verifier.verify(&self.services()?.services, token)? {
            ConsumerToken::Good { consumer, payload } => {
                consumers::ConsumerToken::Good(consumers::ConsumerClaims { consumer, payload })
            }
            ConsumerToken::Refused(refusal) => consumers::ConsumerToken::Refused(told(refusal)),
            ConsumerToken::UnknownIssuer => consumers::ConsumerToken::UnknownIssuer,
            ConsumerToken::WrongAudience => consumers::ConsumerToken::WrongAudience,
        })
    }

    /// Makes a consumer the caller and answers its name.
    fn identify(&mut self, consumer: Arc<Consumer>, method: Cow<'static, str>) -> Result<String, Error> {
        let name = consumer.name.to_string();
        self.keep(name.len() + method.len())?;
        let known = Some(KnownConsumer { consumer, method });
        let caller = Caller { name: name.as_str().into(), known };
        self.exchange_mut(HookSet::CONTEXT_WRITES)?.set_caller(caller);
        Ok(name)
    }

    fn known_consumer(&self) -> Result<Option<&KnownConsumer>, Error> {
        Ok(self.exchange(HookSet::ALL)?.context.known_consumer())
    }

    fn labels(&self) -> Result<Vec<consumers::ConsumerLabel>, Error> {
        let known = self.known_consumer()?.map_or(&[][..], |known| &known.consumer.labels);
        Ok(known
            .iter()
            .map(|(name, value)| consumers::ConsumerLabel { name: name.to_string(), value: value.to_string() })
            .collect())
    }
}
