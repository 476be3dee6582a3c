//! Groups of filters in a pipeline. In `any_of` one member has to let the request pass: members that refuse leave nothing behind, and
//! if all refuse, their answers become one. In `all_of` every member has to.

use std::collections::HashSet;
use std::pin::Pin;

use bytes::BytesMut;
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;

use super::chain::FilterOutcome;
use super::{BodySource, LocalPipeline, RequestOutcome, Traversal};
use crate::config::defaults;
use crate::config::model::{AnyOf, Step};
use crate::exchange::{Exchange, Reason, ResponseHead, ResponseSource, Value};

/// The way of a request through one step.
enum StepOutcome {
    Passed,
    /// All its filters have failed and are passed over (`open`): it neither lets the request pass nor refuses it.
    Absent,
    /// The filter of this index has ended the way, by anything but `Continue`.
    Ended(usize, FilterOutcome),
    /// All members have refused. `exchange.response` has their answers as one; its status is that of the filter of this index.
    Refused(usize),
}

/// The answer of a member that does not let the request pass.
struct Refusal {
    by: usize,
    head: Box<ResponseHead>,
}

impl Step<usize> {
    /// Its filters, as a mask. They follow each other.
    fn mask(&self) -> u64 {
        self.filters().into_iter().fold(0, |mask, index| mask | 1 << index)
    }
}

impl LocalPipeline {
    /// Calls the request hooks of a pipeline with groups.
    pub(super) async fn on_request_in_groups<B: BodySource>(
        &self,
        steps: &[Step<usize>],
        traversal: &mut Traversal,
        body: &mut B,
    ) -> RequestOutcome {
        for step in steps {
            let outcome = self.step(step, traversal, body).await;
            traversal.exchange().commit();
            let (by, outcome) = match outcome {
                StepOutcome::Passed | StepOutcome::Absent => continue,
                StepOutcome::Refused(by) => (by, RequestOutcome::Refused { by }),
                StepOutcome::Ended(by, outcome) => match outcome {
                    FilterOutcome::Continue => continue,
                    FilterOutcome::Respond => (by, RequestOutcome::Respond { by }),
                    FilterOutcome::Failed(failure) => (by, RequestOutcome::Failed(failure)),
                    FilterOutcome::Body(failure) => (by, RequestOutcome::Body(failure)),
                },
            };
            traversal.request_ends(by + 1, by);
            return outcome;
        }
        let all = self.pipeline.filters().len();
        traversal.request_ends(all, all);
        RequestOutcome::Continue
    }

    /// Boxed: groups nest.
    fn step<'a, B: BodySource>(
        &'a self,
        step: &'a Step<usize>,
        traversal: &'a mut Traversal,
        body: &'a mut B,
    ) -> Pin<Box<dyn Future<Output = StepOutcome> + 'a>> {
        Box::pin(async move {
            match step {
                Step::Filter(index) => match self.request_through::<true, B>(traversal, body, *index).await {
                    FilterOutcome::Continue if traversal.is_absent(*index) => StepOutcome::Absent,
                    FilterOutcome::Continue => StepOutcome::Passed,
                    ended => StepOutcome::Ended(*index, ended),
                },
                Step::AllOf(members) => self.all_of(members, traversal, body).await,
                Step::AnyOf(group) => self.any_of(group, traversal, body).await,
            }
        })
    }

    async fn all_of<B: BodySource>(
        &self,
        members: &[Step<usize>],
        traversal: &mut Traversal,
        body: &mut B,
    ) -> StepOutcome {
        let mut outcome = StepOutcome::Absent;
        for member in members {
            match self.step(member, traversal, body).await {
                StepOutcome::Absent => {}
                StepOutcome::Passed => outcome = StepOutcome::Passed,
                ended => return ended,
            }
        }
        outcome
    }

    async fn any_of<B: BodySource>(
        &self,
        group: &AnyOf<usize>,
        traversal: &mut Traversal,
        body: &mut B,
    ) -> StepOutcome {
        let mark = traversal.exchange().journal.len();
        // Those that see a body piece by piece see the whole of one that a member asks for. What they made of it goes with the member.
        let pending = traversal.cursor.pending.request;
        let places = traversal.exchange().places.len();
        let mut refusals = Vec::new();
        for (number, member) in group.members.iter().enumerate() {
            match self.step(member, traversal, body).await {
                StepOutcome::Passed => {
                    let rest = group.members[number + 1..].iter().fold(0, |mask, member| mask | member.mask());
                    self.leave_out(rest, traversal);
                    return StepOutcome::Passed;
                }
                StepOutcome::Absent => {}
                StepOutcome::Ended(by, FilterOutcome::Respond) if group.tries_next(traversal) => {
                    refusals.extend(take_refusal(by, traversal));
                }
                StepOutcome::Refused(by) if group.tries_next(traversal) => {
                    refusals.extend(take_refusal(by, traversal));
                }
                ended => return ended,
            }
            // Also where a member has failed open: what it did before it failed, such as naming the caller, would count as its consent.
            traversal.exchange().take_back(mark);
            traversal.exchange().places.truncate(places);
            traversal.cursor.pending.request = pending;
            self.leave_out(member.mask(), traversal);
        }
        if refusals.is_empty() {
            return StepOutcome::Absent;
        }
        let (by, head) = as_one(refusals);
        let exchange = traversal.exchange();
        if group.optional {
            offer(&head, exchange);
            return StepOutcome::Passed;
        }
        exchange.response = Some(head);
        exchange.response_body_replaced = true;
        StepOutcome::Refused(by)
    }

    /// No later hook of these filters is called for this exchange.
    fn leave_out(&self, filters: u64, traversal: &mut Traversal) {
        traversal.cursor.absent |= filters;
        let sandboxes = &mut traversal.exchange().sandboxes;
        while let Some(at) = sandboxes.iter().position(|(index, _)| filters & (1 << index) != 0) {
            let (index, sandbox) = sandboxes.swap_remove(at);
            self.pools[index].take_back(sandbox);
        }
    }
}

