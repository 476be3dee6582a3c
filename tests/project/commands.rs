//! The justfile has the commands that CONTRIBUTING.md names, and each can be read.

use std::process::Command;

use regex::Regex;
use sluice_harness::tools::need;

use crate::{path, read};

#[test]
fn what_contributing_names_is_in_the_justfile() {
    let recipes = read("justfile");
    let named = Regex::new(r"(?m)(?:`|^    )just ([a-z0-9-]+)").expect("a pattern");
    let guide = read("CONTRIBUTING.md");
    let names: Vec<&str> = named.captures_iter(&guide).map(|found| found.get(1).expect("a group").as_str()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let recipe = Regex::new(&format!("(?m)^{name}[ :]")).expect("a pattern");
        assert!(recipe.is_match(&recipes), "CONTRIBUTING.md names `just {name}`");
    }
}

#[test]
fn the_justfile_is_read_by_just() {
    let Some([just]) = need(["just"]) else { return };
    let output = Command::new(just).arg("--list").current_dir(path("")).output().expect("just");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The README's first command says no name of a program.
#[test]
fn cargo_run_starts_the_gateway() {
    let arguments = ["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(path("")).output().expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let named: Vec<&str> = packages.iter().filter_map(|package| package["default_run"].as_str()).collect();
    assert_eq!(named, ["sluice"], "the programs that `cargo run` starts");
}
