//! Events in a body that streams: server-sent events (WHATWG HTML §9.2), and lines of which each is one (NDJSON). Finds where they end, and
//! reads and sets their parts, so that no filter has to.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// How events follow each other in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFormat {
    /// `text/event-stream`: an empty line ends an event.
    ServerSent,
    /// Each line is an event.
    Lines,
}

/// The media types of bodies that are known to consist of events.
pub const EVENT_TYPES: [&str; 5] =
    ["text/event-stream", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

impl EventFormat {
    /// That of a body with this `content-type`.
    pub fn of(content_type: &[u8]) -> EventFormat {
        match essence(content_type).eq_ignore_ascii_case(b"text/event-stream") {
            true => EventFormat::ServerSent,
            false => EventFormat::Lines,
        }
    }
}

/// Whether a body with this `content-type` is known to consist of events.
pub fn has_events(content_type: &[u8]) -> bool {
    EVENT_TYPES.iter().any(|known| essence(content_type).eq_ignore_ascii_case(known.as_bytes()))
}

fn essence(content_type: &[u8]) -> &[u8] {
    content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Finds the ends of events in bytes that come in parts. Keeps none of them.
#[derive(Debug, Clone)]
pub struct EventEnds {
    format: EventFormat,
    /// Nothing has come on this line yet.
    at_line_start: bool,
    /// The last byte was a carriage return: a line feed behind it belongs to it.
    after_return: bool,
}

impl EventEnds {
    pub fn new(format: EventFormat) -> EventEnds {
        EventEnds { format, at_line_start: true, after_return: false }
    }

    /// Looks at the next bytes, up to the end of an event, and answers how many bytes of them it has. None: the event goes on, and all
    /// were looked at.
    pub fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        match self.format {
            EventFormat::Lines => memchr(b'\n', bytes).map(|at| at + 1),
            EventFormat::ServerSent => self.next_empty_line(bytes),
        }
    }

    fn next_empty_line(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let belongs = std::mem::take(&mut self.after_return) && byte == b'\n';
            if belongs {
                at += 1;
                continue;
            }
            if byte != b'\r' && byte != b'\n' {
                self.at_line_start = false;
                at += memchr2(b'\r', b'\n', &bytes[at..])?;
                continue;
            }
            at += 1;
            self.after_return = byte == b'\r';
            if !std::mem::replace(&mut self.at_line_start, true) {
                continue;
            }
            // An event is handed on at once: a line feed that belongs to its end may come much later, and is then in front of the next one.
            if self.after_return && bytes.get(at) == Some(&b'\n') {
                at += 1;
                self.after_return = false;
            }
            return Some(at);
        }
        None
    }
}

/// One event as it was sent, to the end of it.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    format: EventFormat,
    bytes: &'a [u8],
}

/// A line of an event without its end, and its end.
type Line<'a> = (&'a [u8], &'a [u8]);

