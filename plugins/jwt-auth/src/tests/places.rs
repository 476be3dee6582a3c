//! Tokens in other places than `authorization`.

use sluice_filter::testing::ResponseMessage;

use super::*;

fn anywhere(extra: &Value) -> Harness<JwtAuth> {
    let mut config = json!({
        "secret": SECRET, "issuer": "me",
        "places": ["header:authorization", "header:x-token", "cookie:session", "query:access_token"],
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let filter = Harness::new(config).unwrap();
    filter.set_now(NOW);
    filter
}

fn reason(filter: &Harness<JwtAuth>, exchange: &mut Exchange) -> Option<String> {
    match filter.on_request(exchange).unwrap() {
        Verdict::Continue => None,
        Verdict::Respond => exchange.response.reason.clone(),
    }
}

#[test]
fn a_token_is_found_in_each_place_and_leaves_cookie_and_url() {
    let (filter, token) = (anywhere(&json!({})), sign(&good()));
    let mut cookie = Exchange::get("/").header("cookie", &format!("a=b; session={token}; c=d"));
    assert_eq!(reason(&filter, &mut cookie), None);
    assert_eq!((cookie.request.headers.get("cookie"), cookie.consumer.as_deref()), (Some("a=b; c=d"), Some("alice")));
    let mut query = Exchange::get(&format!("/a?x=%6b&access_t%6Fken={token}&y"))
        .header("referer", &format!("https://me.test/a?access_token={token}"));
    assert_eq!(reason(&filter, &mut query), None);
    assert_eq!(query.request.query.as_deref(), Some("x=%6b&y"), "the rest is as it was sent");
    assert_eq!(query.request.headers.get("referer"), Some("https://me.test/a"));
    for value in [token.clone(), format!("Bearer {token}")] {
        let mut header = Exchange::get("/").header("x-token", &value);
        assert_eq!(reason(&filter, &mut header), None);
        assert!(header.request.headers.has("x-token"), "a header is forwarded");
    }
    let hidden = anywhere(&json!({ "forward_token": false }));
    let mut header = Exchange::get("/").header("x-token", &token).header("authorization", "Basic eDp5");
    assert_eq!(reason(&hidden, &mut header), None);
    assert!(!header.request.headers.has("x-token") && !header.request.headers.has("authorization"));
}

#[test]
fn one_request_has_one_token() {
    let (filter, one) = (anywhere(&json!({})), sign(&good()));
    let mut claims = good();
    claims["sub"] = json!("bob");
    let other = sign(&claims);
    let several = Some("bad-authorization".to_owned());
    let mut apart = Exchange::get(&format!("/?access_token={other}")).header("authorization", &format!("Bearer {one}"));
    assert_eq!((reason(&filter, &mut apart), apart.response.status), (several.clone(), 400));
    let mut cookies = Exchange::get("/").header("cookie", &format!("session={one}; session={other}"));
    assert_eq!(reason(&filter, &mut cookies), several);
    let mut parameters = Exchange::get(&format!("/?access_token={one}&access_token={other}"));
    assert_eq!(reason(&filter, &mut parameters), several);
    let mut same = Exchange::get(&format!("/?access_token={one}"))
        .header("authorization", &format!("Bearer {one}"))
        .header("cookie", &format!("session={one}"));
    assert_eq!(reason(&filter, &mut same), None, "the same token three times");
    assert_eq!((same.request.query.as_deref(), same.request.headers.has("cookie")), (None, false));
    let mut empty = Exchange::get("/?access_token=").header("cookie", "session=");
    assert_eq!(reason(&filter, &mut empty).as_deref(), Some("token-missing"));
    let mut bytes = Exchange::get("/");
    bytes.request.headers.append("cookie", b"session=\xff");
    assert_eq!(reason(&filter, &mut bytes).as_deref(), Some("not-a-token"));
}

#[test]
fn a_bad_token_reaches_no_public_upstream_from_anywhere() {
    let filter = anywhere(&json!({ "rules": [{ "public": true }], "forward_token": false }));
    let bad = "a.b.c";
    let mut exchange = Exchange::get(&format!("/?access_token={bad}&q=1"))
        .header("cookie", &format!("session={bad}"))
        .header("x-token", bad)
        .header("x-user-id", "root")
        .header("referer", &format!("/?access_token={bad}"));
    assert_eq!(reason(&filter, &mut exchange), None);
    let request = &exchange.request;
    assert_eq!((request.query.as_deref(), request.headers.get("referer")), (Some("q=1"), Some("/")));
    assert!(["cookie", "x-token", "x-user-id"].iter().all(|name| !request.headers.has(name)));
}

#[test]
fn a_page_whose_url_has_the_token_does_not_send_it_on() {
    let (filter, token) = (anywhere(&json!({})), sign(&good()));
    let answer = |target: &str, authorization: Option<&str>, response: ResponseMessage| {
        let mut exchange = Exchange::get(target);
        if let Some(value) = authorization {
            exchange = exchange.header("authorization", value);
        }
        assert_eq!(reason(&filter, &mut exchange), None);
        exchange.respond(response);
        assert_eq!(filter.on_response(&mut exchange), Ok(Verdict::Continue));
        let header = |name: &str| exchange.response.headers.get(name).map(str::to_owned);
        (header("referrer-policy"), header("cache-control"))
    };
    let expected = (Some("no-referrer".to_owned()), Some("private".to_owned()));
    assert_eq!(answer(&format!("/?access_token={token}"), None, ResponseMessage::new(200)), expected);
    let bearer = format!("Bearer {token}");
    assert_eq!(answer("/", Some(&bearer), ResponseMessage::new(200)), (None, None));
    assert!(filter.wants("on-response") && !super::filter(json!({})).wants("on-response"));
}

#[test]
fn it_says_which_headers_it_needs() {
    let needs = anywhere(&json!({})).needs().unwrap();
    assert_eq!(needs["read_headers"], json!(["authorization", "x-token", "cookie"]));
    let written = needs["write_headers"].to_string();
    assert!(written.contains("\"cookie\"") && !written.contains("x-token"), "{written}");
    let refused = |places: Value| Harness::<JwtAuth>::new(json!({ "secret": SECRET, "places": places })).err();
    assert!(refused(json!([])).unwrap().starts_with("places: expected at least one"));
    assert!(refused(json!(["body:x"])).unwrap().starts_with("places[0]: expected `header:NAME`"));
}
