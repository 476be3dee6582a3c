//! What functions of the gateway answer: numbers, texts, bytes, handles, and lists, options and results of these.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime::{Error, Result as Outcome, ValRaw, ValType};

use super::param::Named;
use super::{Lower, Sink, up};

/// Writes a part of an answer.
#[inline]
pub(crate) fn put(out: &mut [u8], at: usize, bytes: &[u8]) -> Outcome<()> {
    let place = out.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
    place.ok_or_else(too_small)?.copy_from_slice(bytes);
    Ok(())
}

/// Where a part of this type lies in an answer.
#[inline]
pub(crate) fn part<T: Lower>(out: &mut [u8], at: u32) -> Outcome<&mut [u8]> {
    out.get_mut(at as usize..).and_then(|rest| rest.get_mut(..T::SIZE as usize)).ok_or_else(too_small)
}

/// Where a text or list lies, and its length.
fn put_slice(out: &mut [u8], at: u32, length: usize) -> Outcome<()> {
    put(out, 0, &at.to_le_bytes())?;
    put(out, 4, &u32::try_from(length)?.to_le_bytes())
}

#[cold]
fn too_small() -> Error {
    Error::msg("an answer has another size than its type")
}

macro_rules! number {
    ($($type:ident $name:literal $core:ident $raw:ident;)*) => {$(
        impl Lower for $type {
            const FLAT: bool = true;

            fn flatten(types: &mut Vec<ValType>) {
                types.push(ValType::$core);
            }

            fn describe(text: &mut String) {
                text.push_str($name);
            }

            fn write(self, _: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
                put(out, 0, &self.to_le_bytes())
            }

            fn raw(self) -> ValRaw {
                ValRaw::$raw(self.into())
            }
        }
    )*};
}

number! {
    u8 "u8" I32 u32;
    u16 "u16" I32 u32;
    u32 "u32" I32 u32;
    u64 "u64" I64 u64;
    i64 "s64" I64 i64;
}

impl Lower for f64 {
    const FLAT: bool = true;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::F64);
    }

    fn describe(text: &mut String) {
        text.push_str("f64");
    }

    fn write(self, _: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
        put(out, 0, &self.to_le_bytes())
    }

    fn raw(self) -> ValRaw {
        ValRaw::f64(self.to_bits())
    }
}

impl Lower for bool {
    const FLAT: bool = true;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::I32);
    }

    fn describe(text: &mut String) {
        text.push_str("bool");
    }

    fn write(self, _: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
        put(out, 0, &[u8::from(self)])
    }

    fn raw(self) -> ValRaw {
        ValRaw::u32(self.into())
    }
}

/// A handle that the guest gets.
impl<T: Named> Lower for Resource<T> {
    const FLAT: bool = true;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::I32);
    }

    fn describe(text: &mut String) {
        text.push_str("own<");
        text.push_str(T::NAME);
        text.push('>');
    }

    fn write(self, _: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
        put(out, 0, &self.rep().to_le_bytes())
    }

    fn raw(self) -> ValRaw {
        ValRaw::u32(self.rep())
    }
}

macro_rules! text {
    ($($type:ty),*) => {$(
        impl Lower for $type {

            fn describe(text: &mut String) {
                text.push_str("string");
            }

            fn write(self, guest: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
                let at = guest.place(1, self.as_bytes())?;
                put_slice(out, at, self.len())
            }
        }
    )*};
}

text!(String, Arc<str>);

impl<T: Lower> Lower for Vec<T> {
    fn describe(text: &mut String) {
        text.push_str("list<");
        T::describe(text);
        text.push('>');
    }

    fn write(self, guest: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
        const { assert!(T::SIZE > 0, "no list has elements of no size") };
        let length = self.len();
        let at = match (&self as &dyn std::any::Any).downcast_ref::<Vec<u8>>() {
            Some(bytes) => guest.place(1, bytes)?,
            None => {
                let size = T::SIZE as usize;
                let mut bytes = vec![0; length.saturating_mul(size)];
                for (element, place) in self.into_iter().zip(bytes.chunks_exact_mut(size)) {
                    element.write(guest, place)?;
                }
                guest.place(T::ALIGN, &bytes)?
            }
        };
        put_slice(out, at, length)
    }
}

impl<T: Lower> Lower for Option<T> {
    fn describe(text: &mut String) {
        text.push_str("option<");
        T::describe(text);
        text.push('>');
    }

    fn write(self, guest: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
        put(out, 0, &[u8::from(self.is_some())])?;
        match self {
            Some(value) => value.write(guest, part::<T>(out, up(1, T::ALIGN))?),
            None => Ok(()),
        }
    }
}

impl<T: Lower, E: Lower> Lower for Result<T, E> {
    fn describe(text: &mut String) {
        text.push_str("result<");
        T::describe(text);
        text.push_str(", ");
        E::describe(text);
        text.push('>');
    }

    fn write(self, guest: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
        put(out, 0, &[u8::from(self.is_err())])?;
        let at = up(1, Self::ALIGN);
        match self {
            Ok(value) => value.write(guest, part::<T>(out, at)?),
            Err(error) => error.write(guest, part::<E>(out, at)?),
        }
    }
}

/// What a result has that carries nothing.
impl Lower for () {
    fn describe(text: &mut String) {
        text.push('_');
    }

    fn write(self, _: &mut Sink<'_>, _: &mut [u8]) -> Outcome<()> {
        Ok(())
    }
}

impl<A: Lower, B: Lower> Lower for (A, B) {
    fn describe(text: &mut String) {
        text.push_str("tuple<");
        A::describe(text);
        text.push_str(", ");
        B::describe(text);
        text.push('>');
    }

    fn write(self, guest: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()> {
        self.0.write(guest, part::<A>(out, 0)?)?;
        self.1.write(guest, part::<B>(out, up(A::SIZE, B::ALIGN))?)
    }
}
