//! The PROXY protocol: a load balancer in front says whose connection it is, and nobody else does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustls::version::TLS13;
use rustls::{ClientConnection, StreamOwned};
use sluice_harness::tools::{Ended, free_port, need, run, wait_for_port};
use sluice_harness::{Certs, Client, Gateway, Origin, Reply};

use crate::support::{gateway, setup};

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

/// Version 2 with this command, family and rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend((rest.len() as u16).to_be_bytes());
    header.extend(rest);
    header
}

/// The client 192.0.2.7 as version 2.
fn v4() -> Vec<u8> {
    v2(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb])
}

/// A gateway behind load balancers at `trusted`, whose upstream answers with the request that it got.
fn behind(trusted: &str, listener: &str) -> Gateway {
    gateway(&format!(
        "[upstreams.echo]\nbuiltin = \"echo\"\n[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"echo\"\n\
         [routes.near]\nmatch = {{ path = \"/near\", client_ip = [\"192.0.2.0/24\"] }}\nrespond = {{ status = 200, body = \"near\" }}\n\
         [routes.limited]\nmatch = {{ path = \"/limited\" }}\nupstream = \"echo\"\npipeline = [\"limit\"]\n\
         [filters.limit]\nplugin = \"rate-limit\"\nconfig = {{ limits = [{{ key = \"ip\", algorithm = \"fixed-window\", amount = 1, window = \"1d\" }}] }}\n\
         [listeners.behind]\nbind = \"127.0.0.1:0\"\nproxy_protocol = {{ trusted = {trusted} }}\n{listener}\n"
    ))
}

/// A connection that begins with these bytes.
fn begin(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> Client {
    let mut client = Client::connect(gateway.address_of("behind"));
    client.send(bytes);
    client
}

/// The client that an upstream is told of.
fn told(client: &mut Client) -> String {
    client.get("/").json()["headers"]["x-forwarded-for"].as_str().expect("a client").to_owned()
}

#[test]
fn the_client_is_the_one_of_the_header() {
    let gateway = behind("[\"127.0.0.0/8\"]", "");
    let mut v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7]].concat();
    v6.extend([&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0x12, 0x67, 1, 0xbb]].concat());
    // ALPN, authority and a type that nobody knows.
    let extensions =
        [&[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb, 1, 0, 2][..], b"h2\x02\0\x03a.b\xeb\0\x01x"];
    for (header, client) in [
        (V1.as_bytes().to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), "2001:db8::7"),
        (v4(), "192.0.2.7"),
        (v2(0x21, 0x21, &v6), "2001:db8::7"),
        (v2(0x21, 0x11, &extensions.concat()), "192.0.2.7"),
        // A health check of the balancer itself, and one whose client it does not know.
        (v2(0x20, 0, b""), "127.0.0.1"),
        (v2(0x21, 0, b"whatever"), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let mut connection = begin(&gateway, &header);
        assert_eq!([told(&mut connection), told(&mut connection)], [client, client], "{header:?}");
    }
    let mut over_unix = begin(&gateway, v2(0x21, 0x31, &[0; 216]));
    assert_eq!(over_unix.get("/").json()["headers"]["x-forwarded-for"].as_str(), None, "it has no address");
    gateway.wait_access("it in the access log", |line| line["client"] == "unix:");

    // Routes, filters and logs see the client, too.
    assert_eq!(begin(&gateway, v4()).get("/near").text(), "near");
    gateway
        .wait_access("the client in the access log", |line| line["path"] == "/near" && line["client"] == "192.0.2.7");
    let limited = |last: u8| {
        let header = format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 4711 443\r\n");
        begin(&gateway, header).get("/limited").status
    };
    assert_eq!([limited(1), limited(1), limited(2)], [200, 429, 200], "a limit for each address");
}

#[test]
fn what_the_header_says_is_trusted_like_a_peer() {
    let gateway = behind("[\"127.0.0.1\"]", "trusted_proxies = [\"192.0.2.0/24\"]");
    let ask = |header: &str| {
        let answer = begin(&gateway, header).request("GET", "/", &[("x-forwarded-for", "203.0.113.9")], b"");
        answer.json()["headers"]["x-forwarded-for"].as_str().expect("a client").to_owned()
    };
    assert_eq!(ask(V1), "203.0.113.9, 192.0.2.7", "a proxy in front of the balancer");
    assert_eq!(ask("PROXY TCP4 198.51.100.7 198.51.100.1 1 2\r\n"), "198.51.100.7", "a stranger in front of it");
}

