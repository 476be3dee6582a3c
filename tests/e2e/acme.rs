//! Certificates that the gateway orders, from a real ACME authority (Pebble).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ClientConfig;
use serde_json::json;
use sluice_harness::pebble::Options;
use sluice_harness::tools::free_port;
use sluice_harness::{Certs, Client, Gateway, Origin, Pebble, Reply, eventually, wait};

/// A gateway on ports that its authority knows.
pub(super) struct Site {
    pub(super) http: u16,
    pub(super) tls: u16,
    /// What outlives a gateway.
    pub(super) state: tempfile::TempDir,
}

impl Site {
    pub(super) fn new() -> Site {
        Site { http: free_port(), tls: free_port(), state: tempfile::tempdir().expect("a folder") }
    }

    /// The same ports, and nothing kept.
    pub(super) fn again(&self) -> Site {
        Site { state: tempfile::tempdir().expect("a folder"), ..*self }
    }

    pub(super) fn options(&self) -> Options {
        Options { http: self.http, tls: self.tls, ..Options::default() }
    }

    /// The tables of `[acme.pebble]` and `[certificates.site]` get these lines.
    pub(super) fn config(&self, acme: &str, certificate: &str) -> String {
        let (http, tls, state) = (self.http, self.tls, self.state.path().display());
        format!(
            "[telemetry]\nlog_level = \"debug\"\n[gateway]\nworkers = 1\nreload = false\nstate_dir = \"{state}\"\n\
             [admin]\nbind = \"127.0.0.1:0\"\n\
             [listeners.http]\nbind = \"127.0.0.1:{http}\"\nhttps_redirect = {{ except = [\"/plain/**\"] }}\n\
             [listeners.https]\nbind = \"127.0.0.1:{tls}\"\ntls = {{ certificates = [\"site\"] }}\n\
             [routes.site]\nmatch = {{ path = \"/site/**\" }}\nrespond = {{ status = 200, body = \"hello\" }}\n\
             [acme.pebble]\nterms_of_service_agreed = true\n{acme}\n[certificates.site]\nacme = \"pebble\"\n{certificate}\n"
        )
    }

    pub(super) fn start(&self, acme: &str, certificate: &str) -> Gateway {
        Gateway::start(&self.config(acme, certificate))
    }
}

pub(super) const NAMES: &str = "names = [\"site.test\"]";

/// How the authority is reached.
pub(super) fn at(pebble: &Pebble) -> String {
    format!("directory = \"{}\"\nca = \"{}\"", pebble.directory(), pebble.ca().display())
}

/// The certificate that a client gets for a name, if it trusts it.
pub(super) fn shown(gateway: &Gateway, name: &str, config: &Arc<ClientConfig>) -> io::Result<Vec<u8>> {
    let client = Client::connect_tls(gateway.address_of("https"), name, config.clone())?;
    let certificates = client.tls().and_then(|tls| tls.peer_certificates()).expect("a certificate");
    Ok(certificates[0].to_vec())
}

/// Waits until a client trusts the certificate of a name.
#[track_caller]
pub(super) fn trusted(gateway: &Gateway, name: &str, config: &Arc<ClientConfig>) -> Vec<u8> {
    wait::eventually_some("a certificate of the authority", || shown(gateway, name, config).ok())
}

pub(super) fn orders(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("sluice_acme_orders_total", &[("certificate", "site"), ("result", result)]).unwrap_or(0.0)
}

