//! The gateway from outside: the real binary between real sockets, one module for each promise.

mod admin;
mod bodies;
mod client_auth;
mod commands;
mod errors;
mod examples;
mod external;
mod filters;
mod grants;
mod headers;
mod http2;
mod keys;
mod limits;
mod names;
mod observability;
mod plugins;
mod proxying;
mod reload;
mod routing;
mod settings;
mod shutdown;
mod support;
mod timeouts;
mod tls;
mod upstreams;
mod ways;
