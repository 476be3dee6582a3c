//! Reads what a case expects. Each expectation is a place in what is seen and a value, so that one comparison serves all of them.

use serde_json::Value;

use super::super::filters::json_value;
use super::super::item::Item;
use super::super::model::cases::{Budget, Expected, Resource};
use super::super::read::Table;
use super::super::tree::Value as Written;
use super::{bytes, located, micros};

/// The most instructions and host calls that a budget can allow.
const MOST: u64 = 1 << 40;

/// What is expected of a step, and the most that it may use.
pub(super) fn read(table: &Table<'_>) -> (Vec<Expected>, Vec<Budget>) {
    let mut all = Expectations { found: Vec::new() };
    let verdict = |item: Item<'_>| {
        item.parse(r#""continue", "respond" or "fail""#, |text| {
            ["continue", "respond", "fail"].contains(&text).then(|| text.into())
        })
    };
    all.add(
        &["verdict"],
        table
            .key(
                "verdict",
                "How the request hooks end: the filter lets the request on, answers it, or fails.",
                r#""respond""#,
            )
            .get("any", |item| placed(item, verdict)),
    );
    all.add(
        &["failure"],
        table
            .key(
                "failure",
                "How a hook fails, as the metric `sluice_filter_failures_total` names it, or `body`.",
                r#""trap""#,
            )
            .get("any", |item| placed(item, text)),
    );
    all.add(
        &["reason"],
        table
            .key("reason", "The reason of an answer, as the access log has it.", r#""no-key""#)
            .get("any", |item| placed(item, text)),
    );
    all.add(
        &["consumer"],
        table
            .key("consumer", "Who the caller is in the end; `false`: nobody.", r#""acme""#)
            .get("any", |item| placed(item, text)),
    );
    if let Some(upstream) = table.optional_table("upstream") {
        all.upstream(&upstream);
    }
    if let Some(response) = table.optional_table("response") {
        all.response(&response);
    }
    let log = |item: Item<'_>| Some(item.list(Item::string)?.into());
    all.add(
        &["log"],
        table
            .key("log", "The lines that the filter writes, all of them, each behind its level.", r#"["warn: no key"]"#)
            .get("any", |item| placed(item, log)),
    );
    all.add(
        &["http"],
        table
            .key(
                "http",
                "The outbound calls, all of them: method, URL, and the body where there is one.",
                r#"["GET https://auth.example/check"]"#,
            )
            .get("any", |item| placed(item, log)),
    );
    all.named(table, "context", "A fact in the context in the end; `false`: not there.", r#""eu""#, any);
    all.named(
        table,
        "metrics",
        "A metric of the filter: its name, with its labels as `/metrics` shows them.",
        "1",
        any,
    );
    if let Some(spaces) = table.optional_table("kv") {
        for (space, item) in
            spaces.named("Values of a space in the end, by their keys; `false`: not there.", r#"{ a = "1" }"#)
        {
            let Some(keys) = item.taking("a table").table() else { continue };
            for (key, item) in keys.named("A value in the end; `false`: not there.", r#""1""#) {
                all.add(&["kv", &space, &key], placed(item, text));
            }
        }
    }
    if let Some(selection) = table.optional_table("selection") {
        all.add(
            &["selection", "upstream"],
            selection
                .key("upstream", "The upstream that is chosen.", r#""orders""#)
                .get("any", |item| placed(item, text)),
        );
        all.add(
            &["selection", "endpoints"],
            selection
                .key("endpoints", "The endpoints that are chosen.", r#"["10.0.0.1:80"]"#)
                .get("any", |item| placed(item, log)),
        );
        all.add(
            &["selection", "hash_key"],
            selection.key("hash_key", "The key that is chosen by.", r#""acme""#).get("any", |item| placed(item, text)),
        );
    }
    (all.found, table.optional_table("budget").map_or_else(Vec::new, |table| budget(&table)))
}

struct Expectations {
    found: Vec<Expected>,
}

impl Expectations {
    fn add(&mut self, path: &[&str], value: Option<Placed>) {
        let path = path.iter().map(|&part| part.to_owned()).collect();
        self.found.extend(value.map(|(value, at)| Expected { path, value, at }));
    }

    fn named(
        &mut self,
        table: &Table<'_>,
        key: &'static str,
        meaning: &'static str,
        example: &'static str,
        read: fn(Item<'_>) -> Option<Value>,
    ) {
        let Some(named) = table.optional_table(key) else { return };
        for (name, item) in named.named(meaning, example) {
            self.add(&[key, &name], placed(item, read));
        }
    }

    fn upstream(&mut self, table: &Table<'_>) {
        let keys = [
            ("method", "The method that the upstream sees.", r#""GET""#),
            ("path", "The path that it sees.", r#""/orders""#),
            ("query", "The query that it sees; `false`: none.", r#""page=2""#),
        ];
        for (key, meaning, example) in keys {
            let found = table.key(key, meaning, example).get("any", |item| placed(item, text));
            self.add(&["upstream", key], found);
        }
        self.message("upstream", table);
    }

    fn response(&mut self, table: &Table<'_>) {
        let found = table
            .key("status", "The status that the client sees.", "401")
            .get("any", |item| placed(item, |item| item.integer(100..=599u16).map(Value::from)));
        self.add(&["response", "status"], found);
        if let Some(problem) = table.optional_table("problem") {
            let named = problem.named("A member of the problem document (RFC 9457).", r#""a key is needed""#);
            for (name, item) in named {
                self.add(&["response", "problem", &name], placed(item, any));
            }
        }
        if let Some(trailers) = table.optional_table("trailers") {
            for (name, item) in trailers.named("A trailer; `false`: not there.", r#""0""#) {
                self.add(&["response", "trailers", &name.to_ascii_lowercase()], placed(item, texts));
            }
        }
        self.message("response", table);
    }

    fn message(&mut self, of: &str, table: &Table<'_>) {
        if let Some(headers) = table.optional_table("headers") {
            let named = headers.named("A field, or the list of its values; `false`: not there.", r#""acme""#);
            for (name, item) in named {
                self.add(&[of, "headers", &name.to_ascii_lowercase()], placed(item, texts));
            }
        }
        let body = table.key("body", "The body.", r#""hello""#).get("any", |item| placed(item, text));
        self.add(&[of, "body"], body);
        let json = table.key("json", "The body, as JSON.", r#"{ amount = 3 }"#).get("any", |item| placed(item, any));
        self.add(&[of, "json"], json);
        let part =
            table.key("body_contains", "A part of the body.", r#""hello""#).get("any", |item| placed(item, text));
        self.add(&[of, "body_contains"], part);
    }
}

fn budget(table: &Table<'_>) -> Vec<Budget> {
    let time = |item: Item<'_>| item.duration_up_to(std::time::Duration::from_secs(60)).map(micros);
    let number = |item: Item<'_>| item.integer(0..=MOST as i64).and_then(|number| u64::try_from(number).ok());
    let most = |item: Item<'_>, read: &dyn Fn(Item<'_>) -> Option<u64>| {
        let at = located(&item);
        Some((read(item)?, at))
    };
    let found = [
        (
            Resource::Time,
            table
                .key("time", "Time of all hooks together. It depends on the machine: allow much.", r#""20ms""#)
                .get("any", |item| most(item, &time)),
        ),
        (
            Resource::Instructions,
            table
                .key(
                    "instructions",
                    "Instructions of the component in all hooks together. The same on every machine.",
                    "50_000",
                )
                .get("any", |item| most(item, &number)),
        ),
        (
            Resource::Memory,
            table.key("memory", "Linear memory of the instance.", r#""2MiB""#).get("any", |item| most(item, &bytes)),
        ),
        (
            Resource::HostCalls,
            table
                .key("host_calls", "Calls of the gateway's functions in all hooks together.", "12")
                .get("any", |item| most(item, &number)),
        ),
    ];
    let budget = |(of, found): (Resource, Option<(u64, _)>)| found.map(|(most, at)| Budget { of, most, at });
    found.into_iter().filter_map(budget).collect()
}

type Placed = (Value, super::Location);

/// A value with its place.
fn placed<'r>(item: Item<'r>, read: impl FnOnce(Item<'r>) -> Option<Value>) -> Option<Placed> {
    let at = located(&item);
    Some((read(item)?, at))
}

fn any(item: Item<'_>) -> Option<Value> {
    Some(json_value(&item))
}

fn is_none(item: &Item<'_>) -> bool {
    item.node.is_some_and(|node| matches!(node.value, Written::Boolean(false)))
}

/// Text, or `false` for none.
fn text(item: Item<'_>) -> Option<Value> {
    if is_none(&item) {
        return Some(Value::Bool(false));
    }
    item.parse("a string, or false for none", |text| Some(text.into()))
}

/// Text, a list of texts, or `false` for none.
fn texts(item: Item<'_>) -> Option<Value> {
    match item.node.map(|node| &node.value) {
        Some(Written::Array(_)) => Some(item.list(Item::string)?.into()),
        _ => text(item),
    }
}
