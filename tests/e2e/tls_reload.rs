//! Certificates, authorities and revocation lists that change while handshakes go on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sluice_harness::certs::Leaf;
use sluice_harness::load::scaled;
use sluice_harness::{Certs, Client, Gateway, Origin, Reply, eventually};

const ROUTE: &str = "[routes.all]\nmatch = { path = \"/**\" }\nrespond = { status = 200, body = \"ok\" }\n";

/// A gateway whose certificate lies in a folder of its own, as a client of ACME would leave it there.
struct Live {
    folder: tempfile::TempDir,
    certs: Certs,
}

impl Live {
    fn new() -> Live {
        Live { folder: tempfile::tempdir().expect("a folder"), certs: Certs::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file in the place of another one, in one step.
    fn put(&self, name: &str, from: &Path) {
        let beside = self.path(&format!(".{name}"));
        std::fs::copy(from, &beside).expect("a copy");
        std::fs::rename(beside, self.path(name)).expect("a rename");
    }

    fn put_pair(&self, leaf: &Leaf) {
        self.put("cert.pem", &leaf.cert);
        self.put("key.pem", &leaf.key);
    }

    fn new_leaf(&self) -> Leaf {
        self.certs.leaf(&["localhost"])
    }

    fn toml(&self, tls: &str) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!(
            "[gateway]\nworkers = 2\n[admin]\nbind = \"127.0.0.1:0\"\n[listeners.https]\nbind = \"127.0.0.1:0\"\n\
             tls = {{ certificates = [\"main\"]{tls} }}\n[certificates.main]\ncert = \"{}\"\nkey = \"{}\"\n{ROUTE}",
            cert.display(),
            key.display()
        )
    }

    fn shown(&self, gateway: &Gateway) -> CertificateDer<'static> {
        self.shown_for(gateway, "localhost")
    }

    fn shown_for(&self, gateway: &Gateway, name: &str) -> CertificateDer<'static> {
        let config = self.certs.client_config(&["http/1.1"], &[&TLS13]);
        let client = Client::connect_tls(gateway.address_of("https"), name, config).expect("a handshake");
        let shown = client.tls().and_then(|tls| tls.peer_certificates()).expect("a certificate");
        shown[0].clone().into_owned()
    }
}

fn der(leaf: &Leaf) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&leaf.cert).expect("PEM")
}

fn reloads(gateway: &Gateway, message: &str) -> usize {
    gateway.log().iter().filter(|line| line["message"] == message).count()
}

/// Swaps that are made, and handshakes of a second meanwhile. At full length: 100 swaps under 500 handshakes a second.
fn lengths() -> (usize, usize) {
    (scaled("TLS_SWAPS", 5), scaled("TLS_HANDSHAKES", 50))
}

/// Runs `swaps` while clients make so many handshakes in a second, each with a request. `config` is that of a client by its number; with an even one
/// each handshake is a full one, of the rest only the first. Answers how many were made. None may fail.
fn under_handshakes(
    (address, rate): (SocketAddr, usize),
    config: impl Fn(usize) -> Arc<ClientConfig> + Sync,
    swaps: impl FnOnce(&AtomicUsize),
) -> usize {
    let clients = (rate / 40).max(4);
    let (stop, done, begun) = (AtomicBool::new(false), AtomicUsize::new(0), Instant::now());
    let failed = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|number| {
                let (stop, done, config) = (&stop, &done, &config);
                scope.spawn(move || {
                    let pause = Duration::from_secs_f64(clients as f64 / rate as f64);
                    let mut failed = Vec::new();
                    let mut of_client = config(number);
                    let begun = Instant::now();
                    let mut made = 0_u32;
                    while !stop.load(Relaxed) {
                        if number % 2 == 0 {
                            of_client = config(number);
                        }
                        let asked = Client::connect_tls(address, "localhost", Arc::clone(&of_client))
                            .and_then(|mut client| client.try_request("GET", "/", &[], b""));
                        match asked {
                            Ok(response) if response.status == 200 => drop(done.fetch_add(1, Relaxed)),
                            other => failed.push(format!("{other:?}")),
                        }
                        made += 1;
                        std::thread::sleep((pause * made).saturating_sub(begun.elapsed()));
                    }
                    failed
                })
            })
            .collect();
        // A swap that fails must not leave the clients at work.
        let swapped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| swaps(&done)));
        stop.store(true, Relaxed);
        let failed = clients.into_iter().flat_map(|client| client.join().expect("a client")).collect::<Vec<_>>();
        swapped.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        failed
    });
    let done = done.into_inner();
    assert!(failed.is_empty(), "{} of {done}: {:?}", failed.len(), failed.first());
    #[allow(clippy::print_stderr, reason = "a run at full length is there to be read")]
    {
        eprintln!("{done} handshakes, {:.0} a second", done as f64 / begun.elapsed().as_secs_f64());
    }
    done
}

