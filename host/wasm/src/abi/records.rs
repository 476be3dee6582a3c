//! The records and variants that guests hand over.

use smallvec::SmallVec;
use wasmtime::{Result as Outcome, ValType};

use super::layout::is_layout;
use super::param::{Bytes, List, Str};
use super::{Args, Lift, Lower, OwnedParams, Source, add, no_case, up};
use crate::bindings::{Field, concurrency, consumers, context, crypto, http, limiter, metrics, types};
use sluice_services::limiter::{Algorithm, Limit};
use sluice_services::places::PlaceLimit;

/// Reads the fields of a record one after the other.
struct Fields<'g, 'a> {
    guest: &'g Source<'a>,
    start: u32,
    offset: u32,
}

impl<'g, 'a> Fields<'g, 'a> {
    fn at(guest: &'g Source<'a>, start: u32) -> Fields<'g, 'a> {
        Fields { guest, start, offset: 0 }
    }

    fn next<T: Lift>(&mut self) -> Outcome<T::Of<'a>> {
        let offset = up(self.offset, T::ALIGN);
        self.offset = offset + T::SIZE;
        T::load(self.guest, add(self.start, offset)?)
    }
}

/// A record that guests hand over, as the type that functions take.
macro_rules! lifted {
    (
        <$life:lifetime> $type:ty, $owned:ty => $of:ty { $($name:literal $field:ident: $part:ty),* $(,)? } => $build:expr;
        |$owner:ident| $lend:expr
    ) => {
        impl Lift for $type {
            type Of<$life> = $of;
            type Owned = $owned;

            fn flatten(types: &mut Vec<ValType>) {
                $(<$part as Lift>::flatten(types);)*
            }

            fn describe(text: &mut String) {
                let mut between = "record{";
                $(
                    text.push_str(between);
                    between = ", ";
                    text.push_str(concat!($name, ": "));
                    <$part as Lift>::describe(text);
                )*
                let _ = between;
                text.push('}');
            }

            fn lift<$life>(args: &mut Args<'_>, guest: &Source<$life>) -> Outcome<Self::Of<$life>> {
                $(let $field = <$part as Lift>::lift(args, guest)?;)*
                Ok($build)
            }

            fn load<$life>(guest: &Source<$life>, at: u32) -> Outcome<Self::Of<$life>> {
                const { assert!(is_layout(&[$((<$part as Lift>::SIZE, <$part as Lift>::ALIGN)),*], <$type as Lift>::SIZE)) };
                let mut fields = Fields::at(guest, at);
                $(let $field = fields.next::<$part>()?;)*
                Ok($build)
            }

            fn of($owner: &Self::Owned) -> Self::Of<'_> {
                $lend
            }
        }
    };
}

/// `limiter.limit`.
pub(crate) struct GuestLimit;

lifted! {
    <'a> GuestLimit, limiter::Limit => Limit<'a> {
        "key" key: Str,
        "algorithm" of_guest: limiter::Algorithm,
        "amount" amount: u64,
        "window-ms" window_ms: u64,
        "burst" burst: u64,
    } => Limit { key, algorithm: algorithm(of_guest), amount, window_ms, burst };
    |limit| Limit {
        key: &limit.key,
        algorithm: algorithm(limit.algorithm),
        amount: limit.amount,
        window_ms: limit.window_ms,
        burst: limit.burst,
    }
}

fn algorithm(of_guest: limiter::Algorithm) -> Algorithm {
    match of_guest {
        limiter::Algorithm::TokenBucket => Algorithm::TokenBucket,
        limiter::Algorithm::LeakyBucket => Algorithm::LeakyBucket,
        limiter::Algorithm::FixedWindow => Algorithm::FixedWindow,
        limiter::Algorithm::SlidingWindow => Algorithm::SlidingWindow,
    }
}

fn to_guest(algorithm: Algorithm) -> limiter::Algorithm {
    match algorithm {
        Algorithm::TokenBucket => limiter::Algorithm::TokenBucket,
        Algorithm::LeakyBucket => limiter::Algorithm::LeakyBucket,
        Algorithm::FixedWindow => limiter::Algorithm::FixedWindow,
        Algorithm::SlidingWindow => limiter::Algorithm::SlidingWindow,
    }
}

