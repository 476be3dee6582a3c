//! Results of cases in the form that CI servers read: JUnit's XML.

use std::fmt::Write as _;
use std::time::Duration;

use super::report::headline;
use super::{CaseResult, Summary};

/// A suite for each file, a test for each case.
pub fn junit(summary: &Summary) -> String {
    let all: Duration = summary.results.iter().map(|result| result.time).sum();
    let (tests, failed) = (summary.results.len(), summary.failed());
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"{tests}\" failures=\"{failed}\" time=\"{:.3}\">\n",
        all.as_secs_f64()
    );
    for results in summary.results.chunk_by(|one, next| one.file == next.file) {
        suite(&mut xml, results);
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn suite(xml: &mut String, results: &[CaseResult]) {
    let Some(first) = results.first() else { return };
    let file = escaped(&first.file.display().to_string());
    let failed = results.iter().filter(|result| !result.passed()).count();
    let _ = writeln!(xml, "  <testsuite name=\"{file}\" tests=\"{}\" failures=\"{failed}\">", results.len());
    for result in results {
        let (name, time) = (escaped(&result.name), result.time.as_secs_f64());
        let _ = write!(
            xml,
            "    <testcase name=\"{name}\" classname=\"{file}\" file=\"{file}\" line=\"{}\" time=\"{time:.3}\"",
            result.line
        );
        if result.passed() {
            xml.push_str("/>\n");
            continue;
        }
        xml.push_str(">\n");
        for failure in &result.failures {
            let message = escaped(&headline(failure));
            let details = escaped(&failure.details.join("\n"));
            let _ = writeln!(xml, "      <failure message=\"{message}\">{details}</failure>");
        }
        xml.push_str("    </testcase>\n");
    }
    xml.push_str("  </testsuite>\n");
}

/// Text as XML has it. Characters that XML has no way to write become `\u{fffd}`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_can_t_break_out() {
        assert_eq!(escaped("<a b=\"c\">&\n\u{1b}é"), "&lt;a b=&quot;c&quot;&gt;&amp;&#10;\u{fffd}é");
    }
}
