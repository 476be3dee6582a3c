//! The hooks, the points of an exchange at which a filter is called, and sets of them. All that differs from hook to hook is its row in the
//! table below. The runtime, the linker, the counters and the metrics derive the rest; what calls a hook is in the gateway's `filter`.

use std::fmt;

/// The part of an exchange that a hook is about. It decides which host functions have a meaning in the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    RequestHead,
    RequestBody,
    /// The choice of an upstream and an endpoint.
    Selection,
    /// A piece of the request's body, on its way to the upstream.
    RequestPiece,
    ResponseHead,
    ResponseBody,
    /// A piece of the response's body, on its way to the client.
    ResponsePiece,
    /// An event of the response's body, on its way to the client.
    ResponseEvent,
    ResponseTrailers,
    /// After the last byte.
    Completion,
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $hook:ident = $name:literal, $answer:ident, $phase:ident;)*) => {
        /// A point of an exchange at which a filter is called.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Hook {
            $($(#[$doc])* $hook,)*
        }

        impl Hook {
            /// All of them, in the order of an exchange.
            pub const ALL: [Hook; Hook::COUNT] = [$(Hook::$hook,)*];
            /// How many there are.
            pub const COUNT: usize = [$($name,)*].len();

            /// The name of its interface and of the function in it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Hook::$hook => $name,)*
                }
            }

            /// What it is about.
            pub const fn phase(self) -> Phase {
                match self {
                    $(Hook::$hook => Phase::$phase,)*
                }
            }

            /// Whether the hook is called with a body, or a piece of one.
            pub const fn has_body(self) -> bool {
                HookSet::BODIES.contains(self)
            }

            /// Whether the hook answers a verdict.
            pub const fn has_verdict(self) -> bool {
                match self {
                    $(Hook::$hook => hooks!(@$answer),)*
                }
            }
        }
    };
    (@verdict) => { true };
    (@nothing) => { false };
}

// The hooks of `wit/hooks.wit` in the order of an exchange: name, answer, phase.
hooks! {
    /// The request head is in.
    OnRequest = "on-request", verdict, RequestHead;
    /// The request body is in.
    OnRequestBody = "on-request-body", verdict, RequestBody;
    /// An endpoint is to be chosen.
    SelectUpstream = "select-upstream", nothing, Selection;
    /// A piece of the request body goes to the upstream.
    OnRequestChunk = "on-request-chunk", nothing, RequestPiece;
    /// The response head is in.
    OnResponse = "on-response", verdict, ResponseHead;
    /// The response body is in.
    OnResponseBody = "on-response-body", verdict, ResponseBody;
    /// A piece of the response body goes to the client.
    OnResponseChunk = "on-response-chunk", nothing, ResponsePiece;
    /// An event of the response body goes to the client.
    OnResponseEvent = "on-response-event", nothing, ResponseEvent;
    /// The trailers are in.
    OnResponseTrailers = "on-response-trailers", nothing, ResponseTrailers;
    /// The exchange is finished.
    OnComplete = "on-complete", nothing, Completion;
}

impl Hook {
    /// The hook of this name.
    pub fn from_name(name: &str) -> Option<Hook> {
        Hook::ALL.into_iter().find(|hook| hook.name() == name)
    }

    /// Whether it is called before the request leaves.
    pub fn is_request(self) -> bool {
        matches!(self.phase(), Phase::RequestHead | Phase::RequestBody)
    }

