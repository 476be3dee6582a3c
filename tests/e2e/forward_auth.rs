//! `forward-auth` with services behind it: what they get, what becomes of their answers, and what a client can't do to either.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use sluice_harness::origin::{Request, nobody};
use sluice_harness::tools::{Ended, free_port, need, wait_for_port};
use sluice_harness::wait::{eventually, within};
use sluice_harness::{Client, Gateway, Origin, Reply};

use crate::support::{gateway, route};

fn asking(upstream: &Origin, service: &str, config: &str) -> Gateway {
    let filter = format!(
        "[filters.ask]\nplugin = \"forward-auth\"\n\
         grants = {{ http = [\"{service}\"], kv = [\"forward-auth\"], read_headers = [\"authorization\", \"cookie\"], write_headers = [\"set-cookie\"] }}\n\
         [filters.ask.config]\nurl = \"{service}/auth?x=1\"\n{config}\n"
    );
    gateway(&(route(&upstream.url(), &["ask"]) + &filter))
}

/// Allows the token `good` of `ann`, redirects without one, forbids others: as an authentication proxy behind `auth_request` does.
fn service(request: &Request) -> Reply {
    match request.header("authorization") {
        Some("Bearer good") => {
            Reply::status(204).with("x-auth-user", "ann").with("set-cookie", "renewed=1").with("x-internal", "1")
        }
        Some(_) => Reply::Full(403, vec![("content-type".into(), "text/plain".into())], b"not you".to_vec()),
        None => Reply::status(302).with("location", "/login").with("set-cookie", "state=1").with("x-internal", "1"),
    }
}

const CONFIG: &str = "upstream_headers = [\"x-auth-user\", \"x-auth-groups\"]\nclient_headers = [\"set-cookie\"]\nconsumer_header = \"x-auth-user\"\n\
                      refusal_headers = [\"location\", \"set-cookie\", \"content-type\"]\n";

#[test]
fn a_service_allows_redirects_and_refuses() {
    let (upstream, auth) = (Origin::named("o"), Origin::serve(service));
    let gateway = asking(&upstream, &auth.url(), CONFIG);
    let smuggled = [
        ("authorization", "Bearer good"),
        ("x-auth-user", "root"),
        ("x-auth-groups", "admins"),
        ("X_Auth_Groups", "admins"),
        ("x-auth_groups", "admins"),
        ("x-forwarded-uri", "/public"),
        ("x-forwarded-method", "OPTIONS"),
    ];
    let passed = gateway.request("PUT", "/a/b?c=d", &smuggled, b"body");
    assert_eq!(
        (passed.status, passed.header("set-cookie"), passed.header("x-internal")),
        (200, Some("renewed=1"), None)
    );
    let seen = upstream.last();
    assert_eq!((seen.head.all("x-auth-user"), seen.head.all("x-auth-groups")), (vec!["ann"], vec![]), "no smuggling");
    assert!(seen.head.all("x_auth_groups").is_empty() && seen.head.all("x-auth_groups").is_empty());
    assert_eq!(seen.text(), "body");
    let asked = auth.last();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/auth?x=1"));
    assert_eq!(asked.head.all("x-forwarded-uri"), ["/a/b?c=d"]);
    assert_eq!(asked.head.all("x-forwarded-method"), ["PUT"]);
    assert_eq!(asked.head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(asked.header("x-auth-user"), None);
    gateway.wait_access("the caller", |line| line["consumer"] == "ann");

    let login = gateway.get("/");
    assert_eq!(
        (login.status, login.header("location"), login.header("set-cookie")),
        (302, Some("/login"), Some("state=1"))
    );
    assert_eq!(login.header("x-internal"), None);
    let refused = gateway.request("GET", "/", &[("authorization", "Bearer bad")], b"");
    assert_eq!((refused.status, refused.text().as_str(), upstream.count()), (403, "not you", 1));
    let line = gateway.wait_access("the reason", |line| line["reason"] == "refused:403");
    assert!(!line.to_string().contains("Bearer"), "{line}");
}

#[test]
fn a_service_that_is_away_decides_nothing() {
    let upstream = Origin::named("o");
    let away = format!("http://{}", nobody());
    let closed = asking(&upstream, &away, CONFIG);
    let refused = closed.get("/");
    assert_eq!((refused.status, upstream.count()), (503, 0));
    closed.wait_access("the reason", |line| line["reason"] == "auth-unavailable");
    let open = asking(&upstream, &away, &format!("on_unavailable = \"open\"\n{CONFIG}"));
    assert_eq!(open.request("GET", "/", &[("x-auth-user", "root")], b"").status, 200);
    assert_eq!(upstream.last().header("x-auth-user"), None);
}

#[test]
fn kept_answers_are_used_until_they_are_too_old_and_for_nobody_else() {
    let (upstream, status) = (Origin::named("o"), Arc::new(AtomicU16::new(200)));
    let now = Arc::clone(&status);
    let auth = Origin::serve(move |_| Reply::status(now.load(Ordering::Relaxed)));
    let config = "cache = { key = [\"header:authorization\"], ttl = \"1d\" }";
    let gateway = asking(&upstream, &auth.url(), config);
    let ask = |token: &str| gateway.request("GET", "/", &[("authorization", token)], b"").status;
    assert_eq!([ask("one"), ask("one"), ask("one")], [200; 3]);
    assert_eq!(auth.count(), 1);
    status.store(401, Ordering::Relaxed);
    assert_eq!([ask("one"), ask("two"), ask("two"), gateway.get("/").status], [200, 401, 401, 401]);
    assert_eq!(auth.count(), 4, "refusals are not kept");
}

/// The filters of a plugin share its spaces of `kv`. The service decides by the URL that it is asked at, too.
#[test]
fn an_answer_to_one_question_is_none_to_another_filters() {
    let (upstream, auth) = (
        Origin::named("o"),
        Origin::serve(|request| match request.target.as_str() {
            "/auth?role=user" => Reply::status(200),
            _ => Reply::status(403),
        }),
    );
    let part = |role: &str| {
        format!(
            "[filters.{role}]\nplugin = \"forward-auth\"\n\
             grants = {{ http = [\"{url}\"], kv = [\"forward-auth\"], read_headers = [\"authorization\", \"cookie\"] }}\n\
             config.url = \"{url}/auth?role={role}\"\nconfig.cache = {{ key = [\"header:authorization\"] }}\n\
             [routes.{role}]\nmatch = {{ path = \"/{role}\" }}\nupstream = \"{}\"\npipeline = [\"{role}\"]\n",
            upstream.url(),
            url = auth.url(),
        )
    };
    let gateway = gateway(&(part("user") + &part("admin")));
    let ask = |path: &str| gateway.request("GET", path, &[("authorization", "Bearer one")], b"").status;
    assert_eq!([ask("/user"), ask("/admin"), ask("/user")], [200, 403, 200]);
    assert_eq!((auth.count(), upstream.count()), (2, 2), "each filter's own answer is kept");
}

/// A service that answers with this status once its gate is open.
fn gated(status: u16) -> (Origin, impl Fn()) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let closed = Arc::clone(&gate);
    let auth = Origin::serve(move |_| {
        let (is_open, changed) = &*closed;
        let _open = changed.wait_while(is_open.lock().expect("no panic"), |is_open| !*is_open).expect("no panic");
        Reply::status(status)
    });
    let open = move || {
        *gate.0.lock().expect("no panic") = true;
        gate.1.notify_all();
    };
    (auth, open)
}

