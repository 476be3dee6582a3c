//! SIGTERM: nobody new, everybody in flight to the end.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sluice_harness::h2::{H2, full, until};
use sluice_harness::{Gateway, Origin, eventually, fixtures, gateway};

use crate::support::{BASE, route};

#[test]
fn what_is_in_flight_is_finished() {
    let origin = Origin::scripted();
    let mut gateway = Gateway::before(&origin.url());
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut conn = origin.accept();
    conn.read_head();
    let address = gateway.address();
    gateway.signal("TERM");
    eventually("no new connections", || TcpStream::connect(address).is_err());
    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
    let response = client.read_response("GET");
    assert_eq!(response.text(), "done");
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(gateway.wait_end().code(), Some(0));
}

#[test]
fn idle_connections_do_not_hold_it_up() {
    let origin = Origin::named("o");
    let mut gateway = Gateway::before(&origin.url());
    let mut idle = gateway.client();
    assert_eq!(idle.get("/").status, 200);
    let start = Instant::now();
    assert_eq!(gateway.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    idle.expect_close();
}

#[test]
fn a_delay_lets_load_balancers_turn_away_before_connections_are_refused() {
    let origin = Origin::named("o");
    let toml = BASE.replace("workers = 1", "workers = 1\nshutdown_delay = \"1h\"") + &route(&origin.url(), &[]);
    let mut gateway = Gateway::start(&toml);
    let mut open = gateway.client();
    assert_eq!(open.get("/").status, 200);
    gateway.signal("TERM");
    eventually("not ready", || gateway.admin("/readyz").status == 503);
    assert_eq!(gateway.get("/").text(), "o", "new connections are accepted");
    let response = open.get("/");
    assert_eq!((response.text().as_str(), response.header("connection")), ("o", None), "open ones stay");
    gateway.signal("TERM");
    assert_eq!(gateway.wait_end().code(), Some(143), "a second signal does not wait");
}

#[test]
fn after_the_delay_it_ends_in_order() {
    let origin = Origin::named("o");
    let toml = BASE.replace("workers = 1", "workers = 1\nshutdown_delay = \"200ms\"") + &route(&origin.url(), &[]);
    let mut gateway = Gateway::start(&toml);
    let start = Instant::now();
    assert_eq!(gateway.terminate().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
}

#[test]
fn an_interrupt_is_the_same() {
    let mut gateway = Gateway::before(&Origin::named("o").url());
    gateway.signal("INT");
    assert_eq!(gateway.wait_end().code(), Some(0));
}

#[test]
fn the_deadline_cuts_what_does_not_end() {
    let origin = Origin::scripted();
    let toml = BASE.replace("workers = 1", "workers = 1\nshutdown_timeout = \"400ms\"") + &route(&origin.url(), &[]);
    let mut gateway = Gateway::start(&toml);
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    origin.accept().read_head();
    let start = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait_end().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn http2_connections_are_told_to_go() {
    let origin = Origin::scripted();
    let mut gateway = Gateway::before(&origin.url());
    let h2 = H2::connect(gateway.address());
    let request = h2.builder("GET", "/").body(full("")).expect("a request");
    let gateway_ref = &gateway;
    h2.run(|mut sender| async move {
        let sending = tokio::spawn(sender.send_request(request));
        let accepted = tokio::task::spawn_blocking(move || {
            let mut conn = origin.accept();
            conn.read_head();
            conn
        });
        let mut conn = accepted.await.expect("the request at the origin");
        gateway_ref.signal("TERM");
        conn.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
        let response = sending.await.expect("the task").expect("an answer");
        assert_eq!(response.status(), 200);
        until("the connection to be closed", || sender.is_closed()).await;
    });
    assert_eq!(gateway.wait_end().code(), Some(0));
}

#[test]
fn the_last_lines_of_the_log_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, format!("{BASE}{}", route("http://127.0.0.1:1", &[]))).expect("a file");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut gateway = Command::new(gateway::binary())
        .args([OsStr::new("run"), OsStr::new("--config"), config.as_os_str()])
        .env("XDG_CACHE_HOME", fixtures::cache_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer.try_clone().expect("a pipe"))
        .spawn()
        .expect("the sluice binary");
    let mut lines = BufReader::new(reader).lines().map(|line| line.expect("a line"));
    let line = lines.find(|line| line.contains("\"listener\":\"http\"")).expect("a listener");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let address: SocketAddr = line["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    // A reader that has fallen behind: the pipe is full when the gateway ends.
    let filler = thread::spawn(move || {
        let mut writer = writer;
        // Fails when the reader has seen enough.
        let _ = writer.write_all(&[b'\n'; 256 * 1024]);
    });
    let sent = Command::new("kill").arg("-TERM").arg(gateway.id().to_string()).status().expect("kill(1)");
    assert!(sent.success());
    eventually("no new connections", || TcpStream::connect(address).is_err());
    assert!(lines.any(|line| line.contains("\"message\":\"stopped\"")), "the last line is lost");
    assert_eq!(gateway.wait().expect("a child").code(), Some(0));
    drop(lines);
    filler.join().expect("no panic");
}
