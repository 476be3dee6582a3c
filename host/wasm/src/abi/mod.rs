//! The canonical ABI (component model, `CanonicalABI.md`) for the types of our interfaces: how a guest's core module hands values to
//! functions of the gateway and takes theirs. wasmtime's own for components is general, and costs several times what a short call
//! does; this one reads arguments where the guest has them.
//!
//! Each type says how it looks to a core module and how to a component, so that a function is defined once for both (`define`).

pub(crate) mod answer;
pub(crate) mod define;
pub(crate) mod layout;
mod param;
mod records;
#[cfg(test)]
mod tests;
mod values;

use std::cell::Cell;
use std::mem::MaybeUninit;

use wasmtime::component::{self, ComponentNamedList, ComponentType};
use wasmtime::{Error, Memory, Result as Outcome, Store, StoreContextMut, ValRaw, ValType, bail};

pub(crate) use self::layout::{record, variant};
pub(crate) use self::param::{Bytes, Handle, List, Named, Str};
pub(crate) use self::records::{Edit, GuestChange, GuestLimit, GuestPlace};
use crate::call::state::CallState;

/// A type of which a guest hands over values.
pub(crate) trait Lift: 'static {
    /// The value as functions take it: texts and bytes where the guest has them.
    type Of<'a>;
    /// The value as wasmtime's components hand it over.
    type Owned: ComponentType + component::Lift + Send + Sync + 'static;
    /// How many bytes it takes in memory. This and the next two are what the bindings, generated from `wit/`, say of the type.
    const SIZE: u32 = <Self::Owned as ComponentType>::SIZE32 as u32;
    /// At which multiples of what it lies.
    const ALIGN: u32 = <Self::Owned as ComponentType>::ALIGN32;
    /// How many core values it takes as an argument.
    const FLAT: usize = flat_count::<Self::Owned>();

    /// The types of these core values.
    fn flatten(types: &mut Vec<ValType>);
    /// The type, as `unbundle` writes it.
    fn describe(text: &mut String);
    /// Reads an argument.
    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<Self::Of<'a>>;
    /// Reads the value from memory.
    fn load<'a>(guest: &Source<'a>, at: u32) -> Outcome<Self::Of<'a>>;
    fn of(owned: &Self::Owned) -> Self::Of<'_>;
}

/// The arguments of a function.
pub(crate) trait Params: 'static {
    type Of<'a>;
    type Owned: ComponentNamedList + component::Lift + Send + Sync + 'static;

    fn flatten(types: &mut Vec<ValType>);
    fn describe(text: &mut String);
    fn lift<'a>(args: &mut Args<'_>, guest: &Source<'a>) -> Outcome<Self::Of<'a>>;
    fn of(owned: &Self::Owned) -> Self::Of<'_>;
}

/// Arguments that outlive the look at the guest's memory.
pub(crate) trait OwnedParams: Params {
    fn keep(values: Self::Of<'_>) -> Self::Owned;
}

/// A type of which functions answer values.
pub(crate) trait Lower: component::Lower + Send + Sync + 'static {
    /// As for [`Lift`].
    const SIZE: u32 = <Self as ComponentType>::SIZE32 as u32;
    const ALIGN: u32 = <Self as ComponentType>::ALIGN32;
    /// Whether it is one core value, which functions return; others they write to where the guest wants them.
    const FLAT: bool = false;

    fn flatten(_: &mut Vec<ValType>) {}
    fn describe(text: &mut String);
    /// Writes it, as it lies in memory: `SIZE` bytes. What it has elsewhere is placed in the guest's memory.
    fn write(self, guest: &mut Sink<'_>, out: &mut [u8]) -> Outcome<()>;
    /// Of one core value.
    fn raw(self) -> ValRaw
    where
        Self: Sized,
    {
        ValRaw::i32(0)
    }
}

/// The core values that a call is made with.
pub(crate) struct Args<'a> {
    values: std::slice::Iter<'a, MaybeUninit<ValRaw>>,
}

