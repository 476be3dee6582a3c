//! A third reader of requests, as plain as can be: what the sender has meant, where it has meant one thing.

/// A request as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) target: String,
    /// Names in lower case.
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// How reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is no request.
    Bad,
    /// Its end is not there.
    More,
}

/// The requests of a connection up to the first that is none.
pub(super) fn messages(mut bytes: &[u8]) -> (Vec<Message>, End) {
    let mut messages = Vec::new();
    loop {
        match message(&mut bytes) {
            Ok(message) => messages.push(message),
            Err(end) => return (messages, end),
        }
    }
}

fn message(bytes: &mut &[u8]) -> Result<Message, End> {
    for _ in 0..2 {
        *bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    }
    let start = line(bytes)?;
    let mut words = start.split(' ').map(str::to_owned);
    let (Some(method), Some(target), Some(_), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err(End::Bad);
    };
    let fields = section(bytes)?;
    let all = |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
    let body = match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([], []) => Vec::new(),
        ([], [length]) => take(bytes, length.parse().map_err(|_| End::Bad)?)?.to_vec(),
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => {
            let mut body = Vec::new();
            loop {
                let size = line(bytes)?;
                let digits = size.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(digits, 16).map_err(|_| End::Bad)?;
                if size == 0 {
                    break;
                }
                body.extend(take(bytes, size)?);
                if take(bytes, 2)? != b"\r\n" {
                    return Err(End::Bad);
                }
            }
            section(bytes)?;
            body
        }
        _ => return Err(End::Bad),
    };
    Ok(Message { method, target, fields, body })
}

fn section(bytes: &mut &[u8]) -> Result<Vec<(String, String)>, End> {
    let mut fields = Vec::new();
    loop {
        let line = line(bytes)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or(End::Bad)?;
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

/// A line without its end, as Latin-1. A bare CR or LF is the sender's fault.
fn line(bytes: &mut &[u8]) -> Result<String, End> {
    let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n')).ok_or(End::More)?;
    match &bytes[end..] {
        [b'\r'] => Err(End::More),
        [b'\r', b'\n', rest @ ..] => {
            let text = bytes[..end].iter().map(|b| char::from(*b)).collect();
            *bytes = rest;
            Ok(text)
        }
        _ => Err(End::Bad),
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], End> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(End::More)?;
    *bytes = rest;
    Ok(taken)
}
