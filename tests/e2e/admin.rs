//! The admin API, as an operator uses it.

use serde_json::Value;
use sluice_harness::{Client, Gateway, Response};

use crate::support::BASE;

const ROUTE: &str = "[routes.one]\nmatch = { path = \"/one\" }\nrespond = { status = 200 }\n";

fn config(token: &str) -> String {
    let admin = format!("[admin]\ntoken = \"{token}\"\n");
    BASE.replace("[admin]\n", &admin) + ROUTE
}

fn reload(gateway: &Gateway, token: &str) -> Response {
    let authorization = format!("Bearer {token}");
    Client::connect(gateway.address_of("admin")).request(
        "POST",
        "/api/v1/reload",
        &[("authorization", &authorization)],
        b"",
    )
}

fn json(response: &Response) -> Value {
    serde_json::from_str(&response.text()).expect("JSON")
}

#[test]
fn the_token_guards_a_reload() {
    let gateway = Gateway::start(&config("the-first-token-24-bytes"));
    let post = Client::connect(gateway.address_of("admin")).request("POST", "/api/v1/reload", &[], b"");
    assert_eq!((post.status, post.header("www-authenticate")), (401, Some("Bearer realm=\"sluice admin\"")));
    assert_eq!(reload(&gateway, "the-second-token-25-bytes").status, 401);
    gateway.write("gateway.toml", config("the-second-token-25-bytes"));
    let done = reload(&gateway, "the-first-token-24-bytes");
    assert_eq!((done.status, &json(&done)["result"]), (200, &"ok".into()), "{}", done.text());
    assert_eq!(reload(&gateway, "the-first-token-24-bytes").status, 401, "a reload changes the token");

    gateway.write("gateway.toml", config("short"));
    let refused = reload(&gateway, "the-second-token-25-bytes");
    assert_eq!((refused.status, refused.header("content-type")), (422, Some("application/problem+json")));
    let errors = json(&refused)["errors"].to_string();
    assert!(errors.contains("gateway.toml:") && errors.contains("16") && !errors.contains("short"), "{errors}");
    let status = json(&gateway.admin("/api/v1/status"));
    assert_eq!((&status["generation"], &status["last_reload"]["result"]), (&2.into(), &"refused".into()), "{status}");
    assert_eq!(gateway.get("/one").status, 200);
}

#[test]
fn without_a_token_the_api_only_tells() {
    let gateway = Gateway::start(&format!("{BASE}{ROUTE}"));
    let refused = reload(&gateway, "");
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("`token`"), "{}", refused.text());
    let document = json(&gateway.admin("/api/v1/openapi.json"));
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(json(&gateway.admin("/api/v1/routes"))["routes"][0]["name"], "one");
}
