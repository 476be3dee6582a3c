//! Programs of other people that tests run the gateway against: where they are, and how they are started and ended.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::wait::eventually;

/// The folder of the scripts of these tests.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../external")
}

/// Where `.ci/run` installs packages: SLUICE_TEST_TOOLS, else `tools` in the target folder.
pub fn tools() -> PathBuf {
    std::env::var_os("SLUICE_TEST_TOOLS").map_or_else(
        || crate::gateway::binary().ancestors().nth(2).expect("the target folder").join("tools"),
        PathBuf::from,
    )
}

/// The tools, if all are there.
pub fn need<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let mut missing = None;
    let found = names.map(|name| {
        let path = match name {
            "python" => Some(tools().join("venv/bin/python")),
            "gunicorn" | "just" | "go" | "python-zig" | "componentize-py" => Some(tools().join("venv/bin").join(name)),
            // Built beside the gateway, by `cargo test` or `cargo build -p sluice-componentize`.
            "sluice-componentize" => Some(crate::gateway::binary().with_file_name(name)),
            "consul" => Some(tools().join("bin/consul")).filter(|path| path.exists()).or_else(|| on_path("consul")),
            "plain-node" => on_path("node"),
            // With the packages of `tests/external`.
            "node" => tools().join("node/node_modules").exists().then(|| on_path("node")).flatten(),
            other => on_path(other),
        };
        path.filter(|p| p.exists()).unwrap_or_else(|| {
            missing = Some(name);
            PathBuf::new()
        })
    });
    let Some(name) = missing else { return Some(found) };
    let required = std::env::var("SLUICE_REQUIRE_ALL").is_ok_and(|v| v == "1");
    assert!(!required, "`{name}` is missing");
    None
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.exists())
}

/// Keeps a program from going through a proxy to reach us.
pub fn without_proxies(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars().filter(|(n, _)| n.to_ascii_lowercase().ends_with("_proxy")) {
        command.env_remove(name);
    }
    command
}

/// Runs a client to its end; it exits with an error when something is not as it should be.
#[track_caller]
pub fn run(program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = without_proxies(command.args(arguments)).output().expect("the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Runs a script of `tests/external` to its end.
#[track_caller]
pub fn run_script(program: &Path, script: &str, arguments: &[&str]) -> String {
    let script = scripts().join(script);
    run(program, &[&[script.to_str().expect("a path in UTF-8")], arguments].concat())
}

/// A server of another program; killed when dropped.
pub struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts it and returns the port that its first line ends with.
    pub fn start(command: &mut Command) -> (Server, u16) {
        let mut child =
            without_proxies(command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut server = Server { child, input, output };
        let line = server.line();
        let port =
            line.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port: {line}"));
        (server, port)
    }

    /// Starts a script of `tests/external`.
    pub fn script(program: &Path, script: &str) -> (Server, u16) {
        Self::start(Command::new(program).arg(scripts().join(script)))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim().to_string()
    }

    /// Writes a line and reads the answer, a line too.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").expect("the server listens");
        self.line()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A free port of loopback, for servers that can't tell which one they got, or that leave it and come back. It is none that the kernel gives to those
/// who ask for any port, or to a connection: what else runs would take it in between. No port is told twice.
pub fn free_port() -> u16 {
    /// Below are those that services are known by.
    const FIRST: u16 = 10_240;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768);
    assert!(end > FIRST + 1000, "the kernel gives ports away from {end} on, which leaves too few for tests");
    let is_free = |port: u16| {
        // At any address, as a server may bind so.
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        tcp && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
    };
    // Each process of tests begins elsewhere.
    let next = NEXT.get_or_init(|| AtomicU16::new((std::process::id() % 1000) as u16 * 20));
    let mut ports = (0..end - FIRST).map(|_| FIRST + next.fetch_add(1, Ordering::Relaxed) % (end - FIRST));
    ports.find(|port| is_free(*port)).expect("a free port")
}

/// Waits until somebody listens there.
pub fn wait_for_port(port: u16) {
    eventually("the server to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// Ends a child however the test ends.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // SIGTERM, so that gunicorn and nginx take their workers with them.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
