//! What records, variants and enums look like to a guest. Sizes and alignments come from the bindings, and so from `wit/`; the names
//! and the order of fields and cases are compared with those of a component when it is linked (`describe`).

macro_rules! enumeration {
    ($type:ty { $($case:ident $name:literal,)* }) => {
        impl $crate::abi::Lower for $type {
            const FLAT: bool = true;

            fn flatten(types: &mut Vec<wasmtime::ValType>) {
                types.push(wasmtime::ValType::I32);
            }

            fn describe(text: &mut String) {
                text.push_str("enum{");
                text.push_str(&[$($name),*].join(", "));
                text.push('}');
            }

            fn write(self, _: &mut $crate::abi::Sink<'_>, out: &mut [u8]) -> wasmtime::Result<()> {
                $crate::abi::answer::put(out, 0, &[self as u8])
            }

            fn raw(self) -> wasmtime::ValRaw {
                wasmtime::ValRaw::u32(self as u32)
            }
        }

        impl $crate::abi::Lift for $type {
            type Of<'a> = $type;
            type Owned = $type;

            fn flatten(types: &mut Vec<wasmtime::ValType>) {
                types.push(wasmtime::ValType::I32);
            }

            fn describe(text: &mut String) {
                <$type as $crate::abi::Lower>::describe(text);
            }

            fn lift<'a>(args: &mut $crate::abi::Args<'_>, _: &$crate::abi::Source<'a>) -> wasmtime::Result<$type> {
                let case = args.u32()?;
                match [$(<$type>::$case),*].get(case as usize) {
                    Some(found) => Ok(*found),
                    None => $crate::abi::no_case(stringify!($type), case),
                }
            }

            fn load<'a>(guest: &$crate::abi::Source<'a>, at: u32) -> wasmtime::Result<$type> {
                let [case] = guest.array(at)?;
                match [$(<$type>::$case),*].get(usize::from(case)) {
                    Some(found) => Ok(*found),
                    None => $crate::abi::no_case(stringify!($type), case.into()),
                }
            }

            fn of(owned: &$type) -> $type {
                *owned
            }
        }
    };
}

macro_rules! variant {
    ($type:ty { $($number:literal $case:ident $(($value:ident: $payload:ty))? $name:literal,)* }) => {
        impl $crate::abi::Lower for $type {
            fn describe(text: &mut String) {
                text.push_str("variant{");
                $(
                    if $number > 0 {
                        text.push_str(", ");
                    }
                    text.push_str($name);
                    $(
                        text.push('(');
                        <$payload as $crate::abi::Lower>::describe(text);
                        text.push(')');
                    )?
                )*
                text.push('}');
            }

            fn write(self, _guest: &mut $crate::abi::Sink<'_>, out: &mut [u8]) -> wasmtime::Result<()> {
                const PAYLOAD: u32 = $crate::abi::up(1, <$type as $crate::abi::Lower>::ALIGN);
                match self {
                    $(Self::$case $(($value))? => {
                        $crate::abi::answer::put(out, 0, &[$number])?;
                        $(
                            let $value: $payload = $value;
                            return $value.write(_guest, $crate::abi::answer::part::<$payload>(out, PAYLOAD)?);
                        )?
                    })*
                }
                #[allow(unreachable_code, reason = "every case of some variants carries something")]
                Ok(())
            }
        }
    };
}

macro_rules! record {
    ($type:ty { $($field:ident: $part:ty = $name:literal),* $(,)? }) => {
        impl $crate::abi::Lower for $type {
            fn describe(text: &mut String) {
                let mut between = "record{";
                $(
                    text.push_str(between);
                    between = ", ";
                    text.push_str(concat!($name, ": "));
                    <$part as $crate::abi::Lower>::describe(text);
                )*
                let _ = between;
                text.push('}');
            }

            fn write(self, guest: &mut $crate::abi::Sink<'_>, out: &mut [u8]) -> wasmtime::Result<()> {
                let mut offset = 0;
                $(
                    offset = $crate::abi::up(offset, <$part as $crate::abi::Lower>::ALIGN);
                    let field: $part = self.$field;
                    field.write(guest, $crate::abi::answer::part::<$part>(out, offset)?)?;
                    offset += <$part as $crate::abi::Lower>::SIZE;
                )*
                const { assert!($crate::abi::layout::is_layout(&[$((<$part as $crate::abi::Lower>::SIZE, <$part as $crate::abi::Lower>::ALIGN)),*], <$type as $crate::abi::Lower>::SIZE)) };
                let _ = offset;
                Ok(())
            }
        }
    };
}

/// Whether a record with fields of these sizes and alignments has this size: one field forgotten or of another type shows.
pub(crate) const fn is_layout(fields: &[(u32, u32)], size: u32) -> bool {
    let (mut offset, mut largest, mut at) = (0_u32, 1, 0);
    while at < fields.len() {
        let (size, align) = fields[at];
        offset = offset.next_multiple_of(align) + size;
        if align > largest {
            largest = align;
        }
        at += 1;
    }
    offset.next_multiple_of(largest) == size
}

pub(crate) use {enumeration, record, variant};