impl AnyOf<usize> {
    /// Whether the answer in the exchange is one after which the next member is tried.
    fn tries_next(&self, traversal: &mut Traversal) -> bool {
        let response = traversal.exchange().response.as_ref();
        response.is_some_and(|response| self.try_next_on.0.contains(&response.status.as_u16()))
    }
}

fn take_refusal(by: usize, traversal: &mut Traversal) -> Option<Refusal> {
    let exchange = traversal.exchange();
    exchange.response_body_replaced = false;
    exchange.response.take().map(|head| Refusal { by, head })
}

/// Leaves the challenges for the filters behind the group, as an authenticating filter does that lets strangers pass (`context.offer_challenge`
/// of the SDK).
fn offer(refusal: &ResponseHead, exchange: &mut Exchange) {
    const CHALLENGES: &str = "auth.challenges";
    let Some(challenge) = refusal.headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()) else { return };
    let mut known = match exchange.context.entry(CHALLENGES).map(|entry| &entry.value) {
        Some(Value::Texts(known)) => known.clone(),
        Some(_) | None => Vec::new(),
    };
    known.push(challenge.to_owned());
    // Without room for it, a stranger gets a 403 in place of a 401.
    let _ = exchange.context.set(CHALLENGES, Value::Texts(known), "gateway".into());
}

/// One answer for all: 401 if one of them has it, else the status of the first. RFC 9110 §11.6.1: its one `WWW-Authenticate` has the
/// challenges of all.
fn as_one(mut refusals: Vec<Refusal>) -> (usize, Box<ResponseHead>) {
    let asks = |refusal: &Refusal| refusal.head.status.as_u16() == defaults::TRY_NEXT_ON;
    let chosen = &refusals[refusals.iter().position(asks).unwrap_or(0)];
    let by = chosen.by;
    let mut head = Box::new(ResponseHead::new(ResponseSource::Filter, chosen.head.status));
    let mut seen = HashSet::new();
    let mut challenges = BytesMut::new();
    for value in refusals.iter().flat_map(|refusal| refusal.head.headers.get_all(WWW_AUTHENTICATE)) {
        if !value.is_empty() && seen.insert(value) {
            challenges.extend_from_slice(if challenges.is_empty() { b"" } else { b", " });
            challenges.extend_from_slice(value.as_bytes());
        }
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(challenges.freeze())
        && !value.is_empty()
    {
        head.headers.insert(WWW_AUTHENTICATE, value);
    }
    let parts: Vec<Reason> = refusals
        .iter_mut()
        .filter_map(|refusal| refusal.head.reason.take())
        .flat_map(|reason| if reason.parts.is_empty() { vec![*reason] } else { reason.parts })
        .collect();
    head.reason = Reason::of_all(parts);
    (by, head)
}
