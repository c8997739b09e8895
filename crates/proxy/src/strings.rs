//! Shares the strings that come back in every record.

use std::collections::HashMap;
use std::sync::Arc;

use crate::limits::{self, Limit};

/// Most strings that are shared per table; later ones get an allocation of their own.
const STRINGS_MAX: usize = Limit::SharedTexts.count();

/// A bounded table of shared strings.
#[derive(Debug, Default)]
pub(crate) struct Strings {
    known: HashMap<Arc<str>, ()>,
    /// The last text of the table that was asked for: it often comes again.
    last: Arc<str>,
}

impl Strings {
    /// Returns `text`, shared with earlier callers if the table has room.
    pub(crate) fn share(&mut self, text: &str) -> Arc<str> {
        if text.is_empty() {
            return Arc::default();
        }
        if *self.last == *text {
            return self.last.clone();
        }
        if let Some((known, ())) = self.known.get_key_value(text) {
            self.last = known.clone();
            return known.clone();
        }
        let text: Arc<str> = text.into();
        if self.known.len() < STRINGS_MAX {
            self.known.insert(text.clone(), ());
        } else {
            limits::hit(Limit::SharedTexts);
        }
        text
    }

    /// As [`Strings::share`], but returns none for a new text when the table is full or
    /// holds `limit` texts already.
    pub(crate) fn share_within(&mut self, text: &str, limit: usize) -> Option<Arc<str>> {
        if *self.last == *text && !text.is_empty() {
            return Some(self.last.clone());
        }
        if let Some((known, ())) = self.known.get_key_value(text) {
            self.last = known.clone();
            return Some(known.clone());
        }
        (self.known.len() < limit).then(|| self.share(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_and_the_table_is_bounded() {
        let mut strings = Strings::default();
        assert!(Arc::ptr_eq(&strings.share("a"), &strings.share("a")));
        for i in 0..STRINGS_MAX + 10 {
            strings.share(&i.to_string());
        }
        assert_eq!(strings.known.len(), STRINGS_MAX);
        assert_eq!(strings.share_within("new", 10), None);
        assert_eq!(strings.share_within("a", 10).as_deref(), Some("a"));
    }
}
