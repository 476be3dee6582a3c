//! Requests out of a seed: good ones, and good ones that were damaged the way attackers do it.

/// A small generator of numbers (xorshift64*), the same for everybody.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Once in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

const METHODS: &[&str] =
    &["GET", "GET", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD", "PROPFIND", "M-SEARCH"];
const TARGETS: &[&str] = &[
    "/",
    "/a",
    "/a/b/c?d=e&f",
    "//a//b",
    "/a%20b;c=1,2",
    "/a/./b/../c",
    "/%61?%61",
    "/a?b?c",
    "/a?http://b/",
    "http://a/b?c",
    "http://a",
    "http://a?b",
];
const FIELDS: &[&str] = &[
    "x-t: a",
    "X-T:b",
    "x-t:\t c d \t",
    "x-t:",
    "x-t: \"a, b\"; c=d",
    "x-t: \u{e4}",
    "accept: */*",
    "connection: keep-alive",
    "connection: x-t1, keep-alive",
    "te: trailers",
    "expect: 100-continue",
    "cookie: a=b; c=d",
];
/// Bodies that would be requests to a reader that has lost its place.
const BODIES: &[&str] = &[
    "",
    "a",
    "hello",
    "0\r\n\r\n",
    "\r\n",
    "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
];

/// Lines that make a request ambiguous, or are close to it.
const NASTY: &[&str] = &[
    "content-length: 0",
    "content-length: 5",
    "content-length: 5, 5",
    "content-length: +5",
    "content-length: 05",
    "content-length : 5",
    "content-length: 5 5",
    "content-length:\x0b5",
    "content-length: 18446744073709551621",
    "content_length: 5",
    "transfer-encoding: chunked",
    "Transfer-Encoding: Chunked",
    "transfer-encoding:chunked ",
    "transfer-encoding: chunked, identity",
    "transfer-encoding: identity, chunked",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding: xchunked",
    "transfer-encoding: chunked, chunked",
    "transfer-encoding: \"chunked\"",
    "transfer-encoding : chunked",
    "transfer-encoding\t: chunked",
    "transfer-encoding:\x0bchunked",
    "transfer-encoding: chunked\0",
    "transfer-encoding:\r\n chunked",
    "transfer_encoding: chunked",
    " transfer-encoding: chunked",
    "x: y\ntransfer-encoding: chunked",
    "x: y\rtransfer-encoding: chunked",
    "x: y\r\n\ttransfer-encoding: chunked",
    "\rtransfer-encoding: chunked",
    "x\ntransfer-encoding: chunked",
    "host: a",
    "host: b",
    "host: a:80",
    "connection: close",
    "connection: content-length",
    "connection: transfer-encoding",
    "connection: host, x-t",
    "connection: upgrade\r\nupgrade: websocket",
    "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__",
    "expect: 100-continue",
    "trailer: content-length",
    "",
    "x",
    ": x",
];

/// Bytes that end lines, words and texts for somebody.
const SPECIAL: &[u8] = b"\0\t\n\x0b\x0c\r \"#%&'(),./:;<=>?@[\\]0159afxAFX_-+\x1b\x7f\x80\x85\xa0\xe4\xff";

/// The next request.
pub(super) fn request(random: &mut Random) -> Vec<u8> {
    let mut bytes = good(random);
    if !random.once_in(3) {
        for _ in 0..=random.below(3) {
            damage(&mut bytes, random);
        }
    }
    bytes
}

fn good(random: &mut Random) -> Vec<u8> {
    let method = random.pick(METHODS);
    let version = if random.once_in(8) { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut head = String::new();
    if random.once_in(16) {
        head += "\r\n";
    }
    head += &format!("{method} {} {version}\r\nHost: a\r\n", random.pick(TARGETS));
    for _ in 0..random.below(4) {
        head += random.pick(FIELDS);
        head += "\r\n";
    }
    let mut body = random.pick(BODIES).repeat(1 + random.below(3)).into_bytes();
    match random.below(3) {
        0 if version == "HTTP/1.1" => {
            head += "Transfer-Encoding: chunked\r\n";
            body = chunked(&body, random);
        }
        1 => head += &format!("Content-Length: {}\r\n", body.len()),
        _ => body.clear(),
    }
    head += "\r\n";
    [head.into_bytes(), body].concat()
}

fn chunked(mut body: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    while !body.is_empty() {
        let (chunk, rest) = body.split_at(1 + random.below(body.len()));
        body = rest;
        let extension = random.pick(&["", "", "", ";a", ";a=b", ";a=\"b;c\""]);
        let size = if random.once_in(4) { format!("{:03X}", chunk.len()) } else { format!("{:x}", chunk.len()) };
        out.extend(format!("{size}{extension}\r\n").bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(random.pick(&["0\r\n\r\n", "0\r\n\r\n", "000;a\r\n\r\n", "0\r\nx-t: a\r\n\r\n"]).bytes());
    out
}

/// One change.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(9) {
        0 => bytes[at] = SPECIAL[random.below(SPECIAL.len())],
        1 => bytes.insert(at, SPECIAL[random.below(SPECIAL.len())]),
        2 => {
            bytes.remove(at);
        }
        3 => {
            let end = (at + 1 + random.below(40)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        4 => {
            let ends = line_ends(bytes);
            let at = ends[random.below(ends.len())];
            let end = random.pick(&["\n", "\r", "\r\r\n", "\r\n ", " \r\n", "\0\r\n", "\n\n", "\r\n\r\n", ""]);
            bytes.splice(at..at + 2, end.bytes());
        }
        5 => {
            // A line twice, or away.
            let ends = line_ends(bytes);
            let n = random.below(ends.len());
            let from = if n == 0 { 0 } else { ends[n - 1] + 2 };
            let line = bytes[from..ends[n] + 2].to_vec();
            let keep = if random.once_in(2) { [&line[..], &line].concat() } else { Vec::new() };
            bytes.splice(from..ends[n] + 2, keep);
        }
        _ => {
            // A line into the head.
            let ends = line_ends(bytes);
            let head = ends.windows(2).position(|pair| pair[1] == pair[0] + 2).map_or(1, |n| n + 1);
            let at = ends[random.below(head)] + 2;
            bytes.splice(at..at, format!("{}\r\n", random.pick(NASTY)).bytes());
        }
    }
    if line_ends(bytes).is_empty() {
        bytes.extend(b"\r\n");
    }
}

fn line_ends(bytes: &[u8]) -> Vec<usize> {
    bytes.windows(2).enumerate().filter(|(_, pair)| pair == b"\r\n").map(|(at, _)| at).collect()
}
