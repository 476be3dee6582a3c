//! What guests hand over: numbers, texts, bytes, handles, and lists and options of these.

use std::marker::PhantomData;

use smallvec::SmallVec;
use wasmtime::component::Resource;
use wasmtime::{Result as Outcome, ValType, bail};

use super::{Args, Lift, Params, Source, add, aligned, no_case, up};

/// Text, as `&str`.
pub(crate) struct Str;
/// A list of bytes, as `&[u8]`.
pub(crate) struct Bytes;
/// A list.
pub(crate) struct List<T>(PhantomData<T>);
/// A handle of one of our resources, as its number. The guest keeps it: it is only lent.
pub(crate) struct Handle<T>(PhantomData<T>);

/// The name of a resource in its interface.
pub(crate) trait Named: Send + Sync + 'static {
    const NAME: &'static str;
}

/// Elements that a list has without memory of its own.
const INLINE: usize = 4;

impl Lift for Str {
    type Of<'a> = &'a str;
    type Owned = String;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([ValType::I32, ValType::I32]);
    }

    fn describe(text: &mut String) {
        text.push_str("string");
    }

    #[inline]
    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<&'a str> {
        let (at, length) = (args.u32()?, args.u32()?);
        guest.text(at, length)
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<&'a str> {
        let (at, length) = slice(guest, at)?;
        guest.text(at, length)
    }

    fn of(owned: &String) -> &str {
        owned
    }
}

impl Lift for Bytes {
    type Of<'a> = &'a [u8];
    type Owned = Vec<u8>;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([ValType::I32, ValType::I32]);
    }

    fn describe(text: &mut String) {
        text.push_str("list<u8>");
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<&'a [u8]> {
        let (at, length) = (args.u32()?, args.u32()?);
        guest.take(at, length)
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<&'a [u8]> {
        let (at, length) = slice(guest, at)?;
        guest.take(at, length)
    }

    fn of(owned: &Vec<u8>) -> &[u8] {
        owned
    }
}

/// Where a text or list lies, and its length.
fn slice(guest: &Source<'_>, at: u32) -> Outcome<(u32, u32)> {
    let [a, b, c, d, e, f, g, h] = guest.array(at)?;
    Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
}

impl<T: Lift> Lift for List<T> {
    type Of<'a> = SmallVec<[T::Of<'a>; INLINE]>;
    type Owned = Vec<T::Owned>;

    fn flatten(types: &mut Vec<ValType>) {
        types.extend([ValType::I32, ValType::I32]);
    }

    fn describe(text: &mut String) {
        text.push_str("list<");
        T::describe(text);
        text.push('>');
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<Self::Of<'a>> {
        let (at, length) = (args.u32()?, args.u32()?);
        elements::<T>(guest, at, length)
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<Self::Of<'a>> {
        let (at, length) = slice(guest, at)?;
        elements::<T>(guest, at, length)
    }

    fn of(owned: &Self::Owned) -> Self::Of<'_> {
        owned.iter().map(T::of).collect()
    }
}

pub(crate) fn elements<'a, T: Lift>(
    guest: &Source<'a>,
    at: u32,
    length: u32,
) -> Outcome<SmallVec<[T::Of<'a>; INLINE]>> {
    aligned(at, T::ALIGN)?;
    // An element is charged what it takes here as well, so that a list is never much larger than what may be handed over.
    guest.charge((length as usize).saturating_mul((T::SIZE as usize).max(size_of::<T::Of<'a>>())))?;
    let Some(size) = length.checked_mul(T::SIZE) else {
        bail!("a list of {length} elements is longer than memory can be")
    };
    guest.bytes(at, size)?;
    (0..length).map(|number| T::load(guest, add(at, number * T::SIZE)?)).collect()
}

impl<T: Lift> Lift for Option<T> {
    type Of<'a> = Option<T::Of<'a>>;
    type Owned = Option<T::Owned>;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::I32);
        T::flatten(types);
    }

    fn describe(text: &mut String) {
        text.push_str("option<");
        T::describe(text);
        text.push('>');
    }

    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<Self::Of<'a>> {
        match args.u32()? {
            0 => args.skip(T::FLAT).map(|()| None),
            1 => T::lift(args, guest).map(Some),
            other => no_case("option", other),
        }
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<Self::Of<'a>> {
        match guest.array(at)? {
            [0] => Ok(None),
            [1] => T::load(guest, add(at, up(1, T::ALIGN))?).map(Some),
            [other] => no_case("option", other.into()),
        }
    }

    fn of(owned: &Self::Owned) -> Self::Of<'_> {
        owned.as_ref().map(T::of)
    }
}

