//! The rules of `host/src/http/` that the codec and the targets need.

#[path = "../../../host/src/http/headers.rs"]
pub mod headers;
#[path = "../../../host/src/http/path.rs"]
pub mod path;
#[path = "../../../host/src/http/target.rs"]
pub mod target;