impl<'a> Args<'a> {
    /// # Safety
    ///
    /// Of `values` have to be initialised as many as will be asked for.
    #[allow(
        unsafe_code,
        reason = "the values of a call are initialised by compiled code, which the type system can't see"
    )]
    unsafe fn new(values: &'a [MaybeUninit<ValRaw>]) -> Args<'a> {
        Args { values: values.iter() }
    }

    fn next(&mut self) -> Outcome<ValRaw> {
        let value = self.values.next().ok_or_else(|| Error::msg("a core value is missing"))?;
        #[allow(unsafe_code, reason = "whoever made this promised that it is initialised")]
        // SAFETY: see `new`.
        Ok(unsafe { value.assume_init() })
    }

    fn u32(&mut self) -> Outcome<u32> {
        Ok(self.next()?.get_u32())
    }

    fn u64(&mut self) -> Outcome<u64> {
        Ok(self.next()?.get_u64())
    }

    fn f64(&mut self) -> Outcome<f64> {
        Ok(f64::from_bits(self.next()?.get_f64()))
    }

    fn skip(&mut self, count: usize) -> Outcome<()> {
        (0..count).try_for_each(|_| self.next().map(|_| ()))
    }
}

/// The memory that arguments are read from.
pub(crate) struct Source<'a> {
    memory: &'a [u8],
    /// How many bytes the guest may still hand over in this call.
    left: Cell<usize>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(memory: &'a [u8], left: usize) -> Source<'a> {
        Source { memory, left: Cell::new(left) }
    }

    /// Bytes that the guest hands over.
    #[inline]
    fn take(&self, at: u32, length: u32) -> Outcome<&'a [u8]> {
        self.charge(length as usize)?;
        self.bytes(at, length)
    }

    #[inline]
    fn charge(&self, length: usize) -> Outcome<()> {
        let left = self.left.get().checked_sub(length);
        self.left.set(left.ok_or_else(|| Error::msg("too much data is handed over at once"))?);
        Ok(())
    }

    #[inline]
    fn bytes(&self, at: u32, length: u32) -> Outcome<&'a [u8]> {
        let (at, length) = (at as usize, length as usize);
        // Of two numbers of 32 bits: a sum that a `usize` holds.
        self.memory.get(at..at + length).ok_or_else(|| out_of_bounds(at, length))
    }

    fn array<const N: usize>(&self, at: u32) -> Outcome<[u8; N]> {
        let bytes = self.bytes(at, N as u32)?;
        bytes.try_into().map_err(|_| Error::msg("a value is out of bounds of the guest's memory"))
    }

    #[inline]
    fn text(&self, at: u32, length: u32) -> Outcome<&'a str> {
        Ok(text(self.take(at, length)?)?)
    }
}

/// The memory that answers are written to. Finding it costs as much as a short answer, so it is found once for each thing that is written.
pub(crate) struct Sink<'a> {
    store: StoreContextMut<'a, CallState>,
    memory: Memory,
    /// Its size when the function was called. It can only have grown.
    size: usize,
}

impl Sink<'_> {
    /// Has the guest make room: `realloc(old, old size, align, size)`, also for nothing: what its owner may give back is for the guest to
    /// say. No function of the gateway can be called meanwhile.
    fn room(&mut self, align: u32, size: usize) -> Outcome<u32> {
        let Ok(size) = u32::try_from(size) else { bail!("an answer of {size} bytes is too large") };
        let guest = &mut self.store.data_mut().guest;
        let Some(realloc) = guest.realloc else { bail!("the guest has no `realloc`") };
        guest.may_not_call = true;
        guest.is_within = true;
        let mut values = [ValRaw::u32(0), ValRaw::u32(0), ValRaw::u32(align), ValRaw::u32(size)];
        #[allow(unsafe_code, reason = "on a fiber, wasmtime has no other way to call a guest from within a call")]
        // SAFETY: the type was checked when the module was linked. That a call must not come from within one on a fiber is so that it is
        // not suspended and does not run out of stack: meanwhile no tick suspends (`on_tick`), and fibers have the stack for both.
        unsafe {
            realloc.call_unchecked(&mut self.store, &mut values)?;
        }
        let guest = &mut self.store.data_mut().guest;
        guest.may_not_call = false;
        guest.is_within = false;
        let [at, ..] = values;
        Ok(at.get_u32())
    }

    /// Places bytes somewhere in the guest's memory, and answers where.
    fn place(&mut self, align: u32, bytes: &[u8]) -> Outcome<u32> {
        let at = self.room(align, bytes.len())?;
        spot(self.memory.data_mut(&mut self.store), at, align, bytes.len())?.copy_from_slice(bytes);
        Ok(at)
    }

    /// Writes an answer to where the guest wants it, all of which has to be there whatever the answer is.
    fn answer<R: Lower>(mut self, at: u32, answer: R) -> Outcome<()> {
        const LARGEST: usize = 64;
        const { assert!(R::SIZE as usize <= LARGEST, "a larger answer needs more room here") };
        let size = R::SIZE as usize;
        aligned(at, R::ALIGN)?;
        // Before the guest makes room for parts of the answer, and with it maybe for this one.
        if at as usize + size > self.size {
            return Err(no_spot(at, size));
        }
        let mut out = [0; LARGEST];
        let out = answer::part::<R>(&mut out, 0)?;
        answer.write(&mut self, out)?;
        spot(self.memory.data_mut(&mut self.store), at, R::ALIGN, size)?.copy_from_slice(out);
        Ok(())
    }
}

