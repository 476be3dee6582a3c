//! That what tests build is what ships: a feature that only a test's dependency asks for would change the libraries under the gateway, and
//! everything would be built twice where both are needed.

use std::collections::BTreeSet;
use std::process::Command;

/// Each package under the gateway with its features, as these kinds of dependencies ask for them.
fn packages(kinds: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--locked", "--offline", "-p", "sluice", "-e", kinds, "--prefix", "none", "-f", "{p} {f}"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(super::path("")).output().expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn tests_add_no_feature_to_what_ships() {
    let ships = packages("normal");
    assert!(ships.iter().any(|package| package.starts_with("wasmtime v")), "{ships:?}");
    let tested = packages("normal,dev");
    let other: Vec<&String> = ships.difference(&tested).collect();
    assert!(
        other.is_empty(),
        "tests build these with other features: name them in the normal dependencies\n{other:#?}"
    );
}
