//! What heads say of content codings, and content that says to have one: no panic, a bound on what comes out, and conditions that mean the same.
//! The first line is the value of each field, and what follows is the content.
#![no_main]

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use libfuzzer_sys::fuzz_target;
use sluice_http::http::body::MemoryBudget;
use sluice_http::http::coding::{Coding, decode, keep_decodable, preferred};
use sluice_http::http::compression::{restore_tags, weaken};
use sluice_http::http::media_types::{MediaTypes, Pattern};

const LIMIT: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let split = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, content) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    if let Ok(text) = std::str::from_utf8(line)
        && let Some(pattern) = Pattern::parse(text)
    {
        // A type without an asterisk is one of its own kind.
        let types = MediaTypes::new(vec![pattern]);
        assert!(text.contains('*') || types.has(line), "{text}");
    }
    let Ok(value) = HeaderValue::from_bytes(line) else { return };
    let mut head = HeaderMap::new();
    for name in [ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_MATCH, IF_NONE_MATCH] {
        head.insert(name, value.clone());
    }
    let offered = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
    if let Some(coding) = preferred(&head, &offered) {
        assert_eq!(preferred(&head, &[coding]), Some(coding), "the others do not matter to it");
    }
    keep_decodable(&mut head);
    weaken(&mut head);
    assert!(head.get(ETAG).is_none_or(|tag| tag.as_bytes().starts_with(b"W/")));
    restore_tags(&mut head);
    let restored = head[IF_NONE_MATCH].as_bytes();
    assert!(restored.starts_with(line), "it only grows");
    // A second gateway finds no weak tag in `If-Match`.
    let once = head[IF_MATCH].clone();
    restore_tags(&mut head);
    assert_eq!(head[IF_MATCH], once);
    let budget = MemoryBudget::new(4 * LIMIT as usize);
    if let Ok(decoded) = decode(&head, Bytes::copy_from_slice(content), LIMIT, &budget) {
        assert!(decoded.len() as u64 <= LIMIT.max(content.len() as u64));
    }
    assert_eq!(budget.used(), 0);
});
