//! HTTP/1.1 messages as bytes, for both ends of a test: no library in between that would tidy up what the gateway wrote.

use std::io::{self, BufRead, Read};

/// Start line and fields of a message. Values are Latin-1, so that every byte survives.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub start: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The second word of the start line: a request's target or a response's status.
    pub fn second_word(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }
}

/// How long a body is (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    /// Of a request.
    pub fn of_request(head: &Head) -> Framing {
        Self::declared(head).unwrap_or(Framing::None)
    }

    /// Of the response to a request with this method.
    pub fn of_response(head: &Head, method: &str) -> Framing {
        let status = head.second_word();
        if method == "HEAD" || status.starts_with('1') || status == "204" || status == "304" {
            return Framing::None;
        }
        Self::declared(head).unwrap_or(Framing::UntilClose)
    }

    fn declared(head: &Head) -> Option<Framing> {
        if head.all("transfer-encoding").iter().any(|v| v.to_ascii_lowercase().ends_with("chunked")) {
            return Some(Framing::Chunked);
        }
        head.header("content-length")
            .map(|v| Framing::Length(v.trim().parse().expect("a content-length that is a number")))
    }
}

/// A body and the trailers after it.
#[derive(Debug, Clone, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Sizes of the chunks as they came.
    pub chunks: Vec<usize>,
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    if from.read_until(b'\n', &mut bytes)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !bytes.ends_with(b"\r\n") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("line without CRLF: {}", latin1(&bytes))));
    }
    bytes.truncate(bytes.len() - 2);
    Ok(latin1(&bytes))
}

fn fields(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(from)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("field without colon: {line}")))?;
        fields.push((name.to_string(), value.trim_matches([' ', '\t']).to_string()));
    }
}

/// Reads a head up to its empty line. `UnexpectedEof` when the peer closed before it.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Head> {
    Ok(Head { start: line(from)?, headers: fields(from)? })
}

/// Reads one chunk; `None` after the last one (its trailers are not read yet).
pub fn read_chunk(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let size = line(from)?;
    let size = size.split(';').next().unwrap_or("");
    let size = usize::from_str_radix(size, 16)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("chunk size `{size}`")))?;
    if size == 0 {
        return Ok(None);
    }
    let mut data = vec![0; size];
    from.read_exact(&mut data)?;
    if !line(from)?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "chunk without CRLF"));
    }
    Ok(Some(data))
}

/// Reads trailers after the last chunk.
pub fn read_trailers(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    fields(from)
}

/// Reads a whole body.
pub fn read_body(from: &mut impl BufRead, framing: Framing) -> io::Result<Body> {
    let mut body = Body::default();
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            from.take(length).read_to_end(&mut body.bytes)?;
            if (body.bytes.len() as u64) < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Framing::Chunked => {
            while let Some(chunk) = read_chunk(from)? {
                body.chunks.push(chunk.len());
                body.bytes.extend(chunk);
            }
            body.trailers = read_trailers(from)?;
        }
        Framing::UntilClose => {
            from.read_to_end(&mut body.bytes)?;
        }
    }
    Ok(body)
}

/// A chunk as bytes on the wire.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", data.len()).into_bytes();
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
    out
}
