//! Unix sockets in front of the gateway: their files, who may connect, and what is known of a client there.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use sluice_harness::tools::{need, run};
use sluice_harness::{Gateway, Origin, Reply, eventually, wire};

use crate::support::setup;

/// A listener on `http.sock` in the gateway's folder, and a route for all.
fn listener(lines: &str, rest: &str) -> String {
    format!(
        "[gateway]\nworkers = 2\nreload = false\n[listeners.sock]\nbind = \"unix:http.sock\"\n{lines}\n[routes.all]\nmatch = {{ path = \"/**\" }}\n{rest}"
    )
}

const FINE: &str = "respond = { status = 200, body = \"fine\" }\n";

/// What a connection to this socket answers to a request with these header lines, until it is closed.
fn try_ask(socket: &Path, path: &str, lines: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{lines}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[track_caller]
fn ask(socket: &Path, path: &str, lines: &str) -> String {
    try_ask(socket, path, lines).expect("an answer")
}

#[test]
fn a_listener_on_a_unix_socket() {
    let mut gateway = Gateway::start(&listener("", FINE));
    let socket = gateway.dir().join("http.sock");
    assert!(ask(&socket, "/", "").starts_with("HTTP/1.1 200"));
    let line = gateway.wait_access("the request in the access log", |line| line["path"] == "/");
    assert_eq!(line["client"], "unix:");
    let file = std::fs::metadata(&socket).expect("a file");
    assert!(file.file_type().is_socket());
    assert_eq!(file.mode() & 0o777, 0o660);

    if let Some([curl]) = need(["curl"]) {
        let socket = socket.to_str().expect("UTF-8");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let arguments = ["-sS", "--fail", version, "--unix-socket", socket, "http://a.test/x"];
            assert_eq!(run(&curl, &arguments), "fine");
        }
    }
    // Over a reload the socket stays as it is, and it goes with the process.
    gateway.reload(&listener("max_connections = 50", FINE));
    assert_eq!(std::fs::metadata(&socket).expect("a file").ino(), file.ino());
    assert!(ask(&socket, "/", "").starts_with("HTTP/1.1 200"));
    assert!(gateway.terminate().success());
    assert!(!socket.exists());
}

#[test]
fn every_worker_accepts_and_none_is_lost() {
    let gateway = Gateway::start(&listener("", FINE));
    let socket = gateway.dir().join("http.sock");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| assert!(ask(&socket, "/", "").ends_with("fine"))));
        }
    });
    eventually("all lines of the access log", || gateway.access().len() == 400);
}

#[test]
fn mode_owner_and_group_of_the_file() {
    let me = std::fs::metadata("/proc/self").expect("a process");
    let lines = format!("unix_socket = {{ mode = \"0604\", owner = \"{}\", group = \"{}\" }}", me.uid(), me.gid());
    let gateway = Gateway::start(&listener(&lines, FINE));
    let file = std::fs::metadata(gateway.dir().join("http.sock")).expect("a file");
    assert_eq!((file.mode() & 0o777, file.uid(), file.gid()), (0o604, me.uid(), me.gid()));

    let refused = |lines: &str| Gateway::setup().refused(&listener(lines, FINE)).stderr;
    let unknown = refused("unix_socket = { owner = \"no-such-user\" }");
    assert!(unknown.contains("there is no user `no-such-user` in /etc/passwd"), "{unknown}");
    let unknown = refused("unix_socket = { group = \"no-such-group\" }");
    assert!(unknown.contains("there is no group `no-such-group` in /etc/group"), "{unknown}");
    let wrong = refused("unix_socket = { mode = \"0888\" }");
    assert!(wrong.contains("expected a mode like \"0660\""), "{wrong}");
    if me.uid() == 0 {
        let lines = "unix_socket = { owner = \"nobody\", group = \"daemon\" }";
        let gateway = Gateway::start(&listener(lines, FINE));
        let file = std::fs::metadata(gateway.dir().join("http.sock")).expect("a file");
        assert!(file.uid() > 0 && file.gid() > 0, "{} {}", file.uid(), file.gid());
    }
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("s");
    let toml = listener("", FINE).replace("unix:http.sock", &format!("unix:{}", socket.display()));
    let mut killed = Gateway::start(&toml);
    killed.signal("KILL");
    killed.wait_end();
    assert!(socket.exists(), "nobody has removed it");
    let gateway = Gateway::start(&toml);
    assert!(ask(&socket, "/", "").ends_with("fine"));

    // A second gateway leaves the socket of the first alone.
    let refused = Gateway::setup().refused(&toml);
    assert!(refused.stderr.contains("another process listens there"), "{}", refused.stderr);
    assert!(ask(&socket, "/", "").ends_with("fine"));
    drop(gateway);

    std::fs::remove_file(&socket).expect("the socket");
    std::fs::write(&socket, "precious").expect("a file");
    let refused = Gateway::setup().refused(&toml);
    assert!(refused.stderr.contains("there is a file that is not a socket"), "{}", refused.stderr);
    let checked = Gateway::setup().command_output(&toml, &["check"]);
    assert!(
        checked.stdout.contains("can't be bound on this machine: there is a file that is not a socket"),
        "{checked:?}"
    );
    assert_eq!(std::fs::read_to_string(&socket).expect("the file"), "precious");
}

