//! The h2 crate's server behind the aliases, and an encoder of HPACK with a table of its own that chooses at random.

use std::future::poll_fn;
use std::task::{Context, Waker};

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::super::huffman::tests::encode as huffman;
use super::super::malformed::AnswersMalformed;
use super::super::received::payload;
use super::*;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % end
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A path that is served, at times with bytes that the codec would refuse.
    fn path(&mut self) -> Vec<u8> {
        const USUAL: &[u8] = b"/abcXYZ089-._~%2F&=:+,;{}|!*()'";
        const UNUSUAL: &[u8] = b"\"<>`\\\xc3\xa4\xff";
        loop {
            let length = if self.one_in(50) { 3000 } else { 120 };
            let mut path = vec![b'/'];
            path.extend((0..self.below(length)).map(|_| match self.below(12) {
                0 => b'?',
                1 => UNUSUAL[self.below(UNUSUAL.len())],
                _ => USUAL[self.below(USUAL.len())],
            }));
            let taken_as_it_is = PathAndQuery::try_from(&path[..]).is_ok();
            if taken_as_it_is || path.len() >= SHORTEST && wanted(&path).is_some() {
                return path;
            }
        }
    }
}

/// As it is over HTTP/1.
fn wanted(path: &[u8]) -> Option<PathAndQuery> {
    PathAndQuery::try_from(encoded_target(path).map_or(path.to_vec(), String::into_bytes)).ok()
}

type Field = (Vec<u8>, Vec<u8>);

/// RFC 7541 §2.3 and §6.
#[derive(Default)]
struct Encoder {
    /// The newest first.
    table: VecDeque<Field>,
    most: usize,
}

impl Encoder {
    fn size(&self) -> usize {
        self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
    }

    fn evict(&mut self, most: usize) {
        while self.size() > most {
            self.table.pop_back();
        }
    }

    fn resize(&mut self, out: &mut Vec<u8>, most: usize) {
        integer(out, 0x20, 5, most);
        self.most = most;
        self.evict(most);
    }

    fn field(&mut self, out: &mut Vec<u8>, (name, value): Field, random: &mut Random) {
        if let Some(at) = self.table.iter().position(|field| *field == (name.clone(), value.clone()))
            && !random.one_in(4)
        {
            return integer(out, 0x80, 7, 62 + at);
        }
        let (pattern, prefix) = [(0x40, 6), (0x40, 6), (0, 4), (0x10, 4)][random.below(4)];
        let known = match &name[..] {
            b":authority" => Some(1),
            b":method" => Some(2 + random.below(2)),
            b":path" => Some(4 + random.below(2)),
            b":scheme" => Some(6 + random.below(2)),
            b"cookie" => Some(32),
            _ => None,
        };
        match known.filter(|_| !random.one_in(6)) {
            Some(index) => integer(out, pattern, prefix, index),
            None => {
                out.push(pattern);
                string(out, &name, random);
            }
        }
        string(out, &value, random);
        if pattern == 0x40 {
            self.evict(self.most.saturating_sub(name.len() + value.len() + 32));
            self.table.push_front((name, value));
            self.evict(self.most);
        }
    }
}

fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = (1 << prefix) - 1;
    if value < mask {
        return out.push(pattern | u8::try_from(value).unwrap());
    }
    out.push(pattern | u8::try_from(mask).unwrap());
    let mut rest = value - mask;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn string(out: &mut Vec<u8>, text: &[u8], random: &mut Random) {
    let (pattern, coded) = if random.one_in(2) { (0x80, huffman(text)) } else { (0, text.to_vec()) };
    integer(out, pattern, 7, coded.len());
    out.extend(coded);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn field(name: &[u8], value: &[u8]) -> Field {
    (name.to_vec(), value.to_vec())
}

/// A request without a body, in one frame or two.
fn request(encoder: &mut Encoder, stream: u32, path: &[u8], random: &mut Random) -> Vec<u8> {
    let mut block = Vec::new();
    if random.one_in(20) {
        let most = random.below(4097);
        encoder.resize(&mut block, most);
    }
    for (name, value) in [(":method", "GET"), (":scheme", "http"), (":authority", "example.org")] {
        encoder.field(&mut block, field(name.as_bytes(), value.as_bytes()), random);
    }
    encoder.field(&mut block, field(b":path", path), random);
    let behind_path = block.len();
    let number = random.below(40).to_string();
    for name in [&b"x-a"[..], b"cookie"] {
        encoder.field(&mut block, field(name, number.as_bytes()), random);
    }
    let cut = if random.one_in(3) { behind_path + random.below(block.len() - behind_path) } else { block.len() };
    let (mut flags, mut payload) = (1, Vec::new());
    let padding = random.below(256) * usize::from(random.one_in(3));
    if padding > 0 {
        flags |= 0x8;
        payload.push(u8::try_from(padding).unwrap());
    }
    if random.one_in(3) {
        flags |= 0x20;
        payload.extend([0, 0, 0, 0, 7]);
    }
    payload.extend(&block[..cut]);
    payload.resize(payload.len() + padding, 0);
    if cut == block.len() {
        return frame(1, flags | 4, stream, &payload);
    }
    [frame(1, flags, stream, &payload), frame(9, 4, stream, &block[cut..])].concat()
}

#[test]
fn all_paths_arrive_as_over_http1_whatever_the_encoder_does() {
    const REQUESTS: usize = 1500;
    for seed in 1..=6 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut encoder = Encoder { table: VecDeque::new(), most: TABLE };
        let mut sent: Vec<Vec<u8>> = Vec::new();
        let mut bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
        for n in 0..REQUESTS {
            let path = match sent.len() {
                known if known > 0 && random.one_in(3) => sent[known - 1 - random.below(known.min(40))].clone(),
                _ => random.path(),
            };
            bytes.extend(request(&mut encoder, u32::try_from(2 * n + 1).unwrap(), &path, &mut random));
            if random.one_in(5) {
                bytes.extend(frame(6, 0, 0, &[9; 8]));
            }
            sent.push(path);
        }
        let (client, server) = duplex(16 << 10);
        let socket = AnswersMalformed::new(server);
        let aliases = socket.aliases();
        let write = async {
            let (mut answers, mut requests) = tokio::io::split(client);
            let all = async {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let most = if random.one_in(2) { 20 } else { 5000 };
                    let (part, behind) = rest.split_at(rest.len().min(1 + random.below(most)));
                    if requests.write_all(part).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                    rest = behind;
                }
            };
            let mut ignored = Vec::new();
            let (read, ()) = tokio::join!(answers.read_to_end(&mut ignored), all);
            read.unwrap();
        };
        let serve = async {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let mut seen = Vec::new();
            loop {
                let next = poll_fn(|cx| {
                    let polled = connection.poll_accept(cx);
                    if polled.is_pending() {
                        aliases.end_turn();
                    }
                    polled
                });
                let Some(accepted) = next.await else { break };
                let (mut request, mut respond) = accepted.unwrap();
                aliases.restore(request.uri_mut());
                seen.push(request.uri().path_and_query().cloned());
                respond.send_response(Response::new(()), true).unwrap();
                // The codec hands out no request that is still waiting once the client has closed, so it is this side that ends.
                if seen.len() == REQUESTS {
                    break;
                }
            }
            seen
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ((), seen) = runtime.block_on(async { tokio::join!(write, serve) });
        assert_eq!(seen.len(), REQUESTS);
        for (path, seen) in sent.iter().zip(seen) {
            assert_eq!(seen, wanted(path), "{}", path.escape_ascii());
        }
        let known = aliases.0.borrow();
        assert!(known.given > 100, "{}", known.given);
        assert!(known.known.iter().all(|alias| alias.indexed.is_some()), "the others were used once");
        assert_eq!(known.size, known.known.iter().map(|alias| alias.path.as_str().len() + ENTRY).sum::<usize>());
    }
}

/// `HEADERS` with nothing but a path, without Huffman coding.
fn with_path(path: &[u8], indexed: bool) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, if indexed { 0x44 } else { 0x04 }];
    hpack::write_text(&mut block, path);
    frame(1, 5, 1, &block)
}

/// The path that the codec gets.
fn given(aliases: &Aliases, path: &[u8], indexed: bool) -> Vec<u8> {
    let frame = with_path(path, indexed);
    let rewritten = may_need_alias(&frame).then(|| aliases.rewrite(&frame)).flatten().unwrap_or(frame);
    assert_eq!(rewritten.len(), FRAME_HEAD + payload(rewritten.first_chunk().unwrap()));
    hpack::path(&rewritten).unwrap().text.decoded(&rewritten).unwrap()
}