#[test]
fn a_certificate_is_ordered_by_http_01_before_redirects_and_routes() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let certificate = "names = [\"site.test\", \"www.site.test\"]";
    let acme = at(&pebble) + "\nchallenges = [\"http-01\"]\ncontact = [\"mailto:ops@site.test\"]";
    let mut gateway = site.start(&acme, certificate);
    let config = pebble.client_config(&["http/1.1"]);
    let first = trusted(&gateway, "www.site.test", &config);
    assert_eq!(shown(&gateway, "site.test", &config).expect("trusted"), first, "one certificate for both names");
    let mut client = Client::connect_tls(gateway.address_of("https"), "site.test", config.clone()).expect("trusted");
    assert_eq!(client.get("/site/x").text(), "hello");
    assert_eq!(orders(&gateway, "issued"), 1.0);
    assert_eq!(pebble.issued(), 1);
    let expiry = gateway.metric("sluice_certificate_expiry_timestamp_seconds", &[("certificate", "site")]);
    let next = gateway.metric("sluice_acme_next_order_timestamp_seconds", &[("certificate", "site")]);
    assert!(next < expiry && next > Some(0.0), "{next:?} {expiry:?}");
    let listed = gateway.admin("/api/v1/certificates").json();
    let listed = &listed["certificates"][0];
    assert_eq!(listed["names"], json!(["site.test", "www.site.test"]), "{listed}");
    assert_eq!((&listed["acme"], &listed["last_error"]), (&json!(pebble.directory()), &json!(null)));

    // What nobody else may read.
    for file in ["certificates/site.json", "accounts"] {
        let path = site.state.path().join("acme").join(file);
        let mode = std::fs::metadata(&path).expect("it is kept").permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{file}");
    }

    // A restart asks for nothing, and needs no authority.
    let issued = pebble.issued();
    gateway.terminate();
    let gateway = site.start(&acme, certificate);
    assert_eq!(shown(&gateway, "site.test", &config).expect("from the first handshake on"), first);
    assert_eq!(pebble.issued(), issued);
}

#[test]
fn a_challenge_for_a_foreign_name_or_token_is_a_request_like_any_other() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let gateway = site.start(&at(&pebble), NAMES);
    trusted(&gateway, "site.test", &pebble.client_config(&[]));
    let mut client = Client::connect(gateway.address_of("http"));
    let ask = |client: &mut Client, host: &str, path: &str| client.request("GET", path, &[("host", host)], b"").status;
    for host in ["site.test", "foreign.test"] {
        assert_eq!(ask(&mut client, host, "/.well-known/acme-challenge/abc"), 308, "the listener's redirect");
        assert_eq!(ask(&mut client, host, "/plain/.well-known/acme-challenge/abc"), 404);
    }
    // The question of tls-alpn-01 for a name of which nothing is pending.
    let config = pebble.client_config(&["acme-tls/1"]);
    for name in ["site.test", "foreign.test"] {
        let error = shown(&gateway, name, &config).expect_err("no such protocol").to_string();
        assert!(error.contains("NoApplicationProtocol") || error.contains("no_application_protocol"), "{error}");
    }
}

#[test]
fn a_certificate_is_ordered_by_tls_alpn_01() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let acme = at(&pebble) + "\nchallenges = [\"tls-alpn-01\"]\nkey_type = \"rsa-2048\"";
    let gateway = site.start(&acme, NAMES);
    let first = trusted(&gateway, "site.test", &pebble.client_config(&[]));
    assert!(first.len() > 600, "an RSA key is longer: {} bytes", first.len());
    assert_eq!(orders(&gateway, "issued"), 1.0);
}

#[test]
fn a_wildcard_is_ordered_by_dns_01_with_the_operator_s_program() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {folder}/calls\n\
         case $2 in add) what=set-txt ;; *) what=clear-txt ;; esac\n\
         exec curl -sf --noproxy '*' -d \"{{\\\"host\\\":\\\"$3.\\\",\\\"value\\\":\\\"$4\\\"}}\" http://{names}/$what\n",
        folder = pebble.folder().display(),
        names = pebble.names()
    );
    let program = pebble.folder().join("txt-record");
    std::fs::write(&program, script).expect("a script");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("it can be run");
    let dns = format!("dns = {{ command = [\"{}\", \"zone\"], timeout = \"20s\" }}", program.display());
    let gateway = site.start(&format!("{}\n{dns}", at(&pebble)), "names = [\"*.site.test\", \"site.test\"]");
    let config = pebble.client_config(&[]);
    let first = trusted(&gateway, "any.site.test", &config);
    assert_eq!(shown(&gateway, "site.test", &config).expect("trusted"), first);
    let calls = || std::fs::read_to_string(pebble.folder().join("calls")).expect("calls");
    eventually("what was added is removed", || calls().matches("zone remove _acme-challenge.site.test ").count() == 2);
    assert_eq!(calls().matches("zone add _acme-challenge.site.test ").count(), 2, "{}", calls());
}

