//! A component is compiled once, whichever command is the first to need it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use sluice_harness::Gateway;
use sluice_harness::gateway::Setup;

use super::build::built;
use crate::support::with_base;

/// The files of compiled code, and which ones they are: one that is written again is another one.
fn kept(cache: &Path) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(cache.join("sluice")).expect("the cache");
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("a file");
        (entry.file_name().to_string_lossy().into_owned(), entry.metadata().expect("a file").ino())
    };
    files.map(file).collect()
}

fn said(setup: Setup, toml: &str, arguments: &[&str]) -> Duration {
    let start = Instant::now();
    let said = setup.command_output(toml, arguments);
    assert!(said.status.success(), "{arguments:?}: {}{}", said.stdout, said.stderr);
    start.elapsed()
}

#[test]
fn every_command_finds_what_another_one_has_compiled() {
    let Some(language) = built().iter().find(|language| language.name == "javascript") else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let (_, file) = &language.filters[1];
    let setup = || {
        let at = cache.path().to_str().expect("UTF-8");
        Gateway::setup().plugin("x", file).env("XDG_CACHE_HOME", at)
    };
    let toml = with_base(
        "[filters.x]\nconfig = { keys = { k1 = { name = \"ann\", account = 1 } } }\n\
         [routes.all]\nmatch = { path = \"/**\" }\nrespond = { status = 200 }\npipeline = [\"x\"]\n",
    );
    let compiling = said(setup(), &toml, &["plugin", "inspect", "plugins/x.wasm"]);
    let compiled = kept(cache.path());
    assert!(!compiled.is_empty());
    let commands: [&[&str]; 4] = [
        &["plugin", "inspect", "plugins/x.wasm"],
        &["plugin", "check", "plugins/x.wasm"],
        &["plugin", "check", "--config", "gateway.toml", "plugins/x.wasm"],
        &["check", "gateway.toml"],
    ];
    for command in commands {
        said(setup(), &toml, command);
        assert_eq!(kept(cache.path()), compiled, "{command:?} has compiled it again");
    }
    assert_eq!(setup().start(&toml).get("/").status, 401);
    assert_eq!(kept(cache.path()), compiled, "the gateway has compiled it again");

    // The largest one, which the tests have compiled before: an interpreter that is fifteen times as large.
    let Some(python) = built().iter().find(|language| language.name == "python") else { return };
    let (_, file) = &python.filters[1];
    let inspected = said(Gateway::setup(), "", &["plugin", "inspect", file.to_str().expect("UTF-8")]);
    println!("javascript, compiled: {compiling:?}; python, found: {inspected:?}");
    assert!(inspected < compiling, "{inspected:?}, and {compiling:?} to compile a small one");
}
