//! The points at which a filter is called, and sets of them.

use std::fmt;

/// A point of an exchange at which a filter is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    OnRequest,
    OnRequestBody,
    SelectUpstream,
    OnResponse,
    OnResponseBody,
    OnResponseTrailers,
    OnComplete,
}

impl Hook {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// All of them, in the order of an exchange.
    pub const ALL: [Hook; Hook::COUNT] = [
        Hook::OnRequest,
        Hook::OnRequestBody,
        Hook::SelectUpstream,
        Hook::OnResponse,
        Hook::OnResponseBody,
        Hook::OnResponseTrailers,
        Hook::OnComplete,
    ];

    /// The name of its interface and of the function in it.
    pub fn name(self) -> &'static str {
        match self {
            Hook::OnRequest => "on-request",
            Hook::OnRequestBody => "on-request-body",
            Hook::SelectUpstream => "select-upstream",
            Hook::OnResponse => "on-response",
            Hook::OnResponseBody => "on-response-body",
            Hook::OnResponseTrailers => "on-response-trailers",
            Hook::OnComplete => "on-complete",
        }
    }

    /// The hook of this name.
    pub fn from_name(name: &str) -> Option<Hook> {
        Hook::ALL.into_iter().find(|hook| hook.name() == name)
    }

    /// Whether the hook answers a verdict.
    pub fn has_verdict(self) -> bool {
        !matches!(self, Hook::SelectUpstream | Hook::OnResponseTrailers | Hook::OnComplete)
    }

    /// Whether it is called before the request leaves.
    pub fn is_request(self) -> bool {
        matches!(self, Hook::OnRequest | Hook::OnRequestBody)
    }

    /// Whether it is called for a response that is still to be sent.
    pub fn is_response(self) -> bool {
        matches!(self, Hook::OnResponse | Hook::OnResponseBody | Hook::OnResponseTrailers)
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of hooks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HookSet(u8);

impl HookSet {
    pub fn contains(self, hook: Hook) -> bool {
        self.0 & (1 << hook as u8) != 0
    }

    pub fn insert(&mut self, hook: Hook) {
        self.0 |= 1 << hook as u8;
    }

    pub fn remove(&mut self, hook: Hook) {
        self.0 &= !(1 << hook as u8);
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its hooks, in the order of an exchange.
    pub fn iter(self) -> impl Iterator<Item = Hook> {
        Hook::ALL.into_iter().filter(move |hook| self.contains(*hook))
    }
}

impl FromIterator<Hook> for HookSet {
    fn from_iter<I: IntoIterator<Item = Hook>>(hooks: I) -> Self {
        let mut set = HookSet::default();
        hooks.into_iter().for_each(|hook| set.insert(hook));
        set
    }
}

/// What a hook decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on to the next filter.
    Continue,
    /// Answer now, or replace the response.
    Respond,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sets_agree() {
        let set: HookSet = Hook::ALL.into_iter().collect();
        assert_eq!(set.iter().count(), Hook::COUNT);
        for hook in Hook::ALL {
            assert_eq!(Hook::from_name(hook.name()), Some(hook));
            let mut without = set;
            without.remove(hook);
            assert!(!without.contains(hook));
        }
        assert!(HookSet::default().is_empty());
    }
}