#[test]
fn a_certificate_is_swapped_again_and_again_under_handshakes_and_none_fails() {
    let live = Live::new();
    live.put_pair(&live.new_leaf());
    let gateway = Gateway::start(&live.toml(""));
    let (swaps, rate) = lengths();
    let config = |number| {
        let version = if number % 4 < 2 { &TLS13 } else { &TLS12 };
        live.certs.client_config(&["http/1.1"], &[version])
    };
    under_handshakes((gateway.address_of("https"), rate), config, |done| {
        for _ in 0..swaps {
            let (leaf, before) = (live.new_leaf(), done.load(Relaxed));
            live.put_pair(&leaf);
            eventually("the new certificate", || live.shown(&gateway) == der(&leaf));
            eventually("handshakes with it", || done.load(Relaxed) > before + 4);
        }
    });
    assert_eq!(gateway.metric("sluice_tls_failures_total", &[]), None);
    assert_eq!(reloads(&gateway, "configuration reloaded"), 0, "nothing but the certificate was read");
    assert!(reloads(&gateway, "certificates reloaded") >= swaps);
}

#[test]
fn authorities_and_revocation_lists_are_swapped_again_and_again_under_handshakes_and_none_fails() {
    let live = Live::new();
    live.put_pair(&live.new_leaf());
    let others = Certs::named("another authority");
    let serial: &[u8] = &[7, 7];
    // Every other time clients of the others are let in, and one of ours is not.
    let put = |with_others: bool| {
        let both = |ours: PathBuf, theirs: PathBuf| {
            [ours, theirs].map(|file| std::fs::read_to_string(file).expect("a file")).concat()
        };
        let authorities = match with_others {
            true => both(live.certs.ca(), others.ca()),
            false => std::fs::read_to_string(live.certs.ca()).expect("a file"),
        };
        let revoked: &[&[u8]] = &[serial];
        let lists = both(live.certs.revoke(if with_others { revoked } else { &[] }), others.revoke(&[]));
        for (name, text) in [("clients.pem", authorities), ("list.crl", lists)] {
            std::fs::write(live.path("new"), text).expect("a file");
            std::fs::rename(live.path("new"), live.path(name)).expect("a rename");
        }
    };
    put(false);
    let (ca, crl) = (live.path("clients.pem"), live.path("list.crl"));
    let auth = format!(", client_auth = {{ ca = \"{}\", crl = \"{}\" }}", ca.display(), crl.display());
    let gateway = Gateway::start(&live.toml(&auth));
    let address = gateway.address_of("https");
    let (ours, theirs) = (live.certs.leaf(&["a client"]), others.leaf(&["another client"]));
    let mut params = rcgen::CertificateParams::default();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(serial));
    let seven = live.certs.sign("seven", params, &rcgen::KeyPair::generate().expect("a key"));
    let is_let_in = |leaf: &Leaf| {
        let config = live.certs.client_config_showing(leaf, &["http/1.1"]);
        let client = Client::connect_tls(address, "localhost", config);
        client.and_then(|mut client| client.try_request("GET", "/", &[], b"")).is_ok()
    };
    let (swaps, rate) = lengths();
    let config = |_| live.certs.client_config_showing(&ours, &["http/1.1"]);
    under_handshakes((address, rate), config, |done| {
        for swap in 0..swaps {
            let (with_others, before) = (swap % 2 == 0, done.load(Relaxed));
            put(with_others);
            eventually("the new authorities and lists", || {
                (is_let_in(&theirs), is_let_in(&seven)) == (with_others, !with_others)
            });
            eventually("handshakes with them", || done.load(Relaxed) > before + 4);
        }
    });
    assert_eq!(reloads(&gateway, "configuration reloaded"), 0);
}

