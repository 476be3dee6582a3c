//! What `wit-bindgen` makes of the interface in `wit/`: the imports once, and each exported hook in a world of its own,
//! so that a component exports exactly the hooks that its filter has.
#![allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::all, reason = "generated code")]

wit_bindgen::generate!({
    path: "../wit",
    world: "sluice:filter/imports",
    generate_all,
});

/// The version of the interface that filters of this SDK are built for.
pub const INTERFACE_VERSION: &str = "0.1.1";

/// One world with one export, and the macro that exports it for a type.
macro_rules! world {
    ($module:ident nothing $name:literal $world:literal) => {
        world!($module $name $world {});
    };
    ($module:ident verdict $name:literal $world:literal) => {
        world!($module $name $world { "sluice:filter/types@0.1.1": crate::bindings::sluice::filter::types });
    };
    ($module:ident $name:literal $world:literal { $($with:tt)* }) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                inline: $world,
                world: $name,
                with: { $($with)* },
                pub_export_macro: true,
            });
        }
    };
}

macro_rules! hooks {
    ($(
        $(#[$doc:meta])*
        $hook:ident {
            $(#[$errors:meta])*
            $method:ident($about:ident: $handle:ident) $answer:ident $name:literal $world:literal
        }
    )*) => {
        $(world!($method $answer $name $world);)*
    };
}

world!(describe nothing "describe" "package sluice:sdk; world describe { export sluice:filter/describe@0.1.1; }");
world!(configure nothing "configure" "package sluice:sdk; world configure { export sluice:filter/configure@0.1.1; }");
crate::hooks::hook_table!(hooks);
