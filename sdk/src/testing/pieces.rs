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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ResponseMessage;
    use crate::{Chunk, ConfigError, Error, Event, Setup, state};

    /// Writes `***` for `secret`, wherever it is split.
    #[derive(Debug)]
    struct Hide;

    impl Filter for Hide {
        type Config = ();
        fn new((): (), setup: &mut Setup) -> Result<Self, ConfigError> {
            setup.response_chunks(&["text/*"])?;
            setup.response_events(&[])?;
            Ok(Hide)
        }
    }

    impl OnResponseChunk for Hide {
        fn on_response_chunk(&self, chunk: &Chunk) -> Result<(), Error> {
            let text = String::from_utf8(chunk.bytes()?)?;
            let hidden = text.replace("secret", "***");
            let tail = if chunk.is_last()? { 0 } else { hidden.len().min("secret".len() - 1) };
            // What is kept back is of the piece as it came, so it may not begin within a match.
            match hidden == text {
                true => chunk.hold(tail as u64),
                false => chunk.replace(hidden),
            }
        }
    }

    impl OnResponseEvent for Hide {
        fn on_response_event(&self, event: &Event) -> Result<(), Error> {
            let seen = state::get::<u8>()?.unwrap_or_default() + 1;
            state::set(&seen)?;
            if event.is_last()? {
                return event.replace(format!(": {seen}\n\n"));
            }
            match event.data()? {
                Some(data) if data == "end" => event.end(),
                Some(data) => event.set_data(&data.replace("secret", "***")),
                None => event.replace(""),
            }
        }
    }

    fn answered(content_type: &str) -> Exchange {
        let mut exchange = Exchange::get("/");
        exchange.respond(ResponseMessage::new(200).body(content_type, ""));
        exchange
    }

    #[test]
    fn chunks_come_with_what_was_kept_back() {
        let hide = Harness::<Hide>::new(serde_json::json!({})).expect("a filter");
        assert_eq!(hide.pieces("on-response-chunk"), Some(vec!["text/*".to_owned()]));
        let sent =
            hide.response_chunks(&mut answered("text/plain"), &[b"a sec", b"ret of ", b"ours"]).expect("no failure");
        assert_eq!(sent.concat(), b"a *** of ours");
    }

    #[test]
    fn events_come_one_by_one_and_then_the_end() {
        let hide = Harness::<Hide>::new(serde_json::json!({})).expect("a filter");
        let body = "id: 1\ndata: a secret\n\n: alive\n\ndata: b\n\n";
        let sent = hide.response_events(&mut answered("text/event-stream"), body).expect("no failure");
        assert_eq!(sent.concat(), b"id: 1\ndata: a ***\n\ndata: b\n\n: 4\n\n");
        let ended =
            hide.response_events(&mut answered("application/x-ndjson"), "secret\nend\nmore\n").expect("no failure");
        assert_eq!(ended.concat(), b"***\nend\n");
    }
}
