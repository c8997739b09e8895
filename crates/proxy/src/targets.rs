//! Remembers what records say about request targets: most come again and again.
//!
//! Route, redacted path and captured query parameters are pure functions of method and
//! target, but dear ones: they split, hash, format and allocate. A table of fixed size keeps
//! the results of recent targets; whichever comes later to the same place wins it.

use std::sync::Arc;

use http::Method;

/// Places in the table.
const PLACES: usize = 256;

/// Longest target that is remembered, in bytes.
const TARGET_BYTES_MAX: usize = 256;

/// What is asked for, as far as records depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Whether it is a call of gRPC.
    pub(crate) grpc: bool,
    /// The service that is called; compared by its place in memory.
    pub(crate) service: &'a Arc<str>,
    pub(crate) method: &'a Method,
    /// Path and query.
    pub(crate) target: &'a str,
}

/// What records say about it.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) method: Arc<str>,
    pub(crate) route: Arc<str>,
    /// Redacted.
    pub(crate) path: Arc<str>,
    /// Query parameters that are captured.
    pub(crate) attributes: Arc<str>,
}

#[derive(Debug)]
struct Place {
    grpc: bool,
    service: Arc<str>,
    method: Method,
    target: Box<str>,
    described: Described,
}

/// The table; empty ones take no memory.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    places: Vec<Option<Box<Place>>>,
}

impl Targets {
    /// Returns what records say about a target, if it is remembered.
    pub(crate) fn find(&self, asked: Asked<'_>) -> Option<&Described> {
        let place = self.places.get(place_of(asked.target))?.as_ref()?;
        let same = place.grpc == asked.grpc
            && *place.target == *asked.target
            && place.method == *asked.method
            && Arc::ptr_eq(&place.service, asked.service);
        same.then_some(&place.described)
    }

    /// Remembers a target, unless it is too long.
    pub(crate) fn remember(&mut self, asked: Asked<'_>, described: Described) {
        if asked.target.len() > TARGET_BYTES_MAX {
            return;
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        self.places[place_of(asked.target)] = Some(Box::new(Place {
            grpc: asked.grpc,
            service: asked.service.clone(),
            method: asked.method.clone(),
            target: asked.target.into(),
            described,
        }));
    }
}

/// Returns the place of a target. Clients may choose targets that meet in one place, which
/// costs them no more than what is not remembered.
fn place_of(target: &str) -> usize {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = target.len() as u64;
    let mut chunks = target.as_bytes().chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(MULTIPLIER);
    }
    let mut word = [0; 8];
    let rest = chunks.remainder();
    word[..rest.len()].copy_from_slice(rest);
    hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(MULTIPLIER);
    // The product mixes upwards: its highest byte depends on all of them.
    usize::from(hash.to_be_bytes()[0]) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> Described {
        Described {
            method: text.into(),
            route: text.into(),
            path: text.into(),
            attributes: text.into(),
        }
    }

    #[test]
    fn only_the_very_same_request_is_known_again() {
        let service: Arc<str> = "web".into();
        let like: Arc<str> = "web".into();
        let asked = Asked {
            grpc: false,
            service: &service,
            method: &Method::GET,
            target: "/users/1?a=b",
        };
        let mut targets = Targets::default();
        assert!(targets.find(asked).is_none());
        targets.remember(asked, described("x"));
        assert_eq!(targets.find(asked).map(|found| &*found.path), Some("x"));
        let others = [
            Asked {
                grpc: true,
                ..asked
            },
            Asked {
                service: &like,
                ..asked
            },
            Asked {
                method: &Method::PUT,
                ..asked
            },
            Asked {
                target: "/users/1?a=c",
                ..asked
            },
        ];
        for other in others {
            assert!(targets.find(other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_long_targets_are_not_kept() {
        let service: Arc<str> = "web".into();
        let mut targets = Targets::default();
        let mut found = 0;
        for number in 0..10_000 {
            let target = format!("/{number}");
            let asked = Asked {
                grpc: false,
                service: &service,
                method: &Method::GET,
                target: &target,
            };
            targets.remember(asked, described(&target));
            found += usize::from(targets.find(asked).is_some());
        }
        assert_eq!((found, targets.places.len()), (10_000, PLACES));
        let long = "/".repeat(TARGET_BYTES_MAX + 1);
        let asked = Asked {
            grpc: false,
            service: &service,
            method: &Method::GET,
            target: &long,
        };
        targets.remember(asked, described("x"));
        assert!(targets.find(asked).is_none());
    }
}
