//! Why an order has failed, and what follows from it.

use std::time::Duration;

use instant_acme::{Error, Problem};

use super::authority::Unanswered;
use crate::services::log_limit::visible;

/// RFC 8555 §6.7.
const PREFIX: &str = "urn:ietf:params:acme:error:";

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) reason: String,
    /// How long the authority has asked to be left alone.
    pub(super) wait: Option<Duration>,
}

/// What kind of thing has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The authority did not answer, or in a way that nobody understands.
    Unreachable,
    /// It gives nothing before a time is over.
    RateLimited,
    /// It does not know the account any more.
    NoAccount,
    /// It does not do what it is asked for.
    Refused,
    /// Control over a name could not be shown.
    Challenge,
    /// The program for TXT records has failed.
    Dns,
    /// The state that gateways share has failed.
    State,
}

impl Kind {
    /// The value of the label `result`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Unreachable => "unreachable",
            Kind::RateLimited => "rate_limited",
            Kind::NoAccount => "no_account",
            Kind::Refused => "refused",
            Kind::Challenge => "challenge",
            Kind::Dns => "dns",
            Kind::State => "state",
        }
    }

    /// Whether the authority may have counted the attempt.
    pub(super) fn is_counted(self) -> bool {
        match self {
            Kind::Unreachable | Kind::NoAccount | Kind::State => false,
            Kind::RateLimited | Kind::Refused | Kind::Challenge | Kind::Dns => true,
        }
    }
}

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl AsRef<str>) -> Self {
        Failure { kind, reason: visible(reason.as_ref()).into_owned(), wait: None }
    }

    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Api(problem) => Failure::of_problem(problem),
            Error::Timeout(_) => Failure::new(Kind::Refused, "the authority has not decided in time"),
            Error::Other(other) if other.is::<Unanswered>() => Failure::new(Kind::Unreachable, other.to_string()),
            error => Failure::new(Kind::Unreachable, format!("nobody understands the answer: {}", crate::chain(error))),
        }
    }

    /// The same for a new order: `unauthorized` is said of the account then, as of one that was deactivated (RFC 8555 §7.3.6), and not of a name.
    pub(super) fn of_new_order(error: &Error) -> Self {
        let failure = Failure::of(error);
        match error {
            Error::Api(problem) if name(problem) == Some("unauthorized") => {
                Failure { kind: Kind::NoAccount, ..failure }
            }
            _ => failure,
        }
    }

    fn of_problem(problem: &Problem) -> Self {
        let kind = match name(problem) {
            Some("rateLimited") => Kind::RateLimited,
            Some("accountDoesNotExist") => Kind::NoAccount,
            Some("serverInternal") => Kind::Unreachable,
            Some("unauthorized" | "connection" | "dns" | "tls" | "caa" | "incorrectResponse") => Kind::Challenge,
            _ if problem.status.is_some_and(|status| status == 429) => Kind::RateLimited,
            _ if problem.status.is_some_and(|status| status >= 500) => Kind::Unreachable,
            _ => Kind::Refused,
        };
        Failure::new(kind, problem.to_string())
    }
}

/// The type of a problem that is one of ACME's.
fn name(problem: &Problem) -> Option<&str> {
    problem.r#type.as_deref()?.strip_prefix(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(problem: &str) -> Kind {
        let problem: Problem = serde_json::from_str(problem).expect("a problem");
        Failure::of(&Error::Api(problem)).kind
    }

    #[test]
    fn problems_are_told_apart() {
        assert_eq!(kind(r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many"}"#), Kind::RateLimited);
        assert_eq!(kind(r#"{"type":"urn:ietf:params:acme:error:accountDoesNotExist"}"#), Kind::NoAccount);
        assert_eq!(kind(r#"{"type":"urn:ietf:params:acme:error:rejectedIdentifier","status":403}"#), Kind::Refused);
        assert_eq!(kind(r#"{"type":"about:blank","status":503}"#), Kind::Unreachable);
        assert_eq!(kind(r#"{"status":429}"#), Kind::RateLimited);
        let unauthorized = r#"{"type":"urn:ietf:params:acme:error:unauthorized","status":403}"#;
        assert_eq!(kind(unauthorized), Kind::Challenge);
        let unauthorized = serde_json::from_str(unauthorized).expect("a problem");
        assert_eq!(Failure::of_new_order(&Error::Api(unauthorized)).kind, Kind::NoAccount);
        let nonsense = serde_json::from_str::<Problem>("nonsense").expect_err("no problem");
        assert_eq!(Failure::of(&Error::Json(nonsense)).kind, Kind::Unreachable);
        let silent = Error::Other(Box::new(Unanswered::new("nobody".to_owned())));
        assert_eq!(Failure::of(&silent), Failure::new(Kind::Unreachable, "nobody"));
    }
}
