//! Builds the filters of `examples/filters/`, each language's by its own command, and runs their own tests. What was built is kept in the target folder by a hash of all
//! that it is made of.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use sluice_harness::Gateway;
use sluice_harness::gateway::binary;
use sluice_harness::tools::{need, tools};

/// The three filters.
pub(super) const FILTERS: [&str; 3] = ["stamp", "api-key", "redact"];

/// What languages with an interpreter have besides: bodies in pieces, and calls to services.
const INTERPRETED: [&str; 5] = ["stamp", "api-key", "redact", "mask", "ask"];

/// A language whose tools are here.
pub(super) struct Built {
    pub(super) name: &'static str,
    /// Whether the gateway calls its components directly.
    pub(super) direct: bool,
    pub(super) filters: Vec<(&'static str, PathBuf)>,
}

/// Every language whose tools are here, built once for all tests.
pub(super) fn built() -> &'static [Built] {
    static BUILT: LazyLock<Vec<Built>> = LazyLock::new(|| {
        let found =
            [rust(), c(), zig(), go(), javascript("javascript", "js"), javascript("typescript", "ts"), python()];
        let found: Vec<Built> = found.into_iter().flatten().collect();
        found.iter().flat_map(|language| &language.filters).for_each(|(_, file)| compile(file));
        found
    });
    &BUILT
}

/// Compiles a component into the cache, so that the gateways of the tests find it there: an interpreter takes its time.
fn compile(file: &Path) {
    let said = Gateway::setup().command_output("", &["plugin", "inspect", file.to_str().expect("UTF-8")]);
    assert!(said.status.success(), "{}: {}", file.display(), said.stderr);
}

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).expect("the top of the repository")
}

fn example(language: &str) -> PathBuf {
    root().join("examples/filters").join(language)
}

fn target() -> PathBuf {
    binary().ancestors().nth(2).expect("the target folder").to_owned()
}

/// The build of the gateway has made them.
fn rust() -> Option<Built> {
    let file = |filter| (filter, target().join("plugins").join(format!("rust-{filter}.wasm")));
    Some(Built { name: "rust", direct: true, filters: FILTERS.map(file).into() })
}

fn c() -> Option<Built> {
    let [make, _clang, componentize] = need(["make", "clang-14", "sluice-componentize"])?;
    let command = |out: &Path| by_make(&make, "c", out).arg(argument("COMPONENTIZE", &componentize)).built();
    Some(kept("c", true, &FILTERS, &["sdk/c", "host/componentize/src"], command))
}

fn zig() -> Option<Built> {
    let [make, python, _package, componentize] = need(["make", "python", "python-zig", "sluice-componentize"])?;
    let command = |out: &Path| {
        let mut make = by_make(&make, "zig", out);
        let cache = target().join("languages/zig-cache");
        make.env("ZIG_GLOBAL_CACHE_DIR", &cache).env("ZIG_LOCAL_CACHE_DIR", &cache);
        make.arg(argument("ZIG", &python) + " -m ziglang").arg(argument("COMPONENTIZE", &componentize)).built();
    };
    Some(kept("zig", true, &FILTERS, &["sdk/c", "host/componentize/src", "tests/external/requirements.txt"], command))
}

fn go() -> Option<Built> {
    let [make, go, componentize] = need(["make", "go", "sluice-componentize"])?;
    let command = |out: &Path| {
        let mut make = by_make(&make, "go", out);
        make.env("GOCACHE", target().join("languages/go-cache")).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
        make.arg(argument("GO", &go)).arg(argument("COMPONENTIZE", &componentize)).arg("test").arg("all").built();
    };
    Some(kept("go", false, &FILTERS, &["sdk/go", "host/componentize/src", "tests/external/requirements.txt"], command))
}