#[test]
fn a_stranger_is_not_believed() {
    let gateway = behind("[\"10.0.0.0/8\", \"unix:\"]", "");
    assert_eq!(told(&mut begin(&gateway, "")), "127.0.0.1", "served by its own address");
    for header in [V1.as_bytes().to_vec(), v4()] {
        let mut spoofing = begin(&gateway, [&header[..], b"GET /near HTTP/1.1\r\nhost: x\r\n\r\n"].concat());
        let answer = String::from_utf8_lossy(&spoofing.read_to_close()).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let failures = gateway.metric("sluice_proxy_protocol_failures_total", &[("listener", "behind")]);
    assert_eq!(failures, Some(0.0));
    // A listener without the key takes none from anybody.
    let mut plain = gateway.client();
    plain.send([V1.as_bytes(), b"GET /near HTTP/1.1\r\nhost: x\r\n\r\n"].concat());
    assert!(String::from_utf8_lossy(&plain.read_to_close()).starts_with("HTTP/1.1 400"));
}

#[test]
fn a_trusted_peer_must_send_a_good_header() {
    let gateway = behind("[\"127.0.0.1\"]", "");
    let mut wrong_sum = v4();
    wrong_sum.extend([3, 0, 4, 1, 2, 3, 4]);
    wrong_sum[15] += 7;
    let mut huge = v4();
    huge[14..16].copy_from_slice(&[0xff, 0xff]);
    let bad: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        &[b'P'; 200],
        &v2(0x31, 0x11, &[0; 12]),
        &wrong_sum,
        &huge,
    ];
    for bytes in bad {
        begin(&gateway, bytes).expect_close();
    }
    let broken_off = begin(&gateway, &V1[..20]);
    broken_off.finish();
    // A balancer that only looks whether the port is open.
    drop(begin(&gateway, ""));
    assert_eq!(told(&mut begin(&gateway, V1)), "192.0.2.7");
    sluice_harness::eventually("each counted, but not the look", || {
        gateway.metric("sluice_proxy_protocol_failures_total", &[("listener", "behind")]) == Some(8.0)
    });
}

