//! The other readers, as origins.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_harness::tools::{Ended, Server, free_port, wait_for_port, without_proxies};
use tempfile::TempDir;

use super::naive::Message;

/// A request as an origin has read it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) body: String,
    /// Names in lower case, where the origin tells them.
    pub(super) fields: Option<Vec<(String, String)>>,
}

/// An origin that tells what it reads, and answers it with `x-reader`.
pub(super) trait Reader {
    fn port(&self) -> u16;

    /// Whether it serves such a request. One that it refuses is read by nobody in another way.
    fn takes(&self, message: &Message) -> bool;

    /// What it has read since the last time; so many are waited for.
    fn seen(&mut self, count: usize) -> Result<Vec<Seen>, String>;
}

/// Node.
pub(super) struct Llhttp {
    server: Server,
    port: u16,
    methods: Vec<String>,
}

impl Llhttp {
    pub(super) fn start(node: &Path) -> Llhttp {
        let (mut server, port) = Server::script(node, "reader.mjs");
        let methods = serde_json::from_str(&server.ask("methods")).expect("a list");
        Llhttp { server, port, methods }
    }
}

impl Reader for Llhttp {
    fn port(&self) -> u16 {
        self.port
    }

    fn takes(&self, message: &Message) -> bool {
        self.methods.contains(&message.method)
    }

    fn seen(&mut self, _: usize) -> Result<Vec<Seen>, String> {
        let seen: Value = serde_json::from_str(&self.server.ask("seen")).expect("JSON");
        let errors: Vec<_> = seen["errors"].as_array().expect("a list").iter().map(Value::to_string).collect();
        if let Some(error) = errors.iter().find(|error| !error.contains("HPE_INVALID_METHOD")) {
            return Err(format!("llhttp: {error}"));
        }
        let requests = seen["requests"].as_array().expect("a list").iter();
        Ok(requests
            .map(|request| {
                let raw: Vec<_> = request["fields"].as_array().expect("a list").iter().map(text).collect();
                Seen {
                    method: text(&request["method"]),
                    target: text(&request["target"]),
                    body: lossy(&text(&request["body"])),
                    fields: Some(raw.chunks(2).map(|pair| (pair[0].to_ascii_lowercase(), pair[1].clone())).collect()),
                }
            })
            .collect())
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Latin-1 for bytes, as text that is compared.
fn lossy(latin1: &str) -> String {
    String::from_utf8_lossy(&latin1.chars().map(|c| c as u8).collect::<Vec<_>>()).into_owned()
}

/// nginx, which writes into its log what it has read and passed on to another server of its own.
pub(super) struct Nginx {
    _child: Ended,
    _dir: TempDir,
    port: u16,
    log: BufReader<File>,
    line: Vec<u8>,
}

impl Nginx {
    pub(super) fn start(nginx: &Path) -> Nginx {
        let dir = tempfile::tempdir().expect("a folder");
        let (port, inner) = (free_port(), free_port());
        let root = dir.path().display();
        let user = if std::env::var("USER").is_ok_and(|u| u != "root") { "" } else { "user root;\n" };
        let conf = format!(
            "{user}daemon off;\npid {root}/pid;\nerror_log stderr crit;\nworker_processes 1;\nevents {{}}\nhttp {{\n\
             client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
             log_format seen escape=json '{{\"status\":\"$status\",\"method\":\"$request_method\",\"target\":\"$request_uri\",\"body\":\"$request_body\"}}';\n\
             keepalive_requests 1000000; keepalive_timeout 1h; client_header_timeout 1h; large_client_header_buffers 4 64k;\n\
             client_body_buffer_size 256k; client_body_in_single_buffer on; client_max_body_size 0;\n\
             server {{ listen 127.0.0.1:{port}; access_log {root}/log seen; location / {{ proxy_pass http://127.0.0.1:{inner}; }} }}\n\
             server {{ listen 127.0.0.1:{inner}; access_log off; add_header x-reader nginx; location / {{ return 200; }} }} }}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), conf).expect("a file");
        let mut command = Command::new(nginx);
        command.arg("-e").arg("stderr").arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        let child = Ended(without_proxies(&mut command).stderr(Stdio::null()).spawn().expect("nginx"));
        wait_for_port(port);
        let log = BufReader::new(File::open(dir.path().join("log")).expect("the log"));
        Nginx { _child: child, _dir: dir, port, log, line: Vec::new() }
    }

    /// The next line, once it is there.
    fn next(&mut self) -> Option<Value> {
        self.log.read_until(b'\n', &mut self.line).expect("the log");
        if !self.line.ends_with(b"\n") {
            return None;
        }
        let line = std::mem::take(&mut self.line);
        Some(serde_json::from_str(&String::from_utf8_lossy(&line)).expect("JSON"))
    }
}

impl Reader for Nginx {
    fn port(&self) -> u16 {
        self.port
    }

    fn takes(&self, message: &Message) -> bool {
        let expects = message.fields.iter().filter(|(name, _)| name == "expect").count();
        expects < 2 && message.method.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'_' | b'-'))
    }

    fn seen(&mut self, count: usize) -> Result<Vec<Seen>, String> {
        let mut seen = Vec::new();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match self.next() {
                // What broke off is logged too, with a status of 400 or 499.
                Some(line) if line["status"] == "200" => seen.push(Seen {
                    method: text(&line["method"]),
                    target: text(&line["target"]),
                    body: text(&line["body"]),
                    fields: None,
                }),
                Some(_) => {}
                None if seen.len() >= count || Instant::now() > end => return Ok(seen),
                // The line is written when the answer is on its way.
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }
}
