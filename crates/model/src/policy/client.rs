//! Who calls, and which callers a rule is about.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whoever connected.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// What its certificate proves; none in plain text.
    pub identity: Option<&'a str>,
    /// Where it connects from.
    pub address: IpAddr,
}

/// Returns service account and namespace that an identity stands for: of
/// `SA.NAMESPACE.serviceaccount.identity.…`, or of `spiffe://DOMAIN/ns/NAMESPACE/sa/SA`.
#[must_use]
pub fn account(identity: &str) -> Option<(&str, &str)> {
    if let Some(rest) = identity.strip_prefix("spiffe://") {
        let mut parts = rest.split('/');
        let (_, ns, namespace, sa, account, end) = (
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next(),
        );
        return (ns == "ns" && sa == "sa" && end.is_none() && !account.is_empty())
            .then_some((account, namespace));
    }
    let (names, _) = identity.split_once(".serviceaccount.identity.")?;
    let (account, namespace) = names.rsplit_once('.')?;
    (!account.is_empty() && !namespace.is_empty()).then_some((account, namespace))
}

/// Which identities a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum IdentityPattern {
    /// `*`: any that is proven.
    Any,
    /// `ACCOUNT.NAMESPACE`: a service account, in whatever form it is proven.
    Account {
        /// The account, which is the workload's name in local mode.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// `*.SUFFIX`: every identity below a suffix, or all accounts of a namespace.
    Below(String),
    /// The whole identity.
    Exact(String),
}

/// Why a text is not a pattern; says what one looks like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(pub String);

impl IdentityPattern {
    /// Says whether an identity is meant.
    #[must_use]
    pub fn matches(&self, identity: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Account { name, namespace } => {
                account(identity) == Some((name.as_str(), namespace.as_str()))
            }
            Self::Below(suffix) => {
                let below = identity
                    .strip_suffix(suffix.as_str())
                    .and_then(|rest| rest.strip_suffix('.'))
                    .is_some_and(|rest| !rest.is_empty());
                // A suffix of one label can only be a namespace.
                let within = !suffix.contains('.')
                    && account(identity).is_some_and(|(_, namespace)| namespace == suffix);
                below && !identity.starts_with("spiffe://") || within
            }
            Self::Exact(text) => identity == text,
        }
    }
}

impl FromStr for IdentityPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = || {
            PatternError(format!(
                "`{text}` is no identity: write ACCOUNT.NAMESPACE, *.NAMESPACE, a whole name \
                 such as spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or * for any that is proven"
            ))
        };
        let plain = |text: &str| {
            !text.is_empty()
                && text.len() <= 512
                && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
        };
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return if plain(suffix) {
                Ok(Self::Below(suffix.to_owned()))
            } else {
                Err(wrong())
            };
        }
        if !plain(text) {
            return Err(wrong());
        }
        if text.starts_with("spiffe://") || text.contains(".serviceaccount.identity.") {
            account(text).ok_or_else(wrong)?;
            return Ok(Self::Exact(text.to_owned()));
        }
        match text.rsplit_once('.') {
            Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() => {
                Ok(Self::Account {
                    name: name.to_owned(),
                    namespace: namespace.to_owned(),
                })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Account { name, namespace } => write!(f, "{name}.{namespace}"),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
            Self::Exact(text) => f.write_str(text),
        }
    }
}

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// First address.
    pub address: IpAddr,
    /// Leading bits that count: 0 to 32, or to 128 for IPv6.
    pub bits: u8,
}

impl Network {
    /// Says whether an address lies within. An IPv4 address is the same in its IPv6 form.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.bits))
                    .unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = || {
            PatternError(format!(
                "`{text}` is no network: write an address such as 10.1.2.3, or one with the \
                 number of bits that count, such as 10.0.0.0/8 or fd00::/8"
            ))
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        if bits > most {
            return Err(wrong());
        }
        let network = Self { address, bits };
        let first = match address {
            IpAddr::V4(own) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4((own.to_bits() & mask).into())
            }
            IpAddr::V6(own) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6((own.to_bits() & mask).into())
            }
        };
        if first != address {
            return Err(PatternError(format!(
                "`{text}` has bits behind the ones that count: write {first}/{bits}"
            )));
        }
        if address.to_canonical() != address {
            return Err(PatternError(format!(
                "`{text}` is an IPv4 address in the form of IPv6: write it as IPv4"
            )));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Texts in files and messages stand for patterns.
macro_rules! as_text {
    ($($type:ty),*) => {
        $(
            impl TryFrom<String> for $type {
                type Error = $crate::policy::PatternError;

                fn try_from(text: String) -> Result<Self, Self::Error> {
                    text.parse()
                }
            }

            impl From<$type> for String {
                fn from(pattern: $type) -> Self {
                    pattern.to_string()
                }
            }
        )*
    };
}
pub(super) use as_text;

as_text!(IdentityPattern, Network);

#[cfg(test)]
mod tests {
    use super::*;

    const DNS: &str = "web.shop.serviceaccount.identity.mesh.cluster.local";
    const SPIFFE: &str = "spiffe://cluster.local/ns/shop/sa/web";

    #[test]
    fn identities_match_in_each_form() {
        for (pattern, dns, spiffe) in [
            ("*", true, true),
            ("web.shop", true, true),
            ("*.shop", true, true),
            ("web.other", false, false),
            ("shop.web", false, false),
            ("*.op", false, false),
            (
                "*.shop.serviceaccount.identity.mesh.cluster.local",
                true,
                false,
            ),
            (DNS, true, false),
            (SPIFFE, false, true),
        ] {
            let parsed: IdentityPattern = pattern.parse().expect(pattern);
            assert_eq!(parsed.to_string(), pattern);
            assert_eq!(parsed.matches(DNS), dns, "{pattern}");
            assert_eq!(parsed.matches(SPIFFE), spiffe, "{pattern}");
        }
        for junk in [
            "",
            "web",
            "*.",
            "a b.c",
            "spiffe://x",
            "we*.shop",
            ".shop",
            "shop.",
            "spiffe://d/ns/a/sa/b/c",
        ] {
            assert!(junk.parse::<IdentityPattern>().is_err(), "{junk}");
        }
    }

    #[test]
    fn networks_contain_addresses() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("fd00::/8", "fdff::1", true),
            ("::/0", "2001:db8::1", true),
            ("::1", "::2", false),
        ] {
            let parsed: Network = network.parse().expect(network);
            assert_eq!(
                parsed.contains(address.parse().unwrap()),
                inside,
                "{network} {address}"
            );
        }
        for junk in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.1/8",
            "x",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::ffff:1.2.3.4",
        ] {
            assert!(junk.parse::<Network>().is_err(), "{junk}");
        }
    }
}
