//! Certificate-bound tokens (RFC 8705 §3).

use sluice_filter::ClientCertificate;

use super::*;

/// A certificate whose SHA-256 has this byte 32 times.
fn certificate(byte: u8) -> ClientCertificate {
    let mut certificate = ClientCertificate::default();
    certificate.sha256 = format!("{byte:02x}").repeat(32);
    certificate
}

fn ask(mode: Option<&str>, cnf: Option<Value>, shown: Option<ClientCertificate>) -> Option<String> {
    let filter = filter(mode.map_or(json!({}), |mode| json!({ "certificate_bound": mode })));
    let mut claims = good();
    if let Some(cnf) = cnf {
        claims["cnf"] = cnf;
    }
    let mut exchange = Exchange::get("/").header("authorization", &format!("Bearer {}", sign(&claims)));
    exchange.request.client_certificate = shown;
    match filter.on_request(&mut exchange).unwrap() {
        Verdict::Continue => None,
        Verdict::Respond => {
            assert_eq!((exchange.response.status, &exchange.consumer), (401, &None));
            assert!(challenge(&exchange).contains("error=\"invalid_token\""), "{}", challenge(&exchange));
            exchange.response.reason
        }
    }
}

#[test]
fn a_bound_token_needs_its_certificate_in_every_mode() {
    let bound = || Some(json!({ "x5t#S256": URL_SAFE_NO_PAD.encode([0xab; 32]) }));
    for mode in [None, Some("optional"), Some("required")] {
        assert_eq!(ask(mode, bound(), Some(certificate(0xab))), None, "{mode:?}");
        assert_eq!(ask(mode, bound(), None).as_deref(), Some("certificate-missing"), "{mode:?}");
        assert_eq!(ask(mode, bound(), Some(certificate(0xac))).as_deref(), Some("wrong-certificate"), "{mode:?}");
    }
}

#[test]
fn a_token_that_is_not_bound_passes_unless_all_have_to_be() {
    for shown in [None, Some(certificate(1))] {
        assert_eq!(ask(None, None, shown.clone()), None);
        assert_eq!(ask(Some("required"), None, shown).as_deref(), Some("not-bound"));
    }
}

#[test]
fn a_binding_that_is_not_understood_is_not_ignored() {
    let thumbprint = URL_SAFE_NO_PAD.encode([1; 32]);
    for cnf in [
        json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" }),
        json!({ "jkt": "x", "x5t#S256": thumbprint }),
        json!({ "x5t#S256": [thumbprint] }),
        json!({ "x5t#s256": thumbprint }),
        json!({}),
        json!(null),
        json!("x"),
    ] {
        assert_eq!(ask(None, Some(cnf.clone()), Some(certificate(1))).as_deref(), Some("bound-otherwise"), "{cnf}");
    }
    for near in [format!("{thumbprint}="), thumbprint[..42].to_owned(), String::new(), "!".to_owned()] {
        let cnf = json!({ "x5t#S256": near });
        assert_eq!(ask(None, Some(cnf), Some(certificate(1))).as_deref(), Some("wrong-certificate"), "{near}");
        let cnf = json!({ "x5t#S256": near });
        let unreadable = ClientCertificate::default();
        assert_eq!(ask(None, Some(cnf), Some(unreadable)).as_deref(), Some("wrong-certificate"), "{near}");
    }
}
