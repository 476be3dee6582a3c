//! The shipped plugins do what their cases say: `plugins/NAME/cases/*.toml`, run on the embedded components.

use std::path::PathBuf;

use super::*;

fn plugins() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins")
}

#[test]
fn shipped_plugins_pass_their_cases() {
    let with_cases: Vec<_> =
        crate::embedded::names().filter(|name| plugins().join(name).join("cases").is_dir()).collect();
    for expected in crate::embedded::names() {
        assert!(with_cases.contains(&expected), "{expected} has no cases");
    }
    let mut failed = String::new();
    for name in with_cases {
        let selection = Selection { paths: vec![plugins().join(name)], component: Some(name.into()), filter: None };
        let summary = test(&selection, None).unwrap_or_else(|error| panic!("{name}: {}", crate::chain(&error)));
        if summary.failed() > 0 {
            failed.push_str(&text(&summary));
        }
    }
    assert!(failed.is_empty(), "{failed}");
}
