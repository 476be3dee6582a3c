//! Reads `files` of an upstream.

use crate::config::defaults;
use crate::config::gateway::path;
use crate::config::item::Item;
use crate::config::model::Files;
use crate::http::file_path::FilePath;

/// Names that are tried for one folder, and codings.
const MOST: usize = 8;

/// A path, or a table with a `root`.
pub(super) fn read(item: Item<'_>) -> Option<Files> {
    let item = item.taking("the path of a folder, or a table with `root`");
    if item.as_str().is_some() {
        let (index, precompressed) = (vec![defaults::FILES_INDEX.to_owned()], Vec::new());
        return Some(Files { root: path(item)?, index, fallback: None, not_found: None, precompressed });
    }
    if !item.is_table() {
        item.expected("the path of a folder, or a table with `root`");
        return None;
    }
    let table = item.table()?;
    let root = table.key("root", "The folder. A path starts from the file that has it.", r#""/srv/www""#).require(path);
    let index = table
        .key(
            "index",
            "The files that a folder is answered with: the first of them that is in it. `[]`: none, and then a folder is a 404. Folders \
             are never listed.",
            r#"["index.html", "index.htm"]"#,
        )
        .get("`[\"index.html\"]`", |item| few(&item.clone(), item.list(name)?))
        .unwrap_or_else(|| vec![defaults::FILES_INDEX.to_owned()]);
    let fallback = table
        .key(
            "fallback",
            "The file that answers for a path without a file, with the status 200: for applications with paths of their own in the \
             browser. Not for hidden names, and not below `/.well-known/`.",
            r#""/index.html""#,
        )
        .get("a 404", file);
    let not_found =
        table.key("not_found", "The file that is the content of a 404.", r#""/404.html""#).get("problem details", file);
    let precompressed = table
        .key(
            "precompressed",
            "Content codings of files that lie beside others: `app.js.br` is sent for `app.js` to a client that accepts `br`. Of codings \
             that it likes equally, the first one here counts. The suffixes are `.br`, `.zst` and `.gz`.",
            r#"["br", "zstd", "gzip"]"#,
        )
        .or(Vec::new(), |item| few(&item.clone(), item.list(Item::word)?));
    Some(Files { root: root?, index, fallback, not_found, precompressed })
}

/// The name of a file in a folder.
fn name(item: Item<'_>) -> Option<String> {
    item.parse("the name of a file, without a slash or a dot in front", |text| {
        // As it stands in a path, so that it is no name which no request can have.
        let read = FilePath::parse(&format!("/{}", text.replace('%', "%25")))?;
        (!read.is_folder() && !text.contains('/')).then(|| text.to_owned())
    })
}

/// The path of a file, as a request has it.
fn file(item: Item<'_>) -> Option<FilePath> {
    item.parse("the path of a file in the folder, like \"/index.html\"", |text| {
        FilePath::parse(text).filter(|path| !path.is_folder())
    })
}

fn few<T: PartialEq>(place: &Item<'_>, list: Vec<T>) -> Option<Vec<T>> {
    let is_twice = |(at, one): (usize, &T)| list[..at].contains(one);
    if list.len() > MOST || list.iter().enumerate().any(is_twice) {
        place.fail(format!("expected at most {MOST}, each once"));
        return None;
    }
    Some(list)
}
