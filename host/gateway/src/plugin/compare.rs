//! What is expected against what was seen, and what may be used against what was.

use std::time::Duration;

use serde_json::{Value as Json, json};
use similar::TextDiff;

use super::host_calls::{first_over, listed, name};
use crate::config::Location;
use crate::config::model::cases::{Budget, Case, CaseStep, Expected, Resource};
use crate::services::log_limit::visible;
use crate::wasm::{HookCall, HostCall};

/// Values of so many characters are shown in a line.
const LINE: usize = 100;
/// The most lines of a difference.
const MOST_LINES: usize = 60;
/// How long the search for a small difference may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// Something that is not as expected.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The step of the case, from 0; none where the case is one step.
    pub step: Option<usize>,
    /// Where it is expected: `expect.response.status`.
    pub key: String,
    pub at: Location,
    pub message: String,
    /// More of it, line by line.
    pub details: Vec<String>,
    /// What would be right to expect: below `expect`, and its value.
    pub(super) right: Option<(Vec<String>, Json)>,
}

/// What can't be at all.
pub(super) fn problem(case: &Case, step: Option<usize>, key: &str, message: String) -> Failure {
    Failure { step, key: key.to_owned(), at: case.at.clone(), message, details: Vec::new(), right: None }
}

/// What is not as the step expects it.
pub(super) fn differences(step: &CaseStep, number: Option<usize>, seen: &Json) -> Vec<Failure> {
    let mut failures: Vec<Failure> =
        step.expected.iter().filter_map(|expected| difference(expected, number, seen)).collect();
    let is_expected =
        |key: &str| step.expected.iter().any(|expected| expected.path.first().is_some_and(|of| of == key));
    // A filter that fails is never what is meant, unless the case says so.
    if let Some(kind) = seen["failure"].as_str().filter(|_| !is_expected("failure") && !is_expected("verdict")) {
        failures.push(Failure {
            step: number,
            key: "expect.failure".to_owned(),
            at: step.at.clone(),
            message: format!("the filter fails ({kind}): {}", seen["message"].as_str().unwrap_or_default()),
            details: Vec::new(),
            right: None,
        });
    }
    if let (Some(failure), Some(why)) = (failures.first_mut(), seen["message"].as_str())
        && failure.details.is_empty()
    {
        failure.details.extend(format!("the filter fails: {why}").lines().map(str::to_owned));
    }
    failures
}

fn difference(expected: &Expected, step: Option<usize>, seen: &Json) -> Option<Failure> {
    let found = at(seen, &expected.path);
    let is_absent_meant = expected.value == Json::Bool(false);
    let is_part = expected.path.last().is_some_and(|key| key == "body_contains");
    let fits = match &found {
        None => is_absent_meant,
        Some(Json::String(text)) if is_part => expected.value.as_str().is_some_and(|part| text.contains(part)),
        Some(found) => same(found, &expected.value),
    };
    if fits {
        return None;
    }
    let answered = seen["upstream"].is_null().then(|| &seen["response"]["status"]);
    let message = match (&found, is_absent_meant) {
        (None, _) if expected.path.first().is_some_and(|key| key == "upstream") && answered.is_some() => {
            let status = answered.map(Json::to_string).unwrap_or_default();
            format!("expected {}, and nothing went to the upstream: the status is {status}", shown(&expected.value))
        }
        (None, _) => {
            let metrics =
                seen["metrics"].as_object().filter(|_| expected.path.first().is_some_and(|key| key == "metrics"));
            let others: Vec<String> = metrics.into_iter().flatten().map(|(name, _)| format!("`{name}`")).collect();
            let others = if others.is_empty() { String::new() } else { format!(", but {}", others.join(", ")) };
            format!("expected {}, and it is not there{others}", shown(&expected.value))
        }
        (Some(found), true) => format!("expected none, seen {}", shown(found)),
        (Some(found), false) if is_part => {
            format!("expected a part {}, seen {}", shown(&expected.value), shown(found))
        }
        (Some(found), false) => format!("expected {}, seen {}", shown(&expected.value), shown(found)),
    };
    let lines = found.as_ref().filter(|_| !is_absent_meant && !is_part).map(|found| diff(&expected.value, found));
    let right = (!is_part).then(|| (expected.path.clone(), found.unwrap_or(Json::Bool(false))));
    Some(Failure {
        step,
        key: format!("expect.{}", expected.path.join(".")),
        at: expected.at.clone(),
        message,
        details: lines.unwrap_or_default(),
        right,
    })
}

/// What was seen at a place. Bodies are read as JSON where that is asked for.
fn at(seen: &Json, path: &[String]) -> Option<Json> {
    let mut place = seen;
    for (depth, key) in path.iter().enumerate() {
        match key.as_str() {
            "json" | "problem" if depth == 1 => {
                let body = serde_json::from_str(place.get("body")?.as_str()?).ok()?;
                let rest = path.get(depth + 1..)?;
                return rest.iter().try_fold(body, |value: Json, key| value.get(key).cloned());
            }
            "body_contains" if depth == 1 => return place.get("body").cloned(),
            key => place = place.get(key)?,
        }
    }
    Some(place.clone())
}

/// Numbers are equal by value, objects in any order.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

/// A value in one line.
fn shown(value: &Json) -> String {
    let text = value.to_string();
    let text = visible(&text);
    if text.chars().count() <= LINE {
        return text.into_owned();
    }
    let begin: String = text.chars().take(LINE).collect();
    format!("{begin}…")
}

