//! Reads `[upstreams.*.discovery]`.

use std::time::Duration;

use url::Url;

use super::origin;
use crate::config::defaults;
use crate::config::gateway::path;
use crate::config::item::Item;
use crate::config::model::{Consul, Discovery, EndpointScheme, Protocol, Srv};
use crate::config::read::Table;

/// The longest time that Consul waits.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// What only Consul knows.
const OF_CONSUL: [&str; 7] = ["address", "tag", "dc", "namespace", "token", "wait", "ca"];

pub(super) fn read(table: &Table<'_>) -> Option<Discovery> {
    let consul = table
        .key("consul", "The name of a service in Consul, whose healthy instances are the endpoints.", r#""orders""#)
        .get("-", |item| item.parse("the name of a service", filled));
    let srv = table
        .key("srv", "A name whose SRV records in the DNS are the endpoints.", r#""_http._tcp.orders.internal""#)
        .get("-", |item| item.parse("a name in the DNS", filled));
    let file = table
        .key(
            "file",
            "A JSON or TOML file that lists the endpoints. It is read again when it changes.",
            r#""orders.json""#,
        )
        .get("-", |item| {
            let name = item.clone().parse("a path that ends with `.json` or `.toml`", |text| {
                (text.ends_with(".json") || text.ends_with(".toml")).then_some(())
            });
            name.and_then(|()| path(item))
        });
    let address = table.key("address", "The origin of Consul's HTTP API.", r#""https://consul.internal:8501""#).or(
        defaults::CONSUL_ADDRESS.to_owned(),
        |item| {
            origin(item.clone())?;
            item.string()
        },
    );
    let tag = table
        .key("tag", "Only instances with this tag.", r#""v2""#)
        .get("all", |item| item.parse("the name of a tag", filled));
    let dc = table
        .key("dc", "The datacenter to ask.", r#""eu-west""#)
        .get("that of the agent", |item| item.parse("the name of a datacenter", filled));
    let namespace = table
        .key("namespace", "The namespace of the service (Consul Enterprise).", r#""team-a""#)
        .get("that of the token", |item| item.parse("the name of a namespace", filled));
    let token =
        table.key("token", "The ACL token to ask with.", r#""${env:CONSUL_HTTP_TOKEN}""#).get("none", Item::secret);
    let wait = table
        .key("wait", "How long a query waits for a change before it is answered all the same.", r#""5m""#)
        .or(defaults::CONSUL_WAIT, |item| item.duration_up_to(MAX_WAIT));
    let ca = table
        .key("ca", "Authorities to trust beside the system's, for an `https` address.", r#""certs/consul-ca.pem""#)
        .get("none", |item| item.pem("CERTIFICATE"));
    let scheme = table
        .key("scheme", "What the endpoints speak; a file says it for each of them.", r#""https""#)
        .word_or(defaults::DISCOVERY_SCHEME);

    let given: Vec<&str> = ["consul", "srv", "file"].into_iter().filter(|key| table.has_own(key)).collect();
    let [source] = given[..] else {
        table.fail("needs exactly one of `consul`, `srv` and `file`");
        return None;
    };
    if source != "consul" {
        for key in OF_CONSUL.into_iter().filter(|key| table.has_own(key)) {
            table.fail(format!("`{key}` goes with `consul` only"));
        }
    }
    if source == "file" && table.has_own("scheme") {
        table.fail("`scheme` goes with `consul` and `srv`: the URLs of a file have one");
    }
    let https = scheme == EndpointScheme::Https;
    match source {
        "srv" => Some(Discovery::Srv(Srv { name: srv?, https })),
        "file" => Some(Discovery::File(file?)),
        _ => {
            let address: Url = address.parse().ok()?;
            let consul = Consul { service: consul?, address, tag, dc, namespace, token, wait, ca, https };
            Some(Discovery::Consul(Box::new(consul)))
        }
    }
}

/// Refuses a scheme that the protocol can't be spoken over. What a file says is seen when it is read.
pub(super) fn check_protocol(table: &Table<'_>, discovery: &Discovery, protocol: Protocol) {
    let https = match discovery {
        Discovery::File(_) => return,
        Discovery::Consul(_) | Discovery::Srv(_) => discovery.may_be_https(),
    };
    if protocol == Protocol::Http2 && !https {
        table.fail("`protocol = \"h2\"` is for https endpoints: say `scheme = \"https\"` in `discovery`, or `h2c`");
    }
    if protocol == Protocol::H2c && https {
        table.fail("`protocol = \"h2c\"` is for http endpoints; over https it is `h2`");
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
