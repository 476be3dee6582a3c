//! TLS of listeners: their files, their secrets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{errors, load_with};

#[test]
fn files_of_listeners_are_told_from_those_that_something_else_uses_too() {
    let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    let text = "[listeners.https]\nbind = '127.0.0.1:0'\n\
         [listeners.https.tls]\ncertificates = ['one']\nclient_auth = { ca = 'both.pem' }\n\
         [certificates.one]\ncert = '${file:one.pem}'\nkey = 'one.key'\n\
         [certificates.two]\ncert = 'one.pem'\nkey = '${file:both.key}'\n\
         [upstreams.u]\nendpoints = ['https://127.0.0.1:1']\ntls = { ca = 'both.pem', cert = 'own.pem', key = '${file:both.key}' }\n\
         [routes.all]\nmatch = { path = '/**' }\nupstream = 'u'\n";
    let files = [("one.pem", pem), ("both.pem", pem), ("own.pem", pem), ("one.key", key), ("both.key", key)];
    let (directory, loaded) = load_with(text, &files);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    let names = |paths: &[PathBuf]| -> BTreeSet<String> {
        let below = |path: &PathBuf| path.strip_prefix(directory.path()).unwrap().display().to_string();
        paths.iter().map(below).collect()
    };
    assert_eq!(names(&loaded.config.only_of_listeners), ["one.key", "one.pem"].map(str::to_owned).into());
    let tls: Vec<_> = loaded.config.tls_files().map(Path::to_owned).collect();
    assert_eq!(names(&tls), ["both.key", "both.pem", "one.key", "one.pem"].map(str::to_owned).into());
    assert_eq!(loaded.files.len(), 6, "each file once");
}

#[test]
fn the_secret_of_tickets_is_no_text_of_an_example() {
    let errors = errors(
        "[listeners.https]\nbind = '127.0.0.1:1'\n[listeners.https.tls]\ncertificates = ['c']\n\
         session_tickets = { secrets = ['replace this by what openssl rand -base64 48 prints'] }\n",
    );
    let expected =
        "expected what `openssl rand -base64 48` prints, found the text of an example, which everybody knows";
    assert!(errors.contains(expected), "{errors}");
}
