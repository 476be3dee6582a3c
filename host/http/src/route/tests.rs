//! Every rule of precedence.

use std::str::FromStr;

use http::HeaderValue;
use http::header::HeaderName;

use super::*;

mod index;

/// `GET host/path h:name=value q:name=value c:name=value ip:net l:listener s:scheme n:sni`, where only the host with its path is required;
/// `-` is any host.
fn spec(name: &str, priority: i64, text: &str) -> RouteSpec {
    RouteSpec { name: name.into(), matches: text.split(" | ").map(match_spec).collect(), priority }
}

fn match_spec(text: &str) -> MatchSpec {
    let mut spec = MatchSpec::new(PathPattern::parse("/**").unwrap());
    for word in text.split_whitespace() {
        fn field<N: FromStr>(text: &str) -> FieldSpec<N> {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let value = match value.strip_prefix('~') {
                _ if value.is_empty() => ValuePattern::Present,
                Some(regex) => ValuePattern::regex(regex).unwrap(),
                None => ValuePattern::Exact(value.into()),
            };
            FieldSpec { name: name.parse().ok().unwrap(), value }
        }
        if let Some((kind, rest)) = word.split_once(':') {
            match kind {
                "h" => spec.headers.push(field(rest)),
                "q" => spec.query.push(field(rest)),
                "c" => spec.cookies.push(field(rest)),
                "ip" => spec.client_ip.push(rest.parse().unwrap()),
                "l" => spec.listeners.push(rest.into()),
                "s" => spec.scheme = Some(rest.parse().unwrap()),
                "n" => spec.sni.push(HostPattern::parse(rest).unwrap()),
                _ => spec.path = PathPattern::regex(rest).unwrap(),
            }
        } else if let Some(at) = word.find('/') {
            let (hosts, path) = word.split_at(at);
            spec.hosts =
                hosts.split(',').filter(|h| !matches!(*h, "-" | "")).map(|h| HostPattern::parse(h).unwrap()).collect();
            spec.path = PathPattern::parse(path).unwrap();
        } else {
            spec.methods.push(word.parse().unwrap());
        }
    }
    spec
}

#[derive(Debug, Default)]
struct Sent {
    listener: String,
    scheme: Option<Scheme>,
    sni: Option<String>,
    host: String,
    path: String,
    method: Method,
    query: Option<String>,
    headers: HeaderMap,
    client: Option<IpAddr>,
}

/// As for `spec`: `GET host/path?query h:name=value c:name=value ip:address l:listener s:scheme n:sni`.
fn request(text: &str) -> Sent {
    let mut sent = Sent::default();
    for word in text.split_whitespace() {
        match word.split_once(':') {
            Some(("h", field)) => {
                let (name, value) = field.split_once('=').unwrap();
                sent.headers
                    .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            Some(("c", cookie)) => {
                sent.headers.append("cookie", HeaderValue::from_str(&format!("x=y; {cookie}")).unwrap());
            }
            Some(("ip", address)) => sent.client = Some(address.parse().unwrap()),
            Some(("l", name)) => sent.listener = name.to_owned(),
            Some(("s", scheme)) => sent.scheme = Some(scheme.parse().unwrap()),
            Some(("n", name)) => sent.sni = Some(name.to_owned()),
            _ => match word.find('/') {
                Some(at) => {
                    sent.host = word[..at].to_owned();
                    let (path, query) = word[at..].split_once('?').unwrap_or((&word[at..], ""));
                    sent.path = path.to_owned();
                    sent.query = (!query.is_empty()).then(|| query.to_owned());
                }
                None => sent.method = word.parse().unwrap(),
            },
        }
    }
    sent
}

impl Sent {
    fn ingress(&self) -> Ingress<'_> {
        Ingress {
            listener: &self.listener,
            scheme: self.scheme.as_ref().unwrap_or(&Scheme::HTTP),
            sni: self.sni.as_deref(),
        }
    }

    fn view<'a>(&'a self, ingress: &'a Ingress<'a>) -> RequestView<'a> {
        RequestView {
            ingress,
            host: &self.host,
            path: &self.path,
            method: &self.method,
            query: self.query.as_deref(),
            headers: &self.headers,
            client_ip: Some(self.client.unwrap_or(IpAddr::from([127, 0, 0, 1]))),
        }
    }
}

