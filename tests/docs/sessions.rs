//! Runs the commands of a page from top to bottom, in one shell, beside a gateway that serves gateway.toml. What a page shows as
//! output is compared, but for what differs from run to run.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use regex::Regex;
use sluice_harness::transcript::{self, Step};
use sluice_harness::{Gateway, eventually_within, gateway};
use tempfile::TempDir;

use crate::blocks::{Rule, rule};
use crate::configs::merge;
use crate::markdown::{Block, Page, pages, root};
use crate::shell::{self, Shell};

/// Commands that take too long or change the machine, and the file and text that show where they are run instead.
const ELSEWHERE: [(&str, &str, &str); 4] = [
    ("cargo run --release", ".ci/run", "cargo build --release --locked"),
    ("rustup target add wasm32-wasip2", ".ci/run", "rustup target add wasm32-wasip2"),
    ("npm install", ".ci/run", "npm install"),
    ("pip install componentize-py", ".ci/run", "tests/external/requirements.txt"),
];

/// Pages whose commands are run elsewhere: those of the SDK's page are the book's under another name, and the examples have a test
/// of their own, since each needs its own gateway and service.
const OTHER_PAGES: [&str; 2] = ["sdk/README.md", "examples/"];

/// Programs that `.ci/run` installs. A page that uses a missing one is only run where all tools are required.
const TOOLS: [&str; 5] = ["curl", "clang-14", "go", "node", "python3"];

/// What a project of a language needs: `sluice plugin build` names no program.
const OF_LANGUAGES: [(&str, &str); 6] = [
    ("c", "clang-14"),
    ("zig", "python-zig"),
    ("go", "go"),
    ("javascript", "componentize-qjs"),
    ("typescript", "tsc"),
    ("python", "componentize-py"),
];

/// How long a changed configuration may take to be in use: an interpreter is compiled by a compiler that is not optimised itself.
const TAKEN_UP: Duration = Duration::from_secs(900);

/// One reader at work.
struct Session<'p> {
    page: &'p str,
    /// Where the reader stands; the checkout is the folder `sluice` in it.
    folder: TempDir,
    gateway: Gateway,
    shell: Shell,
    /// The configuration has just changed: the next command is repeated until the gateway has it.
    changed: bool,
}

impl<'p> Session<'p> {
    fn start(page: &'p str) -> Self {
        let text = fs::read_to_string(root().join("gateway.toml")).expect("gateway.toml");
        let text = text.replace("bind = \"127.0.0.1:8080\"", "bind = \"127.0.0.1:0\"");
        let text = text.replace("bind = \"127.0.0.1:9901\"", "bind = \"127.0.0.1:0\"");
        // Nothing comes back to a bucket while a slow machine runs the commands.
        let text = text.replace("window = \"10s\"", "window = \"10h\"");
        let gateway = Gateway::start(&text);
        let folder = tempfile::Builder::new().prefix("sluice-docs-").tempdir().expect("a folder");
        symlink(gateway.dir(), folder.path().join("sluice")).expect("a link");
        check_out(gateway.dir());
        let shell = Shell::start(folder.path());
        Session { page, folder, gateway, shell, changed: false }
    }

    /// The folder in which the shell stands.
    fn here(&mut self) -> std::path::PathBuf {
        self.shell.run("pwd").0.remove(0).into()
    }

    fn write(&mut self, file: &str, text: &str) {
        let here = self.here();
        let path = here.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
        if file == "Cargo.toml" {
            Self::crate_at(&here);
        }
    }

    /// A crate has the versions of the workspace: those are on this machine. Compiled crates are kept from run to run.
    fn crate_at(folder: &Path) {
        fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("a lock file");
        let target = gateway::binary().ancestors().nth(2).expect("the target folder").join("docs");
        fs::create_dir_all(&target).expect("a folder");
        let _ = symlink(target, folder.join("target"));
    }

