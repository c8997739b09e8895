//! Identifiers that outlive a process.
//!
//! A request id is issued by the first proxy of ours that sees the request and
//! is carried by every record of it. It contains the time, so looking up an id
//! is looking up a moment.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names one boot of one proxy: 64 random bits drawn when the process starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for BootId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 16 {
            return Err(IdError);
        }
        parse_hex(text).map(Self)
    }
}

/// Names one request: when its head was read, by which boot, and the how-manieth.
///
/// Text form: `start-boot-n`, all lower-case hexadecimal: 14 digits of
/// microseconds since the Unix epoch, 16 digits of boot, then the counter.
/// Sorting the text sorts by time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// Microseconds since the Unix epoch at which the issuing proxy read the head.
    pub start_us: i64,
    /// The boot of the proxy that issued the id.
    pub boot: BootId,
    /// Counts the requests of that boot from 0, wrapping.
    pub n: u32,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:014x}-{}-{:x}", self.start_us, self.boot, self.n)
    }
}

impl FromStr for RequestId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.split('-');
        let (Some(start), Some(boot), Some(n), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdError);
        };
        if start.len() != 14 || n.is_empty() || n.len() > 8 {
            return Err(IdError);
        }
        let start_us = i64::try_from(parse_hex(start)?).map_err(|_| IdError)?;
        let n = u32::try_from(parse_hex(n)?).map_err(|_| IdError)?;
        Ok(Self {
            start_us,
            boot: boot.parse()?,
            n,
        })
    }
}

fn parse_hex(text: &str) -> Result<u64, IdError> {
    let plain = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !plain {
        return Err(IdError);
    }
    u64::from_str_radix(text, 16).map_err(|_| IdError)
}

/// The text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a request id: expected START-BOOT-N as `tap` prints it, for example 0064d0c3a1b2c3-9f3a1b2c4d5e6f70-1f"
)]
pub struct IdError;

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(BootId, RequestId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(start_us in 0i64..(1 << 55), boot: u64, n: u32) {
            let id = RequestId { start_us, boot: BootId(boot), n };
            prop_assert_eq!(id.to_string().parse::<RequestId>(), Ok(id));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<RequestId>();
        }
    }

    #[test]
    fn text_sorts_by_time() {
        let id = |start_us| {
            RequestId {
                start_us,
                boot: BootId(7),
                n: 0,
            }
            .to_string()
        };
        assert!(id(1_000) < id(1_700_000_000_000_000));
    }
}
