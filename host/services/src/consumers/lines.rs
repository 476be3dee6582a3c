//! Files of consumers: a JSON object in each line (JSON Lines), so that an error has its line and 100,000 of them are read in a fraction of
//! a second.

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::credential::Credential;
use super::set::ConsumerSpec;

/// Why a file has no consumers.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    pub line: usize,
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    plan: Option<String>,
    #[serde(default)]
    labels: Pairs,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    certificates: Vec<String>,
    #[serde(default)]
    passwords: Pairs,
    jwt: Option<Tokens>,
}

/// The issuer of a consumer's tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    issuer: String,
    #[serde(default)]
    audiences: Vec<String>,
    keys: serde_json::Value,
}

/// The line that says how many consumers there are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    consumers: usize,
}

/// The members of an object, in their order, also where a name is there twice.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Reads a file. Empty lines count for nothing. If the first line is `{"consumers": N}`, there have to be N: so a file that was cut off is
/// refused.
///
/// # Errors
/// The first line that is no consumer, without what may be a secret.
pub fn parse(text: &str) -> Result<Vec<(usize, ConsumerSpec)>, LineError> {
    let mut announced = None;
    let mut found = Vec::new();
    let mut last = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let at = |reason: String| LineError { line: number, reason };
        if last == 0
            && let Ok(head) = serde_json::from_str::<Head>(line)
        {
            announced = Some(head.consumers);
        } else {
            found.push((number, consumer(line).map_err(at)?));
        }
        last = number;
    }
    match announced {
        Some(count) if count != found.len() => Err(LineError {
            line: last.max(1),
            reason: format!("the file ends after {} consumers, and its first line says {count}", found.len()),
        }),
        None if found.is_empty() => Err(LineError {
            line: 1,
            reason: "the file is empty; one without consumers has the line {\"consumers\": 0}".to_owned(),
        }),
        Some(_) | None => Ok(found),
    }
}

fn consumer(line: &str) -> Result<ConsumerSpec, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| unquoted(&error))?;
    let mut credentials = Vec::with_capacity(line.keys.len() + line.certificates.len() + line.passwords.0.len());
    for (at, key) in line.keys.iter().enumerate() {
        credentials.push(Credential::key(key).map_err(|error| format!("keys[{at}]: {error}"))?);
    }
    for (at, text) in line.certificates.iter().enumerate() {
        credentials.push(Credential::certificate(text).map_err(|error| format!("certificates[{at}]: {error}"))?);
    }
    for (at, (user, hash)) in line.passwords.0.iter().enumerate() {
        credentials.push(Credential::password(user, hash).map_err(|error| format!("passwords[{at}]: {error}"))?);
    }
    if let Some(Tokens { issuer, audiences, keys }) = line.jwt {
        let token = Credential::token(issuer, audiences, keys.to_string());
        credentials.push(token.map_err(|error| format!("jwt: {error}"))?);
    }
    let spec = ConsumerSpec { name: line.name, plan: line.plan, labels: line.labels.0, credentials };
    spec.check().map_err(|error| error.to_string())?;
    Ok(spec)
}

/// What the parser says, without values that it quotes: one in the wrong place may be a secret. The names of unknown members stay.
fn unquoted(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let column = error.column();
    match error.classify() {
        serde_json::error::Category::Data if text.starts_with("unknown field") || text.starts_with("missing field") => {
            let end = text.rfind(" at line").unwrap_or(text.len());
            format!("column {column}: {}", &text[..end])
        }
        serde_json::error::Category::Data => format!(
            "column {column}: a value of another type; expected {{\"name\": \"…\", \"plan\": \"…\", \"labels\": {{}}, \"keys\": [], \
             \"certificates\": [], \"passwords\": {{}}, \"jwt\": {{}}}}"
        ),
        serde_json::error::Category::Eof => format!("column {column}: the line ends within the JSON object"),
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
            format!("column {column}: not a JSON object, expected one in each line")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn each_line_is_a_consumer() {
        let text = format!(
            "{{\"consumers\": 2}}\n\n{{\"name\":\"a\",\"plan\":\"gold\",\"labels\":{{\"t\":\"p\"}},\"keys\":[\"sha256:{HASH}\"]}}\r\n{{\"name\":\"b\",\"certificates\":[\"dns:b.example\"]}}\n"
        );
        let found = parse(&text).unwrap();
        assert_eq!(found.iter().map(|(line, spec)| (*line, &*spec.name)).collect::<Vec<_>>(), [(3, "a"), (4, "b")]);
        assert_eq!((found[0].1.plan.as_deref(), found[0].1.credentials.len()), (Some("gold"), 1));
        let with_tokens = "{\"name\":\"a\",\"jwt\":{\"issuer\":\"i\",\"keys\":{\"jwks_url\":\"https://a.test/\"}}}";
        assert!(matches!(&parse(with_tokens).unwrap()[0].1.credentials[..], [Credential::Token(_)]));
        assert!(parse("{\"consumers\": 0}\n").unwrap().is_empty());
        assert!(parse("\n").unwrap_err().to_string().starts_with("line 1: the file is empty"));
    }

    #[test]
    fn what_is_cut_off_or_wrong_is_refused_with_its_line_and_without_secrets() {
        let cases = [
            (
                "{\"consumers\": 2}\n{\"name\":\"a\"}\n",
                "line 2: the file ends after 1 consumers, and its first line says 2",
            ),
            ("{\"name\":\"a\"}\n{\"name\":\"b\",\"pl", "line 2: column 15: the line ends within the JSON object"),
            ("{\"name\":\"a\",\"key\":[\"s3cret\"]}", "line 1: column 17: unknown field `key`, expected one of"),
            ("{\"name\":\"a\",\"keys\":\"s3cret\"}", "line 1: column 27: a value of another type"),
            ("{\"name\":\"a\",\"keys\":[\"s3cret\"]}", "line 1: keys[0]: expected `sha256:`"),
            ("{\"name\":\"a\",\"labels\":{\"x\":\"1\",\"x\":\"2\"}}", "line 1: the label `x` is there twice"),
            ("{\"name\":\"a\",\"passwords\":{\"u\":\"s3cret\"}}", "line 1: passwords[0]: expected a hash of Argon2id"),
            ("{\"name\":\"a\",\"jwt\":{\"issuer\":\"i\"}}", "line 1: column 32: missing field `keys`"),
            ("{\"name\":\"a\",\"jwt\":{\"issuer\":\"i\",\"keys\":{\"secrets\":\"s3cret\"}}}", "line 1: jwt: "),
            ("{\"name\":\"a\",\"jwt\":{\"issuer\":\"\",\"keys\":{}}}", "line 1: jwt: expected an issuer of"),
            ("s3cret", "line 1: column 1: not a JSON object"),
            ("{\"plan\":\"gold\"}", "line 1: column 15: missing field `name`"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
