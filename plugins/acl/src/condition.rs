//! What a rule asks of a request, and the facts that answer it, each asked of the gateway once at most.

use std::collections::BTreeMap;

use serde::Deserialize;
use sluice_filter::context::{self, Value};
use sluice_filter::{ClaimPath, Error, Request, consumers, is_token};

/// What has to hold: all keys that are there, and one value of each.
#[derive(Deserialize, Default)]
#[cfg_attr(test, derive(Debug))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Conditions {
    authenticated: Option<bool>,
    consumers: Words,
    plans: Words,
    labels: BTreeMap<String, Words>,
    roles: Words,
    scopes: Words,
    scopes_any: Words,
    claims: BTreeMap<String, Words>,
    methods: Words,
    headers: BTreeMap<String, Words>,
    routes: Words,
    paths: Words,
}

/// One text, or a list of them.
#[derive(Deserialize, Default)]
#[cfg_attr(test, derive(Debug))]
#[serde(untagged)]
enum Words {
    One(String),
    Any(Vec<String>),
    #[default]
    None,
}

impl Words {
    fn all(&self) -> &[String] {
        match self {
            Words::One(word) => std::slice::from_ref(word),
            Words::Any(words) => words,
            Words::None => &[],
        }
    }

    fn has(&self, word: &str) -> bool {
        self.all().iter().any(|one| one == word)
    }
}

/// Whether a list asks for nothing.
fn is_free(words: &Words) -> bool {
    matches!(words, Words::None)
}

impl Conditions {
    /// Refuses what could never hold, or would hold for everybody by mistake.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let lists = [
            ("consumers", &self.consumers),
            ("plans", &self.plans),
            ("roles", &self.roles),
            ("scopes", &self.scopes),
            ("scopes_any", &self.scopes_any),
            ("methods", &self.methods),
            ("routes", &self.routes),
            ("paths", &self.paths),
        ];
        let lists = lists.map(|(key, words)| (key.to_owned(), words)).into_iter();
        let labels = self.labels.iter().map(|(name, words)| (format!("labels.{name}"), words));
        let claims = self.claims.iter().map(|(name, words)| (format!("claims.{name}"), words));
        let headers = self.headers.iter().map(|(name, words)| (format!("headers.{name}"), words));
        for (key, words) in lists.chain(labels).chain(claims).chain(headers) {
            if !is_free(words) && words.all().is_empty() {
                return Err((key, "expected at least one value: an empty list never holds".to_owned()));
            }
        }
        for name in self.claims.keys() {
            name.parse::<ClaimPath>().map_err(|why| (format!("claims.{name}"), why))?;
        }
        for name in self.headers.keys() {
            if !is_token(name) || name.eq_ignore_ascii_case("host") {
                return Err((format!("headers.{name}"), "expected the name of a header other than `host`".to_owned()));
            }
        }
        // RFC 9110 §9.1: methods have a case, and no registered one has small letters.
        if let Some(method) = self.methods.all().iter().find(|one| !is_token(one) || **one != one.to_ascii_uppercase())
        {
            let why = format!("`{method}` is not a method; methods have upper-case letters");
            return Err(("methods".to_owned(), why));
        }
        for path in self.paths.all() {
            if !path.starts_with('/') || path[..path.len() - 1].contains('*') {
                let why = format!("`{path}` is neither a path nor one with `*` at its end");
                return Err(("paths".to_owned(), why));
            }
        }
        Ok(())
    }

    /// Whether they need a filter that finds the caller.
    pub(crate) fn are_about_the_caller(&self) -> bool {
        let lists = [&self.consumers, &self.plans, &self.roles, &self.scopes, &self.scopes_any];
        self.authenticated.is_some()
            || !lists.iter().all(|words| is_free(words))
            || !self.labels.is_empty()
            || !self.claims.is_empty()
    }

    /// The headers that they look at.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &str> {
        self.headers.keys().map(String::as_str)
    }

    /// Whether all of them hold. What is cheap to know is asked first.
    pub(crate) fn hold(&self, facts: &mut Facts<'_>) -> Result<bool, Error> {
        if !is_free(&self.methods) && !self.method_fits(facts.method()?) {
            return Ok(false);
        }
        if !is_free(&self.routes) && !self.routes.has(facts.route()?) {
            return Ok(false);
        }
        if !is_free(&self.paths) {
            let path = facts.path()?;
            let fits = |pattern: &String| match pattern.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == pattern,
            };
            if !self.paths.all().iter().any(fits) {
                return Ok(false);
            }
        }
        for (name, words) in &self.headers {
            if !facts.header_fits(name, words)? {
                return Ok(false);
            }
        }
        if let Some(wanted) = self.authenticated
            && facts.consumer()?.is_some() != wanted
        {
            return Ok(false);
        }
        if !is_free(&self.consumers) {
            // A name that a token brings is no consumer's, though it may look like one.
            let name = if consumers::known()? { facts.consumer()? } else { None };
            if !name.is_some_and(|name| self.consumers.has(name)) {
                return Ok(false);
            }
        }
        if !is_free(&self.plans) && !facts.plan()?.is_some_and(|plan| self.plans.has(plan)) {
            return Ok(false);
        }
        for (name, words) in &self.labels {
            if !consumers::label(name)?.is_some_and(|value| words.has(&value)) {
                return Ok(false);
            }
        }
        if !is_free(&self.roles) && !any(&self.roles, facts.roles()?) {
            return Ok(false);
        }
        // Scopes are what a token may be used for: all that are named are needed.
        if !is_free(&self.scopes) {
            let scopes = facts.scopes()?;
            if !self.scopes.all().iter().all(|scope| scopes.contains(scope)) {
                return Ok(false);
            }
        }
        if !is_free(&self.scopes_any) && !any(&self.scopes_any, facts.scopes()?) {
            return Ok(false);
        }
        for (name, words) in &self.claims {
            let Ok(path) = name.parse::<ClaimPath>() else { return Ok(false) };
            if !any(words, &values(&path)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// RFC 9110 §9.3.2: HEAD is GET without the content, so that it must not be a way around a rule for GET.
    fn method_fits(&self, method: &str) -> bool {
        self.methods.has(method) || method == "HEAD" && self.methods.has("GET")
    }
}

fn any(words: &Words, values: &[String]) -> bool {
    values.iter().any(|value| words.has(value))
}

/// What is known of a request, asked for when a rule needs it.
pub(crate) struct Facts<'a> {
    request: &'a Request,
    roles_claim: &'a ClaimPath,
    scope_claim: &'a ClaimPath,
    method: Option<String>,
    route: Option<String>,
    path: Option<String>,
    consumer: Option<Option<String>>,
    plan: Option<Option<String>>,
    roles: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
}

