use serde_json::{Value, json};
use sluice_filter::testing::{Consumer, Exchange, Harness, config_keys, wrong_defaults};

use super::*;

fn filter(config: Value) -> Harness<MtlsAuth> {
    let filter = Harness::new(config).unwrap();
    filter.consumers(&[
        Consumer::new("acme").certificate("uri:spiffe://acme.example/orders").certificate("dns:shared.example"),
        Consumer::new("umbrella")
            .certificate(&format!("sha256:{}", "ab".repeat(32)))
            .certificate("subject:CN=u,O=Umbrella"),
    ]);
    filter
}

fn with(certificate: ClientCertificate) -> Exchange {
    let mut exchange = Exchange::get("/");
    exchange.request.client_certificate = Some(certificate);
    exchange
}

fn certificate(change: impl FnOnce(&mut ClientCertificate)) -> ClientCertificate {
    let mut certificate = ClientCertificate::default();
    certificate.subject = "CN=someone".into();
    certificate.sha256 = "00".repeat(32);
    change(&mut certificate);
    certificate
}

fn caller(filter: &Harness<MtlsAuth>, mut exchange: Exchange) -> Result<Option<String>, String> {
    match filter.on_request(&mut exchange).unwrap() {
        Verdict::Continue => Ok(exchange.consumer),
        Verdict::Respond => {
            assert_eq!(exchange.response.status, 401);
            Err(exchange.response.reason.unwrap_or_default())
        }
    }
}

#[test]
fn each_property_finds_its_consumer() {
    let filter = filter(json!({}));
    let acme = Ok(Some("acme".to_owned()));
    let umbrella = Ok(Some("umbrella".to_owned()));
    assert_eq!(
        caller(&filter, with(certificate(|c| c.uris = vec!["x:y".into(), "spiffe://acme.example/orders".into()]))),
        acme
    );
    assert_eq!(caller(&filter, with(certificate(|c| c.dns_names = vec!["Shared.example".into()]))), acme);
    assert_eq!(caller(&filter, with(certificate(|c| c.sha256 = "AB".repeat(32)))), umbrella);
    assert_eq!(caller(&filter, with(certificate(|c| c.subject = "CN=u,O=Umbrella".into()))), umbrella);
    let both = certificate(|c| {
        c.subject = "CN=u,O=Umbrella".into();
        c.dns_names = vec!["shared.example".into()];
    });
    assert_eq!(caller(&filter, with(both.clone())), acme, "alternative names come before the subject");
    assert_eq!(caller(&self::filter(json!({ "by": ["subject", "dns"] })), with(both)), umbrella);
}

#[test]
fn a_name_of_one_kind_is_none_of_another() {
    let filter = filter(json!({}));
    let unknown = Err("certificate-unknown".to_owned());
    assert_eq!(
        caller(&filter, with(certificate(|c| c.dns_names = vec!["spiffe://acme.example/orders".into()]))),
        unknown
    );
    assert_eq!(caller(&filter, with(certificate(|c| c.uris = vec!["shared.example".into()]))), unknown);
    assert_eq!(caller(&filter, with(certificate(|c| c.subject = "CN=u".into()))), unknown);
    assert_eq!(caller(&filter, with(ClientCertificate::default())), unknown);
    assert_eq!(
        caller(&self::filter(json!({ "by": ["sha256"] })), with(certificate(|c| c.subject = "CN=u,O=Umbrella".into()))),
        unknown
    );
}

#[test]
fn without_a_certificate_nobody_calls() {
    assert_eq!(caller(&filter(json!({})), Exchange::get("/")), Err("certificate-missing".to_owned()));
    let optional = filter(json!({ "optional": true }));
    assert_eq!(caller(&optional, Exchange::get("/")), Ok(None));
    assert_eq!(caller(&optional, with(certificate(|_| {}))), Err("certificate-unknown".to_owned()));
}

#[test]
fn bad_configs_name_their_key() {
    for (config, expected) in [(json!({ "by": [] }), "by: expected at least one"), (json!({ "by": ["cn"] }), "by[0]: ")]
    {
        let refused = Harness::<MtlsAuth>::new(config).err().expect("a bad config");
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    let keys: std::collections::BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, config_keys::<MtlsAuth>());
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_config() {
    assert_eq!(wrong_defaults::<MtlsAuth>(&json!({})), Vec::<String>::new());
}

#[test]
fn strangers_are_told_what_would_help() {
    let mut refused = Exchange::get("/");
    assert_eq!(filter(json!({})).on_request(&mut refused), Ok(Verdict::Respond));
    assert_eq!(refused.response.headers.get("www-authenticate"), Some("ClientCertificate"));
    assert_eq!(refused.response.headers.get("cache-control"), Some("no-store"));
    let mut passes = Exchange::get("/");
    assert_eq!(filter(json!({ "optional": true })).on_request(&mut passes), Ok(Verdict::Continue));
    let challenges = context::into_texts(passes.context["auth.challenges"].0.clone());
    assert_eq!(challenges, Some(vec!["ClientCertificate".to_owned()]));
}

#[test]
fn the_order_of_by_decides() {
    let filter = |config| {
        let filter = Harness::<MtlsAuth>::new(config).unwrap();
        let kinds = [("mail", "email:a@b.test"), ("address", "ip:192.0.2.1"), ("name", "dns:a.test")];
        filter.consumers(&kinds.map(|(name, what)| Consumer::new(name).certificate(what)));
        filter
    };
    let all = || {
        certificate(|c| {
            c.emails = vec!["a@b.test".into()];
            c.ip_addresses = vec!["192.0.2.1".into()];
            c.dns_names = vec!["a.test".into()];
        })
    };
    for (config, expected) in
        [(json!({}), "name"), (json!({ "by": ["ip", "email"] }), "address"), (json!({ "by": ["email", "ip"] }), "mail")]
    {
        assert_eq!(caller(&filter(config), with(all())), Ok(Some(expected.to_owned())));
    }
}