#[test]
fn a_record_of_an_order_that_a_reload_cuts_off_is_removed() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let calls = pebble.folder().join("calls");
    let script = format!("echo \"$@\" >> {}; case $1 in add) sleep 1000 ;; esac", calls.display());
    let dns = format!("dns = {{ command = [\"/bin/sh\", \"-c\", {script:?}, \"txt\"], timeout = \"60s\" }}");
    let acme = format!("{}\n{dns}", at(&pebble));
    let gateway = site.start(&acme, NAMES);
    let has = |call: &str| std::fs::read_to_string(&calls).is_ok_and(|calls| calls.contains(call));
    eventually("the record is being added", || has("add _acme-challenge.site.test "));
    gateway.reload(&site.config(&acme, "names = [\"other.test\"]"));
    eventually("it is removed", || has("remove _acme-challenge.site.test "));
}

#[test]
fn a_program_for_dns_that_hangs_is_ended() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let acme = format!("{}\ndns = {{ command = [\"sleep\", \"1000\", \"#\"], timeout = \"1s\" }}", at(&pebble));
    let acme = acme.replace("\"sleep\", \"1000\", \"#\"", "\"/bin/sh\", \"-c\", \"sleep 1000\"");
    let gateway = site.start(&acme, NAMES);
    let line = gateway.wait_log("the order fails", |line| line["kind"] == "dns");
    assert!(line["reason"].as_str().is_some_and(|why| why.contains("has not ended within 1s")), "{line}");
    assert_eq!(orders(&gateway, "dns"), 1.0);
    assert!(shown(&gateway, "site.test", &pebble.client_config(&[])).is_err());
}

#[test]
fn an_external_account_is_bound() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let site = Site::new();
    let options = Options { external_account: Some(("kid-1", KEY)), ..site.options() };
    let Some(pebble) = Pebble::start(options) else { return };
    let refused = site.start(&at(&pebble), NAMES);
    let line = refused.wait_log("the authority wants it", |line| line["kind"] == "refused");
    assert!(line["reason"].as_str().is_some_and(|why| why.contains("externalAccountRequired")), "{line}");
    drop(refused);
    let eab = format!("eab = {{ kid = \"kid-1\", hmac = \"${{file:{}/hmac}}\" }}", pebble.folder().display());
    std::fs::write(pebble.folder().join("hmac"), KEY).expect("a file");
    let gateway = site.start(&format!("{}\n{eab}", at(&pebble)), NAMES);
    trusted(&gateway, "site.test", &pebble.client_config(&[]));
}

#[test]
fn a_certificate_is_renewed_before_its_end_and_no_handshake_fails() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(Options { validity: 24, ..site.options() }) else { return };
    let gateway = site.start(&(at(&pebble) + "\nrenew_before = \"1d\""), NAMES);
    let config = pebble.client_config(&[]);
    let first = trusted(&gateway, "site.test", &config);
    eventually("another one", || shown(&gateway, "site.test", &config).expect("each handshake is trusted") != first);
    eventually("it is counted", || orders(&gateway, "issued") >= 2.0);
}

#[test]
fn the_last_good_certificate_stays_while_the_authority_is_away() {
    let site = Site::new();
    let Some(mut pebble) = Pebble::start(Options { validity: 24, ..site.options() }) else { return };
    let acme = at(&pebble) + "\nrenew_before = \"1d\"";
    let gateway = site.start(&acme, NAMES);
    let config = pebble.client_config(&[]);
    let first = trusted(&gateway, "site.test", &config);
    pebble.stop();
    gateway.wait_log("an order fails", |line| line["kind"] == "unreachable");
    assert_eq!(shown(&gateway, "site.test", &config).expect("trusted"), first);
    let listed = gateway.admin("/api/v1/certificates").json();
    assert!(listed["certificates"][0]["last_error"].is_string(), "{listed}");
    // It comes back, and knows the account no more.
    pebble.start_again();
    let config = pebble.client_config(&[]);
    let second = trusted(&gateway, "site.test", &config);
    assert_ne!(first, second);
    gateway.wait_log("a new account", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("does not know the account any more"))
    });
}