/// The name of the route found, both with the routes as given and in reverse.
fn found(routes: &[RouteSpec], text: &str) -> Option<String> {
    let sent = request(text);
    let name = |routes: Vec<RouteSpec>| {
        let names: Vec<_> = routes.iter().map(|r| r.name.to_string()).collect();
        let router = Router::build(routes).unwrap();
        router.find(&sent.view(&sent.ingress())).map(|m| names[m.index].clone())
    };
    let mut reversed = routes.to_vec();
    reversed.reverse();
    let got = name(routes.to_vec());
    assert_eq!(got, name(reversed), "the order of the routes decided for {text}");
    got
}

#[test]
fn the_more_specific_match_wins() {
    // Each row: the winner, the loser, a request that both match.
    for (winner, loser, text) in [
        // Where it came in, before all that it asks for.
        ("-/** l:in", "a.example/x", "a.example/x l:in"),
        ("-/** l:in", "-/** s:https n:a.example", "h/x l:in s:https n:a.example"),
        ("-/** s:https", "a.example/x n:*.example", "a.example/x s:https n:a.example"),
        ("-/** n:a.example", "a.example/x", "a.example/x n:a.example"),
        // Host before path.
        ("a.example/**", "-/x/y", "a.example/x/y"),
        ("a.example/**", "*.example/x", "a.example/x"),
        ("*.b.example/**", "*.example/x", "a.b.example/x"),
        ("*.example/**", "-/x", "a.b.example/x"),
        // Path: exact, then patterns, then the longest prefix, then regular expressions.
        ("-/x/y", "-/x/{p}", "h/x/y"),
        ("-/x/{p}", "-/x/y/**", "h/x/y"),
        ("-/x/*", "-/x/y/**", "h/x/y"),
        ("-/x/{p}/z", "-/{p}/y/z", "h/x/y/z"),
        ("-/x/{p}/z", "-/x/{p}/{q}", "h/x/y/z"),
        ("-/x/y/**", "-/x/**", "h/x/y"),
        ("-/x/{p}/**", "-/x/**", "h/x/y/z"),
        ("-/x/y/**", "-/x/{p}/**", "h/x/y/z"),
        ("-/**", "r:/x/.*", "h/x/y"),
        ("r:/x/y.*", "r:/x/.*", "h/x/y"),
        // Method before headers.
        ("GET -/x", "-/x h:a=1 h:b=1", "h/x h:a=1 h:b=1"),
        // GET takes HEAD, but gives way to what names HEAD alone.
        ("HEAD -/x", "GET -/x h:a=1", "HEAD h/x h:a=1"),
        ("GET -/x h:a=1", "GET HEAD -/x", "HEAD h/x h:a=1"),
        // More headers before more of the query.
        ("-/x h:a=1 h:b=1", "-/x h:a=1 q:a q:b q:c", "h/x?a&b&c h:a=1 h:b=1"),
        ("-/x q:a", "-/x c:a c:b", "h/x?a c:a=1 c:b=1"),
        ("-/x c:a", "-/x ip:127.0.0.0/8", "h/x c:a=1"),
        ("-/x ip:127.0.0.0/8", "-/x", "h/x"),
        // Path before conditions.
        ("-/x", "GET -/** h:a=1 q:b", "h/x?b h:a=1"),
    ] {
        // Names that would decide the other way.
        let routes = [spec("z-winner", 0, winner), spec("a-loser", 0, loser)];
        assert_eq!(found(&routes, text).as_deref(), Some("z-winner"), "{winner} against {loser}");
        let alone = [spec("a-loser", 0, loser)];
        assert_eq!(found(&alone, text).as_deref(), Some("a-loser"), "{loser} does not match {text}");
        let raised = [spec("z-winner", 0, winner), spec("a-loser", 1, loser)];
        assert_eq!(found(&raised, text).as_deref(), Some("a-loser"), "priority is nothing to {winner}");
    }
}

#[test]
fn equal_precedence_goes_by_name() {
    let routes = [spec("b", 0, "-/x h:a=1"), spec("a", 0, "-/x h:b=1")];
    assert_eq!(found(&routes, "h/x h:a=1 h:b=1").as_deref(), Some("a"));
    assert_eq!(found(&routes, "h/x h:a=1").as_deref(), Some("b"));
}

