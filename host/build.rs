//! Builds the workspace's filters for `wasm32-wasip2` and embeds those of `plugins/` in the binary.
//!
//! Which filters: the members of the workspace below `plugins/` and `examples/filters/`, so that whatever else lies in
//! these folders is left alone. The components also go to `<target>/plugins/<name>.wasm`, for benches and trials.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const TARGET: &str = "wasm32-wasip2";

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
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let root = fs::canonicalize(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target_folder = target_folder(&out)?;
    let members = members(&root)?;

    println!("cargo::rerun-if-changed=build.rs");
    for watched in ["Cargo.toml", "Cargo.lock", "wit", "sdk/src", "sdk/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    for member in &members {
        println!("cargo::rerun-if-changed={}", root.join(&member.folder).display());
    }

    add_target()?;
    let built = target_folder.join("plugins-build");
    compile(&root, &built, &members)?;

    let shelf = target_folder.join("plugins");
    fs::create_dir_all(&shelf).map_err(|error| format!("{}: {error}", shelf.display()))?;
    let mut table = String::from("&[\n");
    for member in &members {
        let file = format!("{}.wasm", member.name);
        let component = built.join(TARGET).join("guest").join(format!("{}.wasm", member.name.replace('-', "_")));
        copy(&component, &shelf.join(&file))?;
        if member.embedded {
            copy(&component, &out.join(&file))?;
            table.push_str(&format!(
                "    ({:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), {:?}))),\n",
                member.name,
                format!("/{file}")
            ));
        }
    }
    table.push_str("]\n");
    fs::write(out.join("embedded.rs"), table).map_err(|error| format!("embedded.rs: {error}"))
}

struct Member {
    name: String,
    folder: String,
    embedded: bool,
}

/// The members of the workspace that are filters.
fn members(root: &Path) -> Result<Vec<Member>, String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).map_err(|error| format!("Cargo.toml: {error}"))?;
    let list = manifest.split_once("\nmembers = [").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.ok_or("Cargo.toml: no list `members`")?;
    let mut members: Vec<Member> = list
        .split('"')
        .skip(1)
        .step_by(2)
        .filter_map(|folder| {
            let name = folder.strip_prefix("plugins/").or_else(|| folder.strip_prefix("examples/filters/"))?;
            Some(Member { name: name.to_owned(), folder: folder.to_owned(), embedded: folder.starts_with("plugins/") })
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

/// The target folder of the outer build: OUT_DIR is `<target>[/<triple>]/<profile>/build/<package>/out`.
fn target_folder(out: &Path) -> Result<PathBuf, String> {
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
fn add_target() -> Result<(), String> {
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

/// Builds the filters with a cargo of its own: other target folder (no waiting for the outer build's lock), none of
/// the outer build's flags. The lock file is the workspace's: the network is used only for crates that are not there yet.
fn compile(root: &Path, built: &Path, members: &[Member]) -> Result<(), String> {
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
    for member in members {
        cargo.args(["--package", &member.name]);
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

/// Copies a file unless the copy is already the same, so that nothing is rebuilt for a new modification time.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let new = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).map_err(|error| format!("{}: {error}", to.display()))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
