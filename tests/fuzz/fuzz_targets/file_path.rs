//! The file that a path names: no panic, and whatever is named is below the folder, visible, and named by no other form of the path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_http::http::file_path::FilePath;
use sluice_http::http::path::normalise_path;

fuzz_target!(|path: &str| {
    let Some(read) = FilePath::parse(path) else { return };
    assert!(path.starts_with('/'));
    assert_eq!(read.is_folder(), path.ends_with('/'));
    if read.relative().is_empty() {
        assert_eq!(path, "/");
        return;
    }
    for (at, name) in read.relative().split(|byte| *byte == b'/').enumerate() {
        assert!(!name.is_empty() && name.len() <= 255);
        assert!(name.iter().all(|byte| *byte >= b' ' && !matches!(byte, 0x7f | b'\\')));
        assert!(name[0] != b'.' || at == 0 && name == b".well-known");
    }
    let parts = read.relative().split(|byte| *byte == b'/').count();
    assert_eq!(parts, path.trim_end_matches('/').matches('/').count(), "only a slash as it is separates");
    // The gateway hands on the one form of a path. It names the same file, where it has one.
    if let Ok(normal) = normalise_path(path) {
        assert_eq!(FilePath::parse(&normal), Some(read));
    }
});
