//! The proxies that are put between the clients and the endpoints: Sluice as built, and those that are installed, each with a
//! configuration beside this file.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sluice_harness::gateway::binary;

use crate::load::Target;
use crate::origins::Address;

/// How long a proxy may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A proxy that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    Sluice,
    Haproxy,
    Nginx,
    Envoy,
}

/// What its configuration is filled with.
pub(crate) struct Surroundings<'a> {
    pub(crate) endpoints: &'a [Address],
    pub(crate) name_server: SocketAddr,
    pub(crate) consul: SocketAddr,
    /// A component that traps at each request.
    pub(crate) trap: &'a [u8],
}

/// A running proxy; killed when dropped.
pub(crate) struct Running {
    proxy: Proxy,
    child: Child,
    folder: tempfile::TempDir,
    pub(crate) target: Target,
}

impl Proxy {
    pub(crate) const ALL: [Proxy; 4] = [Proxy::Sluice, Proxy::Haproxy, Proxy::Nginx, Proxy::Envoy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Proxy::Sluice => "sluice",
            Proxy::Haproxy => "haproxy",
            Proxy::Nginx => "nginx",
            Proxy::Envoy => "envoy",
        }
    }

    /// Whether it can load its configuration again while it runs.
    pub(crate) fn reloads(self) -> bool {
        self != Proxy::Envoy
    }

    /// Its program, if it is there.
    pub(crate) fn program(self) -> Option<PathBuf> {
        if self == Proxy::Sluice {
            return Some(binary());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
        folders.map(|folder| folder.join(self.name())).find(|file| file.is_file())
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(self, around: &Surroundings<'_>) -> Running {
        let folder = tempfile::tempdir().expect("a folder");
        let (http, grpc) = (free_port(), free_port());
        let run = folder.path();
        let program = self.program().expect("a program that is there");
        let mut command = Command::new(program);
        match self {
            Proxy::Sluice => {
                fs::create_dir(run.join("plugins")).expect("a folder");
                fs::write(run.join("plugins/trap.wasm"), around.trap).expect("a file");
                let config = self.lay_out(run, "gateway.toml", include_str!("gateway.toml"), (http, grpc), around);
                command.args(["run", "--config"]).arg(config);
            }
            Proxy::Haproxy => {
                let config = self.lay_out(run, "haproxy.cfg", include_str!("haproxy.cfg"), (http, grpc), around);
                command.args(["-W", "-db", "-f"]).arg(config);
            }
            Proxy::Nginx => {
                let config = self.lay_out(run, "nginx.conf", include_str!("nginx.conf"), (http, grpc), around);
                command.arg("-p").arg(run).arg("-c").arg(config);
            }
            Proxy::Envoy => {
                let config = self.lay_out(run, "envoy.yaml", include_str!("envoy.yaml"), (http, grpc), around);
                command.args(["--concurrency", "2", "--log-level", "error", "--disable-hot-restart", "-c"]).arg(config);
            }
        }
        let log = fs::File::create(run.join("output")).expect("a file");
        let output = log.try_clone().expect("a file");
        command.current_dir(run).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let target = Target { http: local(http), grpc: local(grpc) };
        let mut running = Running { proxy: self, child, folder, target };
        running.wait_until_it_listens();
        running
    }

    fn lay_out(
        self,
        run: &Path,
        file: &str,
        template: &str,
        (http, grpc): (u16, u16),
        around: &Surroundings<'_>,
    ) -> PathBuf {
        let servers = |of: fn(&Address) -> SocketAddr| {
            let one = |(number, address): (usize, &Address)| {
                let at = of(address);
                match self {
                    Proxy::Sluice => format!("\"http://{at}\""),
                    Proxy::Haproxy => format!("  server e{number} {at}"),
                    Proxy::Nginx => format!("    server {at} max_fails=2 fail_timeout=2s;"),
                    Proxy::Envoy => format!(
                        "{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}",
                        at.ip(),
                        at.port()
                    ),
                }
            };
            let between = if matches!(self, Proxy::Sluice | Proxy::Envoy) { ", " } else { "\n" };
            around.endpoints.iter().enumerate().map(one).collect::<Vec<_>>().join(between)
        };
        let text = template
            .replace("$HTTP_SERVERS", &servers(|address| address.http))
            .replace("$GRPC_SERVERS", &servers(|address| address.grpc))
            .replace("$HTTP_PORT", &around.endpoints[0].http.port().to_string())
            .replace("$HTTP", &http.to_string())
            .replace("$GRPC", &grpc.to_string())
            .replace("$NAME_SERVER", &around.name_server.to_string())
            .replace("$CONSUL", &around.consul.to_string())
            .replace("$RUN", &run.display().to_string());
        let config = run.join(file);
        fs::write(&config, text).expect("a file");
        config
    }
}

impl Running {
    fn wait_until_it_listens(&mut self) {
        let end = Instant::now() + PATIENCE;
        while [self.target.http, self.target.grpc].iter().any(|port| TcpStream::connect(port).is_err()) {
            let ended = self.child.try_wait().expect("its state");
            if ended.is_some() || Instant::now() > end {
                let said = fs::read_to_string(self.folder.path().join("output")).unwrap_or_default();
                panic!("{} does not listen: {said}", self.proxy.name());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has it load its configuration again, as its manual says.
    pub(crate) fn reload(&self) {
        let name = match self.proxy {
            Proxy::Haproxy => "USR2",
            Proxy::Sluice | Proxy::Nginx => "HUP",
            Proxy::Envoy => unreachable!("it has no reload"),
        };
        signal(self.child.id(), name);
    }

    /// Resident bytes of its processes together.
    pub(crate) fn resident(&self) -> u64 {
        let pages: u64 = family(self.child.id())
            .into_iter()
            .filter_map(|pid| {
                fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse::<u64>().ok()
            })
            .sum();
        pages * 4096
    }
}

fn signal(pid: u32, name: &str) {
    // Fails where the process has ended.
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// A process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        all.extend(family(child));
    }
    all
}

impl Drop for Running {
    fn drop(&mut self) {
        for pid in family(self.child.id()).into_iter().rev() {
            signal(pid, "KILL");
        }
        let _ = self.child.wait();
    }
}

/// A port of the loopback address that is free now.
fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    free.local_addr().expect("its address").port()
}