impl<'a> Event<'a> {
    pub fn new(format: EventFormat, bytes: &'a [u8]) -> Event<'a> {
        Event { format, bytes }
    }

    /// The value of the last `event` field.
    pub fn name(self) -> Option<String> {
        self.last(b"event")
    }

    /// The value of the last `id` field; one with a null character does not count.
    pub fn id(self) -> Option<String> {
        self.last(b"id").filter(|id| !id.contains('\0'))
    }

    /// The values of the `data` fields with line feeds between them, or the line. None without data, and where it is not UTF-8.
    pub fn data(self) -> Option<String> {
        let data = match self.format {
            EventFormat::Lines => {
                let (line, _) = lines(self.bytes).next()?;
                Cow::Borrowed(line)
            }
            EventFormat::ServerSent => {
                let mut values = self.values(b"data");
                let mut data = Cow::Borrowed(values.next()?);
                for value in values {
                    let data = data.to_mut();
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                data
            }
        };
        String::from_utf8(data.into_owned()).ok()
    }

    /// The event with other data, and all else as it was. None for a line with a line end in it.
    pub fn with_data(self, data: &str) -> Option<Vec<u8>> {
        match self.format {
            EventFormat::Lines => self.with_line(data),
            EventFormat::ServerSent => Some(self.with_fields(data)),
        }
    }

    fn with_line(self, data: &str) -> Option<Vec<u8>> {
        if memchr2(b'\r', b'\n', data.as_bytes()).is_some() {
            return None;
        }
        let end = lines(self.bytes).next().map_or(&b""[..], |(_, end)| end);
        Some([data.as_bytes(), end].concat())
    }

    /// The new fields stand where the first one was, or in front of the end.
    fn with_fields(self, data: &str) -> Vec<u8> {
        let style = lines(self.bytes).map(|(_, end)| end).find(|end| !end.is_empty()).unwrap_or(b"\n");
        let mut out = Vec::with_capacity(self.bytes.len() + data.len());
        let mut new = Some(data);
        // Where the event begins, and a mark of the byte order and an end of the one before it may stand in front.
        let mut has_begun = false;
        for (line, end) in lines(self.bytes) {
            let is_end = line.is_empty() && has_begun;
            has_begun |= !line.is_empty();
            let is_data = field(line).is_some_and(|(name, _)| name == b"data");
            if (is_data || is_end)
                && let Some(new) = new.take()
            {
                if is_data && line.starts_with(BYTE_ORDER_MARK) {
                    out.extend_from_slice(BYTE_ORDER_MARK);
                }
                put_data(&mut out, new, style);
            }
            if !is_data {
                out.extend_from_slice(line);
                out.extend_from_slice(end);
            }
        }
        if let Some(new) = new {
            // The last event of a body that breaks off in the middle of it.
            if out.last().is_some_and(|byte| !matches!(byte, b'\r' | b'\n')) {
                out.extend_from_slice(style);
            }
            put_data(&mut out, new, style);
            out.extend_from_slice(style);
        }
        out
    }

    fn last(self, name: &[u8]) -> Option<String> {
        if self.format == EventFormat::Lines {
            return None;
        }
        let value = self.values(name).last()?;
        String::from_utf8(value.to_vec()).ok()
    }

    fn values(self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        lines(self.bytes).filter_map(move |(line, _)| field(line).filter(|(of, _)| *of == name).map(|(_, value)| value))
    }
}

fn put_data(out: &mut Vec<u8>, data: &str, end: &[u8]) {
    for (line, _) in lines_or_one(data.as_bytes()) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.extend_from_slice(end);
    }
}

/// U+FEFF in UTF-8: one at the start of a stream says nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line's name and value. None for an empty line and a comment.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    if line.is_empty() || line.starts_with(b":") {
        return None;
    }
    Some(match memchr(b':', line) {
        None => (line, b""),
        Some(at) => {
            let value = &line[at + 1..];
            (&line[..at], value.strip_prefix(b" ").unwrap_or(value))
        }
    })
}

/// Lines that end with CRLF, LF or CR; the last one may have no end.
fn lines(mut rest: &[u8]) -> impl Iterator<Item = Line<'_>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let line = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let end = match &rest[line..] {
            [b'\r', b'\n', ..] => 2,
            [_, ..] => 1,
            [] => 0,
        };
        let found = (&rest[..line], &rest[line..line + end]);
        rest = &rest[line + end..];
        Some(found)
    })
}

