//! Configs and rules of acl: no panic, an error names its key, and what is accepted decides each request, and the same each time.
#![no_main]

#[path = "../../../plugins/acl/src/lib.rs"]
mod plugin;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sluice_filter::Verdict;
use sluice_filter::context::Value as Claim;
use sluice_filter::testing::{Exchange, Harness};

/// Requests of nobody, of somebody, and of somebody with odd claims.
fn requests(claims: &str) -> Vec<Exchange> {
    let mut known = Exchange::new("HEAD", "/a/b?c");
    known.consumer = Some("ann".to_owned());
    let mut claimed = Exchange::new("PUT", "/a");
    claimed.consumer = Some("bob".to_owned());
    claimed.context.insert("auth.claims".to_owned(), (Claim::Json(claims.to_owned()), "jwt-auth".to_owned()));
    vec![Exchange::get("/"), known, claimed]
}

// Lines: the claims of a caller, then the config.
fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (claims, config) = text.split_once('\n').unwrap_or(("{}", text));
    if serde_json::from_str::<Value>(claims).is_err() {
        return;
    }
    let Ok(mut config) = serde_json::from_str::<Value>(config) else { return };
    let acl = match Harness::<plugin::Acl>::new(config.clone()) {
        Ok(acl) => acl,
        Err(refusal) => {
            assert!(!refusal.is_empty());
            return;
        }
    };
    let is_dry = config["dry_run"] == true;
    for mut exchange in requests(claims) {
        let mut again = exchange.clone();
        let verdict = acl.on_request(&mut exchange).expect("no failure");
        assert_eq!(acl.on_request(&mut again), Ok(verdict));
        assert!(verdict == Verdict::Continue || !is_dry && [401, 403].contains(&exchange.response.status));
    }
    // The first rule that holds decides.
    config["rules"].as_array_mut().expect("rules").insert(0, json!({ "effect": "deny", "name": "first" }));
    config["dry_run"] = false.into();
    let Ok(acl) = Harness::<plugin::Acl>::new(config) else { return };
    for mut exchange in requests(claims) {
        assert_eq!(acl.on_request(&mut exchange), Ok(Verdict::Respond));
    }
});
