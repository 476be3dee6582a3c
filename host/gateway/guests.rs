//! Building components with a cargo inside a build script: shared by the build scripts of the gateway and of the tests' harness.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What filters are built for.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// The target folder of the outer build: OUT_DIR is `<target>[/<triple>]/<profile>/build/<package>/out`.
pub(crate) fn target_folder(out: &Path) -> Result<PathBuf, String> {
    let folder =
        out.ancestors().nth(4).ok_or_else(|| format!("OUT_DIR is not in a target folder: {}", out.display()))?;
    let triple = variable("TARGET")?;
    let folder = match folder.parent() {
        Some(parent) if folder.ends_with(&triple) => parent,
        _ => folder,
    };
    Ok(folder.to_owned())
}

/// Adds the standard library of the target when it is missing.
pub(crate) fn add_target() -> Result<(), String> {
    let rustc = variable("RUSTC")?;
    let installed = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("{rustc}: {error}"))?;
    if installed.status.success() && Path::new(String::from_utf8_lossy(&installed.stdout).trim()).is_dir() {
        return Ok(());
    }
    println!("cargo::warning=adding the Rust target {TARGET} (rustup target add {TARGET})");
    match Command::new("rustup").args(["target", "add", TARGET]).output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!(
            "the filters need the Rust target {TARGET}, and `rustup target add {TARGET}` failed: {}",
            String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ")
        )),
        Err(error) => Err(format!(
            "the filters need the Rust target {TARGET}; rustup can't be run ({error}): install the target as your toolchain came"
        )),
    }
}

/// Builds these packages of the workspace at `root` with a cargo of its own: other target folder (no waiting for the outer
/// build's lock), none of the outer build's flags. The lock file is the workspace's: the network is used only for crates that are not there yet.
pub(crate) fn compile(root: &Path, built: &Path, packages: &[&str]) -> Result<(), String> {
    let mut cargo = Command::new(variable("CARGO")?);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if is_of_the_outer_build(&name) {
            cargo.env_remove(&*name);
        }
    }
    // Set and empty, it also holds off flags from the user's cargo configuration, which are meant for native code.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "");
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--profile", "guest", "--target", TARGET, "--target-dir"])
        .arg(built);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let done = cargo.output().map_err(|error| format!("cargo can't be run: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&done.stderr);
    for line in text.lines().filter(|line| !line.trim_start().starts_with("Compiling")) {
        println!("cargo::warning={line}");
    }
    Err(format!("building the filters for {TARGET} failed (see above)"))
}

/// Variables that cargo or the user set for the outer build. What says where crates come from is kept.
fn is_of_the_outer_build(name: &str) -> bool {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_BUILD_JOBS",
        "CARGO_MAKEFLAGS",
    ];
    const CLEARED: [&str; 10] = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "TARGET",
        "HOST",
        "OUT_DIR",
        "PROFILE",
        "DEBUG",
        "OPT_LEVEL",
    ];
    let cargos = name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept));
    cargos || CLEARED.contains(&name) || name.starts_with("CLIPPY_")
}

/// A variable that cargo sets for build scripts.
pub(crate) fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