/// An authority that answers what this says.
pub(super) fn authority(certs: &Certs, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Origin {
    let leaf = certs.leaf(&["127.0.0.1"]);
    Origin::serve_tls(leaf.server_config(&["http/1.1"]), move |request| answer(&request.target))
}

#[test]
fn another_authority_is_asked_when_the_first_answers_nonsense() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    for nonsense in ["<html>", "{}", "{\"newNonce\":\"http://127.0.0.1:1/\",\"newAccount\":\"x\",\"newOrder\":\"y\"}"] {
        let first = authority(pebble.certs(), move |_| Reply::text(nonsense));
        let site = site.again();
        let acme = format!(
            "directory = \"https://{}/dir\"\nca = \"{}\"\nfallback = [\"second\"]\n[acme.second]\nterms_of_service_agreed = true\n{}",
            first.address(),
            pebble.ca().display(),
            at(&pebble)
        );
        let gateway = site.start(&acme, NAMES);
        trusted(&gateway, "site.test", &pebble.client_config(&[]));
        assert_eq!((orders(&gateway, "unreachable"), orders(&gateway, "issued")), (1.0, 1.0), "{nonsense}");
    }
}

#[test]
fn the_pause_that_an_authority_asks_for_is_kept() {
    let site = Site::new();
    let certs = Certs::new();
    let problem = json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": "slow down", "status": 429 });
    let busy = authority(&certs, move |_| {
        Reply::Full(429, vec![("retry-after".to_owned(), "7200".to_owned())], problem.to_string().into_bytes())
    });
    let acme = format!("directory = \"https://{}/dir\"\nca = \"{}\"", busy.address(), certs.ca().display());
    let gateway =
        site.start(&acme, &format!("{NAMES}\n[certificates.other]\nacme = \"pebble\"\nnames = [\"other.test\"]"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs_f64();
    for certificate in ["site", "other"] {
        eventually("the next order is hours away", || {
            let next = gateway.metric("sluice_acme_next_order_timestamp_seconds", &[("certificate", certificate)]);
            next.is_some_and(|next| next > now + 7000.0)
        });
    }
    assert_eq!(busy.count(), 1, "it holds for all certificates");
    let error = shown(&gateway, "site.test", &certs.client_config(&[], &[&rustls::version::TLS13]));
    assert!(error.is_err(), "there is no certificate yet");
    eventually("it is counted", || {
        gateway.metric("sluice_tls_failures_total", &[("reason", "no-certificate")]) == Some(1.0)
    });
}

#[test]
fn the_authority_says_when_to_renew() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let now = Arc::new(AtomicBool::new(false));
    // By another name than the directory: a client keeps TLS sessions by name.
    let renewal = Origin::serve_tls(pebble.certs().leaf(&["localhost"]).server_config(&["http/1.1"]), {
        let now = now.clone();
        move |_| {
            let year = if now.load(Ordering::SeqCst) { 2020 } else { 2100 };
            let window =
                json!({ "start": format!("{year}-01-01T00:00:00Z"), "end": format!("{year}-01-02T00:00:00Z") });
            // More than any clock can say.
            Reply::json(&json!({ "suggestedWindow": window })).with("retry-after", "18446744073709551615")
        }
    });
    // The directory of Pebble with what this version of it does not have.
    let directory = authority(pebble.certs(), {
        let mut document = pebble.directory_document();
        document["renewalInfo"] = format!("https://localhost:{}/renewal", renewal.address().port()).into();
        move |_| Reply::json(&document)
    });
    let acme = format!("directory = \"https://{}/dir\"\nca = \"{}\"", directory.address(), pebble.ca().display());
    let mut gateway = site.start(&acme, NAMES);
    let config = pebble.client_config(&[]);
    let first = trusted(&gateway, "site.test", &config);
    eventually("it is asked", || renewal.requests().iter().any(|request| request.target.starts_with("/renewal/")));
    gateway.terminate();
    now.store(true, Ordering::SeqCst);
    let gateway = site.start(&acme, NAMES);
    eventually("another one", || shown(&gateway, "site.test", &config).expect("trusted") != first);
    assert_eq!(pebble.issued(), 2);
}

#[test]
fn a_certificate_on_demand_is_asked_for_and_ordered_once() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let ask = Origin::serve(|request| {
        let known = request.target.contains("domain=one.customers.test");
        Reply::status(if known { 200 } else { 404 })
    });
    let wanted = format!("on_demand = {{ ask = \"{}/has\", rate = 5, hosts = [\"*.customers.test\"] }}", ask.url());
    let mut gateway = site.start(&at(&pebble), &wanted);
    let config = pebble.client_config(&[]);
    let first = trusted(&gateway, "one.customers.test", &config);
    assert_eq!(shown(&gateway, "one.customers.test", &config).expect("trusted"), first);
    assert!(shown(&gateway, "two.customers.test", &config).is_err(), "the service says no");
    assert!(shown(&gateway, "two.customers.test", &config).is_err(), "and that is remembered");
    assert!(shown(&gateway, "one.strangers.test", &config).is_err(), "not among the hosts");
    let asked = |name: &str| ask.requests().iter().filter(|request| request.target.contains(name)).count();
    assert_eq!([asked("one.customers"), asked("two.customers"), asked("strangers")], [1, 1, 0]);
    assert_eq!(orders(&gateway, "not_wanted"), 1.0);
    assert_eq!(pebble.issued(), 1);
    gateway.terminate();
    let gateway = site.start(&at(&pebble), &wanted);
    assert_eq!(shown(&gateway, "one.customers.test", &config).expect("from disk"), first);
}

