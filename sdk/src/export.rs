//! From a filter to the exports of a component: `export!` and what it expands to.

use std::cell::OnceCell;
use std::marker::PhantomData;

use serde_json::{Map, Value};

use crate::hooks::{hook_table, traits::*};
use crate::{
    Chunk, ConfigError, Describe, Error, Event, Filter, Finished, Request, Response, Route, Setup, Verdict, bindings,
    config, host,
};

/// The one filter of a component.
#[derive(Debug)]
pub struct Slot<F>(OnceCell<F>);

// SAFETY: a component of this SDK has one thread.
#[cfg(target_family = "wasm")]
#[allow(unsafe_code, reason = "a static must be Sync, and a filter need not be")]
unsafe impl<F> Sync for Slot<F> {}

impl<F: Filter> Slot<F> {
    /// A slot without a filter.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceCell::new())
    }

    /// Makes the filter from its config.
    ///
    /// # Errors
    /// The refusal, with the key path.
    pub fn configure(&self, config: &str) -> Result<(), String> {
        let filter = make::<F>(config).map_err(|refusal| refusal.to_gateway())?;
        self.0.set(filter).map_err(|_| "configured twice".to_owned())
    }

    fn call<T>(&self, hook: impl FnOnce(&F) -> Result<T, Error>) -> Option<T> {
        let result = match self.0.get() {
            Some(filter) => hook(filter),
            None => Err(Error::new("called before configure")),
        };
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                host::log::fail(&error.to_string());
                None
            }
        }
    }
}

