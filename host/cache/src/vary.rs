//! Which stored response of a key a request selects: RFC 9111 §4.1.

use http::header::{self, HeaderMap, HeaderName};
use sluice_http::http::headers::tokens;
use smallvec::SmallVec;

use crate::digest::{Digest, Secret};
use crate::policy::Normalise;

/// The secondary key of a stored response: the fields that it varies by, as its own request had them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    names: Box<[HeaderName]>,
    digest: [u64; 2],
    form: Form,
    language: Option<Box<Language>>,
}

/// How the fields were brought to a common form when the response was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    codings: bool,
    languages: bool,
}

/// For a response in one language that varies by `Accept-Language`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Language {
    content: Box<[u8]>,
    /// Of all other fields that it varies by.
    others: [u64; 2],
}

const VARIANT: u8 = b'v';

impl Variant {
    /// `names` is the `Vary` of the response.
    pub fn new(
        names: &[HeaderName],
        request: &HeaderMap,
        response: &HeaderMap,
        normalise: Normalise,
        secret: &Secret,
    ) -> Variant {
        // A response in a coding that the form drops is only for requests with the very same field.
        let known = |coding: &[u8]| Codings::bit(coding) != 0;
        let plain = |value: &http::HeaderValue| tokens(value.as_bytes()).all(known);
        let form = Form {
            codings: normalise.accept_encoding && response.get_all(header::CONTENT_ENCODING).iter().all(plain),
            languages: normalise.accept_language,
        };
        let language =
            content_language(response).filter(|_| form.languages && names.contains(&header::ACCEPT_LANGUAGE)).map(
                |content| Box::new(Language { content: content.into(), others: others(names, request, form, secret) }),
            );
        Variant { names: names.into(), digest: all(names, request, form, secret), form, language }
    }

    /// Whether it varies by anything.
    pub fn varies(&self) -> bool {
        !self.names.is_empty()
    }

    pub fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// For a store outside of this process, where the secret is that of the store.
    pub fn to_bytes(&self) -> [u8; 16] {
        (u128::from(self.digest[0]) << 64 | u128::from(self.digest[1])).to_be_bytes()
    }

    /// Whether a request selects this response.
    pub fn matches(&self, request: &HeaderMap, secret: &Secret) -> bool {
        if self.names.is_empty() || all(&self.names, request, self.form, secret) == self.digest {
            return true;
        }
        // RFC 9111 §4.1: where a field has a mechanism to choose (q-values), that mechanism may be used.
        let Some(language) = &self.language else { return false };
        preferred_language(request).is_some_and(|wanted| wanted.eq_ignore_ascii_case(&language.content))
            && others(&self.names, request, self.form, secret) == language.others
    }

    /// Whether the same requests select both.
    pub fn is_same(&self, other: &Variant) -> bool {
        self.digest == other.digest && self.names == other.names
    }

    pub(crate) fn heap_size(&self) -> usize {
        let language = self.language.as_ref().map_or(0, |language| size_of::<Language>() + language.content.len());
        size_of_val(&*self.names) + language
    }
}

fn all(names: &[HeaderName], request: &HeaderMap, form: Form, secret: &Secret) -> [u64; 2] {
    let mut digest = secret.digest(VARIANT);
    for name in names {
        write(name, request, form, &mut digest);
    }
    digest.finish()
}

fn others(names: &[HeaderName], request: &HeaderMap, form: Form, secret: &Secret) -> [u64; 2] {
    let mut digest = secret.digest(VARIANT);
    for name in names.iter().filter(|name| **name != header::ACCEPT_LANGUAGE) {
        write(name, request, form, &mut digest);
    }
    digest.finish()
}

fn write(name: &HeaderName, request: &HeaderMap, form: Form, digest: &mut Digest) {
    if form.codings && *name == header::ACCEPT_ENCODING && request.contains_key(name) {
        digest.part(&Codings::of(request).0.to_be_bytes());
    } else if form.languages && *name == header::ACCEPT_LANGUAGE && request.contains_key(name) {
        write_languages(request, digest);
    } else {
        write_field(name, request, digest);
    }
}

/// RFC 9111 §4.1, for any field: lines are joined, and blanks around the members of a list are dropped. A field that is not there only matches
/// one that is not there.
pub(crate) fn write_field(name: &HeaderName, request: &HeaderMap, digest: &mut Digest) {
    let mut count = 0;
    for line in request.get_all(name) {
        for member in members(line.as_bytes()) {
            digest.part(member.trim_ascii());
            count += 1;
        }
    }
    digest.count(count);
}

