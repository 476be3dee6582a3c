//! Transcripts in documents: fenced blocks named `console` that show commands after `$ ` and what each prints.
//!
//! All commands of a document run in one shell, so a variable that one sets is there for the next. In the expected output a line
//! `…` stands for any number of lines, and `…` within a line for any text.

use std::process::Command;

use crate::tools::without_proxies;

/// Written by the shell between the outputs of two commands.
const SEPARATOR: &str = "@@ next command @@";

/// A command and the output that a document promises.
pub struct Step {
    /// The line of the document that has the command.
    pub line: usize,
    pub command: String,
    pub expected: Vec<String>,
}

/// The commands of a document, in order.
pub fn steps(markdown: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (line, text) in markdown.lines().enumerate() {
        if text.starts_with("```") {
            inside = text == "```console";
        } else if let (true, Some(command)) = (inside, text.strip_prefix("$ ")) {
            steps.push(Step { line: line + 1, command: command.into(), expected: Vec::new() });
        } else if let (true, Some(step)) = (inside, steps.last_mut()) {
            step.expected.push(text.into());
        }
    }
    for step in &mut steps {
        // An empty line before the next command is for the reader.
        while step.expected.last().is_some_and(|last| last.is_empty()) {
            step.expected.pop();
        }
    }
    steps
}

/// Runs the commands of a document and fails where one prints something else. `prepare` may change the shell's folder and
/// environment; every text of `replaced` is put in place of another, in commands and outputs.
#[track_caller]
pub fn run(markdown: &str, replaced: &[(&str, &str)], prepare: impl FnOnce(&mut Command)) {
    let put = |text: &str| replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let steps = steps(markdown);
    assert!(!steps.is_empty(), "the document has no command");
    let script: String =
        steps.iter().map(|step| format!("{}\necho; echo '{SEPARATOR}'\n", put(&step.command))).collect();
    let mut shell = Command::new("bash");
    prepare(without_proxies(shell.args(["-c", &format!("exec 2>&1\n{script}")])));
    let output = shell.output().expect("a shell");
    let output = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let printed: Vec<&str> = output.split(&format!("\n{SEPARATOR}\n")).collect();
    assert_eq!(printed.len(), steps.len() + 1, "a command ended the shell:\n{output}");
    for (step, printed) in steps.iter().zip(printed) {
        let printed: Vec<&str> = printed.trim_end().lines().collect();
        let expected: Vec<String> = step.expected.iter().map(|line| put(line)).collect();
        assert!(
            lines_match(&expected, &printed),
            "line {}: {}\nprinted:\n{}\nin place of:\n{}",
            step.line,
            step.command,
            printed.join("\n"),
            expected.join("\n")
        );
    }
}

/// Whether the printed lines are the expected ones, with `…` as above.
pub fn lines_match(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        Some((first, rest)) => printed
            .split_first()
            .is_some_and(|(line, others)| text_matches(first.trim_end(), line.trim_end()) && lines_match(rest, others)),
    }
}

fn text_matches(expected: &str, printed: &str) -> bool {
    match expected.split_once('…') {
        None => expected == printed,
        Some((before, rest)) => printed.strip_prefix(before).is_some_and(|printed| {
            printed.char_indices().map(|(at, _)| at).chain([printed.len()]).any(|at| text_matches(rest, &printed[at..]))
        }),
    }
}
