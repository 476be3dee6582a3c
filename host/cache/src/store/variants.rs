//! The stored responses of one key: RFC 9111 §4.1.

use std::sync::Arc;

use http::header::HeaderMap;

use super::object::Object;
use super::purge::Purges;
use crate::digest::Secret;

/// At least one stored response, the most recent first. Most keys have one.
#[derive(Debug, Clone)]
pub(super) enum Variants {
    One(Arc<Object>),
    Many(Arc<[Arc<Object>]>),
}

pub(super) enum Selected {
    Object(Arc<Object>),
    /// There are responses, but none for this request.
    Others,
    /// All were purged.
    Nothing,
}

impl Variants {
    pub(super) fn objects(&self) -> &[Arc<Object>] {
        match self {
            Variants::One(object) => std::slice::from_ref(object),
            Variants::Many(objects) => objects,
        }
    }

    /// The most recent one that the request selects.
    pub(super) fn select(&self, request: &HeaderMap, purges: &Purges, secret: &Secret) -> Selected {
        let mut others = false;
        for object in self.objects().iter().filter(|object| object.is_there(purges)) {
            if object.variant().matches(request, secret) {
                return Selected::Object(Arc::clone(object));
            }
            others = true;
        }
        if others { Selected::Others } else { Selected::Nothing }
    }

    /// With a newer one. It takes the place of those for the same requests. RFC 9111 §4.1: a response without `Vary` beside ones with it is
    /// a mistake of the origin, and the most recent `Vary` should count. So they do not stand beside each other, and the newer one stays.
    pub(super) fn with(&self, object: Arc<Object>, bounds: Bounds, purges: &Purges) -> Variants {
        let varies = object.variant().varies();
        let mut weight = object.weight();
        let stays = |other: &&Arc<Object>| {
            varies && other.variant().varies() && !other.variant().is_same(object.variant()) && other.is_there(purges)
        };
        let mut objects = vec![Arc::clone(&object)];
        for other in self.objects().iter().filter(stays).take(bounds.variants.saturating_sub(1)) {
            weight += other.weight();
            if weight > bounds.weight {
                break;
            }
            objects.push(Arc::clone(other));
        }
        if objects.len() == 1 { Variants::One(object) } else { Variants::Many(objects.into()) }
    }

    /// Without one of them; none if that was the only one.
    pub(super) fn without(&self, object: &Arc<Object>) -> Option<Variants> {
        let others: Vec<_> = self.objects().iter().filter(|other| !Arc::ptr_eq(other, object)).cloned().collect();
        match <[_; 1]>::try_from(others) {
            Ok([one]) => Some(Variants::One(one)),
            Err(others) if others.is_empty() => None,
            Err(others) => Some(Variants::Many(others.into())),
        }
    }

    pub(super) fn weight(&self) -> u64 {
        self.objects().iter().map(|object| object.weight()).sum()
    }
}

/// What one key may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) variants: usize,
    pub(super) weight: u64,
}
