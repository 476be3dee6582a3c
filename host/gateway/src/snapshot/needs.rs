//! What a plugin says that it needs to be granted (in `describe`, or by `interest.needs` for one config), against what its filter is.

use http::HeaderName;
use serde_json::Value;

use crate::config;
use crate::filter::{Grants, HeaderGrant};
use crate::services::{Origin, Origins, log_limit};

/// What came of a comparison. Both are texts for the operator.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Lines for a `grants` table.
    pub(crate) missing: Vec<String>,
    /// What can't be understood of what the plugin says.
    pub(crate) odd: Vec<String>,
}

/// Compares what is needed, which should be shaped like the `grants` table of `gateway.toml`.
pub(crate) fn compare(needed: &Value, grants: &Grants) -> Comparison {
    let mut found = Comparison::default();
    let Some(members) = needed.as_object() else {
        let text = needed.to_string();
        found.odd.push(format!("expected a JSON object, found {}", log_limit::cut(needed.as_str().unwrap_or(&text))));
        return found;
    };
    for (key, value) in members {
        match one(key, value, grants) {
            Ok(line) => found.missing.extend(line),
            Err(why) => found.odd.push(format!("{}: {why}", log_limit::cut(key))),
        }
    }
    found
}

/// Whether a filter before it has to authenticate, for some of its config to have an effect.
pub(super) fn needs_authentication(needed: Option<&Value>) -> bool {
    needed.is_some_and(|needed| needed["authentication"] == true)
}

/// The line that one grant lacks, or why it can't be understood.
fn one(key: &str, value: &Value, grants: &Grants) -> Result<Option<String>, String> {
    let line = |names: Vec<&str>| (!names.is_empty()).then(|| format!("{key} = {names:?}"));
    match key {
        "read_headers" => Ok(line(headers(texts(value)?, &grants.read)?)),
        "write_headers" => Ok(line(headers(texts(value)?, &grants.write)?)),
        "http" => {
            let mut missing = Vec::new();
            for text in texts(value)? {
                Origins::parse([text]).map_err(|error| error.to_string())?;
                let origin = url::Url::parse(text).ok().and_then(|url| Origin::of(&url).ok());
                if origin.is_none_or(|origin| grants.services.http.check(&origin).is_err()) {
                    missing.push(text);
                }
            }
            Ok(line(missing))
        }
        "upstreams" => {
            let names = texts(value)?.into_iter();
            Ok(line(names.filter(|name| grants.services.check_upstream(name).is_err()).collect()))
        }
        "kv" => Ok(line(texts(value)?.into_iter().filter(|space| grants.services.check_kv(space).is_err()).collect())),
        "kv_quota" => {
            let bytes = value.as_u64().or_else(|| value.as_str().and_then(config::size).map(|size| size.0));
            let bytes = bytes.ok_or("expected a size")?;
            Ok((bytes > grants.services.kv_quota).then(|| format!("kv_quota = {value}")))
        }
        "body" => {
            let body = value.as_bool().ok_or("expected true or false")?;
            Ok((body && grants.no_bodies).then(|| "body = true".to_owned()))
        }
        "consumers" => {
            let consumers = value.as_bool().ok_or("expected true or false")?;
            Ok((consumers && !grants.services.consumers).then(|| "consumers = true".to_owned()))
        }
        "secrets" => {
            let secrets = value.as_object().ok_or("expected an object with the secrets' names as keys")?;
            let missing = secrets.keys().filter(|name| grants.services.secrets.find(name).is_err());
            let missing: Vec<_> = missing.map(|name| format!("{name} = \"…\"")).collect();
            Ok((!missing.is_empty()).then(|| format!("secrets = {{ {} }}", missing.join(", "))))
        }
        // No grant: `needs_authentication` looks at it.
        "authentication" => value.as_bool().map(|_| None).ok_or_else(|| "expected true or false".to_owned()),
        _ => Err("there is no such grant".to_owned()),
    }
}

fn texts(value: &Value) -> Result<Vec<&str>, String> {
    let texts = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect::<Option<_>>());
    texts.ok_or_else(|| "expected a list of strings".to_owned())
}

/// Those of these headers that are not granted.
fn headers<'n>(names: Vec<&'n str>, grant: &HeaderGrant) -> Result<Vec<&'n str>, String> {
    let mut missing = Vec::new();
    for name in names {
        let allowed = if name == "*" {
            *grant == HeaderGrant::All
        } else {
            let header =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a header name"))?;
            grant.allows(&header)
        };
        if !allowed && !missing.contains(&name) {
            missing.push(name);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::services;

    fn all() -> Value {
        json!({
            "read_headers": ["authorization", "accept", "*"], "write_headers": ["set-cookie"], "body": true,
            "http": ["https://auth.internal:443"], "upstreams": ["users"], "kv": ["sessions"], "kv_quota": "2KiB", "secrets": {"token": "for the service"},
            "consumers": true,
        })
    }

    #[test]
    fn every_grant_that_is_missing_has_its_line() {
        let grants = Grants { no_bodies: true, ..Grants::default() };
        let found = compare(&all(), &grants);
        assert_eq!(found.odd, [""; 0]);
        let mut missing = found.missing;
        missing.sort();
        let expected = [
            "body = true",
            "consumers = true",
            "http = [\"https://auth.internal:443\"]",
            "kv = [\"sessions\"]",
            "kv_quota = \"2KiB\"",
            "read_headers = [\"authorization\", \"*\"]",
            "secrets = { token = \"…\" }",
            "upstreams = [\"users\"]",
            "write_headers = [\"set-cookie\"]",
        ];
        assert_eq!(missing, expected);
    }

    #[test]
    fn what_is_granted_is_not_missing() {
        let grants = Grants {
            read: HeaderGrant::All,
            write: HeaderGrant::AllButCredentials { and: vec![http::header::SET_COOKIE] },
            no_bodies: false,
            services: services::Grants {
                http: Origins::parse(["https://auth.internal"]).unwrap(),
                upstreams: ["users".to_owned()].into(),
                kv: ["sessions".to_owned()].into(),
                kv_quota: 2048,
                consumers: true,
                secrets: [("token".to_owned(), "x".to_owned())].into_iter().collect(),
            },
        };
        assert_eq!(compare(&all(), &grants), Comparison::default());
    }

    #[test]
    fn what_is_no_grant_is_said() {
        let cases = [
            (json!("{read_headers}"), "expected a JSON object, found {read_headers}"),
            (json!([1]), "expected a JSON object, found [1]"),
            (json!({"files": ["/etc"]}), "files: there is no such grant"),
            (json!({"kv": "sessions"}), "kv: expected a list of strings"),
            (json!({"read_headers": ["a b"]}), "read_headers: \"a b\" is not a header name"),
            (json!({"secrets": ["token"]}), "secrets: expected an object with the secrets' names as keys"),
            (json!({"body": 1}), "body: expected true or false"),
            (json!({"kv_quota": "much"}), "kv_quota: expected a size"),
        ];
        for (needed, expected) in cases {
            let found = compare(&needed, &Grants::default());
            assert_eq!((found.odd, found.missing), (vec![expected.to_owned()], vec![]), "{needed}");
        }
        let found = compare(&json!({"http": ["auth.internal"]}), &Grants::default());
        assert!(found.odd[0].starts_with("http: `auth.internal` is not an origin"), "{found:?}");
    }
}
