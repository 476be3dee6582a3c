//! A shell that runs commands one after the other, as a reader would in one terminal.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use sluice_harness::{fixtures, gateway, tools};

/// Building a filter for the first time is the longest of what a page does.
const PATIENCE: Duration = Duration::from_secs(900);
/// Stands at the end of each command's output, with its exit code.
const END: &str = "--end-of-command-";

/// Where programs are found: `sluice`, the tools that `.ci/run` installs, then the reader's own.
pub(crate) fn search_path() -> OsString {
    let bin = gateway::binary();
    let before = [
        bin.parent().expect("the folder of the binary").to_owned(),
        tools::tools().join("venv/bin"),
        tools::tools().join("node/node_modules/.bin"),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(before.into_iter().chain(std::env::split_paths(&path))).expect("a search path")
}

pub(crate) struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    /// A shell in this folder.
    pub(crate) fn start(folder: &Path) -> Shell {
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(folder).env("PATH", search_path());
        // What cargo has set for this test is not what a reader has set.
        for name in
            std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("CARGO_") && name != "CARGO_HOME")
        {
            command.env_remove(name);
        }
        // What `npm install` has brought, and what Go and Zig keep from run to run.
        let kept = gateway::binary().ancestors().nth(2).expect("the target folder").join("languages");
        command.env("NODE_PATH", tools::tools().join("node/node_modules")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("GOCACHE", kept.join("go-cache")).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
        command.env("ZIG_GLOBAL_CACHE_DIR", kept.join("zig-cache")).env("ZIG_LOCAL_CACHE_DIR", kept.join("zig-cache"));
        command.env("CARGO_NET_OFFLINE", "true").env("XDG_CACHE_HOME", fixtures::cache_dir()).env("LC_ALL", "C.UTF-8");
        tools::without_proxies(&mut command).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("bash");
        let mut input = child.stdin.take().expect("a pipe");
        let output = child.stdout.take().expect("a pipe");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        // Standard error is shown where a terminal shows it. On a terminal, curl shows no progress.
        writeln!(input, "exec 2>&1\ncurl() {{ command curl --no-progress-meter \"$@\"; }}").expect("the shell listens");
        Shell { child, input, lines }
    }

    /// Runs a command and returns what it printed, and its exit code.
    pub(crate) fn run(&mut self, command: &str) -> (Vec<String>, i32) {
        writeln!(self.input, "{{ {command}\n}} < /dev/null\nprintf '\\n{END}%d\\n' $?").expect("the shell listens");
        let mut printed = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("`{command}` does not end"));
            let Some(code) = line.strip_prefix(END) else {
                printed.push(line);
                continue;
            };
            // The mark stands on a line of its own whether or not the output ended with one.
            if printed.last().is_some_and(String::is_empty) {
                printed.pop();
            }
            return (printed, code.parse().expect("an exit code"));
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