#[test]
fn what_does_not_hold_falls_back() {
    let routes = [
        spec("post", 0, "POST a.example/x"),
        spec("wild", 0, "*.example/x h:a=~[0-9]+"),
        spec("prefix", 0, "-/x/** c:beta"),
        spec("all", -1, "-/**"),
    ];
    for (text, want) in [
        ("POST a.example/x", "post"),
        ("a.example/x h:a=12", "wild"),
        ("a.example/x h:a=12b", "all"),
        ("a.example/x c:beta=1", "prefix"),
        ("a.example/x/y c:beta=1", "prefix"),
        ("a.example/y", "all"),
    ] {
        assert_eq!(found(&routes, text).as_deref(), Some(want), "{text}");
    }
    assert_eq!(found(&routes[..3], "a.example/y"), None);
}

#[test]
fn paths_match_by_element() {
    for (pattern, yes, no) in [
        ("-/a", "/a", "/a/ /A /a/b /ab /"),
        ("-/a/", "/a/", "/a /a//"),
        ("-/a/**", "/a /a/ /a/b /a/b/c /a//", "/ /ab /b/a"),
        ("-/**", "/ /a /a/b // ", ""),
        ("-/", "/", "// /a"),
        ("-/a/*", "/a/b", "/a /a/ /a/b/ /a/b/c"),
        ("-/{p}/b/**", "/a/b /a/b/c", "//b /a/c /a"),
        ("r:/v[0-9]+", "/v1 /v23", "/v /v1/ /xv1"),
    ] {
        let routes = [spec("r", 0, pattern)];
        for path in yes.split_whitespace() {
            assert!(found(&routes, &format!("h{path}")).is_some(), "{pattern} {path}");
        }
        for path in no.split_whitespace() {
            assert!(found(&routes, &format!("h{path}")).is_none(), "{pattern} {path}");
        }
    }
}

#[test]
fn a_place_to_come_in_by_is_a_condition() {
    for (condition, yes, no) in [
        ("l:in l:out", "h/ l:in;h/ l:out", "h/ l:other;h/"),
        ("s:https", "h/ s:https", "h/ s:http;h/"),
        ("n:a.example n:*.b.example", "h/ n:a.example;h/ n:x.b.example", "h/;h/ n:b.example;h/ n:xb.example"),
    ] {
        let routes = [spec("r", 0, &format!("-/** {condition}"))];
        yes.split(';').for_each(|text| assert!(found(&routes, text).is_some(), "{condition} {text}"));
        no.split(';').for_each(|text| assert!(found(&routes, text).is_none(), "{condition} {text}"));
    }
}

/// A router for these routes, named by their place, and a request.
fn with_router<T>(routes: &[&str], text: &str, ask: impl FnOnce(&Router, &RequestView) -> T) -> T {
    let specs = routes.iter().enumerate().map(|(n, text)| spec(&format!("r{n}"), 0, text)).collect();
    let sent = request(text);
    ask(&Router::build(specs).unwrap(), &sent.view(&sent.ingress()))
}