#[test]
fn a_peer_over_a_unix_socket_is_trusted_only_where_told() {
    let rest = "upstream = \"echo\"\n[upstreams.echo]\nbuiltin = \"echo\"\n\
                [routes.near]\nmatch = { path = \"/near\", client_ip = [\"0.0.0.0/0\", \"::/0\"] }\nrespond = { status = 200, body = \"near\" }\n\
                [routes.limited]\nmatch = { path = \"/limited\" }\nrespond = { status = 200 }\npipeline = [\"limit\"]\n\
                [filters.limit]\nplugin = \"rate-limit\"\nconfig = { limits = [{ key = \"ip\", algorithm = \"fixed-window\", amount = 1, window = \"1d\" }] }\n";
    let gateway = setup().start(&listener("", rest));
    let socket = gateway.dir().join("http.sock");
    let answer = ask(&socket, "/", "x-forwarded-for: 192.0.2.7\r\n");
    assert!(!answer.contains("x-forwarded-for") && answer.contains("x-forwarded-proto"), "{answer}");
    assert!(!ask(&socket, "/near", "").ends_with("near"), "it is in no network");
    let limited = |lines: &str| ask(&socket, "/limited", lines)[9..12].to_owned();
    assert_eq!([limited(""), limited("x-forwarded-for: 192.0.2.7\r\n")], ["200", "429"], "one client like another");

    let gateway = setup().start(&listener("trusted_proxies = [\"unix:\"]", rest));
    let socket = gateway.dir().join("http.sock");
    let answer = ask(&socket, "/", "x-forwarded-for: 192.0.2.7\r\n");
    assert!(answer.contains("\"x-forwarded-for\": \"192.0.2.7\""), "{answer}");
    assert!(ask(&socket, "/near", "x-forwarded-for: 192.0.2.7\r\n").ends_with("near"));
    gateway.wait_access("the client", |line| line["path"] == "/near" && line["client"] == "192.0.2.7");
    let limited =
        |last: u8| ask(&socket, "/limited", &format!("x-forwarded-for: 192.0.2.{last}\r\n"))[9..12].to_owned();
    assert_eq!([limited(1), limited(1), limited(2)], ["200", "429", "200"]);
}