#[test]
fn a_header_that_does_not_come_in_time() {
    let gateway = setup().start(
        "[listeners.behind]\nbind = \"127.0.0.1:0\"\nproxy_protocol = { trusted = [\"127.0.0.1\"], timeout = \"300ms\" }\n\
         [routes.all]\nmatch = { path = \"/**\" }\nrespond = { status = 200 }\n",
    );
    for begun in ["", "PROXY TCP4 192."] {
        let start = Instant::now();
        begin(&gateway, begun).expect_close();
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(240) && took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn a_header_in_many_packets() {
    let gateway = behind("[\"127.0.0.1\"]", "");
    for header in [V1.as_bytes().to_vec(), v4()] {
        let mut client = begin(&gateway, "");
        for byte in [&header[..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"].concat() {
            client.send([byte]);
        }
        assert_eq!(client.read_response("GET").json()["headers"]["x-forwarded-for"], "192.0.2.7");
    }
    // And two requests in the packet of the header.
    let mut client = begin(&gateway, [&v4()[..], &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2)].concat());
    for _ in 0..2 {
        assert_eq!(client.read_response("GET").json()["headers"]["x-forwarded-for"], "192.0.2.7");
    }
}

#[test]
fn a_header_in_the_packet_of_the_tls_hello() {
    let certs = Certs::new();
    let leaf = certs.leaf(&["a.test"]);
    let gateway = behind(
        "[\"127.0.0.1\"]",
        &format!(
            "tls = {{ certificates = [\"main\"] }}\n[certificates.main]\ncert = \"${{file:{}}}\"\nkey = \"${{file:{}}}\"",
            leaf.cert.display(),
            leaf.key.display()
        ),
    );
    let config = certs.client_config(&["http/1.1"], &[&TLS13]);
    for header in [V1.as_bytes().to_vec(), v4()] {
        let name = rustls_pki_types::ServerName::try_from("a.test").expect("a name");
        let mut session = ClientConnection::new(config.clone(), name).expect("a session");
        let mut first = header;
        session.write_tls(&mut first).expect("the hello");
        let mut tcp = TcpStream::connect(gateway.address_of("behind")).expect("a connection");
        tcp.write_all(&first).expect("one packet");
        let mut stream = StreamOwned::new(session, tcp);
        stream.write_all(b"GET /near HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").expect("a request");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(String::from_utf8_lossy(&answer).ends_with("near"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn http2_behind_a_header() {
    let gateway = behind("[\"127.0.0.1\"]", "");
    let Some([curl]) = need(["curl"]) else { return };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = format!("http://{}/", gateway.address_of("behind"));
        let answer = run(&curl, &["-sS", "--fail", "--haproxy-protocol", version, &url]);
        assert!(answer.contains("\"x-forwarded-for\": \"127.0.0.1\""), "{answer}");
    }
}

#[test]
fn haproxy_in_front() {
    let Some([haproxy]) = need(["haproxy"]) else { return };
    let gateway = behind("[\"127.0.0.1\"]", "");
    let to = gateway.address_of("behind");
    let options = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"];
    let ports: Vec<u16> = options.iter().map(|_| free_port()).collect();
    let mut config = "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n".to_owned();
    for (i, (option, port)) in options.iter().zip(&ports).enumerate() {
        config += &format!(
            "listen l{i}\n  bind 127.0.0.1:{port}\n  unique-id-format %pid\n  tcp-request connection set-src ipv4(192.0.2.7)\n  server s {to} {option}\n"
        );
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, config).expect("a file");
    let child = Command::new(haproxy).arg("-db").arg("-f").arg(&file).stderr(Stdio::null()).spawn().expect("haproxy");
    let _child = Ended(child);
    for (port, option) in ports.iter().zip(options) {
        wait_for_port(*port);
        let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], *port)));
        assert_eq!(told(&mut client), "192.0.2.7", "{option}");
    }
}

#[test]
fn a_reload_takes_the_header_in_and_out_of_use() {
    let origin = Origin::named("o");
    let toml = |key: &str| {
        format!(
            "[gateway]\nreload = false\n[listeners.behind]\nbind = \"127.0.0.1:0\"\n{key}\n[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{}\"\n",
            origin.url()
        )
    };
    let gateway = Gateway::start(&toml(""));
    assert_eq!(begin(&gateway, "").get("/").status, 200);
    gateway.reload(&toml("proxy_protocol = { trusted = [\"127.0.0.1\"] }"));
    assert_eq!(begin(&gateway, V1).get("/").status, 200);
    assert_eq!(origin.last().head.all("x-forwarded-for"), ["192.0.2.7"]);
    gateway.reload(&toml(""));
    assert_eq!(begin(&gateway, "").get("/").status, 200);
}

/// A server that reads one request of each connection, with what is in front of it, and answers `ok` without closing.
fn recording() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") || !seen.windows(9).any(|part| part == b" HTTP/1.1") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    seen.push(byte[0]);
                }
                let _ = sender.send(seen);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                // Until the gateway closes.
                let _ = stream.read(&mut [0]);
            });
        }
    });
    (address, receiver)
}