/// What makes two long values differ, line by line.
fn diff(expected: &Json, seen: &Json) -> Vec<String> {
    let (expected, seen) = (lines(expected), lines(seen));
    let is_long = |text: &str| text.trim_end().contains('\n') || text.chars().count() > LINE;
    if !is_long(&expected) && !is_long(&seen) {
        return Vec::new();
    }
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(expected.as_str(), seen.as_str());
    let text = diff.unified_diff().context_radius(2).missing_newline_hint(false).to_string();
    let mut lines: Vec<String> = text.lines().map(|line| visible(line).into_owned()).collect();
    if lines.len() > MOST_LINES {
        let more = lines.len() - MOST_LINES;
        lines.truncate(MOST_LINES);
        lines.push(format!("… {more} more lines"));
    }
    lines
}

/// A value in lines: text as it is, but JSON and all else one value a line.
fn lines(value: &Json) -> String {
    let pretty = |value: &Json| serde_json::to_string_pretty(value).unwrap_or_default();
    let text = match value {
        Json::String(text) => match serde_json::from_str::<Json>(text) {
            Ok(json @ (Json::Object(_) | Json::Array(_))) => pretty(&json),
            Ok(_) | Err(_) => text.clone(),
        },
        value => pretty(value),
    };
    format!("{text}\n")
}

/// What the hooks of a step have used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    time: u64,
    instructions: u64,
    memory: u64,
    host_calls: u64,
}

impl Used {
    pub(super) fn of(hooks: &[HookCall]) -> Used {
        hooks.iter().fold(Used::default(), |sum, hook| Used {
            time: sum.time + micros(hook.time),
            instructions: sum.instructions + hook.instructions,
            memory: sum.memory.max(hook.memory as u64),
            host_calls: sum.host_calls + hook.host_calls.len() as u64,
        })
    }

    /// As machines read it.
    pub(super) fn json(self, hooks: &[HookCall]) -> Json {
        let hook = |hook: &HookCall| {
            let calls: Vec<String> = hook.host_calls.iter().map(name).collect();
            json!({
                "hook": hook.hook.name(), "time_us": micros(hook.time), "instructions": hook.instructions,
                "memory": hook.memory, "host_calls": calls,
            })
        };
        json!({
            "time_us": self.time, "instructions": self.instructions, "memory": self.memory,
            "host_calls": self.host_calls, "hooks": hooks.iter().map(hook).collect::<Vec<_>>(),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The budgets that are broken, each with the call that broke it.
pub(super) fn budgets(step: &CaseStep, number: Option<usize>, hooks: &[HookCall]) -> Vec<Failure> {
    step.budget.iter().filter_map(|budget| broken(budget, number, hooks)).collect()
}

fn broken(budget: &Budget, step: Option<usize>, hooks: &[HookCall]) -> Option<Failure> {
    let used = Used::of(hooks);
    let most = budget.most;
    let (key, used, unit, by) = match budget.of {
        Resource::Time => {
            let by = first_over(hooks, most, |_, _, call| micros(call.after), |hook| micros(hook.time));
            ("time", used.time, " µs", by)
        }
        Resource::Instructions => ("instructions", used.instructions, "", None),
        Resource::Memory => {
            ("memory", used.memory, " bytes", first_over(hooks, most, |_, _, call| call.memory as u64, |_| 0))
        }
        Resource::HostCalls => {
            let by = first_over(hooks, most, |_, at, _| at as u64 + 1, |hook| hook.host_calls.len() as u64);
            ("host_calls", used.host_calls, "", by)
        }
    };
    if used <= most {
        return None;
    }
    Some(Failure {
        step,
        key: format!("expect.budget.{key}"),
        at: budget.at.clone(),
        message: format!("used {used}{unit}, may use {most}{unit}{}", blame(budget.of, by)),
        details: listed(hooks),
        right: None,
    })
}

fn blame(of: Resource, by: Option<(usize, &HostCall)>) -> String {
    match (of, by) {
        (Resource::HostCalls, Some((number, call))) => format!(": call {number}, `{}`, is one too many", name(call)),
        (Resource::Time | Resource::Memory, Some((number, call))) => {
            format!(": it was more before call {number}, `{}`", name(call))
        }
        (Resource::Time | Resource::Memory, None) => ": it became more after the last call".to_owned(),
        (Resource::Instructions | Resource::HostCalls, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn bodies_are_read_as_json_where_that_is_asked_for() {
        let seen = json!({"response": {"body": r#"{"title":"no","n":[1]}"#, "headers": {"a": "b"}}});
        assert_eq!(at(&seen, &path("response.problem.title")), Some(json!("no")));
        assert_eq!(at(&seen, &path("response.json")), Some(json!({"n": [1], "title": "no"})));
        assert_eq!(at(&seen, &path("response.headers.a")), Some(json!("b")));
        assert_eq!(at(&seen, &path("response.headers.c")), None);
        assert_eq!(at(&json!({"response": {"body": "text"}}), &path("response.json")), None);
    }

    #[test]
    fn values_are_the_same_by_what_they_mean() {
        assert!(same(&json!({"a": 1, "b": 2.0}), &json!({"b": 2, "a": 1.0})));
        assert!(!same(&json!([1, 2]), &json!([2, 1])));
        assert!(!same(&json!("1"), &json!(1)));
    }

    #[test]
    fn long_values_differ_line_by_line() {
        let long = |b: &str| json!(format!(r#"{{"a":"{}","b":"{b}"}}"#, "x".repeat(LINE)));
        let lines = diff(&long("1"), &long("2"));
        assert!(
            lines.contains(&r#"-  "b": "1""#.to_owned()) && lines.contains(&r#"+  "b": "2""#.to_owned()),
            "{lines:?}"
        );
        assert!(diff(&json!(1), &json!(2)).is_empty());
    }
}
