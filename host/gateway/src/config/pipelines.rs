//! Reads `[pipelines]` and the pipelines of routes: lists of filters and of groups of filters.

use std::collections::{BTreeMap, BTreeSet};

use super::defaults;
use super::item::Item;
use super::model::{AnyOf, Name, Pipeline, Step, TryNextOn};
use super::read::Table;

/// How deep groups may nest. More could hardly be read.
const MAX_DEPTH: usize = 4;

/// Reads `[pipelines]`.
pub(super) fn named(table: &Table<'_>, filters: &BTreeSet<String>) -> Vec<Pipeline> {
    let meaning = "The filters and groups of filters of the pipeline, in their order. `default` is for the routes that name none.";
    let named = table.named(meaning, r#"["login", "quota"]"#).into_iter();
    let read = named.filter_map(|(name, item)| {
        let item = item.taking("a list of filters and groups");
        let steps = item.list(|item| step(&item, filters, 1))?;
        Some(Pipeline { name: Name::from(name.as_str()), steps })
    });
    read.collect()
}

/// Reads the pipeline of a route.
pub(super) fn of_route(
    item: &Item<'_>,
    filters: &BTreeSet<String>,
    pipelines: &BTreeMap<String, Vec<Step<Name>>>,
) -> Option<Vec<Step<Name>>> {
    if item.as_str().is_none() {
        let item = item.clone().taking("a list of filters and groups, or the name of a pipeline");
        return item.list(|item| step(&item, filters, 1));
    }
    let names = pipelines.keys().cloned().collect();
    let name = item.clone().reference("pipeline", &names)?;
    pipelines.get(name.as_str()).cloned()
}

/// Reads the name of a filter, or a group. `depth` counts the groups around and including this one.
fn step(item: &Item<'_>, filters: &BTreeSet<String>, depth: usize) -> Option<Step<Name>> {
    if !item.is_table() {
        return item.clone().reference("filter", filters).map(Step::Filter);
    }
    if depth > MAX_DEPTH {
        item.fail(format!("groups of filters nest at most {MAX_DEPTH} deep"));
        return None;
    }
    let table = item.clone().table()?;
    let members = |item: Item<'_>| {
        let item = item.taking("a list of filters and groups");
        // A group has the keys of a group again: they are listed once.
        if item.reader.is_listing() {
            return None;
        }
        item.filled(|item| step(&item, filters, depth + 1))
    };
    let any_of = table
        .key(
            "any_of",
            "A group of filters of which one has to let the request pass. They are tried in this order.",
            r#"["key", "jwt"]"#,
        )
        .get("-", members);
    let all_of = table
        .key(
            "all_of",
            "A group of filters that all have to let the request pass, as a member of `any_of`.",
            r#"["jwt", "access"]"#,
        )
        .get("-", members);
    let try_next_on = table
        .key(
            "try_next_on",
            "The statuses of an answer after which `any_of` tries the next member. Every other answer is final.",
            "[401, 403]",
        )
        .or(TryNextOn(vec![defaults::TRY_NEXT_ON]), |item| {
            item.filled(|item| item.integer(400..=499u16)).map(TryNextOn)
        });
    let optional = table
        .key(
            "optional",
            "Whether a request that all members of `any_of` refuse goes on, without a caller and without an edit of theirs.",
            "true",
        )
        .or(defaults::ANY_OF_OPTIONAL, Item::boolean);
    match (table.has("any_of"), table.has("all_of")) {
        (true, false) => any_of.map(|members| Step::AnyOf(AnyOf { members, try_next_on, optional })),
        (false, true) => {
            for key in ["try_next_on", "optional"].into_iter().filter(|key| table.has(key)) {
                table.fail(format!("`{key}` is only for `any_of`"));
            }
            all_of.map(Step::AllOf)
        }
        (true, true) | (false, false) => {
            table.fail("expected the name of a filter, or a group with one of `any_of` and `all_of`");
            None
        }
    }
}