#[test]
fn an_upstream_is_told_of_each_client() {
    let (address, seen) = recording();
    let toml = |version: &str| {
        format!(
            "[gateway]\nworkers = 1\nreload = false\n[listeners.behind]\nbind = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
             [routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"u\"\n\
             [upstreams.u]\nendpoints = [\"http://{address}\"]\n{version}\n"
        )
    };
    let gateway = Gateway::start(&toml("proxy_protocol = \"v1\""));
    let mut client = Client::connect(gateway.address_of("behind"));
    let own = client.writer().local_addr().expect("a socket");
    let to = gateway.address_of("behind");
    for _ in 0..2 {
        // Each request has a connection of its own, whatever was there before.
        assert_eq!(client.get("/").text(), "ok");
        let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nGET / HTTP/1.1\r\n", own.port(), to.port());
        let got = seen.recv_timeout(Duration::from_secs(10)).expect("a connection");
        assert!(got.starts_with(header.as_bytes()), "{}", String::from_utf8_lossy(&got));
    }
    // A client that a proxy has named has no port.
    client.request("GET", "/", &[("x-forwarded-for", "2001:db8::7")], b"");
    let got = seen.recv_timeout(Duration::from_secs(10)).expect("a connection");
    let header = format!("PROXY TCP6 2001:db8::7 ::ffff:127.0.0.1 0 {}\r\n", to.port());
    assert!(got.starts_with(header.as_bytes()), "{}", String::from_utf8_lossy(&got));

    gateway.reload(&toml("proxy_protocol = \"v2\""));
    assert_eq!(client.get("/").text(), "ok");
    let mut header = v2(0x21, 0x11, &[127, 0, 0, 1, 127, 0, 0, 1]);
    header[15] = 12;
    header.extend(own.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    let got = seen.recv_timeout(Duration::from_secs(10)).expect("a connection");
    assert!(got.starts_with(&header), "{got:?}");

    // Without the key again, no connection that began with a header is used for others.
    gateway.reload(&toml(""));
    assert_eq!(client.get("/").text(), "ok");
    let got = seen.recv_timeout(Duration::from_secs(10)).expect("a connection");
    assert!(got.starts_with(b"GET / HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&got));
}

#[test]
fn a_mirror_and_a_fallback_are_told_of_the_client_too() {
    let (address, seen) = recording();
    let (live, failing) = (Origin::named("live"), Origin::serve(|_| Reply::status(503)));
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[listeners.behind]\nbind = \"127.0.0.1:0\"\n\
         [routes.mirrored]\nmatch = {{ path = \"/mirrored\" }}\nupstream = \"live\"\nmirror = {{ upstream = \"told\" }}\n\
         [routes.failing]\nmatch = {{ path = \"/failing\" }}\nupstream = \"failing\"\n\
         [upstreams.told]\nendpoints = [\"http://{address}\"]\nproxy_protocol = \"v1\"\n\
         [upstreams.live]\nendpoints = [\"{}\"]\n\
         [upstreams.failing]\nendpoints = [\"{}\"]\ncircuit_breaker = {{ failures = 1, of = 1, fallback = \"told\" }}\n",
        live.url(),
        failing.url()
    ));
    let mut client = Client::connect(gateway.address_of("behind"));
    let (own, to) = (client.writer().local_addr().expect("a socket"), gateway.address_of("behind"));
    let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nGET /", own.port(), to.port());
    assert_eq!(client.get("/mirrored").text(), "live");
    let got = seen.recv_timeout(Duration::from_secs(10)).expect("a copy");
    assert!(got.starts_with(format!("{header}mirrored").as_bytes()), "{}", String::from_utf8_lossy(&got));
    assert_eq!(client.get("/failing").status, 503, "it opens the circuit");
    assert_eq!(client.get("/failing").text(), "ok");
    let got = seen.recv_timeout(Duration::from_secs(10)).expect("a connection");
    assert!(got.starts_with(format!("{header}failing").as_bytes()), "{}", String::from_utf8_lossy(&got));
}

#[test]
fn nginx_behind_the_gateway() {
    let Some([nginx]) = need(["nginx"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (port, root) = (free_port(), dir.path().display());
    let user = if std::env::var("USER").is_ok_and(|user| user != "root") { "" } else { "user root;\n" };
    let conf = format!(
        "{user}daemon off;\npid {root}/pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\nhttp {{ access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
         server {{ listen 127.0.0.1:{port} proxy_protocol; location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_server_port\"; }} }} }}\n"
    );
    std::fs::write(dir.path().join("nginx.conf"), conf).expect("a file");
    let mut command = Command::new(nginx);
    command.arg("-e").arg("stderr").arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
    let _child = Ended(command.stderr(Stdio::null()).spawn().expect("nginx"));
    wait_for_port(port);
    let gateway = gateway(&format!(
        "[listeners.behind]\nbind = \"127.0.0.1:0\"\nproxy_protocol = {{ trusted = [\"127.0.0.1\"] }}\n\
         [routes.one]\nmatch = {{ path = \"/one\" }}\nupstream = \"one\"\n[routes.two]\nmatch = {{ path = \"/two\" }}\nupstream = \"two\"\n\
         [upstreams.one]\nendpoints = [\"http://127.0.0.1:{port}\"]\nproxy_protocol = \"v1\"\n\
         [upstreams.two]\nendpoints = [\"http://127.0.0.1:{port}\"]\nproxy_protocol = \"v2\"\n"
    ));
    // The ends of the header that came in are those of the header that goes out.
    for path in ["/one", "/two", "/one"] {
        assert_eq!(begin(&gateway, V1).get(path).text(), "192.0.2.7 443", "{path}");
    }
}
