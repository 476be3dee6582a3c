//! The gateway under test: the real binary, started on a config of its own in a folder of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, Response};
use crate::wait::{PATIENCE, eventually, eventually_some};

/// Lines of JSON that a stream of the process has written so far.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Value>>>);

impl Lines {
    /// Reads a stream to its end on a thread; what is no JSON is kept as a string.
    fn follow(stream: impl std::io::Read + Send + 'static) -> Lines {
        let lines = Lines::default();
        let sink = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sink.0.lock().unwrap().push(value);
            }
        });
        lines
    }

    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    fn find(&self, from: usize, matches: &mut dyn FnMut(&Value) -> bool) -> Option<Value> {
        self.0.lock().unwrap().iter().skip(from).find(|v| matches(v)).cloned()
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A running gateway; killed when dropped.
pub struct Gateway {
    child: Child,
    dir: TempDir,
    config: PathBuf,
    log: Lines,
    access: Lines,
    listeners: Vec<(String, SocketAddr)>,
}

/// What a gateway that should not start has said.
#[derive(Debug)]
pub struct Refused {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Components that stand for the shipped plugins of their names in every gateway: those in the folder `SLUICE_TEST_PLUGINS` (`.ci/outside`).
fn built_elsewhere() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("SLUICE_TEST_PLUGINS") else { return Vec::new() };
    let entries = std::fs::read_dir(folder).expect("the folder of SLUICE_TEST_PLUGINS");
    let files = entries.map(|entry| entry.expect("an entry").path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "wasm")).collect()
}

/// How a gateway is started when the text of its config is not all.
#[derive(Default)]
pub struct Setup {
    files: Vec<(String, Vec<u8>)>,
    env: Vec<(String, String)>,
    log_level: Option<String>,
}

