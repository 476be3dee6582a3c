//! HTTP rules without policy: the request target, header fields that end at this hop, who the client is, tracing ids, and
//! bodies.

pub mod body;
mod body_error;
pub mod buffer;
pub mod cdn_loop;
pub mod coding;
pub mod compression;
pub mod file_path;
pub mod forwarded;
pub mod gate;
pub mod grpc;
pub mod headers;
pub mod lookalikes;
pub mod media_types;
pub mod path;
pub mod target;
pub mod trace;
mod wrapped;
