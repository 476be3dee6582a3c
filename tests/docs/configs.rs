//! Every configuration that is shown is one that `sluice check` accepts. A part of a configuration is added to a small one, or to
//! gateway.toml where it is marked `onto=gateway.toml`.

use std::fs;
use std::path::Path;
use std::process::Command;

use sluice_harness::{Certs, fixtures, gateway};
use toml::{Table, Value};

use crate::blocks::{Rule, rule};
use crate::markdown::{pages, root};

/// What a part needs around it.
const SMALL: &str = r#"
listeners.http.bind = "127.0.0.1:0"
routes.small = { match = { path = "/small" }, respond = { status = 204 } }
filters.auth.plugin = "my-plugin"
"#;

/// Puts the tables of `more` into `base`, key by key; a list or value replaces the one that is there.
pub(crate) fn merge(base: &mut Table, more: Table) {
    for (key, value) in more {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The files that the pages name.
fn lay_out(folder: &Path) {
    let write = |path: &str, content: &[u8]| {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    };
    let certs = Certs::new();
    let leaf = certs.leaf(&["example.com"]);
    write("certs/ca.pem", &fs::read(certs.ca()).unwrap());
    for name in ["clients", "partners", "staff"] {
        write(&format!("certs/{name}.pem"), &fs::read(certs.ca()).unwrap());
    }
    write("certs/clients.crl", &fs::read(certs.revoke(&[])).unwrap());
    for name in ["me", "example", "main"] {
        write(&format!("certs/{name}.pem"), &fs::read(&leaf.cert).unwrap());
        write(&format!("certs/{name}.key"), &fs::read(&leaf.key).unwrap());
    }
    write("token.txt", b"a token");
    write("public/index.html", b"a site");
    // The one takes no config, the other any.
    for (plugin, fixture) in [("my-plugin", "plain"), ("hello", "probe")] {
        write(&format!("plugins/{plugin}.wasm"), &fs::read(fixtures::file(fixture)).unwrap());
    }
    // The build of the gateway leaves it there, since it is an example and not embedded.
    let built = gateway::binary().ancestors().nth(2).unwrap().join("plugins/rust-header.wasm");
    write("plugins/rust-header.wasm", &fs::read(built).unwrap());
    fs::create_dir_all(folder.join("conf.d")).unwrap();
}

#[test]
fn every_configuration_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let tour = fs::read_to_string(root().join("gateway.toml")).unwrap();
    let mut refused = Vec::new();
    let mut checked = 0;
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| rule(&page, block) == Some(Rule::Config)) {
            let place = format!("{}:{}", page.path, block.line);
            let shown: Table = match block.text.parse() {
                Ok(table) => table,
                Err(error) => {
                    refused.push(format!("{place}: {error}"));
                    continue;
                }
            };
            let text = if shown.contains_key("listeners") && shown.contains_key("routes") {
                block.text
            } else {
                let base = if block.mark("onto") == Some("gateway.toml") { &tour } else { SMALL };
                let mut base: Table = base.parse().unwrap();
                merge(&mut base, shown);
                base.to_string()
            };
            if block.marks.iter().any(|mark| mark == "run") {
                continue; // The page's commands run against it.
            }
            fs::write(folder.path().join("gateway.toml"), text).unwrap();
            let mut command = Command::new(gateway::binary());
            command.arg("check").current_dir(folder.path());
            command
                .env("XDG_CACHE_HOME", fixtures::cache_dir())
                .env("JWT_SECRET", "a secret of at least 32 bytes, for tests")
                .env("INTROSPECTION_SECRET", "a secret")
                .env("TICKET_SECRET", "a secret of at least 32 bytes, for tests")
                .env("SESSION_KEY", "a key of sixteen bytes")
                .env("KEY", "a key");
            command.env("EXAMPLE_KEY", fs::read_to_string(folder.path().join("certs/example.key")).unwrap());
            let said = command.output().expect("the sluice binary");
            checked += 1;
            if !said.status.success() {
                refused.push(format!("{place}:\n{}", String::from_utf8_lossy(&said.stderr)));
            }
        }
    }
    assert!(checked > 15, "{checked} configurations: is this the right rule?");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn tables_are_merged_key_by_key() {
    let mut base: Table = "[a]\nx = 1\ny = [1]\n".parse().unwrap();
    merge(&mut base, "[a]\ny = [2]\n[b]\nz = 3\n".parse().unwrap());
    assert_eq!(base, "[a]\nx = 1\ny = [2]\n[b]\nz = 3\n".parse::<Table>().unwrap());
}
