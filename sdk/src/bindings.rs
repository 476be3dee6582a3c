//! What `wit-bindgen` makes of the interface in `wit/`: the imports once, and each exported hook in a world of its own,
//! so that a component exports exactly the hooks that its filter has.
#![allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::all, reason = "generated code")]

wit_bindgen::generate!({
    path: "../wit",
    world: "sluice:filter/imports",
    generate_all,
});

/// One world with one export, and the macro that exports it for a type.
macro_rules! hook {
    ($module:ident, $world:literal, $inline:literal, $root:literal, { $($with:tt)* }) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                inline: $inline,
                world: $world,
                with: { $($with)* },
                pub_export_macro: true,
                default_bindings_module: $root,
            });
        }
    };
}

hook!(
    describe,
    "describes",
    "package sluice:sdk; world describes { export sluice:filter/describe@0.1.0; }",
    "sluice_filter::bindings::describe",
    {}
);
hook!(
    configure,
    "configures",
    "package sluice:sdk; world configures { export sluice:filter/configure@0.1.0; }",
    "sluice_filter::bindings::configure",
    {}
);
hook!(
    on_request,
    "handles-request",
    "package sluice:sdk; world handles-request { export sluice:filter/on-request@0.1.0; }",
    "sluice_filter::bindings::on_request",
    { "sluice:filter/types@0.1.0": crate::bindings::sluice::filter::types }
);
hook!(
    on_request_body,
    "handles-request-body",
    "package sluice:sdk; world handles-request-body { export sluice:filter/on-request-body@0.1.0; }",
    "sluice_filter::bindings::on_request_body",
    { "sluice:filter/types@0.1.0": crate::bindings::sluice::filter::types }
);
hook!(
    select_upstream,
    "selects-upstream",
    "package sluice:sdk; world selects-upstream { export sluice:filter/select-upstream@0.1.0; }",
    "sluice_filter::bindings::select_upstream",
    {}
);
hook!(
    on_response,
    "handles-response",
    "package sluice:sdk; world handles-response { export sluice:filter/on-response@0.1.0; }",
    "sluice_filter::bindings::on_response",
    { "sluice:filter/types@0.1.0": crate::bindings::sluice::filter::types }
);
hook!(
    on_response_body,
    "handles-response-body",
    "package sluice:sdk; world handles-response-body { export sluice:filter/on-response-body@0.1.0; }",
    "sluice_filter::bindings::on_response_body",
    { "sluice:filter/types@0.1.0": crate::bindings::sluice::filter::types }
);
hook!(
    on_response_trailers,
    "handles-response-trailers",
    "package sluice:sdk; world handles-response-trailers { export sluice:filter/on-response-trailers@0.1.0; }",
    "sluice_filter::bindings::on_response_trailers",
    {}
);
hook!(
    on_complete,
    "completes",
    "package sluice:sdk; world completes { export sluice:filter/on-complete@0.1.0; }",
    "sluice_filter::bindings::on_complete",
    {}
);
