//! Which file below a folder the path of a request names. Pure: the file system is not asked, and nothing here has to be trusted for safety
//! alone; whoever opens the file has the kernel hold it below the folder, too.

use super::path::decode_pair;

/// The longest name of a file on Linux (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// The longest path that Linux takes, with its zero byte (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// The only name with a dot in front that is for everybody (RFC 8615), and only at the top.
const WELL_KNOWN: &[u8] = b".well-known";

/// The name of a file or a folder, relative to the folder that is served. Each part of it is a plain name: not empty, neither `.` nor `..`,
/// without a separator or a control character, and not hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath {
    /// Names with slashes between them; empty for the folder itself.
    relative: Vec<u8>,
    is_folder: bool,
}

impl FilePath {
    /// Reads a path as a request has it. `None`: no file can have it, or it is hidden. Each percent-encoding is decoded once, and a name
    /// that has a separator in it after that is no name: `%2F` never leads into a folder. An empty segment is none either, so that a
    /// file has one path only.
    pub fn parse(path: &str) -> Option<FilePath> {
        let mut rest = path.as_bytes().strip_prefix(b"/")?;
        let is_folder = rest.is_empty() || rest.ends_with(b"/");
        rest = rest.strip_suffix(b"/").unwrap_or(rest);
        let mut relative = Vec::with_capacity(rest.len());
        if rest.is_empty() {
            // `//` is no second name of the folder.
            return (path == "/").then_some(FilePath { relative, is_folder });
        }
        for segment in rest.split(|byte| *byte == b'/') {
            if !relative.is_empty() {
                relative.push(b'/');
            }
            let start = relative.len();
            decode(segment, &mut relative)?;
            let name = &relative[start..];
            let is_hidden = name.first() == Some(&b'.') && !(start == 0 && name == WELL_KNOWN);
            if name.is_empty() || name.len() > MAX_NAME || is_hidden {
                return None;
            }
        }
        (relative.len() < MAX_PATH).then_some(FilePath { relative, is_folder })
    }

    /// The bytes of the path from the folder on; empty for the folder itself.
    pub fn relative(&self) -> &[u8] {
        &self.relative
    }

    /// Whether the path says that it is a folder: it ends with a slash.
    pub fn is_folder(&self) -> bool {
        self.is_folder
    }

    /// Whether it is below `/.well-known/`, whose names have meanings that are agreed on.
    pub fn is_well_known(&self) -> bool {
        self.relative.split(|byte| *byte == b'/').next() == Some(WELL_KNOWN)
    }

    /// A file in this folder.
    #[must_use]
    pub fn join(&self, name: &str) -> FilePath {
        let mut relative = self.relative.clone();
        if !relative.is_empty() {
            relative.push(b'/');
        }
        relative.extend_from_slice(name.as_bytes());
        FilePath { relative, is_folder: false }
    }

    /// The file beside it whose name ends with this, too.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> FilePath {
        FilePath { relative: [&self.relative, suffix.as_bytes()].concat(), is_folder: false }
    }
}

/// Appends a segment with its percent-encodings decoded. `None`: it has a byte that no name has here. A backslash is none, since other
/// systems take it for a separator, and with them who made the files.
fn decode(segment: &[u8], name: &mut Vec<u8>) -> Option<()> {
    let mut at = 0;
    while let Some(&byte) = segment.get(at) {
        let (byte, length) = match byte {
            b'%' => (decode_pair(segment.get(at + 1..)?)?, 3),
            other => (other, 1),
        };
        if matches!(byte, 0..=0x1f | 0x7f | b'/' | b'\\') {
            return None;
        }
        name.push(byte);
        at += length;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Option<(String, bool)> {
        let path = FilePath::parse(path)?;
        Some((String::from_utf8_lossy(path.relative()).into_owned(), path.is_folder()))
    }

    #[test]
    fn paths_name_files_and_folders() {
        for (path, relative, is_folder) in [
            ("/", "", true),
            ("/a", "a", false),
            ("/a/", "a", true),
            ("/a/b.html", "a/b.html", false),
            ("/a%20b/%C3%A4", "a b/ä", false),
            ("/a%2Eb", "a.b", false),
            ("/a..b/c...", "a..b/c...", false),
            ("/%2525", "%25", false),
            ("/a:b;v=1", "a:b;v=1", false),
            ("/.well-known/", ".well-known", true),
            ("/.well-known/security.txt", ".well-known/security.txt", false),
        ] {
            assert_eq!(read(path), Some((relative.to_owned(), is_folder)), "{path}");
        }
        assert!(FilePath::parse("/.well-known/a").unwrap().is_well_known());
        assert!(!FilePath::parse("/a/b").unwrap().is_well_known());
    }

    #[test]
    fn what_leads_elsewhere_or_is_hidden_names_nothing() {
        let long = format!("/{}", "a".repeat(MAX_NAME + 1));
        let deep = "/a".repeat(MAX_PATH);
        for path in [
            "",
            "a",
            "*",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/../a",
            "/a/..",
            "/a/./b",
            "/a/../b",
            "/%2e%2e/a",
            "/.%2e/a",
            "/%2E/a",
            "/a%2Fb",
            "/..%2Fa",
            "/a%5Cb",
            "/..%5Ca",
            "/a\\b",
            "/a%00",
            "/a%00.html",
            "/a\0",
            "/a%0Ab",
            "/a%7F",
            "/a%",
            "/a%2",
            "/a%zz",
            "/.env",
            "/%2Eenv",
            "/a/.git/config",
            "/.git/",
            "/.well-known/.env",
            "/a/.well-known/b",
            "/.well-knownx",
            &long,
            &deep,
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    /// A generator that needs no crate (SplitMix64).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = self.0;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) % bound as u64) as usize
        }
    }

    #[test]
    fn whatever_is_asked_for_is_below_the_folder() {
        const PARTS: [&str; 24] = [
            "/",
            "/",
            "/",
            ".",
            "..",
            "%2e",
            "%2E",
            "%2f",
            "%2F",
            "%5c",
            "\\",
            "%00",
            "%25",
            "%",
            "a",
            "b.html",
            " ",
            "%c3%a4",
            "ä",
            ".well-known",
            "%2525",
            ";",
            "%0a",
            "%252e",
        ];
        let mut random = Random(1);
        let mut found = 0;
        for _ in 0..200_000 {
            let length = random.below(10);
            let path: String =
                std::iter::once("/").chain((0..length).map(|_| PARTS[random.below(PARTS.len())])).collect();
            let Some(read) = FilePath::parse(&path) else { continue };
            found += 1;
            if read.relative().is_empty() {
                assert_eq!(path, "/");
                continue;
            }
            for (at, name) in read.relative().split(|byte| *byte == b'/').enumerate() {
                let fine = !name.is_empty() && !name.iter().any(|byte| matches!(byte, 0..=0x1f | 0x7f | b'\\'));
                assert!(fine && (name[0] != b'.' || at == 0 && name == WELL_KNOWN), "{path}: {read:?}");
            }
            let slashes = path.trim_end_matches('/').matches('/').count();
            let parts = read.relative().split(|byte| *byte == b'/').count();
            assert_eq!(parts, slashes, "only a slash as it is separates: {path}: {read:?}");
            assert_eq!(read.is_folder(), path.ends_with('/'), "{path}");
            if let Ok(normal) = super::super::path::normalise_path(&path) {
                assert_eq!(FilePath::parse(&normal), Some(read), "{path} and {normal} are the same");
            }
        }
        assert!(found > 10_000, "{found} of the paths were read at all");
    }
}