/// What is there, or what is found now.
fn once<T>(slot: &mut Option<T>, find: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
    if slot.is_none() {
        *slot = Some(find()?);
    }
    Ok(slot.as_ref().expect("it was filled"))
}

impl<'a> Facts<'a> {
    pub(crate) fn new(request: &'a Request, roles_claim: &'a ClaimPath, scope_claim: &'a ClaimPath) -> Facts<'a> {
        let (method, route, path, consumer, plan, roles, scopes) = Default::default();
        Facts { request, roles_claim, scope_claim, method, route, path, consumer, plan, roles, scopes }
    }

    fn method(&mut self) -> Result<&str, Error> {
        once(&mut self.method, || self.request.method()).map(String::as_str)
    }

    fn route(&mut self) -> Result<&str, Error> {
        once(&mut self.route, || self.request.route().name()).map(String::as_str)
    }

    fn path(&mut self) -> Result<&str, Error> {
        once(&mut self.path, || self.request.path()).map(String::as_str)
    }

    /// Whether one of the fields of a name has one of these values.
    fn header_fits(&self, name: &str, words: &Words) -> Result<bool, Error> {
        let fields = self.request.header_bytes(name)?;
        Ok(fields.iter().any(|field| words.all().iter().any(|word| word.as_bytes() == field)))
    }

    pub(crate) fn consumer(&mut self) -> Result<Option<&str>, Error> {
        once(&mut self.consumer, context::consumer).map(Option::as_deref)
    }

    fn plan(&mut self) -> Result<Option<&str>, Error> {
        once(&mut self.plan, consumers::plan).map(Option::as_deref)
    }

    fn roles(&mut self) -> Result<&[String], Error> {
        once(&mut self.roles, || words(self.roles_claim)).map(Vec::as_slice)
    }

    fn scopes(&mut self) -> Result<&[String], Error> {
        once(&mut self.scopes, || words(self.scope_claim)).map(Vec::as_slice)
    }
}

/// The values of a claim: each member of a list, else the one that it has. A value that is no text has the form of [`context::canonical`].
fn values(claim: &ClaimPath) -> Result<Vec<String>, Error> {
    Ok(match find(claim)? {
        None => Vec::new(),
        Some(Value::Texts(texts)) => texts,
        Some(Value::Json(json)) => match serde_json::from_str::<Vec<serde_json::Value>>(&json) {
            // Texts beside other values: a rule that denies by a member has to see it.
            Ok(members) => members.iter().map(|one| context::canonical(Value::Json(one.to_string()))).collect(),
            Err(_) => vec![context::canonical(Value::Json(json))],
        },
        Some(value) => vec![context::canonical(value)],
    })
}

/// The same, where a text has several words (RFC 8693 §4.2). A member of a list is one word: a role may be called `user admin`.
fn words(claim: &ClaimPath) -> Result<Vec<String>, Error> {
    match find(claim)? {
        Some(Value::Text(text)) => Ok(text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()),
        _ => values(claim),
    }
}

fn find(claim: &ClaimPath) -> Result<Option<Value>, Error> {
    for way in claim.ways() {
        let way: Vec<&str> = way.iter().map(String::as_str).collect();
        if let Some(value) = context::path("auth.claims", &way)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}