impl Setup {
    /// A file beside gateway.toml.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl AsRef<[u8]>) -> Setup {
        self.files.push((path.into(), content.as_ref().to_vec()));
        self
    }

    /// A built component, as `plugins/<name>.wasm` beside gateway.toml.
    #[must_use]
    pub fn plugin(self, name: &str, wasm: &Path) -> Setup {
        let bytes = std::fs::read(wasm).unwrap_or_else(|e| panic!("{}: {e}", wasm.display()));
        self.file(&format!("plugins/{name}.wasm"), bytes)
    }

    /// The guest fixtures, as plugins of their own names.
    #[must_use]
    pub fn fixtures(mut self) -> Setup {
        for (name, wasm) in crate::fixtures::ALL {
            self = self.plugin(name, Path::new(wasm));
        }
        self
    }

    /// A guest fixture as `plugins/<name>-component.wasm`, with one more core module, which does nothing: the gateway does not call
    /// it directly any more.
    #[must_use]
    pub fn as_component(self, fixture: &str) -> Setup {
        let mut bytes = std::fs::read(crate::fixtures::file(fixture)).expect("a fixture");
        // A section of the kind 1 (core module) and its length: a module with a section of the kind 5 (memory), of one page.
        bytes.extend(b"\x01\x0d\0asm\x01\0\0\0\x05\x03\x01\0\x01");
        self.file(&format!("plugins/{fixture}-component.wasm"), bytes)
    }

    /// A variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts the gateway and waits until it listens.
    #[track_caller]
    pub fn start(self, toml: &str) -> Gateway {
        let (dir, config) = self.lay_out(toml);
        let mut child =
            self.command(&config).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the sluice binary");
        let access = Lines::follow(child.stdout.take().expect("a pipe"));
        let log = Lines::follow(child.stderr.take().expect("a pipe"));
        let mut gateway = Gateway { child, dir, config, log, access, listeners: Vec::new() };
        for name in listeners_of(toml) {
            if let Some(address) = gateway.listening(&name) {
                gateway.listeners.push((name, address));
            }
        }
        for file in built_elsewhere() {
            let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
            if toml.contains(&format!("plugin = \"{name}\"")) {
                let says = format!("plugin `{name}` is ");
                let stands_in = "not the plugin of that name that ships with the gateway";
                gateway.wait_log("it takes the component that was built elsewhere", |line| {
                    let line = line.to_string();
                    line.contains(&says) && line.contains(stands_in)
                });
            }
        }
        gateway
    }

    /// Runs a gateway that is expected to give up, and returns what it said.
    #[track_caller]
    pub fn refused(self, toml: &str) -> Refused {
        let (dir, config) = self.lay_out(toml);
        let mut child =
            self.command(&config).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the sluice binary");
        let end = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                let _ = child.kill();
                panic!("the gateway started with this config:\n{toml}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        drop(dir);
        Refused {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs another command of the binary in a folder with this config.
    pub fn command_output(self, toml: &str, arguments: &[&str]) -> Refused {
        let (dir, _) = self.lay_out(toml);
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(dir.path());
        self.environment(&mut command);
        let output = command.output().expect("the sluice binary");
        Refused {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn lay_out(&self, toml: &str) -> (TempDir, PathBuf) {
        let dir = tempfile::Builder::new().prefix("sluice-test-").tempdir().unwrap();
        for (path, content) in &self.files {
            write(dir.path(), path, content);
        }
        for file in built_elsewhere() {
            let name = file.file_name().expect("a name").to_string_lossy();
            write(dir.path(), &format!("plugins/{name}"), &std::fs::read(&file).expect("a component"));
        }
        let config = write(dir.path(), "gateway.toml", toml.as_bytes());
        (dir, config)
    }

    fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(binary());
        let folder = config.parent().expect("a folder");
        command.arg("run").arg("--config").arg(config).current_dir(folder);
        // Each gateway has its own: what it keeps for its next start is of no use to others.
        command.env("XDG_STATE_HOME", folder.join("state"));
        self.environment(&mut command);
        command.stdin(Stdio::null());
        command
    }

    fn environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars().filter(|(n, _)| n.to_ascii_lowercase().ends_with("_proxy")) {
            command.env_remove(name);
        }
        // Compiled components are shared by all gateways of a test run: without it each start would compile anew.
        command.env("XDG_CACHE_HOME", crate::fixtures::cache_dir());
        command.env_remove("RUST_LOG");
        if let Some(level) = &self.log_level {
            command.env("RUST_LOG", level);
        }
        command.envs(self.env.iter().map(|(n, v)| (n, v)));
    }
}

fn write(dir: &Path, path: &str, content: &[u8]) -> PathBuf {
    let file = dir.join(path);
    std::fs::create_dir_all(file.parent().expect("a folder")).unwrap();
    // Written beside and renamed, as careful tools do: the watcher never sees half a file.
    let half = file.with_extension("half");
    std::fs::write(&half, content).unwrap();
    std::fs::rename(&half, &file).unwrap();
    file
}

/// `SLUICE_BIN`, or the binary that cargo has built beside the test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SLUICE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of the test");
    let target = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    target.join("sluice")
}

/// The listeners that a config names, and `admin` when it has one.
fn listeners_of(toml: &str) -> Vec<String> {
    let table: toml::Table = toml.parse().unwrap_or_else(|e| panic!("{e}\n{toml}"));
    let mut names: Vec<String> =
        table.get("listeners").and_then(|l| l.as_table()).map(|l| l.keys().cloned().collect()).unwrap_or_default();
    if table.get("admin").and_then(|a| a.get("bind")).is_some() {
        names.push("admin".into());
    }
    names
}

impl Gateway {
    /// Starts the gateway with this config and waits until it listens.
    #[track_caller]
    pub fn start(toml: &str) -> Gateway {
        Setup::default().start(toml)
    }

    /// A gateway with more than a config.
    pub fn setup() -> Setup {
        Setup::default()
    }

    /// A listener `http` on a free port and one route for everything to this upstream.
    #[track_caller]
    pub fn before(upstream: &str) -> Gateway {
        Gateway::start(&format!(
            "[gateway]\nworkers = 1\nreload = false\n[listeners.http]\nbind = \"127.0.0.1:0\"\n[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{upstream}\"\n"
        ))
    }

    /// Waits for a listener. `None`: it is a Unix socket.
    fn listening(&mut self, name: &str) -> Option<SocketAddr> {
        // From its last word: a gateway that compiles says so every ten seconds, and may have many plugins to compile.
        let (mut said, mut end) = (0, Instant::now() + PATIENCE);
        loop {
            let lines = self.log.len();
            if lines > said {
                (said, end) = (lines, Instant::now() + PATIENCE);
            }
            let line = self.log.find(0, &mut |v| v["message"] == "listening" && v["listener"] == name);
            if let Some(line) = line {
                let address = line["address"].as_str().expect("an address");
                return match address.starts_with("unix:") {
                    true => None,
                    false => Some(address.parse().expect("an address and a port")),
                };
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                thread::sleep(Duration::from_millis(50)); // the reader of its last words
                panic!("the gateway gave up with {status}: {}", self.dump());
            }
            assert!(Instant::now() < end, "listener `{name}` never listened: {}", self.dump());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn dump(&self) -> String {
        self.log.all().iter().map(|v| format!("\n  {v}")).collect()
    }

    /// The address of a listener.
    #[track_caller]
    pub fn address_of(&self, listener: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(name, _)| name == listener);
        found.unwrap_or_else(|| panic!("no listener `{listener}` in the config")).1
    }

    /// The address of the first listener that is not `admin`.
    pub fn address(&self) -> SocketAddr {
        self.listeners.iter().find(|(name, _)| name != "admin").expect("a listener").1
    }

    /// A new connection to the first listener.
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// `GET` on a new connection.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.client().get(target)
    }

    /// A request on a new connection.
    #[track_caller]
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.client().request(method, target, headers, body)
    }

    /// Writes bytes on a new connection and reads until the gateway closes.
    pub fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.client();
        client.send(bytes);
        String::from_utf8_lossy(&client.read_to_close()).into_owned()
    }

    /// A `GET` on the admin listener.
    #[track_caller]
    pub fn admin(&self, target: &str) -> Response {
        Client::connect(self.address_of("admin")).get(target)
    }

    /// The value of a series of `/metrics`, summed over those that have all these `name="value"` labels; none when
    /// there is no such series.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = self.admin("/metrics").text();
        let mut sum = None;
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (family, rest) = series.split_once('{').unwrap_or((series, ""));
            if family == name && labels.iter().all(|(n, v)| rest.contains(&format!("{n}=\"{v}\""))) {
                *sum.get_or_insert(0.0) += value.parse::<f64>().expect("a number in /metrics");
            }
        }
        sum
    }

    /// The lines of the operational log so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.all()
    }

    /// The first line of the operational log that matches, waiting for it.
    #[track_caller]
    pub fn wait_log(&self, what: &str, mut matches: impl FnMut(&Value) -> bool) -> Value {
        eventually_some(what, || self.log.find(0, &mut matches))
    }

    /// The lines of the access log so far.
    pub fn access(&self) -> Vec<Value> {
        self.access.all()
    }

    /// The first line of the access log that matches, waiting for it.
    #[track_caller]
    pub fn wait_access(&self, what: &str, mut matches: impl FnMut(&Value) -> bool) -> Value {
        eventually_some(what, || self.access.find(0, &mut matches))
    }

    /// The folder of gateway.toml.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Puts a file beside gateway.toml.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        write(self.dir.path(), path, content.as_ref());
    }

    /// Replaces the config and waits until the gateway has taken it.
    #[track_caller]
    pub fn reload(&self, toml: &str) {
        let line = self.try_reload(toml);
        assert_eq!(line["message"], "configuration reloaded", "the reload was refused: {line}");
    }

    /// Replaces the config, asks for a reload, and returns the line of the log that tells how it ended. The config should
    /// have `reload = false`: else the changed file may be loaded twice, and a later call would see the second end of this.
    #[track_caller]
    pub fn try_reload(&self, toml: &str) -> Value {
        let from = self.log.len();
        write(self.dir.path(), "gateway.toml", toml.as_bytes());
        self.signal("HUP");
        eventually_some("the end of a reload in the log", || {
            self.log.find(from, &mut |v| {
                v["message"] == "configuration reloaded"
                    || v["message"].as_str().is_some_and(|m| m.starts_with("configuration refused"))
            })
        })
    }

    /// The path of gateway.toml.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Sends a signal (`HUP`, `TERM`, …).
    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().expect("kill(1)");
        assert!(sent.success(), "kill -{name}");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the process to end.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        eventually("the gateway to end", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }

    /// SIGTERM, then waits for the end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_end()
    }

    /// The most resident memory that the process has had, in bytes.
    pub fn peak_resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("kB") * 1024
    }

    /// Resident memory in bytes. From `smaps_rollup`: the counter in `status` is off by megabytes on many cores.
    pub fn resident(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).expect("/proc");
        let line = rollup.lines().find_map(|l| l.strip_prefix("Rss:")).expect("Rss");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("kB") * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            #[allow(clippy::print_stderr, reason = "what the gateway said helps to read a failed test")]
            {
                eprintln!("the gateway's log: {}", self.dump());
            }
        }
    }
}