/// `concurrency.place-limit`.
pub(crate) struct GuestPlace;

lifted! {
    <'a> GuestPlace, concurrency::PlaceLimit => PlaceLimit<'a> {
        "key" key: Str,
        "amount" amount: u32,
    } => PlaceLimit { key, amount };
    |limit| PlaceLimit { key: &limit.key, amount: limit.amount }
}

/// `types.header-edit`: the name and what becomes of the field.
pub(crate) struct Edit;

lifted! {
    <'a> Edit, types::HeaderEdit => (&'a str, GuestChange<'a>) {
        "name" name: Str,
        "change" change: Change,
    } => (name, change);
    |edit| (&edit.name, Change::of(&edit.change))
}

/// `types.header-change`.
struct Change;

/// What it says.
pub(crate) enum GuestChange<'a> {
    Set(&'a str),
    Append(&'a str),
    Remove,
}

impl Lift for Change {
    type Of<'a> = GuestChange<'a>;
    type Owned = types::HeaderChange;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([const { ValType::I32 }; 3]);
    }

    fn describe(text: &mut String) {
        text.push_str("variant{set(string), append(string), remove}");
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<GuestChange<'a>> {
        Ok(match args.u32()? {
            0 => GuestChange::Set(Str::lift(args, guest)?),
            1 => GuestChange::Append(Str::lift(args, guest)?),
            2 => args.skip(Str::FLAT).map(|()| GuestChange::Remove)?,
            other => return no_case("header-change", other),
        })
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<GuestChange<'a>> {
        let [case] = guest.array(at)?;
        let value = || Str::load(guest, add(at, up(1, Str::ALIGN))?);
        Ok(match case {
            0 => GuestChange::Set(value()?),
            1 => GuestChange::Append(value()?),
            2 => GuestChange::Remove,
            other => return no_case("header-change", other.into()),
        })
    }

    fn of(owned: &types::HeaderChange) -> GuestChange<'_> {
        match owned {
            types::HeaderChange::Set(value) => GuestChange::Set(value),
            types::HeaderChange::Append(value) => GuestChange::Append(value),
            types::HeaderChange::Remove => GuestChange::Remove,
        }
    }
}

// As a pair of name and value.
lifted! {
    <'a> metrics::Label, metrics::Label => (&'a str, &'a str) { "name" name: Str, "value" value: Str } => (name, value);
    |label| (&label.name, &label.value)
}

lifted! {
    <'a> Field, Field => Field { "name" name: Str, "value" value: Str }
        => Field { name: name.to_owned(), value: value.to_owned() };
    |field| field.clone()
}

lifted! {
    <'a> http::Outgoing, http::Outgoing => http::Outgoing {
        "method" method: Str,
        "url" url: Str,
        "headers" headers: List<Field>,
        "body" body: Bytes,
    } => http::Outgoing {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers.into_vec(),
        body: body.to_vec(),
    };
    |request| request.clone()
}

impl OwnedParams for (List<http::Outgoing>, u32) {
    fn keep((requests, timeout_ms): Self::Of<'_>) -> Self::Owned {
        (SmallVec::into_vec(requests), timeout_ms)
    }
}

impl OwnedParams for (List<GuestLimit>, u64) {
    fn keep((limits, cost): Self::Of<'_>) -> Self::Owned {
        (limits.iter().map(owned_limit).collect(), cost)
    }
}

impl OwnedParams for (List<GuestPlace>, List<GuestLimit>, u64) {
    fn keep((places, limits, cost): Self::Of<'_>) -> Self::Owned {
        let owned =
            |limit: &PlaceLimit<'_>| concurrency::PlaceLimit { key: limit.key.to_owned(), amount: limit.amount };
        (places.iter().map(owned).collect(), limits.iter().map(owned_limit).collect(), cost)
    }
}

fn owned_limit(limit: &Limit<'_>) -> limiter::Limit {
    limiter::Limit {
        key: limit.key.to_owned(),
        algorithm: to_guest(limit.algorithm),
        amount: limit.amount,
        window_ms: limit.window_ms,
        burst: limit.burst,
    }
}

