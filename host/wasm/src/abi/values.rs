//! The records, variants and enums of our interfaces.

use std::sync::Arc;

use wasmtime::{Result as Outcome, ValRaw, ValType};

use super::super::bindings::{
    Error, Field, Verdict, context, crypto, http, kv, limiter, log, metrics, response, route, types,
};
use super::answer::{part, put};
use super::param::{Bytes, List, Str};
use super::{Args, Kept, Lift, Lower, Sink, Source, add, max, no_case, up};
use sluice_services::limiter::{Algorithm, Limit};

macro_rules! enumeration {
    ($type:ty { $($case:ident $name:literal,)* }) => {
        impl Lower for $type {
            const SIZE: u32 = 1;
            const ALIGN: u32 = 1;
            const FLAT: bool = true;

            fn flatten(types: &mut Vec<ValType>) {
                types.push(ValType::I32);
            }

            fn describe(text: &mut String) {
                text.push_str("enum{");
                text.push_str(&[$($name),*].join(", "));
                text.push('}');
            }

            fn write(self, _: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
                put(out, 0, &[self as u8])
            }

            fn raw(self) -> ValRaw {
                ValRaw::u32(self as u32)
            }
        }

        impl Lift for $type {
            type Of<'a> = $type;
            type Owned = $type;
            const SIZE: u32 = 1;
            const ALIGN: u32 = 1;
            const FLAT: usize = 1;

            fn flatten(types: &mut Vec<ValType>) {
                types.push(ValType::I32);
            }

            fn describe(text: &mut String) {
                <$type as Lower>::describe(text);
            }

            fn lift<'a>(args: &mut Args<'_>, _: &Source<'a>) -> Outcome<$type> {
                let case = args.u32()?;
                match [$(<$type>::$case),*].get(case as usize) {
                    Some(found) => Ok(*found),
                    None => no_case(stringify!($type), case),
                }
            }

            fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<$type> {
                let [case] = guest.array(at)?;
                match [$(<$type>::$case),*].get(usize::from(case)) {
                    Some(found) => Ok(*found),
                    None => no_case(stringify!($type), case.into()),
                }
            }

            fn of(owned: &$type) -> $type {
                *owned
            }
        }
    };
}

enumeration!(Verdict { Continue "continue", Respond "respond", });
enumeration!(log::Level { Trace "trace", Debug "debug", Info "info", Warn "warn", Error "error", });
enumeration!(response::Source { Upstream "upstream", Filter "filter", Gateway "gateway", });
enumeration!(limiter::Algorithm {
    TokenBucket "token-bucket",
    LeakyBucket "leaky-bucket",
    FixedWindow "fixed-window",
    SlidingWindow "sliding-window",
});
enumeration!(crypto::Verification { Valid "valid", Invalid "invalid", UnknownKey "unknown-key", });
enumeration!(crypto::TokenRefusal {
    NotCompact "not-compact",
    BadHeader "bad-header",
    Critical "critical",
    WrongType "wrong-type",
    WrongAlgorithm "wrong-algorithm",
    UnknownKey "unknown-key",
    BadSignature "bad-signature",
    BadPayload "bad-payload",
});

macro_rules! variant {
    ($type:ty { $($number:literal $case:ident $(($value:ident: $payload:ty))? $name:literal,)* }) => {
        impl Lower for $type {
            const ALIGN: u32 = {
                let align = 1;
                $($(let align = max(align, <$payload as Lower>::ALIGN);)?)*
                align
            };
            const SIZE: u32 = {
                let size = 0;
                $($(let size = max(size, <$payload as Lower>::SIZE);)?)*
                up(up(1, <Self as Lower>::ALIGN) + size, <Self as Lower>::ALIGN)
            };

            fn describe(text: &mut String) {
                text.push_str("variant{");
                $(
                    if $number > 0 {
                        text.push_str(", ");
                    }
                    text.push_str($name);
                    $(
                        text.push('(');
                        <$payload as Lower>::describe(text);
                        text.push(')');
                    )?
                )*
                text.push('}');
            }

            fn write(self, _guest: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
                const PAYLOAD: u32 = up(1, <$type as Lower>::ALIGN);
                match self {
                    $(Self::$case $(($value))? => {
                        put(out, 0, &[$number])?;
                        $(return $value.write(_guest, part::<$payload>(out, PAYLOAD)?);)?
                    })*
                }
                #[allow(unreachable_code, reason = "every case of some variants carries something")]
                Ok(())
            }
        }
    };
}

