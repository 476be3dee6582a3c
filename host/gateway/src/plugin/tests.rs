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

#[test]
fn a_source_that_is_newer_than_the_component_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, age: u64| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).expect("a time");
        path
    };
    let built = file("build/stamp.wasm", 100);
    file("src/stamp.ts", 200);
    for made in ["build/stamp.js", "node_modules/x/index.js", ".cache/a.js", "notes.txt"] {
        file(made, 0);
    }
    assert_eq!(component::newer_source(folder.path(), &built), None);
    file("src/deep/part.ts", 50);
    let latest = file("src/stamp.ts", 10);
    assert_eq!(component::newer_source(folder.path(), &built), Some(latest.clone()));
    let mut summary = Summary::default();
    summary.newer.insert(latest);
    assert!(text(&summary).contains("stamp.ts was changed after the component was built: `sluice plugin build`"));
}
