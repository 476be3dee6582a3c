//! What functions of the gateway answer: numbers, texts, bytes, handles, and lists, options and results of these.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime::{Result as Outcome, ValRaw, ValType, bail};

use super::param::Named;
use super::{Lower, Sink, add, max, up};

macro_rules! number {
    ($($type:ident $name:literal $core:ident $raw:ident;)*) => {$(
        impl Lower for $type {
            const SIZE: u32 = size_of::<$type>() as u32;
            const ALIGN: u32 = size_of::<$type>() as u32;
            const FLAT: bool = true;

            fn flatten(types: &mut Vec<ValType>) {
                types.push(ValType::$core);
            }

            fn describe(text: &mut String) {
                text.push_str($name);
            }

            fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
                guest.put(at, &self.to_le_bytes())
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
    const SIZE: u32 = 8;
    const ALIGN: u32 = 8;
    const FLAT: bool = true;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::F64);
    }

    fn describe(text: &mut String) {
        text.push_str("f64");
    }

    fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
        guest.put(at, &self.to_le_bytes())
    }

    fn raw(self) -> ValRaw {
        ValRaw::f64(self.to_bits())
    }
}

impl Lower for bool {
    const SIZE: u32 = 1;
    const ALIGN: u32 = 1;
    const FLAT: bool = true;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::I32);
    }

    fn describe(text: &mut String) {
        text.push_str("bool");
    }

    fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
        guest.put(at, &[u8::from(self)])
    }

    fn raw(self) -> ValRaw {
        ValRaw::u32(self.into())
    }
}

/// A handle that the guest gets.
impl<T: Named> Lower for Resource<T> {
    const SIZE: u32 = 4;
    const ALIGN: u32 = 4;
    const FLAT: bool = true;

    fn flatten(types: &mut Vec<ValType>) {
        types.push(ValType::I32);
    }

    fn describe(text: &mut String) {
        text.push_str("own<");
        text.push_str(T::NAME);
        text.push('>');
    }

    fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
        guest.put(at, &self.rep().to_le_bytes())
    }

    fn raw(self) -> ValRaw {
        ValRaw::u32(self.rep())
    }
}

macro_rules! text {
    ($($type:ty),*) => {$(
        impl Lower for $type {
            const SIZE: u32 = 8;
            const ALIGN: u32 = 4;

            fn describe(text: &mut String) {
                text.push_str("string");
            }

            fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
                let placed = guest.place(self.as_bytes())?;
                guest.put_slice(at, placed)
            }
        }
    )*};
}

text!(String, Arc<str>);

impl<T: Lower> Lower for Vec<T> {
    const SIZE: u32 = 8;
    const ALIGN: u32 = 4;

    fn describe(text: &mut String) {
        text.push_str("list<");
        T::describe(text);
        text.push('>');
    }

    fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
        let Ok(length) = u32::try_from(self.len()) else { bail!("a list is too long") };
        let placed = match (&self as &dyn std::any::Any).downcast_ref::<Vec<u8>>() {
            Some(bytes) => guest.place(bytes)?,
            None => {
                let start = guest.room(T::ALIGN, self.len().saturating_mul(T::SIZE as usize))?;
                for (number, element) in (0..length).zip(self) {
                    element.store(guest, add(start, number * T::SIZE)?)?;
                }
                (start, length)
            }
        };
        guest.put_slice(at, placed)
    }
}

impl<T: Lower> Lower for Option<T> {
    const SIZE: u32 = up(up(1, T::ALIGN) + T::SIZE, T::ALIGN);
    const ALIGN: u32 = T::ALIGN;

    fn describe(text: &mut String) {
        text.push_str("option<");
        T::describe(text);
        text.push('>');
    }

    fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
        guest.put(at, &[u8::from(self.is_some())])?;
        match self {
            Some(value) => value.store(guest, add(at, up(1, T::ALIGN))?),
            None => Ok(()),
        }
    }
}

impl<T: Lower, E: Lower> Lower for Result<T, E> {
    const SIZE: u32 = up(up(1, Self::ALIGN) + max(T::SIZE, E::SIZE), Self::ALIGN);
    const ALIGN: u32 = max(T::ALIGN, E::ALIGN);

    fn describe(text: &mut String) {
        text.push_str("result<");
        T::describe(text);
        text.push_str(", ");
        E::describe(text);
        text.push('>');
    }

    fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
        guest.put(at, &[u8::from(self.is_err())])?;
        let at = add(at, up(1, Self::ALIGN))?;
        match self {
            Ok(value) => value.store(guest, at),
            Err(error) => error.store(guest, at),
        }
    }
}

/// What a result has that carries nothing.
impl Lower for () {
    const SIZE: u32 = 0;
    const ALIGN: u32 = 1;

    fn describe(text: &mut String) {
        text.push('_');
    }

    fn store(self, _: &mut Sink<'_>, _: u32) -> Outcome<()> {
        Ok(())
    }
}

impl<A: Lower, B: Lower> Lower for (A, B) {
    const SIZE: u32 = up(up(A::SIZE, B::ALIGN) + B::SIZE, Self::ALIGN);
    const ALIGN: u32 = max(A::ALIGN, B::ALIGN);

    fn describe(text: &mut String) {
        text.push_str("tuple<");
        A::describe(text);
        text.push_str(", ");
        B::describe(text);
        text.push('>');
    }

    fn store(self, guest: &mut Sink<'_>, at: u32) -> Outcome<()> {
        self.0.store(guest, at)?;
        self.1.store(guest, add(at, up(A::SIZE, B::ALIGN))?)
    }
}
