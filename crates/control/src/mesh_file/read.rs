//! Reads values out of TOML tables, with errors that know where they stand.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Location, MeshFileError, list, nearest};

/// A file and its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> MeshFileError {
        MeshFileError::at(self.file, self.text, span, message.into())
    }

    pub(super) fn location(&self, span: &Range<usize>) -> Location {
        Location::of(self.text, span.start)
    }
}

/// A value and the bytes it stands at.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// One table of the file, whose keys are all known.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) source: Source<'a>,
    /// How errors name it, such as "service `web`"; empty for the file itself.
    owner: String,
    keys: &'static [&'static str],
    table: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// Checks that the table has no keys but these.
    pub(super) fn new(
        source: Source<'a>,
        owner: impl Into<String>,
        keys: &'static [&'static str],
        table: &'a DeTable<'a>,
    ) -> Result<Self, MeshFileError> {
        let owner = owner.into();
        let mut unknown: Vec<_> = table
            .keys()
            .filter(|key| !keys.contains(&&**key.get_ref()))
            .collect();
        unknown.sort_by_key(|key| key.span().start);
        if let Some(key) = unknown.first() {
            let name: &str = key.get_ref();
            let of = if owner.is_empty() {
                String::new()
            } else {
                format!(" in {owner}")
            };
            let meant = nearest(name, keys.iter().copied());
            let meant = meant
                .map(|meant| format!("did you mean `{meant}`? "))
                .unwrap_or_default();
            return Err(source
                .error(key.span(), format!("unknown key `{name}`{of}"))
                .help(format!("{meant}there are {}", list(keys.iter().copied()))));
        }
        Ok(Self {
            source,
            owner,
            keys,
            table,
        })
    }

    /// Returns the value of a key.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(
            self.keys.contains(&key),
            "`{key}` is not in the list of keys"
        );
        self.table.get(key)
    }

    /// Makes the error for a value that is not of the right kind.
    pub(super) fn refused(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        takes: &str,
    ) -> MeshFileError {
        let found = match value.get_ref() {
            DeValue::String(text) if text.is_empty() => "is empty".to_owned(),
            DeValue::String(text) if text.len() <= 60 => format!("is {text:?}"),
            DeValue::Integer(number) => format!("is {number}"),
            DeValue::Boolean(boolean) => format!("is {boolean}"),
            other => format!("is {}", article(other.type_str())),
        };
        let of = if self.owner.is_empty() {
            String::new()
        } else {
            format!(" of {}", self.owner)
        };
        self.source
            .error(value.span(), format!("`{key}`{of} {found}"))
            .help(format!("it takes {takes}"))
    }

    pub(super) fn string(
        &self,
        key: &'static str,
        takes: &str,
    ) -> Result<Option<Found<&'a str>>, MeshFileError> {
        self.read(key, takes, |value| value.as_str())
    }

    /// Returns the value as `read` sees it, and refuses what it does not.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        takes: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Result<Option<Found<T>>, MeshFileError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match read(value.get_ref()) {
            Some(read) => Ok(Some(Found {
                value: read,
                span: value.span(),
            })),
            None => Err(self.refused(key, value, takes)),
        }
    }

    pub(super) fn boolean(&self, key: &'static str) -> Result<bool, MeshFileError> {
        let found = self.read(key, "true or false", DeValue::as_bool)?;
        Ok(found.is_some_and(|found| found.value))
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u16>,
        takes: &str,
    ) -> Result<Option<Found<u16>>, MeshFileError> {
        self.read(key, takes, |value| {
            number(value).filter(|number| range.contains(number))
        })
    }

    pub(super) fn duration(
        &self,
        key: &'static str,
        default: Duration,
    ) -> Result<Duration, MeshFileError> {
        let takes = "a time such as \"250ms\", \"2s\" or \"1m\", from 1ms to 24h";
        let found = self.read(key, takes, |value| value.as_str().and_then(duration))?;
        Ok(found.map_or(default, |found| found.value))
    }

    /// Returns the texts of an array, none of which is there twice.
    pub(super) fn strings(
        &self,
        key: &'static str,
        takes: &str,
    ) -> Result<Vec<Found<&'a str>>, MeshFileError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let array = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.refused(key, value, takes))?;
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for item in array.iter() {
            let text = item
                .get_ref()
                .as_str()
                .ok_or_else(|| self.refused(key, item, takes))?;
            if !seen.insert(text) {
                let message = format!("`{text}` is listed twice in `{key}` of {}", self.owner);
                return Err(self
                    .source
                    .error(item.span(), message)
                    .help("remove one of them"));
            }
            found.push(Found {
                value: text,
                span: item.span(),
            });
        }
        Ok(found)
    }

    /// Returns the entries of a table with free keys, in the order of the file.
    pub(super) fn entries(
        &self,
        key: &'static str,
        takes: &str,
    ) -> Result<Entries<'a>, MeshFileError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.refused(key, value, takes))?;
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| {
                (
                    Found {
                        value: &**key.get_ref(),
                        span: key.span(),
                    },
                    value,
                )
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        Ok(entries)
    }
}

/// Keys and values in the order of the file.
pub(super) type Entries<'a> = Vec<(Found<&'a str>, &'a Spanned<DeValue<'a>>)>;

/// Reads a whole number up to 65535.
pub(super) fn number(value: &DeValue<'_>) -> Option<u16> {
    let integer = value.as_integer()?;
    u16::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Reads `250ms`, `2s`, `1m` or `1h`, from a millisecond to a day.
fn duration(text: &str) -> Option<Duration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .filter(|digits| *digits > 0)?;
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let milliseconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    let allowed = 1..=24 * 3_600_000;
    allowed
        .contains(&milliseconds)
        .then(|| Duration::from_millis(milliseconds))
}

/// Reads `64KiB`, `6MiB` or `1GiB`, or a plain number of bytes.
pub(super) fn bytes(value: &DeValue<'_>) -> Option<u64> {
    if let Some(integer) = value.as_integer() {
        return u64::from_str_radix(integer.as_str(), integer.radix()).ok();
    }
    let text = value.as_str()?;
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
