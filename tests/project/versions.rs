//! The toolchain is pinned, and it is the oldest one that is promised.

use crate::find;

#[test]
fn the_pinned_toolchain_is_the_promised_one() {
    let pinned = find("rust-toolchain.toml", r#"channel = "(\d+\.\d+)\.\d+""#);
    assert_eq!(find("Cargo.toml", r#"rust-version = "([\d.]+)""#), pinned, "Cargo.toml");
    assert_eq!(find(".clippy.toml", r#"msrv = "([\d.]+)""#), pinned, ".clippy.toml");
}
