//! Builds the guest fixtures of `tests/components/`, as the gateway's build script builds the shipped filters.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

#[path = "../../host/gateway/guests.rs"]
mod guests;

use guests::{TARGET, add_target, compile, target_folder, variable};

const FIXTURES: [&str; 3] = ["plain", "probe", "probe-waiting"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../..");
    let root = fs::canonicalize(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    for watched in ["host/gateway/guests.rs", "sdk/src", "tests/components", "wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    add_target()?;
    let built = target_folder(&out)?.join("plugins-build");
    compile(&root, &built, &FIXTURES.map(|name| format!("sluice-{name}")).each_ref().map(String::as_str))?;

    let mut source =
        String::from("/// The guest fixtures: plugin name and file.\npub const ALL: &[(&str, &str)] = &[\n");
    for name in FIXTURES {
        let file = built.join(TARGET).join("guest").join(format!("sluice_{}.wasm", name.replace('-', "_")));
        source.push_str(&format!("    ({name:?}, {file:?}),\n"));
    }
    source.push_str("];\n");
    fs::write(out.join("fixtures.rs"), source).map_err(|error| format!("fixtures.rs: {error}"))
}
