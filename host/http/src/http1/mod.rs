//! HTTP/1.0 and 1.1 on the wire (RFC 9112). Heads and bodies are read from and written to buffers by functions that know no socket;
//! `io` is a socket with its buffers, `incoming` a client's connection, `client` one to a server. No policy.
//!
//! What arrives is held to the grammar: whatever another parser could read as another message is refused, for requests and
//! responses alike. `httparse` reads the lines; on top come the rules that it leaves out. A call that needs more bytes leaves the
//! buffer as it is and answers `None`; a message is refused for the same reason however its bytes were split.

mod chunked;
mod client;
mod encode;
mod error;
mod fields;
mod framing;
mod guarded;
mod head;
mod incoming;
mod io;
mod lenient;
mod lines;
mod reading;
mod write_queue;
mod writing;

#[cfg(test)]
mod tests;

pub use chunked::{Chunked, Message, Piece};
pub use client::{Connection, Keeper, NoReply, Progress, RESPONSE_LIMITS, Reply, SendError};
pub use encode::{Framing, chunk_head, last_chunk, request_head, response_head};
pub use error::{ChunkError, HeadError};
pub use framing::Length;
pub use guarded::Guarded;
pub use head::{RequestHead, RequestLine, ResponseHead, read_request, read_response};
pub use incoming::{Departure, Incoming};
pub use io::{Io, Transport};
pub use lenient::encoded_target;
pub use lines::{Limits, Tolerance};
pub use writing::{Writing, WrongLength};