    /// Adds a part to the configuration of the running gateway, as a reader would with an editor.
    fn add(&mut self, part: &str) {
        let text = fs::read_to_string(self.gateway.config()).expect("gateway.toml");
        let appended = format!("{text}\n{part}");
        let text = match appended.parse::<toml::Table>() {
            Ok(_) => appended,
            Err(_) => {
                let mut table: toml::Table = text.parse().expect("gateway.toml");
                merge(&mut table, part.parse().expect("a part of a configuration"));
                table.to_string()
            }
        };
        self.gateway.write("gateway.toml", text);
        self.changed = true;
    }

    fn run(&mut self, command: &str) -> (Vec<String>, i32) {
        let http = self.gateway.address_of("http").to_string();
        let admin = self.gateway.address_of("admin").to_string();
        let command = command.replace("127.0.0.1:8080", &http).replace("127.0.0.1:9901", &admin);
        let (lines, code) = self.shell.run(&command);
        if let Some(name) =
            command.strip_prefix("sluice plugin new ").and_then(|rest| rest.strip_suffix(" --lang rust"))
        {
            let folder = self.here().join(name);
            Self::crate_at(&folder);
        }
        let here = self.folder.path().to_string_lossy().into_owned();
        let told = |line: String| {
            line.replace(&http, "127.0.0.1:8080")
                .replace(&admin, "127.0.0.1:9901")
                .replace(&here, "")
                .trim_end()
                .to_owned()
        };
        (lines.into_iter().map(told).collect(), code)
    }

    /// The commands of a block with what they should print.
    fn console(&mut self, block: &Block) -> Result<(), String> {
        for Step { command, expected, .. } in transcript::steps(&format!("```console\n{}```\n", block.text)) {
            if is_elsewhere(&command) {
                continue;
            }
            let (mut lines, mut code) = self.run(&command);
            if std::mem::take(&mut self.changed) && !same(&expected, &lines) {
                eventually_within(TAKEN_UP, &format!("`{command}` prints what {} shows", self.page), || {
                    (lines, code) = self.run(&command);
                    same(&expected, &lines)
                });
            }
            if !same(&expected, &lines) {
                let (expected, lines) = (expected.join("\n"), lines.join("\n"));
                return Err(format!("$ {command}\nthe page shows:\n{expected}\nbut it prints (code {code}):\n{lines}"));
            }
        }
        Ok(())
    }

    /// Commands of which only their success is shown.
    fn sh(&mut self, block: &Block) -> Result<(), String> {
        for command in block.text.replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty()) {
            if is_elsewhere(command) {
                continue;
            }
            let (lines, code) = self.run(command);
            if code != 0 {
                return Err(format!("$ {command}\nended with {code}:\n{}", lines.join("\n")));
            }
        }
        Ok(())
    }
}

/// Makes a checkout of a gateway's folder: all that the repository has, with a folder of plugins of its own.
fn check_out(folder: &Path) {
    let link = |from: &Path, to: &Path| {
        for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
            let name = entry.file_name();
            if !["target", ".git", "plugins", "gateway.toml"].iter().any(|own| name == *own) {
                symlink(entry.path(), to.join(&name)).expect("a link");
            }
        }
    };
    link(&root(), folder);
    fs::create_dir_all(folder.join("plugins")).expect("a folder");
    link(&root().join("plugins"), &folder.join("plugins"));
}

fn is_elsewhere(command: &str) -> bool {
    ELSEWHERE.iter().any(|(prefix, ..)| command.starts_with(prefix))
}

