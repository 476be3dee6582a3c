//! The reference of the interface, `docs/src/filters/wit.md`: made of `wit/*.wit`. `SLUICE_UPDATE=1 cargo test --test docs wit` writes it.
//!
//! In which hook a function may be called is read from the table in `wit/types.wit`: a function that no row fits fails the test.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use regex::Regex;
use wit_parser::{Docs, Function, Interface, InterfaceId, Resolve, Type, TypeDef, TypeDefKind, WorldItem};

use crate::markdown::root;

const HEAD: &str = "\
# Reference of the interface

<!-- Made of wit/*.wit by `SLUICE_UPDATE=1 cargo test --test docs wit`. -->

All hooks and functions of the WIT package that filters are written against, for whoever writes bindings or looks for the exact meaning of a call. The \
packages of the [languages](languages.md) wrap them under the names of their language. The sources are in \
[wit/](../../../wit/types.wit).
";

/// Where functions may be called, as the table of the package has it.
struct Phases {
    /// The hooks: the columns of the table.
    columns: Vec<String>,
    /// The specifications of a row, and its cells.
    rows: Vec<(Vec<Covered>, Vec<String>)>,
}

/// What functions a part of the first cell of a row is about.
struct Covered {
    interface: String,
    /// The functions by name; a `…` at the end stands for any end. None: those of a kind.
    functions: Option<Vec<String>>,
    kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reads,
    Writes,
    BodyReads,
    Trailers,
    Choices,
}

impl Kind {
    /// The most specific kind of a function.
    fn of(function: &str) -> Option<Kind> {
        let begins = |starts: &[&str]| starts.iter().any(|start| function.starts_with(start));
        match function {
            "body" | "body-length" => Some(Kind::BodyReads),
            "set" => Some(Kind::Writes),
            _ if function.contains("trailer") => Some(Kind::Trailers),
            _ if begins(&["set-", "append-", "remove-", "edit-", "add-"]) => Some(Kind::Writes),
            _ if begins(&["want-"]) => None,
            _ => Some(Kind::Reads),
        }
    }
}

impl Phases {
    fn read(docs: &str) -> Phases {
        let mut rows = docs.lines().filter(|line| line.starts_with('|')).map(|line| {
            let cells = line.trim().trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        });
        let columns = rows.next().expect("the table of the package")[1..].to_vec();
        let rows = rows.skip(1).map(|cells| (covered(&cells[0]), cells[1..].to_vec())).collect();
        Phases { columns, rows }
    }

    /// Where a function may be called, for people.
    fn of(&self, interface: &str, function: &Function) -> String {
        let docs = function.docs.contents.as_deref().unwrap_or_default();
        if docs.contains("in `configure` only") {
            return "configure".to_owned();
        }
        let cells = self.cells(interface, &function.name);
        let cells = cells.unwrap_or_else(|| {
            panic!(
                "wit/types.wit: no row of the table says in which hook `{interface}.{}` may be called",
                function.name
            )
        });
        let said = self.columns.iter().zip(cells).filter(|(_, cell)| *cell != "–" && !cell.is_empty());
        let said = said.map(|(column, cell)| match cell.strip_prefix("yes") {
            Some("") => column.clone(),
            Some(rest) => format!("{column}{}", rest.replacen(", but", " but", 1)),
            None => cell.clone(),
        });
        said.collect::<Vec<_>>().join(", ")
    }

    /// The row that fits best: one that names the function, then one of its kind, then one of all reads, then one of the whole interface.
    fn cells(&self, interface: &str, function: &str) -> Option<&Vec<String>> {
        let kind = Kind::of(function);
        let find = |fits: &dyn Fn(&Covered) -> bool| {
            let row = self.rows.iter().find(|(all, _)| all.iter().any(|one| one.interface == interface && fits(one)));
            row.map(|(_, cells)| cells)
        };
        let names = |one: &Covered| {
            one.functions.as_ref().is_some_and(|names| {
                let is = |name: &String| match name.strip_suffix('…') {
                    Some(start) => function.starts_with(start),
                    None => name == function,
                };
                names.iter().any(is)
            })
        };
        find(&names)
            .or_else(|| find(&|one| one.functions.is_none() && one.kind.is_some() && one.kind == kind))
            .or_else(|| {
                find(&|one| one.functions.is_none() && one.kind == Some(Kind::Reads) && kind != Some(Kind::Writes))
            })
            .or_else(|| find(&|one| one.functions.is_none() && one.kind.is_none()))
    }
}

/// Takes the first cell of a row apart: `` `interest`, `crypto.key-set`, other `request` reads, `route` choices (`choose-…`, `hash-key`) ``.
fn covered(cell: &str) -> Vec<Covered> {
    let part = Regex::new(r"`([^`]+)`((?: [a-z]+)*)(?: \(([^)]*)\))?(?:, |$)").expect("a pattern");
    let code = Regex::new("`([^`]+)`").expect("a pattern");
    let parts = part.captures_iter(cell).map(|found| {
        let (name, words) = (&found[1], found[2].trim());
        let mut functions: Option<Vec<String>> =
            found.get(3).map(|list| code.captures_iter(list.as_str()).map(|name| name[1].to_owned()).collect());
        let interface = match name.split_once('.') {
            Some((interface, function)) => {
                functions = Some(vec![function.to_owned()]);
                interface
            }
            None => name,
        };
        let kind = match words {
            "reads" => Some(Kind::Reads),
            "writes" => Some(Kind::Writes),
            "body reads" => Some(Kind::BodyReads),
            "trailers" => Some(Kind::Trailers),
            "choices" => Some(Kind::Choices),
            _ => None,
        };
        // What else is a choice has no name of that kind.
        if let (Some(Kind::Choices), Some(names)) = (kind, &mut functions) {
            names.push("no-retry".to_owned());
        }
        Covered { interface: interface.to_owned(), functions, kind }
    });
    parts.collect()
}

/// Each version's functions and types, by `interface.name`.
fn versions(resolve: &Resolve) -> BTreeMap<String, String> {
    let mut since = BTreeMap::new();
    let mut folders: Vec<_> = fs::read_dir(root().join("tests/conformance/released"))
        .expect("the released versions")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    folders.sort();
    let read = |folder: &Path| {
        let mut resolve = Resolve::default();
        resolve.push_dir(folder).unwrap_or_else(|error| panic!("{}: {error:#}", folder.display()));
        resolve
    };
    let mut note = |resolve: &Resolve| {
        for (_, package) in resolve.packages.iter() {
            let version = package.name.version.as_ref().expect("a version").to_string();
            for (name, id) in &package.interfaces {
                let interface = &resolve.interfaces[*id];
                for member in interface.functions.keys().chain(interface.types.keys()) {
                    since.entry(format!("{name}.{member}")).or_insert_with(|| version.clone());
                }
            }
        }
    };
    folders.iter().for_each(|folder| note(&read(folder)));
    note(resolve);
    since
}

fn name_of(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else {
        return match ty {
            Type::Bool => "bool",
            Type::U8 => "u8",
            Type::U16 => "u16",
            Type::U32 => "u32",
            Type::U64 => "u64",
            Type::S8 => "s8",
            Type::S16 => "s16",
            Type::S32 => "s32",
            Type::S64 => "s64",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Char => "char",
            Type::String => "string",
            Type::ErrorContext | Type::Id(_) => "error-context",
        }
        .to_owned();
    };
    let definition = &resolve.types[*id];
    if let Some(name) = &definition.name {
        return name.clone();
    }
    let of = |ty: &Type| name_of(resolve, ty);
    match &definition.kind {
        TypeDefKind::Option(inner) => format!("option<{}>", of(inner)),
        TypeDefKind::List(inner) => format!("list<{}>", of(inner)),
        TypeDefKind::Tuple(tuple) => format!("tuple<{}>", tuple.types.iter().map(of).collect::<Vec<_>>().join(", ")),
        TypeDefKind::Result(result) => match (&result.ok, &result.err) {
            (None, None) => "result".to_owned(),
            (Some(ok), None) => format!("result<{}>", of(ok)),
            (ok, Some(error)) => format!("result<{}, {}>", ok.as_ref().map_or("_".to_owned(), of), of(error)),
        },
        other => panic!("a type that the reference does not show yet: {}", other.as_str()),
    }
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let params: Vec<_> =
        function.params.iter().map(|param| format!("{}: {}", param.name, name_of(resolve, &param.ty))).collect();
    let result = function.result.as_ref().map(|ty| format!(" -> {}", name_of(resolve, ty))).unwrap_or_default();
    format!("{}: func({}){result}", function.name, params.join(", "))
}

/// Documentation as paragraphs, its headings `deeper` levels down.
fn paragraphs(docs: &Docs, deeper: usize) -> String {
    let mut is_code = false;
    let lines = docs.contents.as_deref().unwrap_or_default().lines().map(|line| {
        is_code ^= line.starts_with("```");
        if line.starts_with('#') && !is_code { format!("{}{line}\n", "#".repeat(deeper)) } else { format!("{line}\n") }
    });
    lines.collect::<String>().trim().to_owned()
}

/// Documentation in the cell of a table.
fn cell(docs: &Docs) -> String {
    paragraphs(docs, 0).replace('\n', " ").replace('|', "\\|")
}

fn type_of(out: &mut String, resolve: &Resolve, name: &str, definition: &TypeDef, since: &str) {
    let _ = write!(out, "\n#### {} `{name}`\n\n", definition.kind.as_str());
    let docs = paragraphs(&definition.docs, 0);
    if !docs.is_empty() {
        let _ = write!(out, "{docs}\n\n");
    }
    let rows: Vec<(String, &Docs)> = match &definition.kind {
        TypeDefKind::Record(record) => record
            .fields
            .iter()
            .map(|field| (format!("{}: {}", field.name, name_of(resolve, &field.ty)), &field.docs))
            .collect(),
        TypeDefKind::Variant(variant) => {
            let case = |case: &wit_parser::Case| {
                let holds = case.ty.as_ref().map(|ty| format!("({})", name_of(resolve, ty))).unwrap_or_default();
                format!("{}{holds}", case.name)
            };
            variant.cases.iter().map(|one| (case(one), &one.docs)).collect()
        }
        TypeDefKind::Enum(cases) => cases.cases.iter().map(|case| (case.name.clone(), &case.docs)).collect(),
        TypeDefKind::Flags(flags) => flags.flags.iter().map(|flag| (flag.name.clone(), &flag.docs)).collect(),
        other => panic!("a type that the reference does not show yet: {}", other.as_str()),
    };
    let column = if matches!(definition.kind, TypeDefKind::Record(_)) { "field" } else { "case" };
    let _ = write!(out, "| {column} | meaning |\n|---|---|\n");
    for (name, docs) in rows {
        let _ = writeln!(out, "| `{name}` | {} |", cell(docs));
    }
    let _ = write!(out, "\nSince {since}.\n");
}

/// The interfaces that the world imports, or exports, in its order.
fn interfaces(resolve: &Resolve, items: &wit_parser::IndexMap<wit_parser::WorldKey, WorldItem>) -> Vec<InterfaceId> {
    let ids = items.values().filter_map(|item| match item {
        WorldItem::Interface { id, .. } => Some(*id),
        WorldItem::Function(_) | WorldItem::Type { .. } => None,
    });
    let mut ids: Vec<_> = ids.collect();
    ids.dedup();
    ids.retain(|id| resolve.interfaces[*id].name.is_some());
    ids
}

fn named(interface: &Interface) -> &str {
    interface.name.as_deref().unwrap_or_default()
}

fn render() -> String {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit")).expect("the WIT package parses");
    let since = versions(&resolve);
    let docs = &resolve.packages[package].docs;
    let phases = Phases::read(docs.contents.as_deref().expect("the package is described"));
    let world = resolve.select_world(&[package], Some("every-hook")).expect("the world of all hooks");
    let world = &resolve.worlds[world];
    let mut out = HEAD.to_owned();
    let version = resolve.packages[package].name.to_string();
    let _ = write!(
        out,
        "\nThis is `{version}`.\n\n{}\n\n## Hooks\n\nA component exports those that it has.\n",
        paragraphs(docs, 1)
    );
    for id in interfaces(&resolve, &world.exports) {
        let interface = &resolve.interfaces[id];
        let _ = write!(out, "\n### Hook `{}`\n\n{}\n", named(interface), paragraphs(&interface.docs, 3));
        for (name, function) in &interface.functions {
            let docs = paragraphs(&function.docs, 3);
            let since = &since[&format!("{}.{name}", named(interface))];
            let _ = write!(out, "\n`{}`\n", signature(&resolve, function));
            if !docs.is_empty() {
                let _ = write!(out, "\n{docs}\n");
            }
            let _ = write!(out, "\n*Since {since}.*\n");
        }
    }
    out.push_str("\n## Functions\n\nA component imports the interfaces that it uses. Below each function are the hooks in which it may be called.\n");
    for id in interfaces(&resolve, &world.imports) {
        let interface = &resolve.interfaces[id];
        let name = named(interface);
        let _ = write!(out, "\n### Interface `{name}`\n\n{}\n", paragraphs(&interface.docs, 3));
        for (type_name, id) in &interface.types {
            let definition = &resolve.types[*id];
            // A `use` of another interface's type is described there.
            if !matches!(definition.kind, TypeDefKind::Type(_)) {
                type_of(&mut out, &resolve, type_name, definition, &since[&format!("{name}.{type_name}")]);
            }
        }
        for (function_name, function) in &interface.functions {
            let since = &since[&format!("{name}.{function_name}")];
            let _ = write!(
                out,
                "\n#### `{function_name}`\n\n`{}`\n\n{}\n\n*In: {}. Since {since}.*\n",
                signature(&resolve, function),
                paragraphs(&function.docs, 4),
                phases.of(name, function),
            );
        }
    }
    out
}

#[test]
fn the_reference_of_the_wit_is_up_to_date() {
    let page = root().join("docs/src/filters/wit.md");
    let written = render();
    if std::env::var_os("SLUICE_UPDATE").is_some() {
        fs::write(&page, &written).expect("the page");
    }
    let stored = fs::read_to_string(&page).unwrap_or_default();
    assert!(stored == written, "docs/src/filters/wit.md is stale: SLUICE_UPDATE=1 cargo test --test docs wit");
}

/// The rows of the table stand for the right functions.
#[test]
fn the_table_of_hooks_is_understood() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit")).expect("the WIT package parses");
    let phases = Phases::read(resolve.packages[package].docs.contents.as_deref().expect("the package is described"));
    let of = |interface: &str, name: &str| {
        let id = resolve.packages[package].interfaces[interface];
        phases.of(interface, &resolve.interfaces[id].functions[name])
    };
    assert_eq!(of("interest", "request-body"), "configure");
    assert_eq!(of("crypto", "token-verifier"), "configure");
    assert_eq!(of("request", "want-body"), "on-request");
    assert_eq!(of("request", "set-header"), "request hooks");
    assert_eq!(of("request", "header"), "request hooks, select-upstream, response hooks, piece hooks, on-complete");
    assert_eq!(of("response", "trailer"), "on-response-trailers");
    assert_eq!(of("route", "choose-upstream"), "select-upstream");
    assert_eq!(of("route", "no-retry"), "select-upstream");
    assert_eq!(of("route", "summary"), "on-complete");
    assert_eq!(of("context", "set"), "request hooks, select-upstream, response hooks, piece hooks");
    assert_eq!(of("log", "log"), "configure, request hooks, select-upstream, response hooks, piece hooks, on-complete");
}
