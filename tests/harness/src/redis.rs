//! Real Redis servers for tests: one alone, one with replicas and Sentinels, and a cluster. Their processes can be killed, stopped and
//! started again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::tools::{free_port, need};
use crate::wait::eventually;

/// A server. It is killed when this is dropped.
pub struct Redis {
    program: PathBuf,
    arguments: Vec<String>,
    folder: TempDir,
    pub port: u16,
    /// For a server with TLS only, its socket is the way in for tests.
    socket: PathBuf,
    child: Option<Child>,
}

impl Redis {
    /// A server that keeps nothing; none where there is no program for it.
    pub fn start(arguments: &[&str]) -> Option<Redis> {
        let [program] = need(["redis-server"])?;
        Some(Redis::run(program, arguments))
    }

    fn run(program: PathBuf, arguments: &[&str]) -> Redis {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("redis.sock");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Redis { program, arguments, folder, port: 0, socket, child: None };
        // Another process may take the port between the search and the start.
        for _ in 0..5 {
            redis.port = free_port();
            if redis.start_again() {
                return redis;
            }
        }
        panic!("no redis-server: {}", std::fs::read_to_string(redis.folder.path().join("log")).unwrap_or_default());
    }

    /// Starts it once more, where it was killed. Answers whether it listens.
    pub fn start_again(&mut self) -> bool {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        let mut command = Command::new(&self.program);
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        command.args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]);
        command.arg("--unixsocket").arg(&self.socket);
        if !self.arguments.iter().any(|argument| argument == "--tls-port") {
            command.arg("--port").arg(self.port.to_string());
        }
        command.args(self.arguments.iter().map(|argument| argument.replace("PORT", &self.port.to_string())));
        self.child = Some(command.spawn().expect("redis-server"));
        let mut ends = false;
        eventually("redis-server to answer", || {
            ends = self.child.as_mut().is_some_and(|child| child.try_wait().expect("a child").is_some());
            ends || self.ask(&["PING"]).contains("PONG")
        });
        !ends
    }

    /// Sends a command over the socket and answers the values that come back, a line each. Empty where nobody answers.
    pub fn ask(&self, command: &[&str]) -> String {
        let Ok(stream) = std::os::unix::net::UnixStream::connect(&self.socket) else { return String::new() };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        exchange(stream, command)
    }

    /// The same over its port, as a client without TLS.
    pub fn ask_over_tcp(&self, command: &[&str]) -> String {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return String::new() };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        exchange(stream, command)
    }

    /// How often a command was called, by `INFO commandstats`.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// Waits until its replica has all that it has.
    pub fn until_replicated(&self) {
        eventually("the replica has it all", || {
            let info = self.ask(&["INFO", "replication"]);
            let own = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).map(str::trim);
            let replica = info.lines().find_map(|line| line.strip_prefix("slave0:"));
            let theirs = replica.and_then(|line| line.split(',').find_map(|part| part.strip_prefix("offset=")));
            own.is_some() && own == theirs
        });
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It answers nothing until [`Self::resume`]; connections stay open and new ones are taken.
    pub fn hang(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it runs").id();
        let status = Command::new("kill").args([format!("-{signal}"), id.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal} {id}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn exchange(mut stream: impl Read + Write, command: &[&str]) -> String {
    let mut bytes = format!("*{}\r\n", command.len());
    for part in command {
        bytes.push_str(&format!("${}\r\n{part}\r\n", part.len()));
    }
    let mut answer = String::new();
    if stream.write_all(bytes.as_bytes()).is_ok() {
        let _ = read_answer(&mut BufReader::new(stream), &mut answer);
    }
    answer
}

/// Reads one answer (RESP 2) and appends its values, a line each.
fn read_answer(stream: &mut impl BufRead, answer: &mut String) -> io::Result<()> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
    let length = rest.parse::<i64>().ok().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    match kind {
        "*" => (0..length).try_for_each(|_| read_answer(stream, answer)),
        "$" => {
            let mut text = vec![0; length + if rest == "-1" { 0 } else { 2 }];
            stream.read_exact(&mut text)?;
            answer.push_str(String::from_utf8_lossy(&text).trim_end());
            answer.push('\n');
            Ok(())
        }
        _ => {
            answer.push_str(rest);
            answer.push('\n');
            Ok(())
        }
    }
}

/// Three masters with a replica each.
pub struct RedisCluster {
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    pub fn start() -> Option<RedisCluster> {
        let [_, client] = need(["redis-server", "redis-cli"])?;
        let bus: Vec<u16> = (0..6).map(|_| free_port()).collect();
        let nodes: Vec<Redis> = bus
            .iter()
            .map(|bus| {
                let bus = bus.to_string();
                let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
                Redis::start(&cluster)
            })
            .collect::<Option<_>>()?;
        let mut create = Command::new(client);
        create.args(["--cluster", "create"]).args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        let made = create.args(["--cluster-replicas", "1", "--cluster-yes"]).output().expect("redis-cli");
        assert!(
            made.status.success(),
            "{}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
        let cluster = RedisCluster { nodes };
        let is_ready = |node: &Redis| {
            let replicates = node.ask(&["INFO", "replication"]);
            node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && (replicates.contains("role:master") && replicates.contains("state=online")
                    || replicates.contains("master_link_status:up"))
        };
        eventually("the cluster", || cluster.nodes.iter().all(is_ready));
        Some(cluster)
    }

    /// Addresses for the key `redis`.
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(|node| format!("\"{}\"", node.url())).collect();
        format!("[{}]", urls.join(", "))
    }

    /// The master of the slot of a key.
    pub fn master_of(&mut self, key: &str) -> &mut Redis {
        let slot = number(&self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]));
        let owns = |node: &Redis| {
            let nodes = node.ask(&["CLUSTER", "NODES"]);
            let own = nodes.lines().find(|line| line.contains("myself,master")).unwrap_or_default().to_owned();
            own.split(' ')
                .skip(8)
                .filter_map(|range| {
                    let (from, to) = range.split_once('-').unwrap_or((range, range));
                    Some(from.parse::<u64>().ok()?..=to.parse::<u64>().ok()?)
                })
                .any(|range| range.contains(&slot))
        };
        self.nodes.iter_mut().find(|node| owns(node)).expect("a master")
    }
}

