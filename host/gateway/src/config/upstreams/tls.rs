//! Reads `[upstreams.*.tls]`.

use crate::config::defaults;
use crate::config::gateway::host_name;
use crate::config::item::Item;
use crate::config::model::{ClientCertificate, Pin, Secret, UpstreamTls};
use crate::config::read::Table;

pub(super) fn read(table: &Table<'_>) -> UpstreamTls {
    let ca = table
        .key("ca", "The authorities to trust in place of the system's.", r#""certs/ca.pem""#)
        .get("the system's authorities", |item| item.pem("CERTIFICATE"));
    let server_name = table
        .key("server_name", "The name to ask for and to find in the certificate.", r#""orders.internal""#)
        .get("the endpoint's host", host_name);
    let verify =
        table.key("verify", "Whether the certificate is verified.", "false").or(defaults::VERIFY, Item::boolean);
    let pins = table
        .key(
            "pins",
            "Public keys of which the server's certificate has to have one: `sha256/` and the Base64 of the SHA-256 of its `SubjectPublicKeyInfo`. It is checked beside the authority and the name, or alone with `verify = false`.",
            r#"["sha256/kZ…=", "sha256/x9…="]"#,
        )
        .or(Vec::new(), |item| item.list(pin));
    let client = identity(table).map(|(cert, key)| ClientCertificate { cert, key: Secret::from(key) });
    UpstreamTls { ca, server_name, verify, pins, client }
}

/// The certificate chain that the gateway shows, and its key, both as PEM.
pub(in crate::config) fn identity(table: &Table<'_>) -> Option<(String, String)> {
    let cert = table
        .key("cert", "The certificate chain that the gateway shows.", r#""certs/gateway.pem""#)
        .get("none", |item| item.pem("CERTIFICATE"));
    let key = table
        .key("key", "The private key of that certificate.", r#""certs/gateway.key""#)
        .get("none", |item| item.pem("PRIVATE KEY"));
    if table.has("cert") != table.has("key") {
        table.fail("`cert` and `key` go together");
    }
    cert.zip(key)
}

fn pin(item: Item<'_>) -> Option<Pin> {
    item.parse("a pin: \"sha256/\" and 32 bytes as Base64", Pin::parse)
}