#[test]
fn one_broken_certificate_does_not_hold_up_the_renewal_of_the_others() {
    let live = Live::new();
    live.put_pair(&live.new_leaf());
    let other = live.certs.leaf(&["other.test"]);
    live.put("other.pem", &other.cert);
    live.put("other.key", &other.key);
    let (cert, key) = (live.path("other.pem"), live.path("other.key"));
    let toml = live.toml("").replace("[\"main\"]", "[\"other\", \"main\"]")
        + &format!("[certificates.other]\ncert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display());
    let gateway = Gateway::start(&toml);
    let breaks: [(&str, &dyn Fn()); 2] = [
        ("chain and key cannot be used together", &|| live.put("other.key", &live.new_leaf().key)),
        ("cannot read", &|| std::fs::remove_file(live.path("other.pem")).expect("it is there")),
    ];
    for (why, break_it) in breaks {
        break_it();
        gateway.wait_log("the broken one", |line| {
            line["error"].as_str().is_some_and(|error| error.contains("certificate `other`") && error.contains(why))
        });
        let leaf = live.new_leaf();
        live.put_pair(&leaf);
        eventually("the new certificate", || live.shown(&gateway) == der(&leaf));
        let shown = live.shown_for(&gateway, "other.test");
        assert_eq!(shown, der(&other), "{why}: the last good one stays");
    }
    let mended = live.certs.leaf(&["other.test"]);
    live.put("other.key", &mended.key);
    live.put("other.pem", &mended.cert);
    eventually("the mended one", || live.shown_for(&gateway, "other.test") == der(&mended));
    assert_eq!(reloads(&gateway, "configuration reloaded"), 0);
}

#[test]
fn a_file_that_an_upstream_uses_too_is_loaded_for_both() {
    let live = Live::new();
    live.put_pair(&live.new_leaf());
    let other = Certs::new();
    live.put("authorities.pem", &other.ca());
    let origin =
        Origin::serve_tls(live.certs.leaf(&["localhost"]).server_config(&["http/1.1"]), |_| Reply::text("hello"));
    let ca = live.path("authorities.pem");
    let toml = live.toml(&format!(", client_auth = {{ ca = \"{}\", mode = \"optional\" }}", ca.display()))
        + &format!(
            "[routes.up]\nmatch = {{ path = \"/up\" }}\nupstream = \"up\"\n[upstreams.up]\nendpoints = [\"{}\"]\ntls = {{ ca = \"{}\", server_name = \"localhost\" }}\n",
            origin.url().replace("http:", "https:"),
            ca.display()
        );
    let gateway = Gateway::start(&toml);
    let client = live.certs.leaf(&["a client"]);
    let status = || {
        let config = live.certs.client_config(&["http/1.1"], &[&TLS13]);
        Client::connect_tls(gateway.address_of("https"), "localhost", config).expect("a handshake").get("/up").status
    };
    let is_let_in = || {
        let config = live.certs.client_config_showing(&client, &["http/1.1"]);
        let client = Client::connect_tls(gateway.address_of("https"), "localhost", config);
        client.and_then(|mut client| client.try_request("GET", "/", &[], b"")).is_ok()
    };
    assert_eq!((status(), is_let_in()), (502, false));
    live.put("authorities.pem", &live.certs.ca());
    eventually("both trust the new authority", || (status(), is_let_in()) == (200, true));
    // What only the listener uses is still all that is read.
    eventually("the line of the reload", || reloads(&gateway, "configuration reloaded") == 1);
    let leaf = live.new_leaf();
    live.put_pair(&leaf);
    eventually("the new certificate", || live.shown(&gateway) == der(&leaf));
    assert_eq!(reloads(&gateway, "configuration reloaded"), 1);
}

#[test]
fn a_pair_that_does_not_fit_leaves_the_last_good_one_and_is_mended_by_its_other_half() {
    let live = Live::new();
    let (first, second) = (live.new_leaf(), Certs::new());
    live.put_pair(&first);
    let gateway = Gateway::start(&live.toml(""));
    let first = live.shown(&gateway);
    // Written in two steps, and far apart.
    let leaf = live.new_leaf();
    live.put("cert.pem", &leaf.cert);
    gateway.wait_log("the refusal", |line| {
        line["error"].as_str().is_some_and(|error| error.contains("chain and key cannot be used together"))
    });
    assert_eq!(live.shown(&gateway), first);
    live.put("key.pem", &leaf.key);
    eventually("the new pair", || live.shown(&gateway) == der(&leaf));
    // A file that is gone, nonsense, and no PEM change nothing either.
    std::fs::remove_file(live.path("cert.pem")).expect("it is there");
    gateway.wait_log("a file that is gone", |line| {
        line["error"].as_str().is_some_and(|error| error.contains("cannot read"))
    });
    live.put("cert.pem", &second.ca());
    eventually("three refusals", || gateway.metric("sluice_reloads_total", &[("result", "refused")]) >= Some(3.0));
    assert_eq!(live.shown(&gateway), der(&leaf));
    let last = live.new_leaf();
    live.put_pair(&last);
    eventually("a good one again", || live.shown(&gateway) == der(&last));
}

#[test]
fn a_certificate_is_renewed_also_while_the_configuration_is_broken() {
    let live = Live::new();
    live.put_pair(&live.new_leaf());
    let toml = live.toml("");
    let gateway = Gateway::start(&toml);
    gateway.write("gateway.toml", format!("{toml}\nnonsense"));
    gateway.wait_log("the refusal", |line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("configuration refused"))
    });
    let leaf = live.new_leaf();
    live.put_pair(&leaf);
    eventually("the new certificate", || live.shown(&gateway) == der(&leaf));
    gateway.write("gateway.toml", toml + "[routes.other]\nmatch = { path = \"/other\" }\nrespond = { status = 201 }\n");
    eventually("the mended configuration", || {
        let config = live.certs.client_config(&["http/1.1"], &[&TLS13]);
        let client = Client::connect_tls(gateway.address_of("https"), "localhost", config);
        client.expect("a handshake").get("/other").status == 201
    });
    assert_eq!(live.shown(&gateway), der(&leaf));
}

