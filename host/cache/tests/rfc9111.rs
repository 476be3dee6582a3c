//! Every requirement of RFC 9111 and RFC 5861 on a shared cache, with its section; beside them RFC 8246 and RFC 9213. Each row is a
//! history: requests, what the upstream answered, and what has to come of it. `rfc9111/cache.rs` is the cache under test, made of the rules
//! and the store. What a section asks of others (origins, clients, private caches) has no row.

#![allow(clippy::unwrap_used, reason = "a test that fails should fail at the place")]

#[path = "rfc9111/cache.rs"]
mod cache;
#[path = "rfc9111/extensions.rs"]
mod extensions;
#[path = "rfc9111/fields.rs"]
mod fields;
#[path = "rfc9111/freshness.rs"]
mod freshness;
#[path = "rfc9111/reuse.rs"]
mod reuse;
#[path = "rfc9111/storing.rs"]
mod storing;
#[path = "rfc9111/validation.rs"]
mod validation;

use http::Method;
use sluice_cache::policy::Policy;

use cache::{Cache, Fields, Source, Upstream, headers};

/// One requirement.
struct Row {
    section: &'static str,
    /// In short, with the verb of the RFC.
    requirement: &'static str,
    policy: Policy,
    steps: Vec<Step>,
}

/// One request of a history, and what is expected. By default it is `GET /`, and the upstream answers 200 without fields.
struct Step {
    at: u64,
    delay: u64,
    method: &'static str,
    path: &'static str,
    request: Fields,
    upstream: Upstream,
    from: Option<Source>,
    status: Option<u16>,
    content: Option<&'static str>,
    has: Fields,
    lacks: &'static [&'static str],
    forwards: Fields,
    forwards_not: &'static [&'static str],
}

fn row(section: &'static str, requirement: &'static str, steps: impl IntoIterator<Item = Step>) -> Row {
    Row { section, requirement, policy: Policy::default(), steps: steps.into_iter().collect() }
}

impl Row {
    fn under(mut self, policy: Policy) -> Row {
        self.policy = policy;
        self
    }
}

fn ask(method: &'static str, at: u64) -> Step {
    Step {
        at,
        delay: 0,
        method,
        path: "/",
        request: &[],
        upstream: Upstream::Answers { status: 200, fields: &[], content: "new" },
        from: None,
        status: None,
        content: None,
        has: &[],
        lacks: &[],
        forwards: &[],
        forwards_not: &[],
    }
}

fn get(at: u64) -> Step {
    ask("GET", at)
}

impl Step {
    /// The response takes that many seconds.
    fn delay(self, delay: u64) -> Step {
        Step { delay, ..self }
    }

    fn path(self, path: &'static str) -> Step {
        Step { path, ..self }
    }

    fn with(self, request: Fields) -> Step {
        Step { request, ..self }
    }

    fn origin(self, status: u16, fields: Fields) -> Step {
        self.origin_with(status, fields, "content")
    }

    fn origin_with(self, status: u16, fields: Fields, content: &'static str) -> Step {
        Step { upstream: Upstream::Answers { status, fields, content }, ..self }
    }

    fn breaks_off(self, fields: Fields) -> Step {
        Step { upstream: Upstream::BreaksOff { fields, content: "cont" }, ..self }
    }

    fn fails(self) -> Step {
        Step { upstream: Upstream::Fails, ..self }
    }

    fn from(self, source: Source) -> Step {
        Step { from: Some(source), ..self }
    }

    fn status(self, status: u16) -> Step {
        Step { status: Some(status), ..self }
    }

    fn content(self, content: &'static str) -> Step {
        Step { content: Some(content), ..self }
    }

    fn has(self, has: Fields) -> Step {
        Step { has, ..self }
    }

    fn lacks(self, lacks: &'static [&'static str]) -> Step {
        Step { lacks, ..self }
    }

    fn forwards(self, forwards: Fields) -> Step {
        Step { forwards, ..self }
    }

    fn forwards_not(self, forwards_not: &'static [&'static str]) -> Step {
        Step { forwards_not, ..self }
    }
}

/// A response that is stored, and used (or not) for the same request at a later time.
fn then(fields: Fields, later: u64, source: Source) -> [Step; 2] {
    [get(0).origin(200, fields), get(later).from(source)]
}

/// The same, where the upstream fails at the second request.
fn then_fails(fields: Fields, later: u64, source: Source) -> [Step; 2] {
    [get(0).origin(200, fields), get(later).fails().from(source)]
}

