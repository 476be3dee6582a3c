//! The gateways of `examples/`, as their READMEs show them. The listed folders and the folders that are there are the same.

use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use sluice_harness::gateway::Setup;
use sluice_harness::tools::{Server, need};
use sluice_harness::{Certs, Gateway, eventually, transcript};

/// What an example needs beside the gateway.
enum Backend {
    /// Its upstreams are built into the gateway.
    Builtin,
    /// `server.py` in its folder, which the configuration expects at this port.
    Python(u16),
}

const EXAMPLES: [(&str, Backend); 13] = [
    ("api-versions", Backend::Builtin),
    ("canary", Backend::Builtin),
    ("cqrs", Backend::Builtin),
    ("forward-auth", Backend::Python(4180)),
    ("from-kong", Backend::Builtin),
    ("from-nginx", Backend::Builtin),
    ("grpc", Backend::Python(50051)),
    ("mtls", Backend::Builtin),
    ("multi-tenant", Backend::Builtin),
    ("shop", Backend::Builtin),
    ("strangler-fig", Backend::Builtin),
    ("token-meter", Backend::Python(9100)),
    ("websocket", Backend::Python(9000)),
];

fn top() -> PathBuf {
    std::fs::canonicalize(sluice_harness::tools::scripts().join("../..")).expect("the top of the repository")
}

