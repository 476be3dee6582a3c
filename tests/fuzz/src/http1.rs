//! The codec: `host/src/http1/` without the drivers that own sockets.

#[path = "../../../host/src/http1/chunked.rs"]
mod chunked;
#[path = "../../../host/src/http1/encode.rs"]
mod encode;
#[path = "../../../host/src/http1/error.rs"]
mod error;
#[path = "../../../host/src/http1/fields.rs"]
mod fields;
#[path = "../../../host/src/http1/framing.rs"]
mod framing;
#[path = "../../../host/src/http1/head.rs"]
mod head;
#[path = "../../../host/src/http1/lines.rs"]
mod lines;

pub use chunked::{Chunked, Message, Piece};
pub use encode::{Framing, chunk_head, last_chunk, request_head, response_head};
pub use error::{ChunkError, HeadError};
pub use framing::Length;
pub use head::{RequestHead, ResponseHead, read_request, read_response};
pub use lines::Limits;
