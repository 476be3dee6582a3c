//! Fields for one class of caches (RFC 9213): directives as a structured field, a dictionary of RFC 9651.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::{LARGEST, ResponseDirectives, Scope, scope_of};

/// The directives of the field. `None` where it is empty or is no dictionary, and where a directive has a value of the wrong type: RFC 9213
/// §2.1 has the cache behave as if such a field were not there.
pub(super) fn parse(headers: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
    // RFC 9651 §4.2: the lines of a field are one list.
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    let dictionary: Dictionary = match lines.next() {
        None => Parser::new(first.as_bytes()).parse(),
        Some(_) => {
            let lines: Vec<_> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
            Parser::new(&lines.join(&b","[..])).parse()
        }
    }
    .ok()?;
    if dictionary.is_empty() {
        return None;
    }
    let mut found = ResponseDirectives { targeted: true, ..ResponseDirectives::default() };
    for (key, value) in &dictionary {
        read(&mut found, key.as_str(), value)?;
    }
    Some(found)
}

fn read(found: &mut ResponseDirectives, key: &str, value: &ListEntry) -> Option<()> {
    match key {
        "max-age" => found.max_age = Some(seconds(value)?),
        "s-maxage" => found.s_maxage = Some(seconds(value)?),
        "stale-while-revalidate" => found.stale_while_revalidate = Some(seconds(value)?),
        "stale-if-error" => found.stale_if_error = Some(seconds(value)?),
        "no-cache" => found.no_cache = scope(value)?,
        "private" => found.private = scope(value)?,
        "no-store" => found.no_store = flag(value)?,
        "public" => found.public = flag(value)?,
        "must-revalidate" => found.must_revalidate = flag(value)?,
        "proxy-revalidate" => found.proxy_revalidate = flag(value)?,
        "must-understand" => found.must_understand = flag(value)?,
        "no-transform" => found.no_transform = flag(value)?,
        "immutable" => found.immutable = flag(value)?,
        // RFC 9111 §5.2.3: unknown directives are ignored.
        _ => {}
    }
    Some(())
}

fn item(value: &ListEntry) -> Option<&BareItem> {
    match value {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

/// A negative number is no freshness.
fn seconds(value: &ListEntry) -> Option<Duration> {
    match item(value)? {
        BareItem::Integer(seconds) => {
            let seconds = u64::try_from(i64::from(*seconds)).unwrap_or(0);
            Some(Duration::from_secs(seconds.min(LARGEST)))
        }
        _ => None,
    }
}

fn flag(value: &ListEntry) -> Option<bool> {
    match item(value)? {
        BareItem::Boolean(flag) => Some(*flag),
        _ => None,
    }
}

fn scope(value: &ListEntry) -> Option<Scope> {
    match item(value)? {
        BareItem::Boolean(true) => Some(Scope::Whole),
        BareItem::Boolean(false) => Some(Scope::Absent),
        BareItem::String(names) => Some(scope_of(names.as_str().as_bytes())),
        BareItem::Token(name) => Some(scope_of(name.as_str().as_bytes())),
        _ => None,
    }
}