#[test]
fn authorities_and_revocation_lists_of_clients_are_swapped_too() {
    let live = Live::new();
    live.put_pair(&live.new_leaf());
    let other = Certs::new();
    live.put("clients.pem", &other.ca());
    let auth = format!(", client_auth = {{ ca = \"{}\" }}", live.path("clients.pem").display());
    let gateway = Gateway::start(&live.toml(&auth));
    let client = live.certs.leaf(&["a client"]);
    let is_let_in = || {
        let config = live.certs.client_config_showing(&client, &["http/1.1"]);
        let client = Client::connect_tls(gateway.address_of("https"), "localhost", config);
        client.and_then(|mut client| client.try_request("GET", "/", &[], b"")).is_ok()
    };
    assert!(!is_let_in());
    live.put("clients.pem", &live.certs.ca());
    eventually("the authority", is_let_in);

    let serial: &[u8] = &[7, 7];
    let params = || {
        let mut params = rcgen::CertificateParams::default();
        params.serial_number = Some(rcgen::SerialNumber::from_slice(serial));
        params
    };
    let client = live.certs.sign("revoked", params(), &rcgen::KeyPair::generate().expect("a key"));
    live.put("list.crl", &live.certs.revoke(&[]));
    let (ca, crl) = (live.path("clients.pem"), live.path("list.crl"));
    let auth = format!(", client_auth = {{ ca = \"{}\", crl = \"{}\" }}", ca.display(), crl.display());
    let gateway = Gateway::start(&live.toml(&auth));
    let is_let_in = || {
        let config = live.certs.client_config_showing(&client, &["http/1.1"]);
        let client = Client::connect_tls(gateway.address_of("https"), "localhost", config);
        client.and_then(|mut client| client.try_request("GET", "/", &[], b"")).is_ok()
    };
    assert!(is_let_in());
    live.put("list.crl", &live.certs.revoke(&[serial]));
    eventually("the revocation", || !is_let_in());
    assert_eq!(reloads(&gateway, "configuration reloaded"), 0);
    eventually("the metric that says why", || {
        gateway.metric("sluice_tls_failures_total", &[("reason", "client-certificate-revoked")]) >= Some(1.0)
    });
}