fn restored(aliases: &Aliases, path: &[u8]) -> String {
    let mut uri = Uri::try_from(path).unwrap();
    aliases.restore(&mut uri);
    uri.to_string()
}

#[test]
fn only_what_was_meant_is_restored() {
    let aliases = Aliases::default();
    for usual in ["/", "/a?b=c", "/\u{e4}\u{e4}\u{e4}?\u{e4}", "/abc{}|^[]", "/a\"b\"c"] {
        assert_eq!(given(&aliases, usual.as_bytes(), false), usual.as_bytes());
    }
    for refused in ["/a?<", "*?<<<<<<", "/a<b c", "/a<b\tc", "/a<b#c", "?a=<bcde>"] {
        assert_eq!(given(&aliases, refused.as_bytes(), false), refused.as_bytes());
    }
    let alias = given(&aliases, b"/a?q=<x>", true);
    assert_eq!(alias.len(), 8);
    let own = given(&aliases, &alias, false);
    assert_ne!(own, alias, "a client's own path is no alias");
    let text = String::from_utf8(alias.clone()).unwrap();
    let fragment = given(&aliases, format!("{text}#x").as_bytes(), false);
    assert_eq!(restored(&aliases, &own), text);
    assert_eq!(restored(&aliases, &fragment), text);
    for _ in 0..2 {
        assert_eq!(restored(&aliases, &alias), "/a?q=%3Cx%3E", "later requests may refer to it");
    }
    let once = given(&aliases, b"/a?q=<x>", false);
    assert_eq!(restored(&aliases, &once), "/a?q=%3Cx%3E");
    assert_eq!(restored(&aliases, &once).as_bytes(), once, "nothing can refer to it");
}

#[test]
fn a_request_that_waits_in_the_codec_keeps_its_path_when_others_fill_the_table() {
    let aliases = Aliases::default();
    let alias = given(&aliases, b"/a?q=<x>", true);
    // Read in one turn: a request that refers to the entry, and behind it others that push the entry out.
    for n in 0..200 {
        given(&aliases, format!("/{n}?q=<y>").as_bytes(), true);
    }
    assert_eq!(restored(&aliases, &alias), "/a?q=%3Cx%3E");
    aliases.end_turn();
    assert_eq!(restored(&aliases, &alias).as_bytes(), alias, "nothing can refer to it");
}

#[test]
fn aliases_of_requests_that_never_come_are_bounded() {
    let aliases = Aliases::default();
    let filler = [b'<'; 500];
    for n in 0..1000 {
        let path = [format!("/{n}?").as_bytes(), &filler].concat();
        given(&aliases, &path, n % 2 == 0);
        assert!(aliases.0.borrow().size <= ROOM);
    }
    let indexed = Aliases::default();
    for n in 0..1000 {
        given(&indexed, format!("/{n}?q=<x>").as_bytes(), true);
        indexed.end_turn();
    }
    let known = indexed.0.borrow();
    assert!(known.size < 2 * TABLE, "{}", known.size);
    assert!(known.known.len() >= TABLE / (11 + ENTRY), "all that the table can have: {}", known.known.len());
}

#[test]
fn no_bytes_break_it() {
    let mut random = Random(7);
    let aliases = Aliases::default();
    let mut encoder = Encoder { table: VecDeque::new(), most: TABLE };
    for _ in 0..20_000 {
        let path = random.path();
        let mut bytes = request(&mut encoder, 1, &path, &mut random);
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }
        bytes.truncate(1 + random.below(bytes.len()));
        may_need_alias(&bytes);
        aliases.rewrite(&bytes);
        // All of it comes out, whatever it is.
        let mut socket = &bytes[..];
        let (mut received, mut written) = (super::super::received::Received::new(), Default::default());
        let mut room = vec![0; 1 + random.below(64)];
        loop {
            let mut room = tokio::io::ReadBuf::new(&mut room);
            let mut cx = Context::from_waker(Waker::noop());
            assert!(received.poll_read(&mut socket, &mut cx, &mut room, &aliases, &mut written).is_ready());
            if room.filled().is_empty() {
                break;
            }
        }
        assert!(socket.is_empty());
    }
}
