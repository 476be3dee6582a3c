//! Results of cases, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::{CaseResult, Failure, Summary};

/// For people: a line for each case, more for those that fail, and the sum.
pub fn text(summary: &Summary) -> String {
    let mut text = String::new();
    let mut file = None;
    for result in &summary.results {
        if file != Some(&result.file) {
            let _ = writeln!(text, "{}", result.file.display());
            file = Some(&result.file);
        }
        let word = if result.passed() { "ok  " } else { "FAIL" };
        let _ = writeln!(text, "  {word}  {}", result.name);
        for failure in &result.failures {
            let _ = writeln!(text, "        {}", headline(failure).replace('\n', "\n          "));
            for line in &failure.details {
                let _ = writeln!(text, "          {line}");
            }
        }
    }
    for source in &summary.newer {
        let _ = writeln!(
            text,
            "warning: {} was changed after the component was built: `sluice plugin build`",
            source.display()
        );
    }
    let (passed, failed) = (summary.passed(), summary.failed());
    let cases = if passed + failed == 1 { "case" } else { "cases" };
    let _ = writeln!(text, "{} {cases}: {passed} passed, {failed} failed", passed + failed);
    text
}

/// `12:1: step 2: expect.response.status: expected 200, seen 401`
pub(super) fn headline(failure: &Failure) -> String {
    let step = failure.step.map(|step| format!("step {}: ", step + 1)).unwrap_or_default();
    format!("{}:{}: {step}{}: {}", failure.at.line, failure.at.column, failure.key, failure.message)
}

/// For programs: everything, with what was seen.
pub fn json(summary: &Summary) -> Json {
    let failure = |failure: &Failure| {
        json!({
            "step": failure.step.map(|step| step + 1), "key": failure.key, "line": failure.at.line,
            "column": failure.at.column, "message": failure.message, "details": failure.details,
        })
    };
    let result = |result: &CaseResult| {
        json!({
            "file": result.file, "name": result.name, "line": result.line, "passed": result.passed(),
            "time_ms": result.time.as_secs_f64() * 1_000.0,
            "failures": result.failures.iter().map(failure).collect::<Vec<_>>(), "seen": result.seen,
        })
    };
    let results: Vec<Json> = summary.results.iter().map(result).collect();
    json!({ "passed": summary.passed(), "failed": summary.failed(), "newer_sources": summary.newer, "cases": results })
}