/// A part of the guest's memory that is written to, if it is a good one.
#[inline]
fn spot(memory: &mut [u8], at: u32, align: u32, size: usize) -> Outcome<&mut [u8]> {
    aligned(at, align)?;
    // Of two numbers of 32 bits: a sum that a `usize` holds.
    memory.get_mut(at as usize..at as usize + size).ok_or_else(|| no_spot(at, size))
}

#[cold]
fn no_spot(at: u32, size: usize) -> Error {
    Error::msg(format!("{size} bytes for an answer at {at} are out of bounds of the guest's memory"))
}

#[cold]
fn out_of_bounds(at: usize, length: usize) -> Error {
    Error::msg(format!("{length} bytes at {at} are out of bounds of the guest's memory"))
}

/// Bytes as text. Most texts are short and ASCII, which is seen sooner than that they are UTF-8.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> Result<&str, std::str::Utf8Error> {
    if !bytes.is_ascii() {
        return std::str::from_utf8(bytes);
    }
    #[allow(unsafe_code, reason = "the standard library has no safe way from ASCII to text yet")]
    // SAFETY: ASCII is UTF-8.
    Ok(unsafe { std::str::from_utf8_unchecked(bytes) })
}

#[inline]
fn aligned(at: u32, align: u32) -> Outcome<()> {
    // Alignments are powers of two, and a division takes as long as all else that is checked here.
    if at & align.wrapping_sub(1) == 0 { Ok(()) } else { Err(misaligned(at, align)) }
}

#[cold]
fn misaligned(at: u32, align: u32) -> Error {
    Error::msg(format!("the address {at} is no multiple of {align}"))
}

/// The next multiple of `align`.
pub(crate) const fn up(offset: u32, align: u32) -> u32 {
    offset.next_multiple_of(align)
}

/// How many core values a value of a type is.
const fn flat_count<T: ComponentType>() -> usize {
    match T::ABI.flat_count {
        Some(count) => count as usize,
        // Too many to be arguments: they lie in memory.
        None => usize::MAX,
    }
}

fn add(at: u32, offset: u32) -> Outcome<u32> {
    at.checked_add(offset).ok_or_else(|| Error::msg("an address is out of bounds of the guest's memory"))
}

/// A value of an enum, a variant, an option or a result that is none of its cases: the guest does not keep to the interface.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoSuchCase(pub(crate) String);

pub(crate) fn no_case<T>(of: &str, case: u32) -> Outcome<T> {
    Err(Error::new(NoSuchCase(format!("the discriminant {case} is none of `{of}`"))))
}

/// The verdict that a hook answered.
pub(crate) fn verdict(answer: u32) -> Outcome<crate::bindings::Verdict> {
    match answer {
        0 => Ok(crate::bindings::Verdict::Continue),
        1 => Ok(crate::bindings::Verdict::Respond),
        other => no_case("verdict", other),
    }
}

/// Writes an argument.
pub(crate) fn write(store: &mut Store<CallState>, at: u32, bytes: &[u8]) -> Outcome<()> {
    let memory = store.data().guest.called()?;
    spot(memory.data_mut(store), at, 1, bytes.len())?.copy_from_slice(bytes);
    Ok(())
}

/// Reads an answer of the type `string`.
pub(crate) fn read_text(store: &Store<CallState>, at: u32) -> Outcome<String> {
    read_answer::<Str, _>(store, at, |text| text.to_owned())
}

/// Reads the error of an answer of the type `result<_, string>`.
pub(crate) fn read_refusal(store: &Store<CallState>, at: u32) -> Outcome<Option<String>> {
    // It lies as an option does.
    read_answer::<Option<Str>, _>(store, at, |refusal| refusal.map(str::to_owned))
}

/// Reads an answer from where the guest says it lies, all of which has to be there whatever the answer is.
fn read_answer<T: Lift, R>(store: &Store<CallState>, at: u32, keep: impl FnOnce(T::Of<'_>) -> R) -> Outcome<R> {
    let memory = store.data().guest.called()?;
    let guest = Source::new(memory.data(store), store.data().transfer);
    aligned(at, T::ALIGN)?;
    guest.bytes(at, T::SIZE)?;
    T::load(&guest, at).map(keep)
}
