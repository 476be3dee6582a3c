//! Whether a request that got no response is sent again, and where. All attempts of a request share one [`Budget`], which counts what
//! they have used up. Each decision follows from it and from how the last attempt failed alone: no clock, no I/O.
//!
//! By RFC 9110 §9.2.2 a request is sent again
//! - to another endpoint, or on a new connection where an open one turned out to be closed, if nothing of the request was written:
//!   any method;
//! - on another connection, if a connection that had been idle closed before any byte of the response came, and the method is
//!   idempotent and the request has no body;
//! - to another endpoint, or on another connection to this one, if the server says that it has not processed the request (RFC 9113 §8.7)
//!   and the body can be sent again: any method, a few times. An endpoint that refuses streams gets it on two connections at most;
//! - otherwise never: the upstream may have acted on it.

use smallvec::SmallVec;

/// What the server may have seen of a request that got no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing of it was written.
    Unsent,
    /// It was written to a connection that had been idle, and that ended without a byte of a response: the server has probably closed
    /// the connection before the request reached it.
    ClosedIdle,
    /// The server said that it has not processed it, and the whole request is here again.
    Unprocessed(Unprocessed),
    /// The server may have acted on it.
    Possible,
}

/// How a server says that it has not processed a request (RFC 9113 §8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unprocessed {
    /// It refused the stream: it has no room for it now.
    RefusedStream,
    /// It closes the connection by GOAWAY, and takes streams only up to a number that is below this one's.
    GoAway,
}

/// How an attempt failed, as far as the decision depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedAttempt {
    pub delivery: Delivery,
    /// The connection was open before this request needed one.
    pub reused_connection: bool,
    /// The request has an idempotent method and no body.
    pub repeatable: bool,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The same endpoint, on another connection.
    SameEndpoint,
    /// Another endpoint of the same selection.
    OtherEndpoint,
    /// The filters are asked for a selection again.
    Selection,
    /// The error is the answer.
    GiveUp,
}

/// What the filters have chosen, compared with their choice before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FilterChoice {
    #[default]
    NoneOrSame,
    /// They react to failures, so it is worth asking again.
    New,
}

/// What the attempts of one request have used up, and what they may use.
#[derive(Debug, Default)]
pub struct Budget {
    /// The endpoints tried of this selection, in order.
    tried: SmallVec<[usize; 4]>,
    max_endpoints: usize,
    /// How often the filters were asked.
    selections: usize,
    max_selections: usize,
    choice: FilterChoice,
    /// How often a server said that it has not processed it.
    refusals: usize,
    /// How many streams the last endpoint has refused.
    refused_here: usize,
}

/// Refusals after which a request is given up: a server that refuses again and again has no room.
const MAX_REFUSALS: usize = 3;
/// Streams that one endpoint may refuse of a request: another of its connections may have room, a third one hardly.
const MAX_REFUSED_HERE: usize = 2;

impl Budget {
    /// Begins a selection. The filters may be asked again as long as they choose something else each time, `max_selections` times
    /// in all.
    pub fn select(&mut self, max_endpoints: usize, max_selections: usize, choice: FilterChoice) {
        self.tried.clear();
        self.selections += 1;
        (self.max_endpoints, self.max_selections, self.choice) = (max_endpoints, max_selections, choice);
    }

    /// The endpoints tried of this selection.
    pub fn tried(&self) -> &[usize] {
        &self.tried
    }

    /// Counts an endpoint as tried.
    pub fn spend(&mut self, endpoint: usize) {
        self.tried.push(endpoint);
        self.refused_here = 0;
    }

    /// Counts a failed attempt, and decides what follows.
    pub fn after(&mut self, failed: FailedAttempt) -> Next {
        let may_repeat = match failed.delivery {
            Delivery::Unprocessed(unprocessed) => {
                self.refusals += 1;
                self.refused_here += usize::from(unprocessed == Unprocessed::RefusedStream);
                let is_done_here = self.refused_here >= MAX_REFUSED_HERE;
                let prefers_other = is_done_here || !failed.reused_connection;
                return match self.tried.len() < self.max_endpoints {
                    _ if self.refusals >= MAX_REFUSALS => Next::GiveUp,
                    true if prefers_other => Next::OtherEndpoint,
                    false if is_done_here => self.without_endpoint(),
                    _ => Next::SameEndpoint,
                };
            }
            Delivery::Unsent => true,
            Delivery::ClosedIdle => failed.repeatable,
            Delivery::Possible => false,
        };
        match may_repeat {
            false => Next::GiveUp,
            // It says nothing about the endpoint, which has closed a connection that nobody used.
            true if failed.reused_connection => Next::SameEndpoint,
            true if self.tried.len() < self.max_endpoints => Next::OtherEndpoint,
            true => self.without_endpoint(),
        }
    }

