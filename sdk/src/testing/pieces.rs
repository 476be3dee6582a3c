//! Bodies that stream through a filter in the harness, piece by piece or event by event.

use sluice_services::events::{EventEnds, EventFormat};
use sluice_services::piece::{Piece, Said};

use super::{Exchange, Harness};
use crate::Filter;
use crate::hooks::traits::{OnRequestChunk, OnResponseChunk, OnResponseEvent};

impl<F: OnRequestChunk> Harness<F> {
    /// Sends these pieces of a request's body through the filter, and the end of the body after them. Answers what went on at each call.
    ///
    /// # Errors
    /// The reason when a call failed; the exchange is then as it was before that call.
    pub fn request_chunks(&self, exchange: &mut Exchange, pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
        self.stream(exchange, pieces, None, |filter, exchange| filter.on_request_chunk(exchange))
    }
}

impl<F: OnResponseChunk> Harness<F> {
    /// Sends these pieces of a response's body through the filter, and the end of the body after them. Answers what went on at each call.
    ///
    /// # Errors
    /// The reason when a call failed; the exchange is then as it was before that call.
    pub fn response_chunks(&self, exchange: &mut Exchange, pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
        self.stream(exchange, pieces, None, |filter, exchange| filter.on_response_chunk(exchange))
    }
}

impl<F: OnResponseEvent> Harness<F> {
    /// Sends the events of this body through the filter, one after the other, and the end of the body after them. The content type of the
    /// response says how they are written: `text/event-stream`, or else as lines. Answers what went on at each call.
    ///
    /// # Errors
    /// The reason when a call failed; the exchange is then as it was before that call.
    pub fn response_events(&self, exchange: &mut Exchange, body: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>, String> {
        let format = EventFormat::of(exchange.response.headers.get("content-type").unwrap_or_default().as_bytes());
        let (mut rest, mut ends, mut events) = (body.as_ref(), EventEnds::new(format), Vec::new());
        while let Some(length) = ends.next(rest) {
            let (event, behind) = rest.split_at(length);
            events.push(event);
            rest = behind;
        }
        if !rest.is_empty() {
            events.push(rest);
        }
        self.stream(exchange, &events, Some(format), |filter, exchange| filter.on_response_event(exchange))
    }
}

impl<F: Filter> Harness<F> {
    fn stream(
        &self,
        exchange: &mut Exchange,
        pieces: &[&[u8]],
        event: Option<EventFormat>,
        call: impl Fn(&Self, &mut Exchange) -> Result<(), String>,
    ) -> Result<Vec<Vec<u8>>, String> {
        let mut sent = Vec::new();
        let mut kept = Vec::new();
        for (at, bytes) in pieces.iter().copied().chain([&b""[..]]).enumerate() {
            kept.extend_from_slice(bytes);
            let is_last = at == pieces.len();
            exchange.piece = Piece { bytes: std::mem::take(&mut kept).into(), is_last, event, said: Said::default() };
            call(self, exchange)?;
            let piece = std::mem::take(&mut exchange.piece);
            let (front, held) = piece.divide();
            sent.push(front.to_vec());
            kept.extend_from_slice(&held);
            if piece.said.ends {
                break;
            }
            if piece.said.passes_rest {
                let rest = pieces.get(at + 1..).unwrap_or_default().concat();
                sent.push([kept, rest].concat());
                break;
            }
        }
        Ok(sent)
    }
}
