//! The operator's program that changes TXT records, for `dns-01`. It is run without a shell, and with everything that it starts it ends when its
//! time is over.

use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::model::DnsCommand;
use crate::services::log_limit::visible;

/// What is read of its last words, for the log.
const MAX_STDERR: u64 = 4096;

/// How long they are waited for after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What it is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Add,
    Remove,
}

/// Ends all that the program has started when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // Fails when all of it has ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Has a TXT record added or removed, and waits until that is done. An error says what went wrong.
pub(super) async fn change(dns: &DnsCommand, change: Change, name: &str, value: &str) -> Result<(), String> {
    let Some((program, arguments)) = dns.command.split_first() else { return Err("there is no program".to_owned()) };
    let failed = |what: String| format!("`{program}`: {what}");
    let word = match change {
        Change::Add => "add",
        Change::Remove => "remove",
    };
    let mut command = Command::new(program);
    command.args(arguments).args([word, name, value]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(|error| failed(error.to_string()))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let mut stderr = child.stderr.take();
    let mut said = Vec::new();
    let read = async {
        let Some(stderr) = &mut stderr else { return };
        let _ = stderr.take(MAX_STDERR).read_to_end(&mut said).await;
        // What else it says is of no use, but must not block it.
        let _ = tokio::io::copy(stderr, &mut tokio::io::sink()).await;
    };
    let run = async {
        let (mut read, mut wait) = (pin!(read), pin!(child.wait()));
        let status = tokio::select! {
            status = &mut wait => status,
            () = &mut read => return wait.await,
        };
        // What it has started may hold the other end for as long as it likes.
        let _ = timeout(LAST_WORDS, read).await;
        status
    };
    let Ok(status) = timeout(dns.timeout, run).await else {
        return Err(failed(format!("it has not ended within {:?}", dns.timeout)));
    };
    let status = status.map_err(|error| failed(error.to_string()))?;
    // It has ended by itself, and its number may be another's soon.
    group.0 = None;
    if !status.success() {
        let said = String::from_utf8_lossy(&said);
        return Err(failed(format!("it has ended with {status}: {}", visible(said.trim()))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &[&str], timeout: Duration) -> Result<(), String> {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(change(&DnsCommand { command, timeout }, Change::Add, "_acme-challenge.a.test", "v$(x)"))
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_program_gets_its_arguments_as_they_are() {
        let test = |wanted: &str| run(&["/bin/sh", "-c", "[ \"$1$2$3\" = \"$0\" ]", wanted], LONG);
        assert_eq!(test("add_acme-challenge.a.testv$(x)"), Ok(()));
        assert!(test("another").is_err());
    }

    #[test]
    fn what_goes_wrong_is_said() {
        let error = run(&["/bin/sh", "-c", "echo no zone >&2; exit 3"], LONG).expect_err("a failure");
        assert_eq!(error, "`/bin/sh`: it has ended with exit status: 3: no zone");
        let error = run(&["/nowhere/program"], LONG).expect_err("no program");
        assert!(error.starts_with("`/nowhere/program`: "), "{error}");
    }

    #[test]
    fn what_a_program_leaves_behind_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        // It has the standard error of its parent.
        let script = format!("sleep 1000 & echo $! > {}; echo done >&2", file.display());
        assert_eq!(run(&["/bin/sh", "-c", &script], LONG * 10), Ok(()));
        let child = std::fs::read_to_string(&file).expect("a number");
        let child = child.trim().parse().ok().and_then(Pid::from_raw).expect("a process");
        // Not ended with its parent.
        rustix::process::kill_process(child, Signal::KILL).expect("it runs");
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let error = run(&["/bin/sh", "-c", &script], Duration::from_millis(500)).expect_err("a timeout");
        assert!(error.contains("it has not ended within"), "{error}");
        let Ok(child) = std::fs::read_to_string(&file) else { return };
        let until = std::time::Instant::now() + LONG;
        let is_gone = || match std::fs::read_to_string(format!("/proc/{}/stat", child.trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !is_gone() {
            assert!(std::time::Instant::now() < until, "the child is still there");
            std::thread::yield_now();
        }
    }
}