    /// The decision where the selection has no endpoint left.
    pub fn without_endpoint(&self) -> Next {
        match self.choice == FilterChoice::New && self.selections < self.max_selections {
            true => Next::Selection,
            false => Next::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: FailedAttempt =
        FailedAttempt { delivery: Delivery::Unsent, reused_connection: false, repeatable: false };

    fn budget(max_endpoints: usize, tried: &[usize]) -> Budget {
        let mut budget = Budget::default();
        budget.select(max_endpoints, 0, FilterChoice::NoneOrSame);
        tried.iter().for_each(|endpoint| budget.spend(*endpoint));
        budget
    }

    #[test]
    fn what_was_not_sent_goes_to_another_endpoint_whatever_the_method() {
        for repeatable in [true, false] {
            assert_eq!(budget(3, &[1]).after(FailedAttempt { repeatable, ..REFUSED }), Next::OtherEndpoint);
        }
        assert_eq!(budget(2, &[1, 0]).after(REFUSED), Next::GiveUp, "all endpoints were tried");
    }

    #[test]
    fn a_stale_connection_costs_no_endpoint() {
        let stale = FailedAttempt { reused_connection: true, ..REFUSED };
        assert_eq!(budget(1, &[0]).after(stale), Next::SameEndpoint);
        let crossed = FailedAttempt { delivery: Delivery::ClosedIdle, repeatable: true, ..stale };
        assert_eq!(budget(1, &[0]).after(crossed), Next::SameEndpoint);
        assert_eq!(budget(9, &[0]).after(FailedAttempt { repeatable: false, ..crossed }), Next::GiveUp);
    }

    #[test]
    fn a_refused_request_is_sent_again_a_few_times() {
        let gone = FailedAttempt {
            delivery: Delivery::Unprocessed(Unprocessed::GoAway),
            reused_connection: true,
            repeatable: false,
        };
        let mut one = budget(1, &[0]);
        assert_eq!(
            [one.after(gone), one.after(gone), one.after(gone)],
            [Next::SameEndpoint, Next::SameEndpoint, Next::GiveUp]
        );
        let at_once = FailedAttempt { reused_connection: false, ..gone };
        assert_eq!(budget(2, &[0]).after(at_once), Next::OtherEndpoint);
        assert_eq!(budget(1, &[0]).after(at_once), Next::SameEndpoint, "there is no other");
    }

    #[test]
    fn a_refused_stream_is_tried_on_one_other_connection_and_then_at_another_endpoint() {
        let refused = FailedAttempt {
            delivery: Delivery::Unprocessed(Unprocessed::RefusedStream),
            reused_connection: true,
            repeatable: false,
        };
        let mut two = budget(2, &[0]);
        assert_eq!([two.after(refused), two.after(refused)], [Next::SameEndpoint, Next::OtherEndpoint]);
        two.spend(1);
        assert_eq!(two.after(refused), Next::GiveUp, "three times in all");
        let mut one = budget(1, &[0]);
        assert_eq!([one.after(refused), one.after(refused)], [Next::SameEndpoint, Next::GiveUp]);
        let at_once = FailedAttempt { reused_connection: false, ..refused };
        assert_eq!(budget(2, &[0]).after(at_once), Next::OtherEndpoint);
    }

    #[test]
    fn what_the_server_may_have_acted_on_is_never_sent_again() {
        for reused_connection in [true, false] {
            let failed = FailedAttempt { delivery: Delivery::Possible, reused_connection, repeatable: true };
            assert_eq!(budget(9, &[0]).after(failed), Next::GiveUp);
        }
    }

    #[test]
    fn filters_are_asked_again_while_they_choose_something_else() {
        let mut budget = Budget::default();
        budget.select(1, 2, FilterChoice::New);
        budget.spend(0);
        assert_eq!(budget.after(REFUSED), Next::Selection);
        budget.select(1, 2, FilterChoice::New);
        assert!(budget.tried().is_empty(), "a selection may have the same endpoints");
        assert_eq!(budget.without_endpoint(), Next::GiveUp, "twice in all");
        let mut budget = Budget::default();
        budget.select(1, 2, FilterChoice::NoneOrSame);
        assert_eq!(budget.without_endpoint(), Next::GiveUp, "the same choice would fail again");
    }
}