fn with_token(gateway: &Gateway) -> u16 {
    gateway.request("GET", "/", &[("authorization", "Bearer one")], b"").status
}

#[test]
fn one_request_asks_for_all_that_have_its_key() {
    const AT_ONCE: usize = 8;
    // An answer that is kept, none that decides, and a refusal that is not kept: each of those who waited asks then.
    // That nothing was decided is told for 100 ms.
    let (short, long) = (Duration::from_millis(100), Duration::from_secs(60));
    for (said, answered, asked, limit) in [(200, 200, 1, long), (500, 503, 1, short), (403, 403, AT_ONCE, long)] {
        for mode in ["reused", "fresh"] {
            let (statuses, count) = within(limit, || {
                let (upstream, (auth, open)) = (Origin::named("o"), gated(said));
                let config = "timeout = \"20s\"\ncache = { key = [\"header:authorization\"] }\n\
                              [filters.ask.limits]\nwall = \"60s\"\n[filters.ask.instances]\nmode = ";
                let gateway = asking(&upstream, &auth.url(), &format!("{config}\"{mode}\""));
                std::thread::scope(|scope| {
                    let asking: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| with_token(&gateway))).collect();
                    // Each that asks or waits has an instance.
                    let labels = [("filter", "ask"), ("plugin", "forward-auth")];
                    let instances = || gateway.metric("sluice_filter_instances", &labels);
                    eventually("all are there", || instances().is_some_and(|count| count >= AT_ONCE as f64));
                    eventually("the service is asked", || auth.count() == 1);
                    open();
                    let since = Instant::now();
                    let statuses: Vec<u16> = asking.into_iter().map(|one| one.join().expect("no panic")).collect();
                    (since.elapsed(), (statuses, auth.count()))
                })
            });
            assert_eq!((statuses, count), (vec![answered; AT_ONCE], asked), "{mode} {said}");
        }
    }
}

#[test]
fn nobody_waits_for_a_client_that_has_left() {
    let (upstream, (auth, open)) = (Origin::named("o"), gated(200));
    let config = "timeout = \"5s\"\ncache = { key = [\"header:authorization\"] }\n[filters.ask.limits]\nwall = \"60s\"";
    let gateway = asking(&upstream, &auth.url(), config);
    let mut leaves = gateway.client();
    leaves.send("GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one\r\n\r\n");
    eventually("the service is asked", || auth.count() == 1);
    drop(leaves);
    gateway.wait_access("it has left", |line| line["error"] == "client-aborted");
    open();
    assert_eq!([with_token(&gateway), with_token(&gateway)], [200, 200]);
    assert_eq!(auth.count(), 2);
}