impl<T: Named> Lift for Handle<T> {
    type Of<'a> = u32;
    type Owned = Resource<T>;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::I32);
    }

    fn describe(text: &mut String) {
        text.push_str("borrow<");
        text.push_str(T::NAME);
        text.push('>');
    }

    fn lift<'a>(args: &mut Args<'_>, _: &Source<'a>) -> Outcome<u32> {
        args.u32()
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<u32> {
        guest.array(at).map(u32::from_le_bytes)
    }

    fn of(owned: &Resource<T>) -> u32 {
        owned.rep()
    }
}

/// `result<_, _>`.
impl Lift for Result<(), ()> {
    type Of<'a> = Result<(), ()>;
    type Owned = Result<(), ()>;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::I32);
    }

    fn describe(text: &mut String) {
        text.push_str("result<_, _>");
    }

    fn lift<'a>(args: &mut Args<'_>, _: &Source<'a>) -> Outcome<Self> {
        result(args.u32()?)
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<Self> {
        let [case] = guest.array(at)?;
        result(case.into())
    }

    fn of(owned: &Self) -> Self {
        *owned
    }
}

fn result(case: u32) -> Outcome<Result<(), ()>> {
    match case {
        0 => Ok(Ok(())),
        1 => Ok(Err(())),
        other => no_case("result", other),
    }
}

macro_rules! number {
    ($($type:ident $name:literal $core:ident $next:ident;)*) => {$(
        impl Lift for $type {
            type Of<'a> = $type;
            type Owned = $type;

            fn flatten(types: &mut Vec<ValType>) {
                types.push(ValType::$core);
            }

            fn describe(text: &mut String) {
                text.push_str($name);
            }

            fn lift<'a>(args: &mut Args<'_>, _: &Source<'a>) -> Outcome<$type> {
                Ok(args.$next()? as $type)
            }

            fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<$type> {
                guest.array(at).map($type::from_le_bytes)
            }

            fn of(owned: &$type) -> $type {
                *owned
            }
        }
    )*};
}

number! {
    u16 "u16" I32 u32;
    u32 "u32" I32 u32;
    u64 "u64" I64 u64;
    i64 "s64" I64 u64;
    f64 "f64" F64 f64;
}

impl Lift for bool {
    type Of<'a> = bool;
    type Owned = bool;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::I32);
    }

    fn describe(text: &mut String) {
        text.push_str("bool");
    }

    fn lift<'a>(args: &mut Args<'_>, _: &Source<'a>) -> Outcome<bool> {
        Ok(args.u32()? != 0)
    }

    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<bool> {
        Ok(guest.array(at)? != [0])
    }

    fn of(owned: &bool) -> bool {
        *owned
    }
}

macro_rules! params {
    ($($part:ident $at:tt),*) => {
        impl<$($part: Lift),*> Params for ($($part,)*) {
            type Of<'a> = ($($part::Of<'a>,)*);
            type Owned = ($($part::Owned,)*);

            fn flatten(_types: &mut Vec<ValType>) {
                $($part::flatten(_types);)*
            }

            fn describe(text: &mut String) {
                text.push('(');
                $(
                    if $at > 0 {
                        text.push_str(", ");
                    }
                    $part::describe(text);
                )*
                text.push(')');
            }

            fn lift<'a>(_args: &mut Args<'_>, _guest: &Source<'a>) -> Outcome<Self::Of<'a>> {
                Ok(($($part::lift(_args, _guest)?,)*))
            }

            #[allow(clippy::unused_unit, reason = "no arguments")]
            fn of(_owned: &Self::Owned) -> Self::Of<'_> {
                ($($part::of(&_owned.$at),)*)
            }
        }
    };
}

params!();
params!(A 0);
params!(A 0, B 1);
params!(A 0, B 1, C 2);
params!(A 0, B 1, C 2, D 3);
params!(A 0, B 1, C 2, D 3, E 4);