variant!(Error {
    0 WrongHook "wrong-hook",
    1 NotGranted(text: String) "not-granted",
    2 Invalid(text: String) "invalid",
    3 TooLarge(limit: u64) "too-large",
    4 Unavailable(text: String) "unavailable",
    5 Timeout "timeout",
    6 Other(text: String) "other",
});
variant!(context::Value {
    0 Text(text: String) "text",
    1 Integer(number: i64) "integer",
    2 Float(number: f64) "float",
    3 Boolean(truth: bool) "boolean",
    4 Texts(texts: Vec<String>) "texts",
    5 Json(json: String) "json",
});
variant!(kv::Reservation {
    0 Found(value: Vec<u8>) "found",
    1 Reserved "reserved",
    2 Pending "pending",
});
variant!(super::super::host::crypto::Token {
    0 Payload(text: Arc<str>) "payload",
    1 Refused(why: crypto::TokenRefusal) "refused",
});
variant!(super::super::host::crypto::Bearer {
    0 Missing "missing",
    1 Repeated "repeated",
    2 Payload(text: Arc<str>) "payload",
    3 Refused(why: crypto::TokenRefusal) "refused",
});
variant!(super::super::wasi::StreamError {
    0 LastOperationFailed(error: wasmtime::component::Resource<super::super::wasi::IoError>) "last-operation-failed",
    1 Closed "closed",
});

macro_rules! record {
    ($type:ty { $($field:ident: $part:ty = $name:literal),* $(,)? }) => {
        impl Lower for $type {
            const ALIGN: u32 = {
                let align = 1;
                $(let align = max(align, <$part as Lower>::ALIGN);)*
                align
            };
            const SIZE: u32 = {
                let size = 0;
                $(let size = up(size, <$part as Lower>::ALIGN) + <$part as Lower>::SIZE;)*
                up(size, <Self as Lower>::ALIGN)
            };

            fn describe(text: &mut String) {
                let mut between = "record{";
                $(
                    text.push_str(between);
                    between = ", ";
                    text.push_str(concat!($name, ": "));
                    <$part as Lower>::describe(text);
                )*
                let _ = between;
                text.push('}');
            }

            fn write(self, guest: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
                let mut offset = 0;
                $(
                    offset = up(offset, <$part as Lower>::ALIGN);
                    self.$field.write(guest, part::<$part>(out, offset)?)?;
                    offset += <$part as Lower>::SIZE;
                )*
                let _ = offset;
                Ok(())
            }
        }
    };
}

record!(Field { name: String = "name", value: String = "value" });
record!(route::Endpoint {
    upstream: String = "upstream",
    address: String = "address",
    weight: u32 = "weight",
    healthy: bool = "healthy",
    active: u32 = "active",
    latency_us: u64 = "latency-us",
});
record!(route::Failure { upstream: String = "upstream", address: String = "address", reason: String = "reason" });
record!(limiter::Standing {
    allowed: bool = "allowed",
    remaining: u64 = "remaining",
    reset_ms: u64 = "reset-ms",
    retry_after_ms: u64 = "retry-after-ms",
});
record!(http::Incoming { status: u16 = "status", headers: Vec<Field> = "headers", body: Vec<u8> = "body", });
record!(super::super::wasi::Datetime { seconds: u64 = "seconds", nanoseconds: u32 = "nanoseconds" });

/// Reads the fields of a record one after the other.
struct Record<'g, 'a> {
    guest: &'g Source<'a>,
    start: u32,
    offset: u32,
}

impl<'g, 'a> Record<'g, 'a> {
    fn at(guest: &'g Source<'a>, start: u32) -> Record<'g, 'a> {
        Record { guest, start, offset: 0 }
    }

