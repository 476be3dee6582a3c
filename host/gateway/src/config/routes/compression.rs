//! Reads `[compression]` and `[routes.*.compression]`, which have the same keys.

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::{Compression, Encodings, Levels};
use crate::config::read::Table;
use crate::http::coding::{Coding, Level};
use crate::http::media_types::{MediaTypes, Pattern};

/// Codings and types that a list may have.
const MAX_LISTED: usize = 256;

/// What holds for the routes that compress.
pub(in crate::config) fn defaults(table: &Table<'_>) {
    // Wrong values are found here; the values are those that routes read.
    read(table);
}

pub(super) fn read(table: &Table<'_>) -> Compression {
    Compression {
        encodings: table
            .key(
                "encodings",
                "The content codings that are sent. Of those that a client likes equally, it gets the first.",
                r#"["br", "gzip"]"#,
            )
            .or(Encodings(defaults::COMPRESSION_ENCODINGS.to_vec()), encodings),
        min_size: table
            .key("min_size", "Responses with less content are sent as they are, if their length is known.", r#""256B""#)
            .or(defaults::COMPRESSION_MIN_SIZE, Item::size),
        types: table
            .key(
                "types",
                "The media types that are compressed, by name or as `text/*`, `application/*+json` or `*/*`.",
                r#"["text/*", "application/json"]"#,
            )
            .get("text, JSON, XML, JavaScript, WebAssembly, and those fonts and images that have no compression of their own", types)
            .unwrap_or_else(default_types),
        credentials: table
            .key(
                "credentials",
                "Whether the responses to requests with credentials are compressed, too: a cookie, a token, an API key, a client \
                 certificate, or a caller that a filter knows. Where such a response repeats what a stranger can put into the request, \
                 its length tells secrets in it (BREACH).",
                "true",
            )
            .or(defaults::COMPRESSION_CREDENTIALS, Item::boolean),
        adaptive: table
            .key(
                "adaptive",
                "Whether a worker compresses at lower levels while it has much to do.",
                "false",
            )
            .or(defaults::COMPRESSION_ADAPTIVE, Item::boolean),
        levels: levels(&table.table("levels")),
    }
}

fn levels(table: &Table<'_>) -> Levels {
    let Levels { zstd, br, gzip } = defaults::COMPRESSION_LEVELS;
    Levels {
        zstd: table
            .key("zstd", "How much work is put into zstd.", "6")
            .or(zstd, |item| item.integer(Level::range(Coding::Zstd))),
        br: table
            .key("br", "How much work is put into Brotli.", "5")
            .or(br, |item| item.integer(Level::range(Coding::Brotli))),
        gzip: table
            .key("gzip", "How much work is put into gzip.", "6")
            .or(gzip, |item| item.integer(Level::range(Coding::Gzip))),
    }
}

fn encodings(item: Item<'_>) -> Option<Encodings> {
    let place = item.clone();
    let list = item.filled(Item::word)?;
    if (1..list.len()).any(|at| list[..at].contains(&list[at])) {
        place.fail("has an encoding twice");
    }
    Some(Encodings(list))
}

fn types(item: Item<'_>) -> Option<MediaTypes> {
    let place = item.clone();
    let list = item
        .filled(|item| item.parse("a media type, as `text/html`, `text/*` or `application/*+json`", Pattern::parse))?;
    if list.len() > MAX_LISTED {
        place.fail(format!("expected at most {MAX_LISTED} types"));
    }
    Some(MediaTypes::new(list))
}

fn default_types() -> MediaTypes {
    MediaTypes::new(defaults::COMPRESSION_TYPES.iter().filter_map(|text| Pattern::parse(text)).collect())
}
