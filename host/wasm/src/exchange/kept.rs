//! The charge for what filters make an exchange keep: edits of heads, drafts, context, state and undo records. Bodies have a charge of
//! their own, beside their bytes.

use http::{HeaderMap, HeaderValue};
use sluice_http::http::body::BodyError;
use sluice_http::http::buffer::{MemoryBudget, Reservation};
use sluice_services::places::Place;

use super::{Exchange, ResponseHead, Selection, Undo};

/// The charge grows in such steps. An exchange that keeps less is not charged, so that most exchanges never touch the counter that
/// all workers share.
const STEP: usize = 16 << 10;
/// A body of this size or more is charged by itself; a smaller one is one of the small parts of its exchange.
pub const OWN_CHARGE: usize = STEP;
/// What a value takes in a map of header fields beside its bytes.
const VALUE_BYTES: usize = size_of::<HeaderValue>();
/// What each edit takes beside its value: its undo record.
const EDIT_BYTES: usize = size_of::<Undo>();

/// What an exchange keeps, and its charge.
#[derive(Debug)]
pub struct Kept {
    /// What was measured last and what came since: never less than what there is, since nothing is taken off in between.
    bytes: usize,
    /// So much may be kept before it is measured again.
    covered: usize,
    charge: Option<Reservation>,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { bytes: 0, covered: STEP, charge: None }
    }
}

impl Kept {
    /// The charge alone, for what outlives the exchange.
    pub fn into_charge(self) -> Option<Reservation> {
        self.charge
    }
}

impl Exchange {
    /// Accounts for an edit that is about to keep `more` bytes. On an error the edit must not be made.
    #[inline]
    pub fn keep(&mut self, more: usize, budget: &MemoryBudget) -> Result<(), BodyError> {
        let bytes = self.kept.bytes.saturating_add(more).saturating_add(EDIT_BYTES);
        if bytes > self.kept.covered {
            return self.charge(more.saturating_add(EDIT_BYTES), budget);
        }
        self.kept.bytes = bytes;
        Ok(())
    }

    /// Charges what there is, where it was put there without [`Self::keep`].
    pub fn measure(&mut self, budget: &MemoryBudget) -> Result<(), BodyError> {
        self.charge(0, budget)
    }

    /// Measures what there is, since much of what was added may be gone, and charges that.
    #[cold]
    fn charge(&mut self, more: usize, budget: &MemoryBudget) -> Result<(), BodyError> {
        let bytes = self.small_parts().saturating_add(more);
        if bytes <= STEP {
            self.kept = Kept { bytes, ..Kept::default() };
            return Ok(());
        }
        let covered = bytes.checked_next_multiple_of(STEP).unwrap_or(usize::MAX);
        match &mut self.kept.charge {
            Some(charge) => charge.resize(covered)?,
            None => self.kept.charge = Some(budget.reserve(covered)?),
        }
        (self.kept.bytes, self.kept.covered) = (bytes, covered);
        Ok(())
    }

    /// The bytes of all that filters can have made it keep, but for bodies that have a charge of their own.
    fn small_parts(&self) -> usize {
        let states: usize =
            self.states.iter().map(|state| size_of_val(state) + state.as_ref().map_or(0, |s| s.len())).sum();
        let body = self.request_body.as_ref().map_or(0, |body| small_body(body.len()));
        fields(&self.request.headers)
            + self.request.target.as_str().len()
            + body
            + self.response.as_deref().map_or(0, head)
            + self.draft.as_deref().map_or(0, head)
            + self.context.bytes()
            + states
            + selection(&self.selection)
            + size_of_val(&*self.response_body_wishes)
            + self.cache.as_ref().map_or(0, |notes| notes.bytes())
            + self.journal.iter().map(undo).sum::<usize>()
            + self.places.iter().map(Place::bytes).sum::<usize>()
    }
}

/// What a choice at `select-upstream` takes.
pub fn selection(selection: &Selection) -> usize {
    let endpoints =
        selection.endpoints.iter().flatten().map(|endpoint| size_of_val(endpoint) + endpoint.len()).sum::<usize>();
    endpoints + selection.hash_key.as_ref().map_or(0, String::len)
}

/// What the values of one field take in an undo record, beside their bytes, which they may share with the map.
pub fn values(count: usize) -> usize {
    count * VALUE_BYTES
}

fn small_body(length: usize) -> usize {
    if length < OWN_CHARGE { length } else { 0 }
}

fn fields(map: &HeaderMap) -> usize {
    map.iter().map(|(name, value)| name.as_str().len() + value.len() + VALUE_BYTES).sum()
}