/// Whether the output is what a page shows, but for what differs from run to run.
fn same(expected: &[String], printed: &[String]) -> bool {
    let expected: Vec<_> = expected.iter().map(|line| stable(line)).collect();
    let mut printed: Vec<_> = printed.iter().map(|line| stable(line)).collect();
    while printed.last().is_some_and(String::is_empty) {
        printed.pop();
    }
    transcript::lines_match(&expected, &printed.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A line without what differs from run to run.
fn stable(line: &str) -> String {
    let rules = [
        (r"\b[0-9a-f]{64}\b", "HASH"),
        (r"\b00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]\b", "TRACE"),
        (r"\b[0-9a-f]{32}\b", "ID"),
        (r"^date: .*", "date: DATE"),
        (r"^content-length: \d+", "content-length: N"),
        (r"^(size +)\d+", "${1}N"),
        (r"\b\d+ bytes, hooks:", "N bytes, hooks:"),
        (r"\t[0-9.]+s$|\t\(cached\)$", "\tTIME"),
        (r"curl/[0-9.]+", "curl/VERSION"),
        (r";w=36000\b", ";w=10"),
        (r";t=\d+", ";t=N"),
        (r"^(x-ratelimit-reset|retry-after): \d+", "$1: N"),
        (r"gateway\.toml:\d+:\d+", "gateway.toml:LINE:COLUMN"),
    ];
    rules.iter().fold(line.trim_end().to_owned(), |line, (pattern, with)| {
        Regex::new(pattern).expect("a pattern").replace_all(&line, *with).into_owned()
    })
}

/// Whether a page needs a tool that is not there and need not be.
fn lacks_tools(page: &Page) -> bool {
    let path = shell::search_path();
    let there = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).exists());
    let required = std::env::var("SLUICE_REQUIRE_ALL").is_ok_and(|value| value == "1");
    let used = |text: &str| page.blocks().iter().any(|block| block.text.contains(text));
    let lacks = |text: &str, tool: &str| used(text) && !there(tool);
    !required
        && (TOOLS.iter().any(|tool| lacks(&format!("{tool} "), tool))
            || OF_LANGUAGES.iter().any(|(name, tool)| lacks(&format!(" --lang {name}\n"), tool)))
}

/// Runs a page and returns what was wrong.
fn run(page: &Page) -> Option<String> {
    let blocks = page.blocks();
    let acts = |block: &Block| matches!(rule(page, block), Some(Rule::Console | Rule::Shell));
    let only_elsewhere = |block: &Block| block.text.lines().all(|line| is_elsewhere(line) || line.is_empty());
    if !blocks.iter().any(|block| acts(block) && !only_elsewhere(block)) || lacks_tools(page) {
        return None;
    }
    let mut session = Session::start(&page.path);
    for block in &blocks {
        let done = match rule(page, block) {
            Some(Rule::File(file)) => {
                session.write(&file, &block.text);
                Ok(())
            }
            Some(Rule::Config) if block.has_mark("run") => {
                session.add(&block.text);
                Ok(())
            }
            Some(Rule::Console) => session.console(block),
            Some(Rule::Shell) => session.sh(block),
            _ => Ok(()),
        };
        if let Err(why) = done {
            return Some(format!("{}:{}: {why}", page.path, block.line));
        }
    }
    None
}

#[test]
fn commands_do_what_the_pages_show() {
    let pages = pages();
    let mut wrong: Vec<String> = Vec::new();
    // The plugins of the checkout are compiled once, not by all sessions at the same time.
    drop(Session::start("README.md"));
    thread::scope(|scope| {
        let run: Vec<_> = pages
            .iter()
            .filter(|page| !OTHER_PAGES.iter().any(|other| page.path.starts_with(other)))
            .map(|page| scope.spawn(|| run(page)))
            .collect();
        wrong.extend(run.into_iter().filter_map(|thread| thread.join().expect("a page")));
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_is_run_elsewhere_is_run_there() {
    let mut used = HashSet::new();
    for page in pages() {
        for block in page.blocks() {
            used.extend(
                ELSEWHERE.iter().filter(|(command, ..)| block.text.contains(command)).map(|(command, ..)| *command),
            );
        }
    }
    for (command, file, text) in ELSEWHERE {
        assert!(used.contains(command), "no page has `{command}`");
        let there = fs::read_to_string(root().join(file)).expect("a file");
        assert!(there.contains(text), "{file} has no `{text}`, which stands for `{command}`");
    }
}

#[test]
fn outputs_are_compared_but_for_what_differs() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(same(&lines("date: a\n\nx"), &lines("date: b\n\nx\n")));
    assert!(same(&lines("a\n…\nd\n…"), &lines("a\nb\nc\nd\ne")));
    assert!(!same(&lines("a\n…\nd"), &lines("a\nb\nd\ne")));
    assert!(!same(&lines("a"), &lines("a\nb")) && !same(&[], &lines("a")) && same(&[], &[]));
}