#[test]
fn certificates_on_demand_have_a_rate() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let ask = Origin::serve(|_| Reply::status(200));
    let gateway = site.start(&at(&pebble), &format!("on_demand = {{ ask = \"{}\", rate = 1 }}", ask.url()));
    let config = pebble.client_config(&[]);
    trusted(&gateway, "one.test", &config);
    assert!(shown(&gateway, "two.test", &config).is_err());
    assert_eq!(orders(&gateway, "over_rate"), 1.0);
}

#[test]
fn a_disk_that_takes_nothing_loses_nothing() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    // A file in the place of the folder: nothing can be written, as on a full disk.
    let folder: &Path = site.state.path();
    std::fs::write(folder.join("acme"), "").expect("a file");
    let gateway = site.start(&at(&pebble), NAMES);
    trusted(&gateway, "site.test", &pebble.client_config(&[]));
    let line = gateway.wait_log("it is said", |line| {
        line["message"].as_str().is_some_and(|text| text.contains("can't be kept: a restart would lose it"))
    });
    assert_eq!(line["certificate"], "site");
}

#[test]
fn a_reload_brings_certificates_and_keeps_those_that_there_are() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site.options()) else { return };
    let gateway = site.start(&at(&pebble), NAMES);
    let config = pebble.client_config(&[]);
    let first = trusted(&gateway, "site.test", &config);
    let more = site
        .config(&at(&pebble), &format!("{NAMES}\n[certificates.more]\nacme = \"pebble\"\nnames = [\"more.test\"]\n"));
    gateway.reload(&more.replace("certificates = [\"site\"]", "certificates = [\"site\", \"more\"]"));
    assert_eq!(shown(&gateway, "site.test", &config).expect("trusted"), first);
    trusted(&gateway, "more.test", &config);
    assert_eq!(shown(&gateway, "site.test", &config).expect("trusted"), first);
    assert_eq!(pebble.issued(), 2);
}
