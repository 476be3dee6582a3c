//! Builds the workspace's filters for `wasm32-wasip2` and embeds those of `plugins/` in the binary, with the packages that filters are written with.
//!
//! Which filters: the members of the workspace below `plugins/` and `examples/filters/`, so that whatever else lies in
//! these folders is left alone. A member in a folder further below is a package named after both: `rust/stamp` is `rust-stamp`. The components also go to `<target>/plugins/<name>.wasm`, for benches and trials.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

mod guests;

use guests::{TARGET, add_target, compile, target_folder, variable};

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
    let target_folder = target_folder(&out)?;
    let members = members(&root)?;

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guests.rs");
    for watched in ["Cargo.toml", "Cargo.lock", "wit", "sdk/src", "sdk/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    for member in &members {
        let folder = root.join(&member.folder);
        let parts = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        // Cases are read by tests and are no part of a component.
        for part in parts.flatten().filter(|part| part.file_name() != "cases") {
            println!("cargo::rerun-if-changed={}", part.path().display());
        }
    }

    add_target()?;
    let built = target_folder.join("plugins-build");
    let packages: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    compile(&root, &built, &packages)?;

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
    fs::write(out.join("embedded.rs"), table).map_err(|error| format!("embedded.rs: {error}"))?;
    embed_sdk(&root, &out)
}

/// What a project of `sluice plugin new` is given, so that it builds without a checkout: the packages of all languages, what they
/// share, and the interface.
const SDK: [&str; 11] = [
    "Cargo.toml",
    "host/services/Cargo.toml",
    "host/services/src",
    "sdk/Cargo.toml",
    "sdk/README.md",
    "sdk/src",
    "sdk/c",
    "sdk/go",
    "sdk/javascript",
    "sdk/python",
    "wit",
];

/// What tools leave beside sources.
const LEFT_BEHIND: [&str; 5] = ["__pycache__", "build", "node_modules", "package-lock.json", "target"];

/// Writes the table of these files, for the module `embedded`.
fn embed_sdk(root: &Path, out: &Path) -> Result<(), String> {
    let mut files = Vec::new();
    for part in SDK {
        println!("cargo::rerun-if-changed={}", root.join(part).display());
        list(&root.join(part), &mut files)?;
    }
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(root).map_err(|error| format!("{}: {error}", file.display()))?;
        table.push_str(&format!("    ({:?}, include_bytes!({:?})),\n", name.display(), file.display()));
    }
    table.push_str("]\n");
    fs::write(out.join("sdk.rs"), table).map_err(|error| format!("sdk.rs: {error}"))
}

/// The files of a folder, or the file.
fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let left = path.file_name().is_some_and(|name| LEFT_BEHIND.iter().any(|left| name == *left));
    if left {
        return Ok(());
    }
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(named)? {
        list(&entry.map_err(named)?.path(), files)?;
    }
    Ok(())
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
            Some(Member {
                name: name.replace('/', "-"),
                folder: folder.to_owned(),
                embedded: folder.starts_with("plugins/"),
            })
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

/// Copies a file unless the copy is already the same, so that nothing is rebuilt for a new modification time.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let new = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).map_err(|error| format!("{}: {error}", to.display()))
}