impl OwnedParams for (Str, Str) {
    fn keep((one, other): Self::Of<'_>) -> Self::Owned {
        (one.to_owned(), other.to_owned())
    }
}

impl OwnedParams for (Str, Str, u64) {
    fn keep((one, other, number): Self::Of<'_>) -> Self::Owned {
        (one.to_owned(), other.to_owned(), number)
    }
}

impl OwnedParams for (Str, Str, Bytes, Option<u64>) {
    fn keep((one, other, bytes, number): Self::Of<'_>) -> Self::Owned {
        (one.to_owned(), other.to_owned(), bytes.to_vec(), number)
    }
}

impl OwnedParams for (Str, Str, Option<Bytes>, Bytes, Option<u64>) {
    fn keep((one, other, before, after, number): Self::Of<'_>) -> Self::Owned {
        (one.to_owned(), other.to_owned(), before.map(<[u8]>::to_vec), after.to_vec(), number)
    }
}

impl OwnedParams for (Str, Str, u32) {
    fn keep((space, key, timeout_ms): Self::Of<'_>) -> Self::Owned {
        (space.to_owned(), key.to_owned(), timeout_ms)
    }
}

impl OwnedParams for (Str, Bytes) {
    fn keep((text, bytes): Self::Of<'_>) -> Self::Owned {
        (text.to_owned(), bytes.to_vec())
    }
}

lifted! {
    <'a> crypto::TokenRules, crypto::TokenRules => crypto::TokenRules {
        "key-set" key_set: u32,
        "algorithms" algorithms: List<Str>,
        "typ" typ: Option<Str>,
        "remember" remember: u32,
    } => crypto::TokenRules {
        key_set,
        algorithms: texts(algorithms),
        typ: typ.map(str::to_owned),
        remember,
    };
    |rules| rules.clone()
}

lifted! {
    <'a> consumers::ConsumerTokenRules, consumers::ConsumerTokenRules => consumers::ConsumerTokenRules {
        "algorithms" algorithms: List<Str>,
        "typ" typ: Option<Str>,
    } => consumers::ConsumerTokenRules { algorithms: texts(algorithms), typ: typ.map(str::to_owned) };
    |rules| rules.clone()
}

impl Lift for context::Value {
    type Of<'a> = context::Value;
    type Owned = context::Value;

    fn flatten(types: &mut Vec<ValType>) {
        // The second is a number or where a text lies, the third is the length of that.
        types.extend([ValType::I32, ValType::I64, ValType::I32]);
    }

    fn describe(text: &mut String) {
        <context::Value as Lower>::describe(text);
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<context::Value> {
        let (case, value, length) = (args.u32()?, args.u64()?, args.u32()?);
        let text = || guest.text(value as u32, length).map(str::to_owned);
        Ok(match case {
            0 => context::Value::Text(text()?),
            1 => context::Value::Integer(value as i64),
            2 => context::Value::Float(f64::from_bits(value)),
            3 => context::Value::Boolean(value as u32 != 0),
            4 => context::Value::Texts(texts(super::param::elements::<Str>(guest, value as u32, length)?)),
            5 => context::Value::Json(text()?),
            other => return no_case("context.value", other),
        })
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<context::Value> {
        let [case] = guest.array(at)?;
        let mut payload = Fields::at(guest, add(at, up(1, <context::Value as Lift>::ALIGN))?);
        Ok(match case {
            0 => context::Value::Text(payload.next::<Str>()?.to_owned()),
            1 => context::Value::Integer(payload.next::<i64>()?),
            2 => context::Value::Float(payload.next::<f64>()?),
            3 => context::Value::Boolean(payload.next::<bool>()?),
            4 => context::Value::Texts(texts(payload.next::<List<Str>>()?)),
            5 => context::Value::Json(payload.next::<Str>()?.to_owned()),
            other => return no_case("context.value", other.into()),
        })
    }

    fn of(owned: &context::Value) -> context::Value {
        owned.clone()
    }
}

fn texts(of_guest: impl IntoIterator<Item: Into<String>>) -> Vec<String> {
    of_guest.into_iter().map(Into::into).collect()
}
