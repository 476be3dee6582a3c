//! What stands behind a refused request, or behind one that asks for another protocol, on the same connection.

use sluice_harness::{Origin, Reply};

use crate::support::{SMUGGLED, gateway, nothing_since, refusal};

#[test]
fn a_request_before_a_bad_one_is_answered_first() {
    let origin = Origin::serve(|r| Reply::text(r.target.clone()));
    let gateway = gateway(&origin.url());
    let mut client = gateway.client();
    client.send(
        [b"GET /one HTTP/1.1\r\nhost: a\r\n\r\nGET /two HTTP/1.1\r\nhost: a\r\n\r\nBAD\r\n\r\n", SMUGGLED].concat(),
    );
    assert_eq!(client.read_response("GET").text(), "/one");
    assert_eq!(client.read_response("GET").text(), "/two");
    assert_eq!(refusal(&mut client, 400), None);
    nothing_since(&gateway, &origin, 2);
}

#[test]
fn a_bad_body_ends_the_connection_also_when_it_comes_late() {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    sluice_harness::eventually("the head at the origin", || origin.connections() == 1);
    client.send([b"zz\r\n\r\n", SMUGGLED].concat());
    assert_eq!(refusal(&mut client, 400), None);
    nothing_since(&gateway, &origin, 0);
}

#[test]
fn an_upgrade_that_the_origin_declines() {
    let origin = Origin::serve(|r| Reply::text(r.target.clone()));
    let gateway = gateway(&origin.url());
    for upgrade in ["websocket", "h2c", "HTTP/1.1"] {
        let before = origin.count();
        let mut client = gateway.client();
        let head = format!("GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n");
        client.send([head.as_bytes(), SMUGGLED].concat());
        assert_eq!(client.read_response("GET").text(), "/up");
        client.expect_close();
        nothing_since(&gateway, &origin, before + 1);
    }
}

#[test]
fn an_upgrade_that_the_origin_takes() {
    let origin = Origin::serve(|r| {
        if r.target != "/up" {
            return Reply::text(r.target.clone());
        }
        Reply::script(|conn| {
            conn.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
            let early = conn.read_some(100).unwrap_or_default();
            let _ = conn.try_write([b"got ", &*early].concat());
        })
    });
    let gateway = gateway(&origin.url());
    let head = b"GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut client = gateway.client();
    client.send([head, SMUGGLED].concat());
    let answer = client.read_to_close();
    assert!(!String::from_utf8_lossy(&answer).contains("got GET /smuggled"), "{}", answer.escape_ascii());
    nothing_since(&gateway, &origin, 1);

    // Who waits for the answer, as RFC 6455 §4.1 demands, has a tunnel.
    let mut client = gateway.client();
    client.send(head);
    assert_eq!(client.read_response("GET").status, 101);
    client.send("hello");
    assert_eq!(client.read_to_close(), b"got hello");
}

#[test]
fn nothing_is_read_behind_connection_close() {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    for head in ["GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "GET / HTTP/1.0\r\nhost: a\r\n\r\n"] {
        let before = origin.count();
        let mut client = gateway.client();
        client.send([head.as_bytes(), SMUGGLED].concat());
        assert_eq!(client.read_response("GET").status, 200);
        client.expect_close();
        nothing_since(&gateway, &origin, before + 1);
    }
}

#[test]
fn an_http2_preface_behind_a_request_is_no_other_protocol() {
    let origin = Origin::named("o");
    let gateway = gateway(&origin.url());
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert_eq!(client.read_response("GET").status, 200);
    assert_eq!(refusal(&mut client, 400), None);
    nothing_since(&gateway, &origin, 1);
}
