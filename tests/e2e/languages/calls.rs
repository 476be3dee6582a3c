//! The functions of the packages for Go, C and Zig that no example calls: the same filter in each of them (`tests/components/calls`) says the same.

use http_body_util::BodyExt;
use sluice_harness::h2::{H2, H2Origin, full};
use sluice_harness::{Gateway, Origin, Reply};

use super::build::calls;
use crate::support::with_base;

const SAID: &str = "\
take true 1, true 9
take false 1, true 9
take invalid
enter -1 1
enter 1 0
reserve 1 \n\
reserve 2 \n\
wait timeout
reserve 0 v
wait v
swap true false w
http 200 GET,1,2 \n\
http not granted
http 201 PUT,, body
hash ba78 64 true false
consumer false false
vouch not granted
password not granted
context -7 true [1] false
query a=b HTTP/1.1
piece wrong hook
";

#[test]
fn each_call_answers_the_same_in_go_c_and_zig() {
    let service = Origin::serve(|request| {
        let field = |name| request.header(name).unwrap_or_default().to_owned();
        let seen = format!("{},{},{}", request.method, field("x-a"), field("x-b"));
        let status = if request.method == "PUT" { 201 } else { 200 };
        Reply::Full(status, vec![("x-seen".into(), seen)], request.body.clone())
    });
    for language in calls() {
        let (name, file) = &language.filters[0];
        let toml = format!(
            "[filters.calls]\nconfig = {{ url = \"{0}\" }}\ngrants = {{ http = [\"{0}\"], kv = [\"s\"] }}\n\
             limits = {{ cpu = \"2s\", wall = \"20s\" }}\n\
             [upstreams.two]\nendpoints = [\"{0}\", {{ url = \"http://127.0.0.1:9\", weight = 7 }}]\n\
             [routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"two\"\npipeline = [\"calls\"]\n",
            service.url()
        );
        let gateway = Gateway::setup().plugin("calls", file).start(&with_base(&toml));
        assert_eq!(gateway.get("/calls").text(), SAID, "{name}");
        // The last endpoint is chosen, and nobody is there.
        assert_eq!(gateway.get("/").status, 502, "{name}");
        gateway.wait_log("the endpoints", |line| line.to_string().contains("endpoints 2 two true 7"));
    }
}

#[test]
fn trailers_are_changed_in_go_c_and_zig() {
    let origin = H2Origin::serve(None, |_| async move {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("5"));
        let body = full("x").with_trailers(std::future::ready(Some(Ok(trailers))));
        http::Response::new(body.boxed())
    });
    for language in calls() {
        let (name, file) = &language.filters[0];
        let toml = format!(
            "[filters.calls]\nconfig = {{ url = \"http://127.0.0.1:9\" }}\nlimits = {{ cpu = \"2s\", wall = \"20s\" }}\n\
             [upstreams.two]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n\
             [routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"two\"\npipeline = [\"calls\"]\n",
            origin.address()
        );
        let gateway = Gateway::setup().plugin("calls", file).start(&with_base(&toml));
        let mut h2 = H2::connect(gateway.address());
        let request = h2.builder("GET", "/").header("te", "trailers").body(full("")).expect("a request");
        let trailers = h2.send(request).trailers.expect("trailers");
        assert_eq!(trailers.get("x-sum").map(|value| value.as_bytes()), Some(&b"5!"[..]), "{name}");
    }
}