    pub(crate) const fn index(self) -> usize {
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
pub struct HookSet(u32);

const _: () = assert!(Hook::COUNT <= u32::BITS as usize, "a set has a bit for each hook");

/// Where host functions have a meaning: the table of the package in `wit/types.wit`.
impl HookSet {
    /// Every hook.
    pub const ALL: HookSet = HookSet(u32::MAX >> (u32::BITS as usize - Hook::COUNT));
    /// The hooks that are called with a body, or a piece of one.
    const BODIES: HookSet = HookSet::about(&[
        Phase::RequestBody,
        Phase::ResponseBody,
        Phase::RequestPiece,
        Phase::ResponsePiece,
        Phase::ResponseEvent,
    ]);
    pub(crate) const REQUEST_WRITES: HookSet = HookSet::about(&[Phase::RequestHead, Phase::RequestBody]);
    pub(crate) const REQUEST_BODY_WISH: HookSet = HookSet::about(&[Phase::RequestHead]);
    pub(crate) const REQUEST_BODY: HookSet = HookSet::about(&[Phase::RequestBody]);
    pub(crate) const RESPONSE_READS: HookSet =
        HookSet::ALL.without(HookSet::about(&[Phase::Selection, Phase::RequestPiece]));
    /// In a request hook: the answer that the filter drafts.
    pub(crate) const RESPONSE_WRITES: HookSet =
        HookSet::about(&[Phase::RequestHead, Phase::RequestBody, Phase::ResponseHead, Phase::ResponseBody]);
    pub(crate) const RESPONSE_BODY_WISH: HookSet =
        HookSet::about(&[Phase::RequestHead, Phase::RequestBody, Phase::ResponseHead]);
    pub(crate) const RESPONSE_BODY: HookSet = HookSet::about(&[Phase::ResponseBody]);
    /// What filters tell the cache: before the response is stored.
    pub(crate) const CACHE_WRITES: HookSet = HookSet::RESPONSE_WRITES;
    pub(crate) const PIECES: HookSet =
        HookSet::about(&[Phase::RequestPiece, Phase::ResponsePiece, Phase::ResponseEvent]);
    /// Pieces that are no events.
    pub(crate) const CHUNKS: HookSet = HookSet::about(&[Phase::RequestPiece, Phase::ResponsePiece]);
    pub(crate) const EVENTS: HookSet = HookSet::about(&[Phase::ResponseEvent]);
    pub(crate) const TRAILERS: HookSet = HookSet::about(&[Phase::ResponseTrailers]);
    /// The hooks before there is a response.
    pub(crate) const BEFORE_RESPONSE: HookSet =
        HookSet::about(&[Phase::RequestHead, Phase::RequestBody, Phase::Selection, Phase::RequestPiece]);
    pub(crate) const SELECTION: HookSet = HookSet::about(&[Phase::Selection]);
    pub(crate) const CONTEXT_WRITES: HookSet = HookSet::ALL.without(HookSet::COMPLETION);
    pub(crate) const COMPLETION: HookSet = HookSet::about(&[Phase::Completion]);

    /// The hooks of these phases.
    const fn about(phases: &[Phase]) -> HookSet {
        let mut set = 0;
        let mut hook = 0;
        while hook < Hook::COUNT {
            let mut phase = 0;
            while phase < phases.len() {
                if Hook::ALL[hook].phase() as u8 == phases[phase] as u8 {
                    set |= 1 << hook;
                }
                phase += 1;
            }
            hook += 1;
        }
        HookSet(set)
    }

    const fn without(self, other: HookSet) -> HookSet {
        HookSet(self.0 & !other.0)
    }
}

impl HookSet {
    pub const fn contains(self, hook: Hook) -> bool {
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
        assert_eq!(set, HookSet::ALL);
        assert_eq!(set.iter().count(), Hook::COUNT);
        for hook in Hook::ALL {
            assert_eq!(Hook::from_name(hook.name()), Some(hook));
            let mut without = set;
            without.remove(hook);
            assert!(!without.contains(hook));
        }
        assert!(HookSet::default().is_empty());
    }

    #[test]
    fn functions_have_a_meaning_where_their_part_of_the_exchange_is() {
        let names = |set: HookSet| set.iter().map(Hook::name).collect::<Vec<_>>();
        assert_eq!(names(HookSet::REQUEST_WRITES), ["on-request", "on-request-body"]);
        assert_eq!(names(HookSet::SELECTION), ["select-upstream"]);
        assert!(!HookSet::RESPONSE_READS.contains(Hook::SelectUpstream));
        assert!(!HookSet::RESPONSE_READS.contains(Hook::OnRequestChunk));
        assert_eq!(names(HookSet::PIECES), ["on-request-chunk", "on-response-chunk", "on-response-event"]);
        assert!(!HookSet::RESPONSE_WRITES.contains(Hook::OnResponseTrailers));
        assert!(!HookSet::CONTEXT_WRITES.contains(Hook::OnComplete));
    }
}
