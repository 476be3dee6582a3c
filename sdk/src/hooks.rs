//! The hooks of the interface, each a row of one table: the trait that a filter implements, and all that the SDK makes of it. The export
//! glue (`export`), the bindings (`bindings`) and the test harness (`testing`) read the same table.

/// Calls a macro with the table, and with what is given here before it. A row is the trait, its method with what the method is given, whether
/// it answers a verdict or nothing, the name in the interface, and a world with this one export.
macro_rules! hook_table {
    ($with:ident $($more:tt)*) => {
        $with! {
            $($more)*
            /// Sees the request head and answers, or edits and goes on.
            OnRequest {
                /// # Errors
                /// The hook is rolled back and the filter's failure policy decides.
                on_request(request: Request) verdict "on-request"
                "package sluice:sdk; world on-request { export sluice:filter/on-request@0.1.1; }"
            }
            /// Sees the whole request body, decoded; the head can still be changed.
            OnRequestBody {
                /// # Errors
                /// The hook is rolled back and the filter's failure policy decides.
                on_request_body(request: Request) verdict "on-request-body"
                "package sluice:sdk; world on-request-body { export sluice:filter/on-request-body@0.1.1; }"
            }
            /// Chooses where the request goes; choosing nothing leaves it to the gateway's balancer.
            SelectUpstream {
                /// # Errors
                /// The choice is dropped and the filter's failure policy decides.
                select_upstream(route: Route) nothing "select-upstream"
                "package sluice:sdk; world select-upstream { export sluice:filter/select-upstream@0.1.1; }"
            }
            /// Sees the request body piece by piece while it is sent to the upstream, decoded.
            OnRequestChunk {
                /// # Errors
                /// What the call has said of the piece is dropped and the filter's failure policy decides.
                on_request_chunk(chunk: Chunk) nothing "on-request-chunk"
                "package sluice:sdk; world on-request-chunk { export sluice:filter/on-request-chunk@0.1.1; }"
            }
            /// Sees the response head and edits or replaces the response.
            OnResponse {
                /// # Errors
                /// The hook is rolled back and the filter's failure policy decides.
                on_response(response: Response) verdict "on-response"
                "package sluice:sdk; world on-response { export sluice:filter/on-response@0.1.1; }"
            }
            /// Sees the whole response body, decoded; the head can still be changed.
            OnResponseBody {
                /// # Errors
                /// The hook is rolled back and the filter's failure policy decides.
                on_response_body(response: Response) verdict "on-response-body"
                "package sluice:sdk; world on-response-body { export sluice:filter/on-response-body@0.1.1; }"
            }
            /// Sees the response body piece by piece while it is sent to the client, decoded.
            OnResponseChunk {
                /// # Errors
                /// What the call has said of the piece is dropped and the filter's failure policy decides.
                on_response_chunk(chunk: Chunk) nothing "on-response-chunk"
                "package sluice:sdk; world on-response-chunk { export sluice:filter/on-response-chunk@0.1.1; }"
            }
            /// Sees server-sent events and lines of NDJSON, each when it comes.
            OnResponseEvent {
                /// # Errors
                /// What the call has said of the piece is dropped and the filter's failure policy decides.
                on_response_event(event: Event) nothing "on-response-event"
                "package sluice:sdk; world on-response-event { export sluice:filter/on-response-event@0.1.1; }"
            }
            /// Sees and edits the trailers.
            OnResponseTrailers {
                /// # Errors
                /// The hook is rolled back and the filter's failure policy decides.
                on_response_trailers(response: Response) nothing "on-response-trailers"
                "package sluice:sdk; world on-response-trailers { export sluice:filter/on-response-trailers@0.1.1; }"
            }
            /// Observes the finished exchange.
            OnComplete {
                /// # Errors
                /// The text goes to the log.
                on_complete(exchange: Finished) nothing "on-complete"
                "package sluice:sdk; world on-complete { export sluice:filter/on-complete@0.1.1; }"
            }
        }
    };
}

pub(crate) use hook_table;

/// The traits, one for each hook.
pub(crate) mod traits {
    use crate::{Chunk, Error, Event, Filter, Finished, Request, Response, Route, Verdict};

    macro_rules! traits {
        ($(
            $(#[$doc:meta])*
            $hook:ident {
                $(#[$errors:meta])*
                $method:ident($about:ident: $handle:ident) $answer:ident $name:literal $world:literal
            }
        )*) => { $(
            $(#[$doc])*
            pub trait $hook: Filter {
                $(#[$errors])*
                fn $method(&self, $about: &$handle) -> Result<traits!(@$answer), Error>;
            }
        )* };
        (@verdict) => { Verdict };
        (@nothing) => { () };
    }

    hook_table!(traits);
}

macro_rules! names {
    ($(
        $(#[$doc:meta])*
        $hook:ident {
            $(#[$errors:meta])*
            $method:ident($about:ident: $handle:ident) $answer:ident $name:literal $world:literal
        }
    )*) => {
        /// A hook by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Hook {
            $(
                #[doc = concat!("`", $name, "`: [`", stringify!($hook), "`](crate::", stringify!($hook), ").")]
                $hook,
            )*
        }

        impl Hook {
            /// Its name in the interface.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$hook => $name,)*
                }
            }
        }
    };
}

hook_table!(names);
