//! What routes and upstreams have in common: `[defaults]` for all, and `[groups.NAME]` for those that say `group = "NAME"`. Both have
//! the tables `route` and `upstream`. A route's own value wins, then its group's, then the defaults'; tables are merged key by key,
//! all else replaces.

use super::key::KeyDoc;
use super::model::Calls;
use super::read::Table;
use super::routes::{self, Known, Shared};
use super::upstreams;

const KINDS: [(&str, &str, &str); 2] = [
    (
        "route",
        "What routes have unless they say otherwise: the keys of a route but for its match and what answers it, so `host`, `pipeline`, \
         `priority`, `timeouts`, `limits`, `criticality`, `retry`, `deadline`, `upgrade`, `cache`, `compression` and `decompress_requests`.",
        r#"{ timeouts = { request = "10s" } }"#,
    ),
    (
        "upstream",
        "What upstreams have unless they say otherwise: the keys of an upstream but for its endpoints, so `balance` and what belongs to it, \
         `protocol`, `tls`, `pool`, `dns`, `tolerate`, `health`, `outlier_detection`, \
         `circuit_breaker` and `limits`.",
        r#"{ balance = "least_request" }"#,
    ),
];

/// Reads the defaults and all groups, used or not: what is wrong with them is said once, where it is written. Answers how filters call
/// upstreams.
pub(super) fn check(root: &Table<'_>, known: &Known<'_>) -> Calls {
    let defaults = root.table("defaults");
    let mut of_routes = None;
    for (kind, meaning, example) in KINDS {
        of_routes = of_routes.or(check_kind(root, &defaults, kind, meaning, example, known));
    }
    root.section("groups", |_, group| {
        for (kind, meaning, example) in KINDS {
            check_kind(root, &group, kind, meaning, example, known);
        }
        Some(())
    });
    routes::calls(of_routes)
}

/// What a table of routes says; none for one of upstreams.
fn check_kind<'r>(
    root: &Table<'r>,
    group: &Table<'r>,
    kind: &'static str,
    meaning: &'static str,
    example: &'static str,
    known: &Known<'_>,
) -> Option<Shared> {
    let mut table = group.optional_table(kind)?;
    if root.reader.is_listing() {
        // Its keys are those of the routes and upstreams.
        root.reader
            .list(|| KeyDoc { expected: "a table".to_owned(), ..KeyDoc::new(table.path.clone(), meaning, example) });
        return None;
    }
    if group.path != "defaults" {
        table.inherit(root.level(&["defaults", kind]));
    }
    if kind == "route" {
        return Some(routes::shared(&table, known));
    }
    upstreams::shared(&table, None);
    None
}

/// Lets a route or an upstream inherit from its group and from the defaults.
pub(super) fn inherit<'r>(root: &Table<'r>, table: &mut Table<'r>, kind: &'static str) {
    let groups = root.names("groups");
    let group = table
        .key("group", "The group that it belongs to: what it leaves out comes from there.", r#""internal""#)
        .get("none: what it leaves out comes from `[defaults]`", |item| item.reference("group", &groups));
    if let Some(group) = group {
        table.inherit(root.level(&["groups", &group, kind]));
    }
    table.inherit(root.level(&["defaults", kind]));
}
