//! The reference of all keys, `docs/src/configuration/reference.md`: made of what the readers say of their keys.
//! `SLUICE_UPDATE=1 cargo test -p sluice reference` writes it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Absent, KeyDoc, keys};

/// The tables, in the order of the page, each with what it is; deeper tables follow theirs.
const TABLES: &[(&str, &str)] = &[
    ("", "At the top of the main file, before all tables."),
    ("gateway", "Settings of the process."),
    ("listeners.*", "A socket that clients connect to. There has to be one at least."),
    ("certificates.*", "A certificate that listeners can name: `cert` and `key`, or one that is ordered (`acme`)."),
    ("acme.*", "An authority that certificates are ordered from by ACME."),
    ("admin", "The admin listener. Without this table there is none."),
    ("telemetry", "Logs."),
    ("cache", "The memory of the HTTP cache. `routes.NAME.cache` says what is stored."),
    ("compression", "What routes have that compress responses (`routes.NAME.compression`), unless they say otherwise."),
    (
        "plugins.*",
        "A plugin, for what should differ from the defaults: its limits, grants and instances are for all its filters.",
    ),
    ("filters.*", "A use of a plugin with a config of its own. What it leaves out comes from its plugin's table."),
    ("pipelines", "Lists of filters by name."),
    ("consumers.*", "A caller that filters can find by what it shows. Secrets are hashed: `sluice hash`."),
    ("state.*", "A Redis or Valkey service in which gateways share limits and values."),
    ("defaults", "What routes and upstreams have unless they or their group say otherwise."),
    ("groups.*", "What the routes and upstreams of a group have unless they say otherwise."),
    ("upstreams.*", "A service behind the gateway."),
    ("routes.*", "What selects requests, and what is done with them."),
];

const HEAD: &str = "\
# Reference of all keys

<!-- Made of the gateway's sources by `SLUICE_UPDATE=1 cargo test -p sluice reference`. -->

For each key: what it takes, what holds without it, what it means and an example. `NAME` is a name that you give. The file `gateway.toml` \
shows the same keys in a tour.

- Durations are `\"250ms\"`, `\"2s\"`, `\"5m\"`, `\"1h\"`, `\"1d\"`; sizes are `\"64KiB\"`, `\"1MiB\"`, `\"10MB\"` or a number of bytes.
- `${env:NAME}` in a string is an environment variable, `${env:NAME:-default}` has a default for one that is unset or empty, and \
`${file:PATH}` is the text of a file (paths start from the file that has them). A literal `${` is written `$${`. A string that is one \
reference and nothing else can stand for a number or a boolean, too: `workers = \"${env:WORKERS:-4}\"`. In a filter's `config` it stays a string.
- A route's value wins over that of its group (`[groups.NAME.route]`), and that over `[defaults.route]`; in the same way for upstreams. \
Tables are merged key by key; lists and all other values replace. `sluice check --explain-key routes.api.timeouts.request` says which \
value holds and where it is written.
";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/configuration/reference.md")
}

#[test]
fn the_reference_is_up_to_date() {
    let written = render(&keys());
    if std::env::var_os("SLUICE_UPDATE").is_some() {
        fs::write(page(), &written).unwrap();
    }
    let stored = fs::read_to_string(page()).unwrap_or_default();
    let hint = "docs/src/configuration/reference.md is stale: SLUICE_UPDATE=1 cargo test -p sluice reference";
    assert!(stored == written, "{hint}");
}

#[test]
fn every_key_is_described() {
    for KeyDoc { path, meaning, example, expected, absent } in keys() {
        assert!(
            meaning.ends_with('.') && meaning.starts_with(|c: char| c.is_uppercase() || c == '`'),
            "{path}: {meaning}"
        );
        assert!(!expected.is_empty(), "{path}: what does it take?");
        let parsed = format!("key = {example}").parse::<toml::Table>();
        assert!(parsed.is_ok(), "{path}: the example `{example}` is not TOML");
        if let Absent::Value(default) = absent {
            assert_ne!(default, example, "{path}: an example is not the default");
            assert!(format!("key = {default}").parse::<toml::Table>().is_ok(), "{path}: the default `{default}`");
        }
    }
}

fn render(keys: &[KeyDoc]) -> String {
    let mut out = HEAD.to_owned();
    let mut left: Vec<&KeyDoc> = keys.iter().collect();
    for &(section, about) in TABLES {
        let is_below = |path: &str| {
            if section.is_empty() {
                !path.contains('.')
            } else {
                path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
            }
        };
        let (mut here, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|key| is_below(&key.path));
        left = rest;
        if here.is_empty() {
            continue;
        }
        let title = if section.is_empty() { "Top of the file".to_owned() } else { format!("`[{}]`", named(section)) };
        let _ = write!(out, "\n## {title}\n\n{about}\n");
        // Keys of the table itself first, then table by table in the order of reading.
        let mut tables: Vec<&str> = vec![section];
        for key in &here {
            let table = table_of(&key.path);
            if !tables.contains(&table) {
                tables.push(table);
            }
        }
        for table in tables {
            let (keys, rest): (Vec<_>, Vec<_>) = here.into_iter().partition(|key| table_of(&key.path) == table);
            here = rest;
            if keys.is_empty() {
                continue;
            }
            if table != section {
                let _ = write!(out, "\n### `{}`\n", named(table));
            }
            out.push_str("\n| key | value | default | meaning | example |\n|---|---|---|---|---|\n");
            for key in keys {
                row(&mut out, key);
            }
        }
    }
    assert!(left.is_empty(), "keys of tables that the reference does not know: {left:?}");
    out
}

fn row(out: &mut String, key: &KeyDoc) {
    let name = key.path.strip_prefix(table_of(&key.path)).unwrap_or(&key.path).trim_start_matches('.');
    let default = match &key.absent {
        Absent::Required => "required".to_owned(),
        Absent::Value(value) => format!("`{value}`"),
        Absent::SameAs(other) => format!("that of `{other}`"),
        Absent::Unset(words) => (*words).to_owned(),
    };
    let cells = [
        format!("`{}`", named(name)),
        key.expected.clone(),
        default,
        key.meaning.to_owned(),
        format!("`{}`", key.example),
    ];
    let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

/// The table that a key is in.
fn table_of(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(table, _)| table)
}

/// With `NAME` for a name.
fn named(path: &str) -> String {
    path.split('.').map(|step| if step == "*" { "NAME" } else { step }).collect::<Vec<_>>().join(".")
}
