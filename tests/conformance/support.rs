//! What the tables of this crate share: how a refusal looks, and a gateway with small limits.

use sluice_harness::{Client, Gateway, Origin, Response};

/// Behind whatever is sent: must never be seen by an origin when what stands before it is refused.
pub(crate) const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

/// A gateway that forwards everything to an origin. The limits are such that a row can exceed them.
#[track_caller]
pub(crate) fn gateway(upstream: &str) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\nreload = false\n[listeners.http]\nbind = \"127.0.0.1:0\"\nlimits = {{ head = \"8KiB\", headers = 20 }}\n[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{upstream}\"\nupgrade = true\n"
    ))
}

/// Bytes in a message of a failed test, short.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() > 300 { format!("{}…{}", &text[..200], &text[text.len() - 60..]) } else { text }
}

/// What is wrong with a refusal; nothing when it is problem details of this status.
pub(crate) fn wrong_with(response: &Response, status: u16) -> Option<String> {
    if response.status != status {
        return Some(format!("status {} instead of {status}", response.status));
    }
    if response.header("content-type") != Some("application/problem+json") {
        return Some(format!("content-type {:?}", response.header("content-type")));
    }
    let Ok(problem) = serde_json::from_slice::<serde_json::Value>(&response.body) else {
        return Some(format!("no JSON: {}", response.text()));
    };
    let id = response.header("x-request-id").unwrap_or_default();
    if problem["status"] != status || id.is_empty() || problem["request_id"] != id {
        return Some(format!("problem details {problem}, id `{id}`"));
    }
    None
}

/// Reads a refusal and the end of the connection; says what is not as it should be.
pub(crate) fn refusal(client: &mut Client, status: u16) -> Option<String> {
    let response = match client.try_read_response("GET") {
        Ok(response) => response,
        Err(error) => return Some(format!("no response: {error}")),
    };
    if let Some(wrong) = wrong_with(&response, status) {
        return Some(wrong);
    }
    if response.header("connection") != Some("close") {
        return Some("the connection is not said to close".into());
    }
    let rest = client.read_to_close();
    (!rest.is_empty()).then(|| format!("more than a refusal: {}", shown(&rest)))
}

/// Proves that nothing is on its way to an origin any more: one more request is the only one it got since `before`.
#[track_caller]
pub(crate) fn nothing_since(gateway: &Gateway, origin: &Origin, before: usize) {
    assert_eq!(gateway.get("/last").status, 200);
    let seen: Vec<String> = origin.requests().iter().skip(before).map(|r| r.head.start.clone()).collect();
    assert_eq!(seen, ["GET /last HTTP/1.1"], "what reached the origin");
}