/// The same of data, of which an end of line at the end begins one more line.
fn lines_or_one(data: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let one_more = data.last().is_none_or(|byte| matches!(byte, b'\r' | b'\n'));
    lines(data).chain(one_more.then_some((&b""[..], &b""[..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a stream that comes in parts.
    fn events(format: EventFormat, parts: &[&[u8]]) -> Vec<String> {
        let (mut ends, mut found, mut current) = (EventEnds::new(format), Vec::new(), Vec::new());
        for part in parts {
            let mut rest = *part;
            while let Some(length) = ends.next(rest) {
                current.extend_from_slice(&rest[..length]);
                found.push(String::from_utf8(std::mem::take(&mut current)).unwrap());
                rest = &rest[length..];
            }
            current.extend_from_slice(rest);
        }
        found.push(String::from_utf8(current).unwrap());
        found
    }

    #[test]
    fn events_end_with_an_empty_line_of_any_kind() {
        use EventFormat::ServerSent;
        for stream in ["data: 1\n\ndata: 2\n\n", "data: 1\r\n\r\ndata: 2\r\n\r\n", "data: 1\r\rdata: 2\r\r"] {
            let whole = events(ServerSent, &[stream.as_bytes()]);
            assert_eq!(whole.len(), 3, "{stream:?}");
            assert_eq!((whole.concat(), &*whole[2]), (stream.to_owned(), ""), "{stream:?}");
            // Wherever it is split, the same is found, but that a line feed may come late.
            for at in 0..=stream.len() {
                let (one, two) = stream.as_bytes().split_at(at);
                let split = events(ServerSent, &[one, two]);
                assert_eq!(split.concat(), stream, "{stream:?} at {at}");
                let data = |all: &[String]| {
                    all.iter().filter_map(|raw| Event::new(ServerSent, raw.as_bytes()).data()).collect::<Vec<_>>()
                };
                assert_eq!(data(&split), ["1", "2"], "{stream:?} at {at}");
            }
        }
        assert_eq!(events(ServerSent, &[b":alive\n\nid: 3\n"]), [":alive\n\n", "id: 3\n"]);
    }

    #[test]
    fn lines_are_events_too() {
        let found = events(EventFormat::Lines, &[b"{\"a\":1}\n{\"a", b"\":2}\r\n3"]);
        assert_eq!(found, ["{\"a\":1}\n", "{\"a\":2}\r\n", "3"]);
        let event = Event::new(EventFormat::Lines, b"{\"a\":2}\r\n");
        assert_eq!((event.data().as_deref(), event.name(), event.id()), (Some("{\"a\":2}"), None, None));
        assert_eq!(event.with_data("x").unwrap(), b"x\r\n");
        assert_eq!(event.with_data("x\ny"), None);
        assert_eq!(Event::new(EventFormat::Lines, b"3").with_data("").unwrap(), b"");
    }

    #[test]
    fn the_parts_of_an_event_are_read() {
        let read = |raw: &str| {
            let event = Event::new(EventFormat::ServerSent, raw.as_bytes());
            (event.name(), event.id(), event.data())
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            read("event: a\nevent:b\nid: 7\ndata:one\ndata:  two\ndata\nretry: 5\n\n"),
            (text("b"), text("7"), text("one\n two\n"))
        );
        assert_eq!(read("\u{feff}data: 1\r\r"), (None, None, text("1")));
        assert_eq!(read("\ndata: 1\n\n"), (None, None, text("1")));
        assert_eq!(read(": comment\n\n"), (None, None, None));
        assert_eq!(read("data\n\n"), (None, None, text("")));
        assert_eq!(read("id: a\0b\ndatabase: x\n\n"), (None, None, None));
        assert_eq!(Event::new(EventFormat::ServerSent, b"data: \xff\n\n").data(), None);
    }

    #[test]
    fn data_is_replaced_and_all_else_stays() {
        let with = |raw: &str, data: &str| {
            let out = Event::new(EventFormat::ServerSent, raw.as_bytes()).with_data(data).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(with("id: 1\ndata: a\n: c\ndata: b\nevent: e\n\n", "x"), "id: 1\ndata: x\n: c\nevent: e\n\n");
        assert_eq!(with("data: a\r\n\r\n", "x\ny\r\nz\rw"), "data: x\r\ndata: y\r\ndata: z\r\ndata: w\r\n\r\n");
        assert_eq!(with("data: a\r\r", ""), "data: \r\r");
        assert_eq!(with("data: a\n\n", "x\n"), "data: x\ndata: \n\n");
        assert_eq!(with("event: e\n\n", "x"), "event: e\ndata: x\n\n");
        assert_eq!(with("\ndata: a\n\n", "x"), "\ndata: x\n\n");
        assert_eq!(with("\u{feff}data: a\n\n", "x"), "\u{feff}data: x\n\n");
        assert_eq!(with("", "x"), "data: x\n\n");
        assert_eq!(with("data: cut", "x"), "data: x\n", "as cut as it was");
        assert_eq!(with("id: 1", "x"), "id: 1\ndata: x\n\n");
    }

    #[test]
    fn types_of_events_are_known() {
        assert!(has_events(b"Text/Event-Stream; charset=utf-8") && has_events(b"application/x-ndjson"));
        assert!(!has_events(b"text/plain") && !has_events(b""));
        assert_eq!(EventFormat::of(b" text/event-stream ;x"), EventFormat::ServerSent);
        assert_eq!(EventFormat::of(b"text/plain"), EventFormat::Lines);
    }
}
