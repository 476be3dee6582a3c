//! The WIT package against what was released of it: within 0.1 it only grows. A component that was built for an older 0.1.x keeps
//! loading, and a filter's source keeps compiling, only if nothing of the interface goes and nothing changes.
//!
//! `released/` has a copy of each released version. With a release the new one is added; the copies never change.

use std::collections::BTreeSet;
use std::path::Path;

use wit_component::WitPrinter;
use wit_parser::Resolve;

/// The items of a package, each with its place: functions, types and uses of interfaces, imports and exports of worlds.
struct Package {
    version: String,
    items: BTreeSet<String>,
}

fn read(folder: &Path) -> Package {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(folder).unwrap_or_else(|error| panic!("{}: {error:#}", folder.display()));
    let mut printer = WitPrinter::default();
    printer.emit_docs(false);
    printer.print(&resolve, package, &[]).expect("a package that parses can be printed");
    let version = resolve.packages[package].name.version.as_ref().expect("the package has a version").to_string();
    Package { version, items: items(&printer.output.to_string()) }
}

/// Takes a printed package apart: a block opens at the margin, and its items begin at the first indentation.
fn items(printed: &str) -> BTreeSet<String> {
    let mut items = BTreeSet::new();
    let (mut block, mut item) = (String::new(), String::new());
    for line in printed.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('@')) {
        let depth = line.len() - line.trim_start().len();
        let line = line.trim();
        match depth {
            0 => block = line.trim_end_matches([' ', '{']).to_owned(),
            2 if line.starts_with("use ") => {
                let (from, names) = line.trim_end_matches("};").split_once(".{").expect("a list of names");
                items.extend(names.split(',').map(|name| format!("{block}: {from}.{}", name.trim())));
            }
            _ => {
                item.push_str(line);
                item.push(' ');
                if depth == 2 && (line.ends_with(';') || line.ends_with('}')) {
                    items.insert(format!("{block}: {}", item.trim_end()));
                    item.clear();
                }
            }
        }
    }
    items
}

/// What a world exports is what its components have: neither more nor less can be asked of them later.
fn is_export(item: &str) -> bool {
    item.starts_with("world ") && item.contains(": export ")
}

#[test]
fn the_interface_only_grows() {
    let published = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit"));
    let releases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/released");
    let mut compared = 0;
    for entry in std::fs::read_dir(releases).expect("the released versions") {
        let released = read(&entry.expect("an entry").path());
        let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| minor.to_owned());
        assert_eq!(
            minor(&published.version),
            minor(&released.version),
            "a new minor version needs an adapter for components of the old one"
        );
        let lost: Vec<_> = released.items.difference(&published.items).collect();
        assert!(lost.is_empty(), "wit/ lacks or changes what {} has:\n{lost:#?}", released.version);
        let worlds: BTreeSet<_> =
            released.items.iter().filter_map(|item| item.split_once(": ")).map(|(at, _)| at).collect();
        let more: Vec<_> = published
            .items
            .difference(&released.items)
            .filter(|item| is_export(item) && worlds.contains(item.split_once(": ").expect("a place").0))
            .collect();
        assert!(more.is_empty(), "worlds of {} export more; make a new world:\n{more:#?}", released.version);
        compared += 1;
    }
    assert!(compared > 0, "no released version to compare with");
}

#[test]
fn items_have_their_places() {
    let printed = "package a:b@0.1.0;\n\ninterface i {\n  use types.{error, field};\n\n  record r {\n    x: u8,\n  }\n\n  f: func(a: r) -> result<_, error>;\n}\n\nworld w {\n  import i;\n  export j;\n}\n";
    let wanted = [
        "interface i: use types.error",
        "interface i: use types.field",
        "interface i: record r { x: u8, }",
        "interface i: f: func(a: r) -> result<_, error>;",
        "world w: import i;",
        "world w: export j;",
    ];
    assert_eq!(items(printed), wanted.iter().map(|item| (*item).to_owned()).collect());
}