impl<F: Filter> Default for Slot<F> {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a filter from the JSON text of its config.
pub(crate) fn make<F: Filter>(text: &str) -> Result<F, ConfigError> {
    F::new(config::parse(text)?, &mut Setup(()))
}

/// The answer of `describe`.
#[must_use]
pub fn describe(about: Describe, name: &str, version: &str, summary: &str, hooks: &[&str]) -> String {
    // What is not JSON is handed on as text, so that the gateway can say so.
    let json =
        |text: Option<&str>| text.map(|text| serde_json::from_str::<Value>(text).unwrap_or_else(|_| text.into()));
    let mut members = Map::new();
    members.insert("name".into(), name.into());
    members.insert("version".into(), version.into());
    members.insert("interface".into(), bindings::INTERFACE_VERSION.into());
    if !summary.is_empty() {
        members.insert("description".into(), summary.into());
    }
    members.insert("hooks".into(), hooks.iter().map(|hook| hook_name(hook)).collect());
    if let Some(schema) = json(about.schema) {
        members.insert("config".into(), schema);
    }
    if let Some(grants) = json(about.grants) {
        members.insert("grants".into(), grants);
    }
    if let Some(docs) = about.docs {
        members.insert("docs".into(), docs.into());
    }
    if about.authenticates {
        members.insert("authenticates".into(), true.into());
    }
    Value::Object(members).to_string()
}

/// `OnRequest` → `on-request`.
fn hook_name(name: &str) -> Value {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out.into()
}

macro_rules! slots {
    ($(
        $(#[$doc:meta])*
        $hook:ident {
            $(#[$errors:meta])*
            $method:ident($about:ident: $handle:ident) $answer:ident $name:literal $world:literal
        }
    )*) => { $(slots!(@$answer $hook $method $handle);)* };
    (@verdict $hook:ident $method:ident $handle:ident) => {
        impl<F: $hook> Slot<F> {
            /// Calls the hook.
            pub fn $method(&self) -> Verdict {
                self.call(|filter| filter.$method(&$handle(()))).unwrap_or(Verdict::Continue)
            }
        }
    };
    (@nothing $hook:ident $method:ident $handle:ident) => {
        impl<F: $hook> Slot<F> {
            /// Calls the hook.
            pub fn $method(&self) {
                self.call(|filter| filter.$method(&$handle(())));
            }
        }
    };
}

hook_table!(slots);

/// Which hooks a filter implements: where it does, the constant of the type is found before the one of the trait.
#[derive(Debug)]
pub struct Implements<F>(PhantomData<F>);

macro_rules! implements {
    ($(
        $(#[$doc:meta])*
        $hook:ident {
            $(#[$errors:meta])*
            $method:ident($about:ident: $handle:ident) $answer:ident $name:literal $world:literal
        }
    )*) => {
        /// What holds for a hook that a filter lacks.
        #[allow(non_upper_case_globals, reason = "named as the hooks are")]
        pub trait ImplementsNot {
            $(
                /// It is not.
                const $hook: bool = false;
            )*
        }
        impl<F> ImplementsNot for Implements<F> {}
        $(
            #[allow(non_upper_case_globals, reason = "named as the hooks are")]
            impl<F: $hook> Implements<F> {
                /// It is.
                pub const $hook: bool = true;
            }
        )*
    };
}

hook_table!(implements);

/// Whether a hook is in the list of `export!`.
#[must_use]
pub const fn lists(hooks: &[&str], hook: &str) -> bool {
    let mut at = 0;
    while at < hooks.len() {
        if equal(hooks[at].as_bytes(), hook.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Exports a filter: `export!(Tag: OnRequest, OnResponse);`. The component has these hooks and no others; one that the filter implements
/// and that is not listed is an error of the compiler, since it would never be called. In a native build (tests) that is all it does.
///
/// ```
/// # use sluice_filter::prelude::*;
/// # struct Tag;
/// # impl Filter for Tag {
/// #     type Config = ();
/// #     fn new((): (), _: &mut Setup) -> Result<Self, ConfigError> { Ok(Tag) }
/// # }
/// impl OnRequest for Tag {
///     // …
/// #   fn on_request(&self, _: &Request) -> Result<Verdict, Error> { Ok(Verdict::Continue) }
/// }
/// impl OnResponse for Tag {
///     // …
/// #   fn on_response(&self, _: &Response) -> Result<Verdict, Error> { Ok(Verdict::Continue) }
/// }
/// sluice_filter::export!(Tag: OnRequest, OnResponse);
/// # fn main() {}
/// ```
///
/// ```compile_fail,E0080
/// # use sluice_filter::prelude::*;
/// # struct Tag;
/// # impl Filter for Tag {
/// #     type Config = ();
/// #     fn new((): (), _: &mut Setup) -> Result<Self, ConfigError> { Ok(Tag) }
/// # }
/// # impl OnRequest for Tag {
/// #   fn on_request(&self, _: &Request) -> Result<Verdict, Error> { Ok(Verdict::Continue) }
/// # }
/// # impl OnResponse for Tag {
/// #   fn on_response(&self, _: &Response) -> Result<Verdict, Error> { Ok(Verdict::Continue) }
/// # }
/// sluice_filter::export!(Tag: OnRequest); // `OnResponse` is implemented and not listed
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export {
    ($filter:ident : $($hook:ident),+ $(,)?) => {
        const _: () = {
            const fn has_hooks<F: $($crate::$hook +)+>() {}
            has_hooks::<$filter>();
            $crate::__listed!($filter, [$($hook),+]);
        };
        #[cfg(target_family = "wasm")]
        const _: () = {
            static SLOT: $crate::export::Slot<$filter> = $crate::export::Slot::new();
            struct Component;
            impl $crate::bindings::describe::exports::sluice::filter::describe::Guest for Component {
                fn describe() -> ::std::string::String {
                    $crate::export::describe(
                        <$filter as $crate::Filter>::describe(),
                        ::core::env!("CARGO_PKG_NAME"),
                        ::core::env!("CARGO_PKG_VERSION"),
                        ::core::env!("CARGO_PKG_DESCRIPTION"),
                        &[$(::core::stringify!($hook)),+],
                    )
                }
            }
            $crate::bindings::describe::export!(Component with_types_in $crate::bindings::describe);
            impl $crate::bindings::configure::exports::sluice::filter::configure::Guest for Component {
                fn configure(
                    config: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    SLOT.configure(&config)
                }
            }
            $crate::bindings::configure::export!(Component with_types_in $crate::bindings::configure);
            $($crate::__hook!($hook);)+
        };
    };
}

/// The names of hooks as text.
#[doc(hidden)]
#[macro_export]
macro_rules! __names {
    ([$($hook:ident),+]) => { [$(::core::stringify!($hook)),+] };
}

/// The parts of [`export!`] that name every hook. `$d` is a `$` of the macros that are made here.
macro_rules! exported {
    ([$d:tt] $(
        $(#[$doc:meta])*
        $hook:ident {
            $(#[$errors:meta])*
            $method:ident($about:ident: $handle:ident) $answer:ident $name:literal $world:literal
        }
    )*) => {
        /// That every hook of a filter is listed.
        #[doc(hidden)]
        #[macro_export]
        macro_rules! __listed {
            ($d filter:ident, $d listed:tt) => { $(
                ::core::assert!(
                    !{
                        #[allow(unused_imports, reason = "of use for a hook that the filter lacks")]
                        use $crate::export::ImplementsNot as _;
                        $crate::export::Implements::<$d filter>::$hook
                    } || $crate::export::lists(&$crate::__names!($d listed), ::core::stringify!($hook)),
                    ::core::concat!(
                        "`", ::core::stringify!($hook), "` is implemented and not listed in `export!`: it would never be called"
                    )
                );
            )* };
        }

        /// One export of [`export!`].
        #[doc(hidden)]
        #[macro_export]
        macro_rules! __hook {
            $(($hook) => { $crate::__hook!(@$answer $method); };)*
            ($d other:ident) => {
                ::core::compile_error!(::core::concat!(
                    "`", ::core::stringify!($d other), "` is no hook: they are"
                    $(, " ", ::core::stringify!($hook))*
                ));
            };
            (@verdict $d method:ident) => {
                impl $crate::bindings::$d method::exports::sluice::filter::$d method::Guest for Component {
                    fn $d method() -> $crate::Verdict {
                        SLOT.$d method()
                    }
                }
                $crate::bindings::$d method::export!(Component with_types_in $crate::bindings::$d method);
            };
            (@nothing $d method:ident) => {
                impl $crate::bindings::$d method::exports::sluice::filter::$d method::Guest for Component {
                    fn $d method() {
                        SLOT.$d method();
                    }
                }
                $crate::bindings::$d method::export!(Component with_types_in $crate::bindings::$d method);
            };
        }
    };
}

hook_table!(exported [$]);

#[cfg(test)]
mod tests {
    use super::*;

    struct Tag;

    impl Filter for Tag {
        type Config = ();
        fn new((): (), _: &mut Setup) -> Result<Self, ConfigError> {
            Ok(Tag)
        }
    }

    impl OnRequest for Tag {
        fn on_request(&self, _: &Request) -> Result<Verdict, Error> {
            Ok(Verdict::Continue)
        }
    }

    #[test]
    fn knows_which_hooks_are_implemented_and_listed() {
        use ImplementsNot as _;
        let known = [Implements::<Tag>::OnRequest, Implements::<Tag>::OnRequestBody, Implements::<Tag>::OnResponse];
        assert_eq!(known, [true, false, false]);
        let listed = |hook| lists(&["OnRequest", "OnResponseBody"], hook);
        assert!(listed("OnRequest") && listed("OnResponseBody"));
        assert!(!listed("OnRequestBody") && !listed("OnResponse") && !listed(""));
    }

    #[test]
    fn describes() {
        let about = Describe {
            grants: Some(r#"{"read_headers": ["authorization"]}"#),
            authenticates: true,
            ..Describe::default()
        };
        let text = describe(about, "tag", "1.2.3", "Tags requests", &["OnRequest", "OnResponseTrailers"]);
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "name": "tag", "version": "1.2.3", "interface": "0.1.1", "description": "Tags requests",
                "hooks": ["on-request", "on-response-trailers"],
                "grants": {"read_headers": ["authorization"]}, "authenticates": true,
            })
        );
        let mistaken = Describe { grants: Some("{read_headers}"), ..Describe::default() };
        let text = describe(mistaken, "tag", "1.2.3", "", &["OnRequest"]);
        assert!(text.contains(r#""grants":"{read_headers}""#), "{text}");
    }

    #[test]
    fn the_version_is_that_of_the_package() {
        let package = format!("package sluice:filter@{};", bindings::INTERFACE_VERSION);
        assert!(include_str!("../../wit/types.wit").contains(&package));
    }
}