#[test]
fn a_client_that_has_left_is_noticed() {
    let origin = Origin::serve(|request| match request.target.as_str() {
        "/chunks" => Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            conn.write(wire::chunk(b"some"));
            conn.wait_for_close();
        }),
        "/length" => Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome");
            conn.wait_for_close();
        }),
        _ => Reply::script(|conn| conn.wait_for_close()),
    });
    let gateway = Gateway::start(&listener("", &format!("upstream = \"{}\"\n", origin.url())));
    let ask = |path: &str, until: &str| {
        let count = origin.count();
        let mut stream = UnixStream::connect(gateway.dir().join("http.sock")).expect("a connection");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n").expect("a request");
        eventually("the request at the origin", || origin.count() > count);
        read_until(&mut stream, until);
        stream
    };
    for (path, until) in [("/silent", ""), ("/chunks", "some\r\n"), ("/length", "some")] {
        drop(ask(path, until));
        let line = gateway.wait_access("the client to be missed", |line| line["path"] == path);
        assert_eq!(line["error"], "client-aborted", "{line}");
    }
    // One that only closes its side first still waits for the rest.
    for (path, until, probe) in
        [("/silent/half", "", "HTTP/1.1 "), ("/chunks", "some\r\n", "0"), ("/length", "some", "")]
    {
        let mut stream = ask(path, until);
        let lines = gateway.access().len();
        stream.shutdown(Shutdown::Write).expect("half closed");
        read_until(&mut stream, probe);
        assert_eq!(gateway.access().len(), lines, "{path}");
        drop(stream);
        eventually("the client to be missed", || gateway.access().len() > lines);
    }
    eventually("the gateway to hang up on the origin", || origin.open() == 0);
}

/// Reads until it has read this.
fn read_until(stream: &mut UnixStream, text: &str) {
    let mut read = Vec::new();
    while !read.ends_with(text.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("more of the response");
        read.extend(byte);
    }
}

#[test]
fn a_proxy_header_over_a_unix_socket() {
    let toml = listener("proxy_protocol = { trusted = [\"unix:\"] }", FINE);
    let gateway = Gateway::start(&toml);
    let mut stream = UnixStream::connect(gateway.dir().join("http.sock")).expect("a connection");
    write!(stream, "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
    gateway.wait_access("the client of the header", |line| line["client"] == "192.0.2.7");
}

#[test]
fn an_abstract_name_and_the_admin_listener() {
    let name = format!("sluice-e2e-{}", std::process::id());
    let (origin, me) = (Origin::named("o"), std::fs::metadata("/proc/self").expect("a process"));
    let toml = listener("", &format!("upstream = \"{}\"\n", origin.url()))
        .replace("unix:http.sock", &format!("unix:@{name}"))
        + &format!(
            "[admin]\nbind = \"unix:admin.sock\"\nunix_socket = {{ mode = \"0600\", owner = \"{}\", group = \"{}\" }}\n",
            me.uid(),
            me.gid()
        );
    let mut gateway = Gateway::start(&toml);
    let Some([curl]) = need(["curl"]) else { return };
    assert_eq!(run(&curl, &["-sS", "--fail", "--abstract-unix-socket", &name, "http://a.test/"]), "o");
    let admin = gateway.dir().join("admin.sock");
    assert!(ask(&admin, "/healthz", "").ends_with("ok\n"));
    assert!(ask(&admin, "/metrics", "").contains("sluice_connections_total{listener=\"sock\"} 1\n"));
    let file = std::fs::metadata(&admin).expect("a file");
    assert_eq!((file.mode() & 0o777, file.uid(), file.gid()), (0o600, me.uid(), me.gid()));
    assert!(gateway.terminate().success());
    assert!(!admin.exists());
}

#[test]
fn names_that_can_not_be() {
    let refused = |toml: &str| Gateway::setup().refused(toml).stderr;
    for bind in ["unix:", "unix:@", &format!("unix:/{}", "x".repeat(120))] {
        let stderr = refused(&listener("", FINE).replace("unix:http.sock", bind));
        assert!(stderr.contains("\"unix:/run/sluice/http.sock\""), "{bind}: {stderr}");
    }
    let twice = listener("", FINE) + "[listeners.two]\nbind = \"unix:http.sock\"\n";
    assert!(refused(&twice).contains("is already that of `listeners.sock.bind`"));
    let of_ip = listener("unix_socket = { mode = \"0600\" }", FINE).replace("unix:http.sock", "127.0.0.1:0");
    assert!(refused(&of_ip).contains("`unix_socket` is for a `bind` of the form"));
}