const FRESH: Fields = &[("cache-control", "max-age=60")];

/// A policy that does what requests ask for.
fn asking() -> Policy {
    Policy { request_directives: true, ..Policy::default() }
}

fn run(row: &Row) -> Result<(), String> {
    let cache = Cache::new(row.policy.clone());
    for (at, step) in row.steps.iter().enumerate() {
        let method = Method::from_bytes(step.method.as_bytes()).map_err(|error| error.to_string())?;
        let found = cache.request(step.at, step.delay, &method, step.path, &headers(step.request), step.upstream);
        let check = |good: bool, expected: String| match good {
            true => Ok(()),
            false => Err(format!("step {at}: expected {expected}, found {found:?}")),
        };
        check(step.from.is_none_or(|from| from == found.source), format!("{:?}", step.from))?;
        check(step.status.is_none_or(|status| status == found.status), format!("{:?}", step.status))?;
        check(step.content.is_none_or(|content| content == found.content), format!("{:?}", step.content))?;
        for (name, value) in step.has {
            let values: Vec<_> = found.head.get_all(*name).iter().map(|value| value.as_bytes()).collect();
            check(values == [value.as_bytes()], format!("{name}: {value}"))?;
        }
        for name in step.lacks {
            check(!found.head.contains_key(*name), format!("no {name}"))?;
        }
        let forwarded = found.forwarded.as_ref();
        for (name, value) in step.forwards {
            let same = forwarded.and_then(|head| head.get(*name)).is_some_and(|found| found == value);
            check(same, format!("{name}: {value} for the upstream"))?;
        }
        for name in step.forwards_not {
            check(forwarded.is_some_and(|head| !head.contains_key(*name)), format!("no {name} for the upstream"))?;
        }
    }
    Ok(())
}

fn rows() -> Vec<Row> {
    [storing::rows(), reuse::rows(), freshness::rows(), validation::rows(), fields::rows(), extensions::rows()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn every_requirement_holds() {
    let rows = rows();
    let failures: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            run(row).err().map(|error| format!("{} \u{2014} {}\n    {error}", row.section, row.requirement))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), rows.len(), failures.join("\n"));
}

#[test]
fn every_section_has_rows() {
    let rows = rows();
    let sections = [
        "RFC 9111 §2",
        "RFC 9111 §3",
        "RFC 9111 §3.1",
        "RFC 9111 §3.2",
        "RFC 9111 §3.3",
        "RFC 9111 §3.4",
        "RFC 9111 §3.5",
        "RFC 9111 §4",
        "RFC 9111 §4.1",
        "RFC 9111 §4.2",
        "RFC 9111 §4.2.1",
        "RFC 9111 §4.2.2",
        "RFC 9111 §4.2.3",
        "RFC 9111 §4.2.4",
        "RFC 9111 §4.3.1",
        "RFC 9111 §4.3.2",
        "RFC 9111 §4.3.3",
        "RFC 9111 §4.3.4",
        "RFC 9111 §4.3.5",
        "RFC 9111 §4.4",
        "RFC 9111 §5.1",
        "RFC 9111 §5.2",
        "RFC 9111 §5.2.1.1",
        "RFC 9111 §5.2.1.2",
        "RFC 9111 §5.2.1.3",
        "RFC 9111 §5.2.1.4",
        "RFC 9111 §5.2.1.5",
        "RFC 9111 §5.2.1.7",
        "RFC 9111 §5.2.2.1",
        "RFC 9111 §5.2.2.2",
        "RFC 9111 §5.2.2.3",
        "RFC 9111 §5.2.2.4",
        "RFC 9111 §5.2.2.5",
        "RFC 9111 §5.2.2.7",
        "RFC 9111 §5.2.2.8",
        "RFC 9111 §5.2.2.9",
        "RFC 9111 §5.2.2.10",
        "RFC 9111 §5.2.3",
        "RFC 9111 §5.3",
        "RFC 9111 §5.4",
        "RFC 9111 §7.3",
        "RFC 5861 §3",
        "RFC 5861 §4",
        "RFC 8246 §2",
        "RFC 9213 §2.1",
        "RFC 9213 §2.2",
    ];
    for section in sections {
        assert!(rows.iter().any(|row| row.section == section), "{section} has no row");
    }
    for row in &rows {
        assert!(sections.contains(&row.section), "{} is not in the list", row.section);
    }
}