/// A master, a replica and three Sentinels that watch it.
pub struct RedisWithSentinels {
    pub servers: Vec<Redis>,
    pub sentinels: Vec<Sentinel>,
}

/// A process that watches.
pub struct Sentinel {
    child: Child,
    _folder: TempDir,
    pub port: u16,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RedisWithSentinels {
    pub fn start(master: &str) -> Option<RedisWithSentinels> {
        let [program] = need(["redis-server"])?;
        let first = Redis::start(&[])?;
        let replica = Redis::start(&["--replicaof", &format!("127.0.0.1 {}", first.port)])?;
        let watched = first.port;
        let sentinels: Vec<Sentinel> = (0..3)
            .map(|_| {
                let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
                let text = format!(
                    "port {port}\nbind 127.0.0.1\nsentinel monitor {master} 127.0.0.1 {watched} 2\n\
                     user watcher on >s3ntinel allchannels +@all\nuser default off\n\
                     sentinel sentinel-user watcher\nsentinel sentinel-pass s3ntinel\n\
                     sentinel down-after-milliseconds {master} 2000\nsentinel failover-timeout {master} 3000\n"
                );
                let file = folder.path().join("sentinel.conf");
                std::fs::write(&file, text).expect("a file");
                let mut command = Command::new(&program);
                let child = command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
                Sentinel { child: child.expect("a Sentinel"), _folder: folder, port }
            })
            .collect();
        let ask = |port: u16, command: &[&str]| match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                exchange(&stream, &["AUTH", "watcher", "s3ntinel"]);
                exchange(&stream, command)
            }
            Err(_) => String::new(),
        };
        eventually("the Sentinels know each other and the replica", || {
            sentinels.iter().all(|sentinel| {
                let known = ask(sentinel.port, &["SENTINEL", "MASTER", master]);
                let field = |name: &str| known.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                field("num-slaves").as_deref() == Some("1") && field("num-other-sentinels").as_deref() == Some("2")
            })
        });
        eventually("the replica follows", || replica.ask(&["INFO", "replication"]).contains("master_link_status:up"));
        Some(RedisWithSentinels { servers: vec![first, replica], sentinels })
    }

    /// Addresses for the key `redis`.
    pub fn urls(&self) -> String {
        let urls: Vec<String> =
            self.sentinels.iter().map(|sentinel| format!("\"redis://127.0.0.1:{}\"", sentinel.port)).collect();
        format!("[{}]", urls.join(", "))
    }
}

fn number(answer: &str) -> u64 {
    answer.trim().parse().expect("a number")
}