fn head(head: &ResponseHead) -> usize {
    fields(&head.headers)
        + head.body.as_ref().map_or(0, |body| small_body(body.len()))
        + head.trailers.as_ref().map_or(0, fields)
}

fn undo(undo: &Undo) -> usize {
    EDIT_BYTES
        + match undo {
            Undo::Method(_) | Undo::Status(_) | Undo::RequestWish(_) | Undo::Caller(_) => 0,
            Undo::Target(target) => target.as_str().len(),
            Undo::Reason(before) => before.as_ref().map_or(0, |reason| size_of_val(&**reason) + reason.text.len()),
            Undo::RequestHeader(_, before) | Undo::ResponseHeader(_, before) | Undo::Trailer(_, before) => {
                values(before.len()) + before.first().map_or(0, HeaderValue::len)
            }
            Undo::RequestBody(body, _) | Undo::ResponseBody(body, _) => {
                body.as_ref().map_or(0, |body| small_body(body.len()))
            }
            Undo::Context(key, before) => key.len() + before.as_ref().map_or(0, |entry| entry.bytes()),
            Undo::State(_, before) => before.as_ref().map_or(0, |state| state.len()),
            Undo::Selection(before) => selection(before),
            Undo::ResponseWishes(before) => size_of_val(&**before),
            Undo::Cache(before) => before.as_ref().map_or(0, |notes| notes.bytes()),
        }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::uri::Scheme;
    use http::{Method, Version};

    use super::super::*;
    use super::*;

    fn exchange() -> Box<Exchange> {
        let request = RequestHead {
            method: Method::GET,
            scheme: Scheme::HTTP,
            authority: "example.org".parse().unwrap(),
            target: "/".parse().unwrap(),
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
        };
        let route = Arc::new(RouteFacts { name: "r".into(), upstreams: vec![], snapshot: 0 });
        Exchange::new(HeaderValue::from_static("id"), [127, 0, 0, 1].into(), request, route)
    }

    fn set_state(exchange: &mut Exchange, filter: usize, bytes: usize, budget: &MemoryBudget) -> Result<(), BodyError> {
        exchange.keep(bytes, budget)?;
        exchange.set_state(filter, Bytes::from(vec![0; bytes]));
        Ok(())
    }

    #[test]
    fn what_is_kept_is_charged_in_steps_and_a_little_is_not() {
        let budget = MemoryBudget::new(1 << 20);
        let mut exchange = exchange();
        set_state(&mut exchange, 0, 10_000, &budget).unwrap();
        assert_eq!(budget.used(), 0);
        set_state(&mut exchange, 1, 10_000, &budget).unwrap();
        assert_eq!(budget.used(), 2 * STEP);
        set_state(&mut exchange, 2, 60_000, &budget).unwrap();
        assert_eq!(budget.used(), 5 * STEP);
        drop(exchange);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn undo_records_count_until_the_call_is_over() {
        let budget = MemoryBudget::new(10 * STEP);
        let mut exchange = exchange();
        let written = (0..).take_while(|_| set_state(&mut exchange, 0, 60_000, &budget).is_ok()).count();
        assert_eq!(written, 2, "the value and one record of what was before it");
        exchange.commit();
        set_state(&mut exchange, 0, 60_000, &budget).unwrap();
        exchange.commit();
        set_state(&mut exchange, 0, 10, &budget).unwrap();
        exchange.commit();
        // The smaller value gives the charge back as soon as something asks for more.
        set_state(&mut exchange, 1, 70_000, &budget).unwrap();
        assert_eq!(budget.used(), 5 * STEP);
        // Edits that keep nothing but their record are bounded too.
        let edits =
            (0..1_000_000).take_while(|_| exchange.keep(0, &budget).map(|()| exchange.set_method(Method::PUT)).is_ok());
        assert!(edits.count() < 10 * STEP / EDIT_BYTES);
    }

    #[test]
    fn parsed_json_is_charged_beside_its_text() {
        let budget = MemoryBudget::new(1 << 20);
        let mut exchange = exchange();
        let list = |members: usize| format!("[{}1]", "{\"a\":1},".repeat(members));
        exchange.set_context("small", Value::Json(list(10)), "f".into()).unwrap();
        exchange.set_context("large", Value::Json(list(8_000)), "f".into()).unwrap();
        assert!(exchange.context_path("small", &["0"; 0], &budget).unwrap().is_some());
        assert!(
            exchange.context_path("large", &["0"; 0], &budget).is_err(),
            "64 KB of text, and more than 1 MiB parsed"
        );
        assert!(budget.used() < 1 << 20);
        let budget = MemoryBudget::new(8 << 20);
        assert!(exchange.context_path("large", &["0"; 0], &budget).unwrap().is_some());
        assert!(budget.used() > 1 << 20);
    }
}