fn folder(name: &str) -> PathBuf {
    top().join("examples").join(name)
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// An example's configuration, which finds the filters of `examples/filters` where it is tried, too.
fn written(name: &str) -> String {
    let built = sluice_harness::gateway::binary().ancestors().nth(2).expect("the target folder").join("plugins/");
    read(&folder(name).join("gateway.toml")).replace("../../target/plugins/", &built.to_string_lossy())
}

/// An example's configuration with free ports in place of fixed ones, and `backend` in place of the backend's. A few calls a minute are a few
/// an hour: on a slow machine, one more would be allowed before the command is there that is refused.
fn config(name: &str, backend: Option<(u16, u16)>) -> String {
    let few = Regex::new(r#"(amount = \d), window = "1m""#).expect("a pattern");
    let text = written(name);
    let text = few.replace_all(&text, "$1, window = \"1h\"");
    let text =
        Regex::new(r#"bind = "127\.0\.0\.1:\d+""#).expect("a pattern").replace_all(&text, "bind = \"127.0.0.1:0\"");
    match backend {
        None => text.into_owned(),
        Some((from, to)) => text.replace(&format!("http://127.0.0.1:{from}"), &format!("http://127.0.0.1:{to}")),
    }
}

/// The other files of a configuration, at their places. Where its certificates are not in the repository, the README says how to make them.
fn with_files(name: &str) -> Setup {
    let folders = ["certs", "public", "tenants"].map(|below| folder(name).join(below));
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let setup = files.map(|entry| entry.expect("an entry").path()).fold(Gateway::setup(), |setup, file| {
        let place = file.strip_prefix(folder(name)).expect("it lies there").to_string_lossy().into_owned();
        setup.file(&place, read(&file))
    });
    let missing = certificates(name).into_iter().filter(|file| !folder(name).join(format!("{file}.pem")).exists());
    missing.fold(setup, |setup, file| {
        let certs = Certs::new();
        let leaf = certs.leaf(&["www.example.com"]);
        setup.file(&format!("{file}.pem"), read(&leaf.cert)).file(&format!("{file}.key"), read(&leaf.key))
    })
}

/// The certificates that a configuration names, without the ends of their files.
fn certificates(name: &str) -> Vec<String> {
    let text = read(&folder(name).join("gateway.toml"));
    let files = Regex::new(r#"cert = "(.+)\.pem""#).expect("a pattern");
    files.captures_iter(&text).map(|found| found[1].to_owned()).collect()
}

/// The addresses of an example's listeners as they are written, and as they are.
fn addresses(name: &str, gateway: &Gateway) -> Vec<(String, String)> {
    let text = read(&folder(name).join("gateway.toml"));
    let binds = Regex::new(r#"(?m)^\[(?:listeners\.)?([a-z]+)\]\nbind = "(127\.0\.0\.1:\d+)""#).expect("a pattern");
    binds.captures_iter(&text).map(|found| (found[2].to_owned(), gateway.address_of(&found[1]).to_string())).collect()
}

/// Runs an example and every command of its README.
fn walk_through(name: &str) {
    let (_, backend) = EXAMPLES.iter().find(|(known, _)| *known == name).expect("an example of the list");
    let mut path = std::env::var("PATH").unwrap_or_default();
    let (_server, ports) = match backend {
        Backend::Builtin => {
            if need(["curl"]).is_none() {
                return;
            }
            (None, None)
        }
        Backend::Python(expected) => {
            let Some([python]) = need(["python"]) else { return };
            path = format!("{}:{path}", python.parent().expect("a folder").display());
            let (server, port) = Server::start(Command::new(&python).arg(folder(name).join("server.py")).arg("0"));
            (Some(server), Some((*expected, port)))
        }
    };
    let gateway = with_files(name).start(&config(name, ports));
    let addresses = addresses(name, &gateway);
    let addresses: Vec<_> = addresses.iter().map(|(written, real)| (&**written, &**real)).collect();
    transcript::run(&read(&folder(name).join("README.md")), &addresses, |shell| {
        shell.current_dir(top()).env("PATH", path).env_remove("TOKEN");
    });
}

#[test]
fn forward_auth() {
    walk_through("forward-auth");
}

#[test]
fn from_nginx() {
    walk_through("from-nginx");
}

#[test]
fn from_kong() {
    walk_through("from-kong");
}

#[test]
fn shop() {
    walk_through("shop");
}

#[test]
fn canary() {
    walk_through("canary");
}

#[test]
fn api_versions() {
    walk_through("api-versions");
}

#[test]
fn cqrs() {
    walk_through("cqrs");
}

#[test]
fn strangler_fig() {
    walk_through("strangler-fig");
}

#[test]
fn mtls() {
    walk_through("mtls");
}

#[test]
fn multi_tenant() {
    walk_through("multi-tenant");
}

#[test]
fn grpc() {
    walk_through("grpc");
}

#[test]
fn token_meter() {
    walk_through("token-meter");
}

#[test]
fn websocket() {
    walk_through("websocket");
}

#[test]
fn every_folder_has_a_test_and_a_first_command() {
    let mut found: Vec<String> = std::fs::read_dir(folder("."))
        .expect("the examples")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir() && entry.file_name() != "filters")
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, EXAMPLES.map(|(name, _)| name));
    for name in found {
        let command = format!("    cargo run --release -- run -c examples/{name}/gateway.toml\n");
        assert!(read(&folder(&name).join("README.md")).contains(&command), "examples/{name}/README.md");
        assert!(read(&folder("README.md")).contains(&format!("({name}/README.md)")), "examples/README.md: {name}");
    }
}

#[test]
fn check_finds_nothing_in_them() {
    for (name, _) in EXAMPLES {
        let checked = with_files(name).command_output(&written(name), &["check"]);
        assert_eq!((checked.status.code(), &*checked.stderr), (Some(0), ""), "{name}: {}", checked.stdout);
        assert!(!checked.stdout.contains("warning"), "{name}: {}", checked.stdout);
    }
}

/// How many of so many new browsers get version 2.
fn share_of_version_2(gateway: &Gateway, browsers: usize) -> usize {
    let mut client = gateway.client();
    (0..browsers).filter(|_| client.get("/orders/1").header("x-served-by") == Some("orders-v2")).count()
}

#[test]
fn a_canary_grows_by_an_edit_and_keeps_its_browsers() {
    let text = config("canary", None);
    let gateway = Gateway::start(&text);
    let few = share_of_version_2(&gateway, 400);
    assert!((1..80).contains(&few), "{few} of 400");
    let on_version_2 = ("cookie", "orders_release=f9c0ffee00000000");
    let half = text.replacen("weight = 95", "weight = 50", 1).replacen("weight = 5 }", "weight = 50 }", 1);
    gateway.write("gateway.toml", &half);
    eventually("the new shares", || share_of_version_2(&gateway, 100) > 25);
    let response = gateway.request("GET", "/orders/1", &[on_version_2], b"");
    assert_eq!(response.header("x-served-by"), Some("orders-v2"), "a browser of version 2 stays there");
}

#[test]
fn a_tenant_comes_with_a_file() {
    let gateway = with_files("multi-tenant").start(&config("multi-tenant", None));
    let status = |host: &str| gateway.request("GET", "/", &[("host", host)], b"").status;
    assert_eq!((status("acme.example.com"), status("initech.example.com")), (401, 404));
    let acme = read(&folder("multi-tenant").join("tenants/acme.toml"));
    gateway.write("tenants/initech.toml", acme.replace("acme", "initech"));
    eventually("the new tenant", || status("initech.example.com") == 401);
    assert_eq!(status("acme.example.com"), 401);
}

#[test]
fn a_transcript_runs_in_one_shell_and_an_ellipsis_stands_for_lines_or_text() {
    let document = "```sh\n$ exit 1\n```\n```console\n$ a=1\n\n$ echo $a; echo two\n1\ntwo\n```\n";
    transcript::run(document, &[("two", "three")], |_| {});
    for (printed, expected) in [("a b c d", "a … d"), ("a d", "a … d"), ("x=1y2", "x=…y…"), ("a", "… a …")]
    {
        let lines = |words: &str| words.replace(' ', "\n");
        let document =
            format!("```console\n$ printf '{}'\n{}\n```", lines(printed).replace('\n', "\\n"), lines(expected));
        transcript::run(&document, &[], |_| {});
    }
}

#[test]
#[should_panic(expected = "line 2: echo b")]
fn a_transcript_fails_where_another_output_comes() {
    transcript::run("```console\n$ echo b\nb…c\n```", &[], |_| {});
}