#[test]
fn the_body_is_part_of_the_question() {
    let upstream = Origin::named("o");
    let auth = Origin::serve(|request| Reply::status(if request.body == b"signed" { 200 } else { 401 }));
    let gateway = asking(&upstream, &auth.url(), "method = \"POST\"\nbody = \"1KiB\"");
    let post = |body: &[u8]| gateway.request("POST", "/", &[], body).status;
    assert_eq!([post(b"signed"), post(b"forged"), post(&[b'x'; 2000])], [200, 401, 413]);
    assert_eq!((upstream.last().text().as_str(), upstream.count(), auth.count()), ("signed", 1, 2));
    assert_eq!(gateway.get("/").status, 401, "no body is a body to be decided about");
}

/// The same service behind nginx's `auth_request` and behind `forward-auth`: callers see no difference.
#[test]
fn a_service_made_for_nginx_works_unchanged() {
    let Some([nginx]) = need(["nginx"]) else { return };
    let upstream = Origin::named("o");
    let dir = tempfile::tempdir().expect("a folder");
    let (auth, guarded, root) = (free_port(), free_port(), dir.path().display());
    let user = if std::env::var("USER").is_ok_and(|user| user != "root") { "" } else { "user root;\n" };
    let conf = format!(
        "{user}daemon off;\npid {root}/pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\nhttp {{ access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n\
         server {{ listen 127.0.0.1:{auth}; location /auth {{ add_header www-authenticate 'Bearer realm=\"nginx\"' always; \
         if ($http_authorization = \"Bearer good\") {{ add_header x-auth-user ann; return 204; }} \
         if ($http_authorization = \"Bearer other\") {{ return 403; }} if ($http_authorization = \"Bearer broken\") {{ return 500; }} return 401; }} }}\n\
         server {{ listen 127.0.0.1:{guarded}; location = /ask {{ internal; proxy_pass http://127.0.0.1:{auth}/auth; proxy_pass_request_body off; }} \
         location / {{ auth_request /ask; auth_request_set $caller $upstream_http_x_auth_user; proxy_set_header x-auth-user $caller; proxy_pass {}; }} }} }}\n",
        upstream.url()
    );
    std::fs::write(dir.path().join("nginx.conf"), conf).expect("a file");
    let mut command = Command::new(nginx);
    command.arg("-e").arg("stderr").arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
    let _child = Ended(command.stderr(Stdio::null()).spawn().expect("nginx"));
    wait_for_port(auth);
    wait_for_port(guarded);
    let config = "upstream_headers = [\"x-auth-user\"]\nstatus_on_unavailable = 500";
    let gateway = asking(&upstream, &format!("http://127.0.0.1:{auth}"), config);
    let addresses = [([127, 0, 0, 1], guarded).into(), gateway.address()];
    for token in ["Bearer good", "Bearer other", "Bearer bad", "Bearer broken"] {
        let seen = addresses.map(|address| {
            let before = upstream.count();
            let headers = [("authorization", token), ("x-auth-user", "root")];
            let response = Client::connect(address).request("GET", "/", &headers, b"");
            let passed = (upstream.count() > before).then(|| upstream.last().head.all("x-auth-user").join(","));
            // Of a 401 only, as nginx passes it on.
            let challenge = response.header("www-authenticate").filter(|_| response.status == 401).map(str::to_owned);
            (response.status, challenge, passed)
        });
        assert_eq!(seen[0], seen[1], "{token}");
        assert_eq!(seen[1].2.as_deref(), (token == "Bearer good").then_some("ann"));
    }
}

#[test]
fn a_service_can_be_an_upstream_by_name() {
    let (upstream, auth) = (Origin::named("o"), Origin::serve(service));
    let gateway = gateway(&format!(
        "{}[upstreams.auth]\nendpoints = [\"http://{}\", \"{}\"]\n[filters.ask]\nplugin = \"forward-auth\"\n\
         grants = {{ upstreams = [\"auth\"], read_headers = [\"authorization\", \"cookie\"], write_headers = [\"set-cookie\"] }}\n\
         [filters.ask.config]\nurl = \"upstream://auth/auth?x=1\"\n{CONFIG}",
        route(&upstream.url(), &["ask"]),
        nobody(),
        auth.url(),
    ));
    // One of its endpoints is away, and callers notice nothing.
    for _ in 0..4 {
        let passed = gateway.request("GET", "/", &[("authorization", "Bearer good"), ("x-auth-user", "root")], b"");
        assert_eq!((passed.status, upstream.last().header("x-auth-user")), (200, Some("ann")));
        assert_eq!((gateway.get("/").status, auth.last().target.as_str()), (302, "/auth?x=1"));
    }
    let config = std::fs::read_to_string(gateway.config()).expect("the configuration");
    gateway.reload(&config.replace("upstreams = [\"auth\"]", "upstreams = []"));
    assert_eq!(
        gateway.request("GET", "/", &[("authorization", "Bearer good")], b"").status,
        500,
        "nothing without the grant"
    );
}
