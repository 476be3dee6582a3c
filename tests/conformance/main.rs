//! The published interface and the protocols, held against their specifications: what the WIT package promises, and what HTTP
//! allows, over real sockets to the real gateway.

mod accepted;
mod behind;
mod differential;
mod http2;
mod refused;
mod released;
mod responses;
mod support;
mod wit;
