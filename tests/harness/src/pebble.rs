//! A real ACME authority for tests: Pebble, with the name server that it comes with. It rejects some good nonces, as it does by default, and waits
//! for nothing.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certs::Certs;
use crate::client::Client;
use crate::tools::{Ended, free_port, need, without_proxies};
use crate::wait::eventually;

/// The authority. It ends when this is dropped.
pub struct Pebble {
    programs: [PathBuf; 2],
    folder: TempDir,
    /// The authority of its own certificate.
    certs: Certs,
    options: Options,
    ports: Ports,
    running: Vec<Ended>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ports {
    acme: u16,
    management: u16,
    /// Of the name server.
    names: u16,
    names_management: u16,
}

/// What differs from the usual.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where it asks for `http-01` and for `tls-alpn-01`.
    pub http: u16,
    pub tls: u16,
    /// How long its certificates are valid, in seconds; 0 for years.
    pub validity: u64,
    /// The identifier and the key of an external account, which it then demands.
    pub external_account: Option<(&'static str, &'static str)>,
}

impl Pebble {
    /// None where there is no program for it.
    pub fn start(options: Options) -> Option<Pebble> {
        let programs = need(["pebble", "pebble-challtestsrv"])?;
        let (folder, certs) = (tempfile::tempdir().expect("a folder"), Certs::new());
        let ports = Ports::default();
        let mut pebble = Pebble { programs, folder, certs, options, ports, running: Vec::new() };
        // Another process may take a port between the search and the start.
        for _ in 0..5 {
            let (acme, management) = (free_port(), free_port());
            pebble.ports = Ports { acme, management, names: free_port(), names_management: free_port() };
            if pebble.run_all() {
                return Some(pebble);
            }
        }
        panic!("no pebble: {}", pebble.log());
    }

    /// Starts it where it was stopped. It knows nothing any more, and has another root.
    pub fn start_again(&mut self) {
        assert!(self.run_all(), "no pebble: {}", self.log());
    }

    /// Whether both programs listen.
    fn run_all(&mut self) -> bool {
        self.stop();
        let ports = self.ports;
        let leaf = self.certs.leaf(&["127.0.0.1"]);
        let mut config = json!({
            "listenAddress": format!("127.0.0.1:{}", ports.acme),
            "managementListenAddress": format!("127.0.0.1:{}", ports.management),
            "certificate": leaf.cert,
            "privateKey": leaf.key,
            "httpPort": self.options.http,
            "tlsPort": self.options.tls,
        });
        if self.options.validity > 0 {
            config["certificateValidityPeriod"] = self.options.validity.into();
        }
        if let Some((id, key)) = self.options.external_account {
            config["externalAccountBindingRequired"] = true.into();
            config["externalAccountMACKeys"] = json!({ id: key });
        }
        let file = self.folder.path().join("pebble.json");
        std::fs::write(&file, json!({ "pebble": config }).to_string()).expect("a file");
        let [pebble, names] = self.programs.clone();
        let mut server = Command::new(names);
        server.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        server.args(["-dns01", &format!("127.0.0.1:{}", ports.names)]);
        server.args(["-management", &format!("127.0.0.1:{}", ports.names_management)]);
        self.run("names", server);
        let mut server = Command::new(pebble);
        server.arg("-config").arg(file).args(["-dnsserver", &format!("127.0.0.1:{}", ports.names)]);
        server.env("PEBBLE_VA_NOSLEEP", "1");
        self.run("pebble", server);
        let mut has_ended = false;
        eventually("the authority to listen", || {
            let mut ended = self.running.iter_mut().map(|Ended(child)| child.try_wait().expect("a child").is_some());
            has_ended = ended.any(|ended| ended);
            let mut wanted = [ports.names_management, ports.management, ports.acme].into_iter();
            has_ended || wanted.all(|port| TcpStream::connect(("127.0.0.1", port)).is_ok())
        });
        !has_ended
    }

    fn run(&mut self, name: &str, mut command: Command) {
        let log = std::fs::File::create(self.log_file(name)).expect("a log");
        let command = without_proxies(command.stdin(Stdio::null()).stderr(log.try_clone().expect("a log")).stdout(log));
        self.running.push(Ended(command.spawn().expect("the program")));
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Nobody answers any more.
    pub fn stop(&mut self) {
        self.running.clear();
    }

    /// The URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.ports.acme)
    }

    /// The authority that its own certificate is of, as a file.
    pub fn ca(&self) -> PathBuf {
        self.certs.ca()
    }

    /// That authority.
    pub fn certs(&self) -> &Certs {
        &self.certs
    }

    /// The address of the interface by which TXT records are set.
    pub fn names(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.names_management))
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file("pebble")).unwrap_or_default()
    }

    /// How many certificates it has issued since it was started.
    pub fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }

    /// What a client that trusts its certificates uses.
    pub fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let pem = self.get(self.ports.management, "/roots/0");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")).expect("a root");
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// Its directory.
    pub fn directory_document(&self) -> Value {
        serde_json::from_str(&self.get(self.ports.acme, "/dir")).expect("JSON")
    }

    fn get(&self, port: u16, target: &str) -> String {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let config = self.certs.client_config(&["http/1.1"], &[&rustls::version::TLS13]);
        let host = format!("127.0.0.1:{port}");
        let mut client = Client::connect_tls(address, "127.0.0.1", config).expect("a handshake");
        client.request("GET", target, &[("host", &host)], b"").text()
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