/// Commas inside of quotes belong to a member.
fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut inside, mut escaped) = (false, false);
    line.split(move |byte| {
        let quote = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && inside && !escaped;
        inside ^= quote;
        *byte == b',' && !inside
    })
}

/// What `Accept-Encoding` accepts, of what matters: RFC 9110 §12.5.3. Which of several codings a client likes best does not.
struct Codings(u16);

impl Codings {
    const OTHERS: u16 = 16;
    const NO_OTHERS: u16 = 32;
    const NO_IDENTITY: u16 = 64;

    fn bit(coding: &[u8]) -> u16 {
        const KNOWN: [(&[u8], u16); 6] =
            [(b"gzip", 1), (b"x-gzip", 1), (b"br", 2), (b"zstd", 4), (b"deflate", 8), (b"identity", 128)];
        KNOWN.iter().find(|(name, _)| coding.eq_ignore_ascii_case(name)).map_or(0, |(_, bit)| *bit)
    }

    fn of(request: &HeaderMap) -> Codings {
        let (mut accepted, mut refused) = (0, 0);
        for line in request.get_all(header::ACCEPT_ENCODING) {
            for (coding, weight) in tokens(line.as_bytes()).map(weighted) {
                accepted |= match (coding, weight) {
                    (b"*", 0) => Self::NO_OTHERS,
                    (b"*", _) => Self::OTHERS,
                    (coding, 0) if coding.eq_ignore_ascii_case(b"identity") => Self::NO_IDENTITY,
                    (coding, 0) => {
                        refused |= Self::bit(coding);
                        0
                    }
                    // Identity is accepted anyhow.
                    (coding, _) => Self::bit(coding) & !128,
                };
            }
        }
        // A refusal matters only beside `*`, which accepts the coding otherwise.
        Codings(if accepted & Self::OTHERS == 0 { accepted } else { accepted | refused << 8 })
    }
}

/// A member of a list and its q-value, in thousandths (RFC 9110 §12.4.2). One that can't be read is 1.
fn weighted(member: &[u8]) -> (&[u8], u16) {
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
    (value, weight.and_then(thousandths).unwrap_or(1000))
}

fn thousandths(weight: &[u8]) -> Option<u16> {
    let (whole, part) = match weight {
        [whole @ (b'0' | b'1'), b'.', part @ ..] if part.len() <= 3 => (whole, part),
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        _ => return None,
    };
    let digit = |sum: u16, at: usize| {
        let digit = part.get(at).copied().unwrap_or(b'0');
        digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0'))
    };
    let sum = (0..3).try_fold(u16::from(whole - b'0'), digit)?;
    Some(sum.min(1000))
}

/// A request with more languages is compared as it is.
const MOST_LANGUAGES: usize = 32;

type Tag = SmallVec<[u8; 16]>;

/// The languages of the request, the one that it likes best first. A weight is kept as what it lacks to 1, which sorts so.
fn languages(request: &HeaderMap) -> Option<SmallVec<[(u16, Tag); 8]>> {
    let mut found = SmallVec::new();
    for line in request.get_all(header::ACCEPT_LANGUAGE) {
        for (tag, weight) in tokens(line.as_bytes()).map(weighted) {
            if found.len() == MOST_LANGUAGES {
                return None;
            }
            found.push((1000 - weight, tag.to_ascii_lowercase().into()));
        }
    }
    found.sort();
    Some(found)
}

fn write_languages(request: &HeaderMap, digest: &mut Digest) {
    let Some(languages) = languages(request) else {
        return write_field(&header::ACCEPT_LANGUAGE, request, digest);
    };
    for (unlike, tag) in &languages {
        digest.part(tag);
        digest.count(usize::from(*unlike));
    }
    digest.count(languages.len());
}

/// The one language that the request wants more than all others.
fn preferred_language(request: &HeaderMap) -> Option<Tag> {
    let languages = languages(request)?;
    let (unlike, tag) = languages.first()?;
    let alone = languages.get(1).is_none_or(|(next, _)| next > unlike);
    (alone && *unlike < 1000).then(|| tag.clone())
}

fn content_language(response: &HeaderMap) -> Option<&[u8]> {
    let mut values = response.get_all(header::CONTENT_LANGUAGE).iter();
    let mut tags = tokens(values.next()?.as_bytes());
    let tag = tags.next()?;
    (tags.next().is_none() && values.next().is_none()).then_some(tag)
}

#[cfg(test)]
mod tests;