    fn next<T: Lift>(&mut self) -> Outcome<T::Of<'a>> {
        let offset = up(self.offset, T::ALIGN);
        self.offset = offset + T::SIZE;
        T::load(self.guest, add(self.start, offset)?)
    }
}

/// `limiter.limit`.
pub(in super::super) struct GuestLimit;

impl Lift for GuestLimit {
    type Of<'a> = Limit<'a>;
    type Owned = limiter::Limit;
    const SIZE: u32 = 40;
    const ALIGN: u32 = 8;
    const FLAT: usize = 6;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([ValType::I32, ValType::I32, ValType::I32, ValType::I64, ValType::I64, ValType::I64]);
    }

    fn describe(text: &mut String) {
        text.push_str("record{key: string, algorithm: ");
        <limiter::Algorithm as Lift>::describe(text);
        text.push_str(", amount: u64, window-ms: u64, burst: u64}");
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<Limit<'a>> {
        Ok(Limit {
            key: Str::lift(args, guest)?,
            algorithm: algorithm(<limiter::Algorithm as Lift>::lift(args, guest)?),
            amount: args.u64()?,
            window_ms: args.u64()?,
            burst: args.u64()?,
        })
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<Limit<'a>> {
        let mut fields = Record::at(guest, at);
        Ok(Limit {
            key: fields.next::<Str>()?,
            algorithm: algorithm(fields.next::<limiter::Algorithm>()?),
            amount: fields.next::<u64>()?,
            window_ms: fields.next::<u64>()?,
            burst: fields.next::<u64>()?,
        })
    }

    fn of(owned: &limiter::Limit) -> Limit<'_> {
        Limit {
            key: &owned.key,
            algorithm: algorithm(owned.algorithm),
            amount: owned.amount,
            window_ms: owned.window_ms,
            burst: owned.burst,
        }
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

/// `types.header-edit`: the name and what becomes of the field.
pub(in super::super) struct Edit;

/// `types.header-change`.
pub(in super::super) enum GuestChange<'a> {
    Set(&'a str),
    Append(&'a str),
    Remove,
}

impl Lift for Edit {
    type Of<'a> = (&'a str, GuestChange<'a>);
    type Owned = types::HeaderEdit;
    const SIZE: u32 = 20;
    const ALIGN: u32 = 4;
    const FLAT: usize = 5;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([const { ValType::I32 }; 5]);
    }

    fn describe(text: &mut String) {
        text.push_str("record{name: string, change: variant{set(string), append(string), remove}}");
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<Self::Of<'a>> {
        let name = Str::lift(args, guest)?;
        let change = match args.u32()? {
            0 => GuestChange::Set(Str::lift(args, guest)?),
            1 => GuestChange::Append(Str::lift(args, guest)?),
            2 => args.skip(Str::FLAT).map(|()| GuestChange::Remove)?,
            other => return no_case("header-change", other),
        };
        Ok((name, change))
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<Self::Of<'a>> {
        let mut fields = Record::at(guest, at);
        let name = fields.next::<Str>()?;
        let [case] = guest.array(add(at, 8)?)?;
        fields.offset = 12;
        let change = match case {
            0 => GuestChange::Set(fields.next::<Str>()?),
            1 => GuestChange::Append(fields.next::<Str>()?),
            2 => GuestChange::Remove,
            other => return no_case("header-change", other.into()),
        };
        Ok((name, change))
    }

    fn of(owned: &types::HeaderEdit) -> Self::Of<'_> {
        let change = match &owned.change {
            types::HeaderChange::Set(value) => GuestChange::Set(value),
            types::HeaderChange::Append(value) => GuestChange::Append(value),
            types::HeaderChange::Remove => GuestChange::Remove,
        };
        (&owned.name, change)
    }
}

/// As a pair of name and value.
impl Lift for metrics::Label {
    type Of<'a> = (&'a str, &'a str);
    type Owned = metrics::Label;
    const SIZE: u32 = 16;
    const ALIGN: u32 = 4;
    const FLAT: usize = 4;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([const { ValType::I32 }; 4]);
    }

    fn describe(text: &mut String) {
        text.push_str("record{name: string, value: string}");
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<Self::Of<'a>> {
        Ok((Str::lift(args, guest)?, Str::lift(args, guest)?))
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<Self::Of<'a>> {
        let mut fields = Record::at(guest, at);
        Ok((fields.next::<Str>()?, fields.next::<Str>()?))
    }

    fn of(owned: &metrics::Label) -> Self::Of<'_> {
        (&owned.name, &owned.value)
    }
}

