//! Certificates that are ordered.

use super::{check, config};
use crate::config::model::{ChallengeKind, KeyType, Wanted};

const ACME: &str = "[acme.a]\ndirectory = 'https://ca.test/dir'\nterms_of_service_agreed = true\n";

#[test]
fn an_authority_and_what_is_ordered_from_it() {
    let read = config(&format!(
        "{ACME}[acme.b]\ndirectory = 'https://b.test/'\nterms_of_service_agreed = true\ndns.command = ['/bin/x', 'y']\n\
         eab = {{ kid = 'k', hmac = 'AQID_-0=' }}\n[certificates.c]\nacme = 'b'\nnames = ['A.test', '*.B.test']\n"
    ));
    let [first, second] = &read.authorities[..] else { panic!("two") };
    assert_eq!(first.challenges, [ChallengeKind::Http01, ChallengeKind::TlsAlpn01]);
    assert_eq!((first.key_type, second.challenges.as_slice()), (KeyType::EcdsaP256, &[ChallengeKind::Dns01][..]));
    let account = second.external_account.as_ref().expect("an account");
    assert_eq!((&*account.key_id, &*account.key), ("k", &[1, 2, 3, 0xff, 0xed][..]));
    assert!(!format!("{account:?}").contains("237"), "a key is not printed");
    let Wanted::Names(names) = &read.acme_certificates[0].wanted else { panic!("names") };
    assert_eq!(names, &["a.test", "*.b.test"]);
    assert!(read.certificates.is_empty());
}

#[test]
fn a_wildcard_needs_dns_01_of_all_that_may_be_asked() {
    let certificate = "[certificates.c]\nacme = 'a'\nnames = ['x.test', '*.x.test']\n";
    let error = "gateway.toml:7:9: certificates.c.names: `*.x.test` can be shown by `dns-01` only, which `acme.a` does not have among its `challenges`";
    check(&[(&format!("{ACME}{certificate}"), error)]);
    let fallback =
        "[acme.b]\ndirectory = 'https://b.test/'\nterms_of_service_agreed = true\nchallenges = ['http-01']\n";
    let first = ACME.to_owned() + "dns.command = ['x']\nfallback = ['b']\n";
    let error = "gateway.toml:9:9: certificates.c.names: `*.x.test` can be shown by `dns-01` only, which `acme.b` does not have among its `challenges`";
    check(&[(&format!("{first}{certificate}{fallback}"), error)]);
}

#[test]
fn what_does_not_go_together() {
    let acme = |line: &str| format!("{ACME}{line}\n");
    let certificate = |lines: &str| format!("{ACME}[certificates.c]\nacme = 'a'\n{lines}\n");
    check(&[
        (
            &acme("challenges = ['dns-01']"),
            "gateway.toml:2:7: acme.a: `dns-01` among the `challenges` needs `dns.command`",
        ),
        (
            &acme("challenges = ['http-01']\ndns.command = ['x']"),
            "gateway.toml:2:7: acme.a: `dns` goes with `dns-01` among the `challenges`",
        ),
        (&acme("fallback = ['a']"), "gateway.toml:5:13: acme.a.fallback[0]: an authority is no fallback for itself"),
        (&acme("eab = { kid = 'k', hmac = '!' }"), "gateway.toml:5:27: acme.a.eab.hmac: expected base64url"),
        (
            &ACME.replace("https:", "http:"),
            "gateway.toml:3:13: acme.a.directory: expected a URL like \"https://acme.example/directory\", found \"http://ca.test/dir\"",
        ),
        (
            &ACME.replace("true", "false"),
            "gateway.toml:2:7: acme.a: `terms_of_service_agreed` has to be true: the authority gives no account otherwise",
        ),
        (
            &certificate(""),
            "gateway.toml:5:15: certificates.c: a certificate that is ordered has either `names` or `on_demand`",
        ),
        (
            &certificate("names = ['a.test']\nhosts = ['b.test']"),
            "gateway.toml:5:15: certificates.c: `hosts` is for a certificate that is not ordered: leave it out beside `acme`",
        ),
        (
            &certificate("names = ['10.0.0.1']"),
            "gateway.toml:7:10: certificates.c.names[0]: expected a host name: certificates for addresses are not ordered",
        ),
        (
            &certificate("names = ['a.test', 'A.test']"),
            "gateway.toml:7:9: certificates.c.names: `a.test` is in it twice",
        ),
        (
            "[certificates.c]\nnames = ['a.test']",
            "gateway.toml:2:15: certificates.c: `names` goes with `acme`\ngateway.toml:2:15: certificates.c: the key `cert` is missing\ngateway.toml:2:15: certificates.c: the key `key` is missing",
        ),
        (
            &certificate("names = ['a.test']").replace("acme = 'a'", "acme = 'b'"),
            "gateway.toml:6:8: certificates.c.acme: unknown authority `b`",
        ),
    ]);
}