#[test]
fn the_methods_of_a_resource_are_those_that_find_a_route() {
    let allowed = |text: &str| {
        let routes = ["GET -/a", "POST -/a", "DELETE -/a h:admin", "PUT -/b"];
        with_router(&routes, text, |router, view| {
            router.allowed(view).iter().map(|method| method.as_str().to_owned()).collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(allowed("PATCH h/a"), "GET HEAD POST");
    assert_eq!(allowed("PATCH h/a h:admin=1"), "GET HEAD POST DELETE");
    assert_eq!(allowed("PATCH h/b"), "PUT");
    assert_eq!(allowed("PATCH h/c"), "");
}

#[test]
fn a_preflight_belongs_to_the_route_that_it_announces() {
    let taken = |routes: &[&str], filters: bool| {
        with_router(routes, "OPTIONS h/a/b", |router, view| {
            match router.find_preflight(view, &Method::POST, |_| filters) {
                None => "none".to_owned(),
                Some(Preflight::AsOptions(found)) => format!("own {}", found.index),
                Some(Preflight::AsAnnounced(found)) => format!("announced {}", found.index),
            }
        })
    };
    assert_eq!(taken(&["POST -/a/**"], true), "announced 0");
    assert_eq!(taken(&["POST -/a/**"], false), "none", "no filter could answer");
    assert_eq!(taken(&["GET -/a/**"], true), "none");
    assert_eq!(taken(&["POST -/a/**", "-/**"], true), "announced 0", "the better match");
    assert_eq!(taken(&["POST -/**", "-/a/**"], true), "own 1");
    assert_eq!(taken(&["POST -/a/**", "-/**"], false), "own 1");
    assert_eq!(taken(&["POST -/a/**", "OPTIONS -/**"], true), "own 1", "it names OPTIONS");
    assert_eq!(taken(&["-/a/**"], true), "own 0");
}

#[test]
fn hosts_match_by_label() {
    for (hosts, yes, no) in [
        ("a.example", "a.example", "b.example x.a.example example"),
        ("*.example", "a.example a.b.example", "example aexample a.example.org"),
        ("a.example,*.test", "a.example x.test", "test b.example"),
    ] {
        let routes = [spec("r", 0, &format!("{hosts}/**"))];
        for host in yes.split_whitespace() {
            assert!(found(&routes, &format!("{host}/")).is_some(), "{hosts} {host}");
        }
        for host in no.split_whitespace() {
            assert!(found(&routes, &format!("{host}/")).is_none(), "{hosts} {host}");
        }
    }
}

#[test]
fn query_and_cookies_take_the_first_value_decoded() {
    for (condition, yes, no) in [
        ("q:a=b", "h/?a=b h/?x&a=b&a=c h/?%61=%62", "h/?a=c&a=b h/?a h/?A=b h/"),
        ("q:a=~b.c", "h/?a=b+c h/?a=b%20c", "h/?a=bc"),
        ("q:a", "h/?a h/?a=1", "h/?b=a h/"),
    ] {
        let routes = [spec("r", 0, &format!("-/** {condition}"))];
        yes.split_whitespace().for_each(|t| assert!(found(&routes, t).is_some(), "{condition} {t}"));
        no.split_whitespace().for_each(|t| assert!(found(&routes, t).is_none(), "{condition} {t}"));
    }
    let cookie = [spec("r", 0, "-/** c:beta=1")];
    assert!(found(&cookie, "h/ c:z=0 c:beta=1").is_some(), "cookies on several lines");
    assert!(found(&cookie, "h/ c:beta=0 c:beta=1").is_none());
    assert!(found(&cookie, "h/ c:xbeta=1").is_none());
}

#[test]
fn parameters_are_as_they_stand_in_the_path() {
    let captured = |pattern: &str, path: &str| {
        let router = Router::build(vec![spec("r", 0, pattern)]).unwrap();
        let sent = request(&format!("h{path}"));
        let found = router.find(&sent.view(&sent.ingress())).unwrap();
        found.params.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>()
    };
    assert_eq!(captured("-/u/{id}/*/{x}/**", "/u/a%20b%2Fc/y/%C3%A4/z"), ["id=a%20b%2Fc", "x=%C3%A4"]);
    assert_eq!([decode_param("a%20b%2Fc"), decode_param("%FF")], ["a b/c", "%FF"], "what is no text stays encoded");
    for (path, rest) in [("/u/1", ""), ("/u/1/", ""), ("/u/1/a/b%2Fc/", "a/b%2Fc/"), ("/u/1//a", "/a")] {
        assert_eq!(captured("-/u/{id}/{rest=**}", path), ["id=1".to_owned(), format!("rest={rest}")], "{path}");
    }
    assert_eq!(captured("-/{all=**}", "/a/b"), ["all=a/b"]);
    assert_eq!(captured("-/u/**", "/u/x"), [""; 0]);
    assert_eq!(captured("r:/(?<year>[0-9]+)(/(?<rest>.*))?", "/2024"), ["year=2024"]);
    assert_eq!(captured("r:/(?<year>[0-9]+)(/(?<rest>.*))?", "/2024/a%20b"), ["year=2024", "rest=a%20b"]);
}

#[test]
fn routes_that_can_not_be_told_apart_are_an_error() {
    let errors = |first: &str, second: &str| {
        let routes = vec![spec("a", 0, first), spec("b", 0, second)];
        Router::build(routes).err().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let same = ["matches the same requests as the route `a`"];
    for (first, second) in [
        ("-/x", "-/x"),
        ("-/x/{a}", "-/x/{b}"),
        ("-/x/{a}", "-/x/*"),
        ("a.example,b.example/x", "c.example,b.example/x"),
        ("GET HEAD -/x", "GET -/x"),
        ("-/x l:a l:b", "-/x l:b"),
        ("-/x s:https n:b.example n:a.example", "-/x s:https n:a.example n:b.example"),
        ("-/x/{a=**}", "-/x/**"),
        ("-/x h:A=1 h:b=2", "-/x h:b=2 h:a=1"),
        ("-/x ip:10.0.0.1/8", "-/x ip:10.0.0.0/8"),
        ("r:/x.*", "r:/x.*"),
        ("-/y | -/x", "-/x | -/z"),
        ("-/caf%c3%a9", "-/café"),
    ] {
        assert_eq!(errors(first, second), same, "{first} and {second}");
    }
    for (first, second) in [
        ("-/x", "-/x/"),
        ("-/x", "-/x/**"),
        ("GET -/x", "POST -/x"),
        ("GET -/x", "HEAD -/x"),
        ("GET -/x", "-/x"),
        ("-/x l:a", "-/x l:b"),
        ("-/x l:a", "-/x"),
        ("-/x s:http", "-/x s:https"),
        ("-/x n:a.example", "-/x n:*.example"),
        ("-/x h:a=1", "-/x h:a=2"),
        ("-/x q:a", "-/x c:a"),
        ("-/x q:a", "-/x q:A"),
        ("a.example/x", "*.a.example/x"),
    ] {
        assert_eq!(errors(first, second), [""; 0], "{first} and {second}");
    }
    let other_priority = vec![spec("a", 0, "-/x"), spec("b", 1, "-/x")];
    assert!(Router::build(other_priority).is_ok());
    let same_route = vec![spec("a", 0, "-/x | -/x")];
    assert!(Router::build(same_route).is_ok());
}

#[test]
fn all_errors_at_once() {
    let mut nothing = spec("nothing", 0, "-/n");
    nothing.matches.clear();
    let routes = vec![nothing, spec("x", 0, "-/x"), spec("y", 0, "-/x")];
    let errors = Router::build(routes).unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(ValuePattern::regex("(").is_err());
}

/// A byte that is not UTF-8 must not hide a value from a route that refuses it.
#[test]
fn values_that_are_not_utf_8_are_seen() {
    let routes = vec![
        spec("any", 0, "-/**"),
        spec("bots", 1, "-/** h:user-agent=~(?i).*badbot.*"),
        spec("beta", 1, "-/** c:beta=yes"),
        spec("traced", 1, "-/** c:trace"),
        spec("exact", 1, "-/** h:x-exact=a\u{fffd}"),
    ];
    let router = Router::build(routes).unwrap();
    let found = |name: &'static str, value: &[u8]| {
        let mut sent = request("h/x");
        sent.headers.append(name, HeaderValue::from_bytes(value).unwrap());
        let ingress = sent.ingress();
        ["any", "bots", "beta", "traced", "exact"][router.find(&sent.view(&ingress)).unwrap().index]
    };
    assert_eq!(found("user-agent", b"caf\xe9 BadBot/2 \xff"), "bots");
    assert_eq!(found("user-agent", b"\xe9"), "any");
    assert_eq!(found("user-agent", b"Bad\xffBot"), "any");
    assert_eq!(found("cookie", b"name=caf\xe9; beta=yes"), "beta");
    assert_eq!(found("cookie", b"beta=\xff"), "any");
    assert_eq!(found("cookie", b"trace=\xff"), "traced");
    // As filters and servers read names.
    for line in
        [&b"beta =yes"[..], b"a=1;\tbeta\t= yes ", b"beta\xa0=yes", b"\xc2\xa0beta=yes", b"beta\x85=yes; beta=no"]
    {
        assert_eq!(found("cookie", line), "beta", "{}", String::from_utf8_lossy(line));
    }
    assert_eq!(found("cookie", b"be ta=yes; betas=yes; xbeta=yes; beta"), "any");
    assert_eq!(found("x-exact", b"a\xff"), "any", "no other text than the one that is sent");
    assert_eq!(found("x-exact", "a\u{fffd}".as_bytes()), "exact");
}