impl Lift for Field {
    type Of<'a> = Field;
    type Owned = Field;
    const SIZE: u32 = 16;
    const ALIGN: u32 = 4;
    const FLAT: usize = 4;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([const { ValType::I32 }; 4]);
    }

    fn describe(text: &mut String) {
        <Field as Lower>::describe(text);
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<Field> {
        Ok(Field { name: Str::lift(args, guest)?.to_owned(), value: Str::lift(args, guest)?.to_owned() })
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<Field> {
        let mut fields = Record::at(guest, at);
        Ok(Field { name: fields.next::<Str>()?.to_owned(), value: fields.next::<Str>()?.to_owned() })
    }

    fn of(owned: &Field) -> Field {
        owned.clone()
    }
}

impl Lift for http::Outgoing {
    type Of<'a> = http::Outgoing;
    type Owned = http::Outgoing;
    const SIZE: u32 = 32;
    const ALIGN: u32 = 4;
    const FLAT: usize = 8;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([const { ValType::I32 }; 8]);
    }

    fn describe(text: &mut String) {
        text.push_str("record{method: string, url: string, headers: ");
        List::<Field>::describe(text);
        text.push_str(", body: list<u8>}");
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<http::Outgoing> {
        Ok(http::Outgoing {
            method: Str::lift(args, guest)?.to_owned(),
            url: Str::lift(args, guest)?.to_owned(),
            headers: List::<Field>::lift(args, guest)?.into_vec(),
            body: Bytes::lift(args, guest)?.to_vec(),
        })
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<http::Outgoing> {
        let mut fields = Record::at(guest, at);
        Ok(http::Outgoing {
            method: fields.next::<Str>()?.to_owned(),
            url: fields.next::<Str>()?.to_owned(),
            headers: fields.next::<List<Field>>()?.into_vec(),
            body: fields.next::<Bytes>()?.to_vec(),
        })
    }

    fn of(owned: &http::Outgoing) -> http::Outgoing {
        owned.clone()
    }
}

impl Kept for (List<http::Outgoing>, u32) {
    fn keep((requests, timeout_ms): Self::Of<'_>) -> Self::Owned {
        (requests.into_vec(), timeout_ms)
    }
}

impl Lift for crypto::TokenRules {
    type Of<'a> = crypto::TokenRules;
    type Owned = crypto::TokenRules;
    const SIZE: u32 = 28;
    const ALIGN: u32 = 4;
    const FLAT: usize = 7;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([const { ValType::I32 }; 7]);
    }

    fn describe(text: &mut String) {
        text.push_str("record{key-set: u32, algorithms: list<string>, typ: option<string>, remember: u32}");
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<crypto::TokenRules> {
        Ok(crypto::TokenRules {
            key_set: args.u32()?,
            algorithms: List::<Str>::lift(args, guest)?.into_iter().map(str::to_owned).collect(),
            typ: Option::<Str>::lift(args, guest)?.map(str::to_owned),
            remember: args.u32()?,
        })
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<crypto::TokenRules> {
        let mut fields = Record::at(guest, at);
        Ok(crypto::TokenRules {
            key_set: fields.next::<u32>()?,
            algorithms: fields.next::<List<Str>>()?.into_iter().map(str::to_owned).collect(),
            typ: fields.next::<Option<Str>>()?.map(str::to_owned),
            remember: fields.next::<u32>()?,
        })
    }

    fn of(owned: &crypto::TokenRules) -> crypto::TokenRules {
        owned.clone()
    }
}

impl Lift for context::Value {
    type Of<'a> = context::Value;
    type Owned = context::Value;
    const SIZE: u32 = 16;
    const ALIGN: u32 = 8;
    const FLAT: usize = 3;

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
        let mut payload = Record::at(guest, add(at, 8)?);
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
