//! The index against a matcher that tries everything.

use std::cmp::Reverse;

use super::*;

#[test]
fn the_index_agrees_with_trying_everything() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..150 {
        let mut routes: Vec<RouteSpec> = Vec::new();
        for n in 0..random.below(60) + 1 {
            let text: Vec<_> = (0..random.below(2) + 1).map(|_| random.match_text()).collect();
            let priority = if random.below(6) == 0 { i64::try_from(random.below(3)).unwrap() - 1 } else { 0 };
            routes.push(spec(&format!("r{n:02}"), priority, &text.join(" | ")));
            if Router::build(routes.clone()).is_err() {
                routes.pop();
            }
        }
        let router = Router::build(routes.clone()).unwrap();
        for _ in 0..60 {
            let text = random.request_text();
            let sent = request(&text);
            let got = router.find(&sent.view(&sent.ingress())).map(|m| routes[m.index].name.clone());
            assert_eq!(got, naive(&routes, &sent), "round {round}: {text} among {routes:#?}");
        }
    }
}

/// xorshift64*, so that every run tries the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn match_text(&mut self) -> String {
        let mut text = match self.below(10) {
            0 => format!("r:{}", self.one(&["/a.*", "/[ab]/.*", "/.*/c", "(/[a-c])+"])),
            _ => {
                let host = self.one(&["-", "-", "-", "h.x", "*.x", "*.y.x", "h.x,*.y.x", "h.y.x"]).to_owned();
                let segments = self.below(4);
                let mut path: String = (0..segments)
                    .map(|n| format!("/{}", self.one(&["a", "b", "c", "*", &format!("{{p{n}}}")])))
                    .collect();
                path.push_str(self.one(if segments == 0 { &["/", "/**"] } else { &["", "", "/", "/**", "/**"] }));
                host + &path
            }
        };
        for condition in
            ["GET", "POST", "h:k=1", "h:l", "q:k=1", "q:l", "c:k=1", "ip:127.0.0.0/8", "l:in", "s:https", "n:h.x"]
        {
            if self.below(9) == 0 {
                text = format!("{text} {condition}");
            }
        }
        text
    }

    fn request_text(&mut self) -> String {
        let mut text = self.one(&["h.x", "g.x", "h.y.x", "z.y.x", "x", "other"]).to_owned();
        for _ in 0..self.below(5) {
            text = format!("{text}/{}", self.one(&["a", "b", "c", "d", ""]));
        }
        if !text.contains('/') {
            text.push('/');
        }
        text.push_str(self.one(&["", "", "?k=1", "?l&k=1", "?k=2"]));
        let method = self.one(&["GET", "POST"]);
        for field in ["h:k=1", "h:l=2", "c:k=1", "ip:10.0.0.1", "l:in", "s:https", "n:h.x"] {
            if self.below(3) == 0 {
                text = format!("{text} {field}");
            }
        }
        format!("{method} {text}")
    }
}

/// Tries every match and takes the best by the rules as they are written in the description of the module.
fn naive(routes: &[RouteSpec], sent: &Sent) -> Option<Arc<str>> {
    let mut all = Vec::new();
    for route in routes {
        for wanted in &route.matches {
            if !path_matches(&wanted.path, &sent.path) || !conditions_hold(wanted, sent) {
                continue;
            }
            let hosts = if wanted.hosts.is_empty() { vec![HostPattern::Any] } else { wanted.hosts.clone() };
            for host in hosts {
                let host_rank = match &host {
                    HostPattern::Any => 1000,
                    HostPattern::Exact(name) if **name == *sent.host => 0,
                    HostPattern::Wildcard(name) if sent.host.ends_with(&format!(".{name}")) => 500 - name.len(),
                    HostPattern::Exact(_) | HostPattern::Wildcard(_) => continue,
                };
                let counts = (wanted.headers.len(), wanted.query.len(), wanted.cookies.len(), wanted.client_ip.len());
                let ingress = (wanted.listeners.len(), wanted.scheme.is_some(), wanted.sni.len());
                all.push((
                    Reverse(route.priority),
                    Reverse(ingress),
                    host_rank,
                    path_rank(&wanted.path),
                    Reverse((wanted.methods.len().min(1), counts)),
                    route.name.clone(),
                ));
            }
        }
    }
    all.into_iter().min().map(|best| best.5)
}

fn path_rank(path: &PathPattern) -> (u8, Reverse<usize>, String) {
    match path {
        PathPattern::Regex(regex) => (3, Reverse(regex.as_str().len()), regex.as_str().to_owned()),
        PathPattern::Segments { segments, rest } => {
            let wild = |s: &Segment| !matches!(s, Segment::Literal(_));
            let marks: String = segments.iter().map(|s| if wild(s) { 'w' } else { 'l' }).collect();
            match (rest, segments.iter().any(wild)) {
                (Rest::None, false) => (0, Reverse(0), String::new()),
                (Rest::None, true) => (1, Reverse(0), marks),
                (Rest::Any | Rest::Param(_), _) => (2, Reverse(segments.len()), marks),
            }
        }
    }
}

fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Regex(regex) => regex.is_match(path),
        PathPattern::Segments { segments, rest } => {
            let parts: Vec<&str> = path[1..].split('/').collect();
            let length = if rest.is_any() { parts.len() >= segments.len() } else { parts.len() == segments.len() };
            length
                && segments.iter().zip(&parts).all(|(segment, part)| match segment {
                    Segment::Literal(text) => **text == **part,
                    Segment::Param(_) | Segment::Any => !part.is_empty(),
                })
        }
    }
}

/// For the few conditions that `Random` makes.
fn conditions_hold(wanted: &MatchSpec, sent: &Sent) -> bool {
    let cookies: Vec<&str> = sent.headers.get_all("cookie").iter().map(|v| v.to_str().unwrap()).collect();
    let query = sent.query.as_deref().unwrap_or("");
    (wanted.methods.is_empty() || wanted.methods.contains(&sent.method))
        && (wanted.listeners.is_empty() || sent.listener == "in")
        && (wanted.scheme.is_none() || sent.scheme.is_some())
        && (wanted.sni.is_empty() || sent.sni.is_some())
        && wanted.headers.iter().all(|h| sent.headers.contains_key(h.name.as_str()))
        && wanted.query.iter().all(|q| if q.name == "k" { query.contains("k=1") } else { query.contains('l') })
        && wanted.cookies.iter().all(|_| cookies.iter().any(|c| c.ends_with("k=1")))
        && (wanted.client_ip.is_empty() || sent.client.is_none())
}
