//! Real clients, servers and token issuers around the gateway: nginx, httpbin under gunicorn, PyJWT, httpx, websockets, grpcio,
//! oauth2-mock-server, Node's fetch, curl. `.ci/run` installs them and sets SLUICE_REQUIRE_ALL: a test whose tools are missing
//! then fails, and passes without doing anything otherwise.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use sluice_harness::tools::{
    Ended, Server, free_port, need, run, run_script, scripts, tools, wait_for_port, without_proxies,
};
use sluice_harness::{Certs, Client, Gateway, Origin, eventually};

use crate::support::{BASE, gateway, route};

/// httpbin on a free port.
fn httpbin(gunicorn: &Path) -> (Child, u16) {
    let port = free_port();
    let mut command = Command::new(gunicorn);
    command.args([
        "--bind",
        &format!("127.0.0.1:{port}"),
        "--workers",
        "1",
        "--threads",
        "8",
        "--log-level",
        "warning",
        "httpbin:app",
    ]);
    let child = without_proxies(&mut command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("gunicorn");
    wait_for_port(port);
    (child, port)
}

#[test]
fn httpbin_with_httpx_and_fetch() {
    let Some([python, gunicorn, node]) = need(["python", "gunicorn", "node"]) else { return };
    let (child, port) = httpbin(&gunicorn);
    let _child = Ended(child);
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let toml = format!(
        "{BASE}[listeners.https]\nbind = \"127.0.0.1:0\"\ntls = {{ certificates = [\"c\"] }}\n[certificates.c]\ncert = \"{}\"\nkey = \"{}\"\n{}",
        leaf.cert.display(),
        leaf.key.display(),
        route(&format!("http://127.0.0.1:{port}"), &[])
    );
    let gateway = Gateway::start(&toml);
    let plain = format!("http://{}", gateway.address_of("http"));
    let tls = format!("https://localhost:{}", gateway.address_of("https").port());
    let ca = certs.ca();
    let ca = ca.to_str().expect("a path in UTF-8");
    assert_eq!(run_script(&python, "httpx_client.py", &[&plain, "-", "1"]).trim(), "fine");
    assert_eq!(run_script(&python, "httpx_client.py", &[&tls, ca, "2"]).trim(), "fine");
    assert_eq!(run_script(&node, "fetch_client.mjs", &[&plain]).trim(), "fine");
}

#[test]
fn a_hundred_megabytes_through_nginx_with_curl() {
    let Some([nginx, curl]) = need(["nginx", "curl"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let root = dir.path().display();
    let conf = format!(
        "{}daemon off;\npid {root}/pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\nhttp {{ access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
         server {{ listen 127.0.0.1:{port}; root {root}/www; client_max_body_size 0; location / {{ dav_methods PUT; }} }} }}\n",
        if std::env::var("USER").is_ok_and(|u| u != "root") { "" } else { "user root;\n" }
    );
    std::fs::create_dir(dir.path().join("www")).expect("a folder");
    std::fs::write(dir.path().join("nginx.conf"), conf).expect("a file");
    let mut command = Command::new(nginx);
    command.arg("-e").arg("stderr").arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
    let _child = Ended(command.stderr(Stdio::null()).spawn().expect("nginx"));
    wait_for_port(port);

    let gateway =
        gateway(&format!("{}limits = {{ body = \"unlimited\" }}\n", route(&format!("http://127.0.0.1:{port}"), &[])));
    let data: Vec<u8> = (0..100 << 20_u32).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
    let (up, down) = (dir.path().join("up"), dir.path().join("down"));
    std::fs::write(&up, &data).expect("a file");
    let before = gateway.resident();
    for (version, chunked) in [("--http1.1", false), ("--http1.1", true), ("--http2-prior-knowledge", false)] {
        let url = format!("http://{}/file-{}-{chunked}", gateway.address(), &version[2..]);
        let (up, down) = (up.to_str().expect("UTF-8"), down.to_str().expect("UTF-8"));
        let mut arguments = vec!["-sS", "--fail", version, "-T", up];
        if chunked {
            arguments.extend(["-H", "transfer-encoding: chunked"]);
        }
        run(&curl, &[&arguments[..], &[&url]].concat());
        run(&curl, &["-sS", "--fail", version, "-o", down, &url]);
        assert!(std::fs::read(down).expect("the file") == data, "{url}: other bytes came back");
    }
    let after = gateway.resident();
    assert!(after < before + (16 << 20), "{} KiB more of memory", (after - before) / 1024);
}

#[test]
fn websockets() {
    let Some([python]) = need(["python"]) else { return };
    let (_server, port) = Server::script(&python, "websocket_server.py");
    let gateway = gateway(&route(&format!("http://127.0.0.1:{port}"), &[]));
    assert_eq!(
        run_script(&python, "websocket_client.py", &[&format!("ws://{}/chat", gateway.address())]).trim(),
        "fine"
    );
}

#[test]
fn websockets_over_http2() {
    let Some([python, node]) = need(["python", "node"]) else { return };
    let (_server, port) = Server::script(&python, "websocket_server.py");
    let gateway = gateway(&route(&format!("http://127.0.0.1:{port}"), &[]));
    let url = format!("http://{}", gateway.address());
    assert_eq!(run_script(&node, "h2_websocket_client.mjs", &[&url, "/chat"]).trim(), "fine");
}

#[test]
fn a_grpc_stream_in_both_directions() {
    let Some([python]) = need(["python"]) else { return };
    let (_server, port) = Server::script(&python, "grpc_server.py");
    let gateway = gateway(&format!(
        "[upstreams.grpc]\nendpoints = [\"http://127.0.0.1:{port}\"]\nprotocol = \"h2c\"\n{}",
        route("grpc", &[])
    ));
    assert_eq!(run_script(&python, "grpc_client.py", &[&gateway.address().to_string()]).trim(), "fine");
}

/// A `jwt-auth` filter before an origin.
fn guarded(origin: &Origin, config: &str, grants: &str) -> String {
    format!(
        "{}[filters.auth]\nplugin = \"jwt-auth\"\ngrants = {{ read_headers = [\"authorization\"]{grants} }}\n[filters.auth.config]\n{config}\naudience = \"orders\"\n",
        route(&origin.url(), &["auth"])
    )
}

fn status(client: &mut Client, token: &str) -> u16 {
    client.request("GET", "/", &[("authorization", &format!("Bearer {token}"))], b"").status
}

#[test]
fn tokens_of_a_real_library() {
    let Some([python]) = need(["python"]) else { return };
    let cases: Value = serde_json::from_str(&run_script(&python, "tokens.py", &[])).expect("JSON");
    let origin = Origin::named("o");
    for (algorithm, case) in cases.as_object().expect("cases") {
        let key: String = case["key"].as_object().expect("a key").iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        let gateway =
            gateway(&guarded(&origin, &format!("{key}algorithms = [\"{algorithm}\"]\nissuer = \"tests\""), ""));
        let mut client = gateway.client();
        assert_eq!(client.get("/").status, 401, "{algorithm}: no token");
        for token in case["good"].as_array().expect("tokens") {
            assert_eq!(status(&mut client, token.as_str().expect("a token")), 200, "{algorithm}: {token}");
        }
        assert_eq!(origin.last().header("x-user-id"), Some("ann"));
        let count = origin.count();
        for (what, token) in case["bad"].as_object().expect("tokens") {
            let got = status(&mut client, token.as_str().expect("a token"));
            assert!([400, 401].contains(&got), "{algorithm}, {what}: {got}");
        }
        assert_eq!(origin.count(), count);
    }
}

#[test]
fn a_key_server_is_followed_through_rotation_and_death() {
    let Some([node]) = need(["node"]) else { return };
    // Node looks for packages beside the script.
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(scripts().join("token_server.mjs"), dir.path().join("token_server.mjs")).expect("a copy");
    std::os::unix::fs::symlink(tools().join("node/node_modules"), dir.path().join("node_modules")).expect("a link");
    let (mut server, port) = Server::start(Command::new(node).arg(dir.path().join("token_server.mjs")));
    let url = format!("http://127.0.0.1:{port}");
    let origin = Origin::named("o");
    let config = format!("jwks_url = \"{url}/jwks\"\nissuer = \"{url}\"\ncooldown = \"1s\"");
    let toml = guarded(&origin, &config, &format!(", http = [\"{url}\"]"));
    let gateway = gateway(&toml);
    let mut client = gateway.client();
    let first = server.ask("token");
    eventually("the keys to be fetched", || status(&mut client, &first) == 200);
    assert_eq!(status(&mut client, &format!("{first}x")), 401);

    assert_eq!(server.ask("rotate"), "rotated");
    let second = server.ask("token");
    eventually("the new key to be fetched", || status(&mut client, &second) == 200);
    assert_eq!(status(&mut client, &first), 401, "the old key is gone");

    server.kill();
    for _ in 0..20 {
        assert_eq!(status(&mut client, &second), 200, "the keys outlive their server");
    }
    assert_eq!(status(&mut client, &first), 401);
    gateway.reload(
        &(BASE.to_string() + &toml + "[routes.other]\nmatch = { path = \"/other\" }\nrespond = { status = 200 }\n"),
    );
    assert_eq!(status(&mut client, &second), 200, "also through a reload");
}

#[test]
fn curl_speaks_both_protocols() {
    let Some([curl]) = need(["curl"]) else { return };
    let certs = Certs::new();
    let leaf = certs.leaf(&["localhost"]);
    let origin = Origin::named("an answer");
    let gateway = Gateway::start(&format!(
        "[listeners.https]\nbind = \"127.0.0.1:0\"\ntls = {{ certificates = [\"c\"] }}\n[certificates.c]\ncert = \"{}\"\nkey = \"{}\"\n{}",
        leaf.cert.display(),
        leaf.key.display(),
        route(&origin.url(), &[])
    ));
    let url = format!("https://localhost:{}/", gateway.address().port());
    let ca = certs.ca();
    let ca = ca.to_str().expect("UTF-8");
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let out = run(&curl, &["-sS", "--fail", "--cacert", ca, flag, "-w", " %{http_version}", &url]);
        assert_eq!(out, format!("an answer {version}"));
    }
    assert!(Client::connect_tls(gateway.address(), "localhost", certs.client_config(&[], &[&TLS12, &TLS13])).is_ok());
}
