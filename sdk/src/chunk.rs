//! The pieces of a body that streams: what the piece hooks see, and what they say of it.

use crate::{Error, Request, Response, host};

macro_rules! piece {
    () => {
        /// The whole piece, with what was kept back of the ones before it.
        ///
        /// # Errors
        /// `WrongHook` outside the piece hooks.
        pub fn bytes(&self) -> Result<Vec<u8>, Error> {
            Ok(host::chunk::read(0, u64::MAX)?)
        }

        /// Its length in bytes.
        ///
        /// # Errors
        /// `WrongHook` outside the piece hooks.
        pub fn length(&self) -> Result<u64, Error> {
            Ok(host::chunk::length()?)
        }

        /// Up to `length` bytes of it from `offset`.
        ///
        /// # Errors
        /// `WrongHook` outside the piece hooks.
        pub fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
            Ok(host::chunk::read(offset, length)?)
        }

        /// Whether the body ends with it. Each body that comes whole has one such piece, and it may be empty.
        ///
        /// # Errors
        /// `WrongHook` outside the piece hooks.
        pub fn is_last(&self) -> Result<bool, Error> {
            Ok(host::chunk::is_last()?)
        }

        /// Sends these bytes in its place; none drop it.
        ///
        /// # Errors
        /// `TooLarge` past twice the operator's `limits.body`.
        pub fn replace(&self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
            Ok(host::chunk::replace(bytes.as_ref())?)
        }

        /// Ends the body after it: what the sender still sends is discarded.
        ///
        /// # Errors
        /// `WrongHook` outside the piece hooks.
        pub fn end(&self) -> Result<(), Error> {
            Ok(host::chunk::end()?)
        }

        /// Lets the rest of the body go on without further calls of this hook.
        ///
        /// # Errors
        /// `WrongHook` outside the piece hooks.
        pub fn pass_rest(&self) -> Result<(), Error> {
            Ok(host::chunk::pass_rest()?)
        }

        /// The request of the exchange. Its head has been sent: it can be read.
        #[must_use]
        pub fn request(&self) -> &Request {
            &Request(())
        }

        /// The response of the exchange, in the hooks of the response. Its head has been sent: it can be read.
        #[must_use]
        pub fn response(&self) -> &Response {
            &Response(())
        }
    };
}

/// A piece of a body, in `on_request_chunk` and `on_response_chunk`. It goes on as it is unless something else is said of it.
#[derive(Debug)]
pub struct Chunk(pub(crate) ());

impl Chunk {
    piece!();

    /// Keeps its last `tail` bytes back: they come again in front of the next piece. With [`Self::replace`], the replacement stands for what is
    /// in front of them.
    ///
    /// # Errors
    /// `Invalid` for more bytes than there are, and in the last piece; `TooLarge` past the operator's `limits.body`.
    pub fn hold(&self, tail: u64) -> Result<(), Error> {
        Ok(host::chunk::hold(tail)?)
    }
}

/// An event of a body, in `on_response_event`: a server-sent event or a line of NDJSON. It goes on as it is unless something else is said of it.
#[derive(Debug)]
pub struct Event(pub(crate) ());

impl Event {
    piece!();

    /// The value of its last `event` field. None without one, and for a line.
    ///
    /// # Errors
    /// `WrongHook` outside `on_response_event`.
    pub fn name(&self) -> Result<Option<String>, Error> {
        Ok(host::chunk::event_name()?)
    }

    /// The value of its last `id` field. None without one, and for a line.
    ///
    /// # Errors
    /// `WrongHook` outside `on_response_event`.
    pub fn id(&self) -> Result<Option<String>, Error> {
        Ok(host::chunk::event_id()?)
    }

    /// Its data: the values of its `data` fields with line feeds between them, or the line. None without data (a comment, the end of the
    /// body), and where it is not UTF-8.
    ///
    /// # Errors
    /// `WrongHook` outside `on_response_event`.
    pub fn data(&self) -> Result<Option<String>, Error> {
        Ok(host::chunk::event_data()?)
    }

    /// Gives it other data and leaves the rest of it as it is.
    ///
    /// # Errors
    /// `Invalid` for a line end in the data of a line, `TooLarge` as [`Self::replace`].
    pub fn set_data(&self, data: &str) -> Result<(), Error> {
        Ok(host::chunk::set_event_data(data)?)
    }
}