fn javascript(name: &'static str, ending: &'static str) -> Option<Built> {
    let [node] = need(["node"])?;
    let command = |out: &Path| {
        // As `npm install` lays it out.
        let place = out.join("place");
        copy(&example(name), &place);
        let modules = place.join("node_modules");
        copy(&root().join("sdk/javascript"), &modules.join("sluice-filter"));
        for package in ["componentize-qjs", "esbuild", "typescript"] {
            symlink(tools().join("node/node_modules").join(package), modules.join(package)).expect("a link");
        }
        if ending == "ts" {
            Command::new(&node).current_dir(&place).arg("node_modules/typescript/bin/tsc").built();
        } else {
            let of_package = "package.test.mjs";
            fs::copy(root().join("tests/packages").join(of_package), place.join(of_package)).expect("a copy");
            Command::new(&node).current_dir(&place).arg("--test").built();
        }
        let mut build = Command::new(&node);
        build.current_dir(&place).args(["node_modules/sluice-filter/build.mjs", "build"]);
        build.args(INTERPRETED.map(|filter| format!("{filter}.{ending}")));
        build.arg("--out").arg(out).arg("--wit").arg(root().join("wit")).built();
    };
    Some(kept(name, false, &INTERPRETED, &["sdk/javascript", "tests/packages", "tests/external/package.json"], command))
}

fn python() -> Option<Built> {
    let [make, python, _tool] = need(["make", "python", "componentize-py"])?;
    let command = |out: &Path| {
        let mut of_package = Command::new(&python);
        of_package.current_dir(root()).env("PYTHONPATH", root().join("sdk/python")).env("PYTHONDONTWRITEBYTECODE", "1");
        of_package.args(["-m", "unittest", "tests/packages/test_package.py"]).built();
        by_make(&make, "python", out).arg(argument("PYTHON", &python)).args(["test", "all"]).built();
    };
    Some(kept(
        "python",
        false,
        &INTERPRETED,
        &["sdk/python", "tests/packages", "tests/external/requirements.txt"],
        command,
    ))
}

fn by_make(make: &Path, language: &str, out: &Path) -> Command {
    let mut command = Command::new(make);
    command.arg("-C").arg(example(language)).arg(argument("out", out)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn argument(name: &str, value: &Path) -> String {
    format!("{name}={}", value.display())
}

/// Builds unless it was built of the same sources. A build that fails leaves nothing.
fn kept(name: &'static str, direct: bool, filters: &[&'static str], of: &[&str], build: impl Fn(&Path)) -> Built {
    let mut hash = DefaultHasher::new();
    for part in of.iter().map(|part| root().join(part)).chain([example(name), root().join("wit")]) {
        for file in files(&part) {
            // Of all checkouts that have the same sources, one builds.
            hash.write(file.strip_prefix(root()).expect("a file of the repository").as_os_str().as_encoded_bytes());
            hash.write(&fs::read(&file).expect("a source"));
        }
    }
    let folder = target().join("languages").join(format!("{name}-{:016x}", hash.finish()));
    let wasm = |filter: &str| folder.join(format!("{filter}.wasm"));
    if !filters.iter().all(|filter| wasm(filter).exists()) {
        let half = folder.with_extension("half");
        let _ = fs::remove_dir_all(&half);
        fs::create_dir_all(&half).expect("a folder");
        build(&half);
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&half, &folder).expect("a new name");
    }
    Built { name, direct, filters: filters.iter().map(|filter| (*filter, wasm(filter))).collect() }
}

/// The files of a folder, or the file, in the order of their names; without what builds leave beside them.
fn files(path: &Path) -> Vec<PathBuf> {
    const BUILT: [&str; 3] = ["node_modules", "build", "__pycache__"];
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    entries.retain(|entry| entry.file_name().is_none_or(|name| !BUILT.iter().any(|built| OsStr::new(built) == name)));
    entries.sort();
    entries.iter().flat_map(|entry| files(entry)).collect()
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).expect("a file below it"));
        fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
        fs::copy(&file, &copy).expect("a copy");
    }
}

trait Run {
    /// Runs the command to its end, which has to be a good one.
    fn built(&mut self);
}

impl Run for Command {
    fn built(&mut self) {
        let output = self.output().unwrap_or_else(|error| panic!("{self:?}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{self:?}: {}{}", text(&output.stdout), text(&output.stderr));
    }
}
