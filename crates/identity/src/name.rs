//! Names of workloads: SPIFFE ids, and the DNS names that Linkerd uses for the same.
//!
//! Parsing is strict: a name has one spelling, and what could be read in two ways is none.

use std::fmt;

/// The label behind `identity` in DNS names: the namespace of the control plane.
pub const CONTROL_NAMESPACE: &str = "whodunit";

/// The trust domain of a mesh that has not been given one.
pub const LOCAL_TRUST_DOMAIN: &str = "local";

/// Longest SPIFFE id, bytes, as the standard has it.
const SPIFFE_BYTES_MAX: usize = 2_048;

/// Longest trust domain, bytes, as the standard has it.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It does not begin with `spiffe://` in lowercase.
    #[error("the scheme is not `spiffe`")]
    Scheme,
    /// The trust domain is empty, too long, or has other characters than `a-z0-9._-`.
    #[error("the trust domain is not made of a-z, 0-9, `.`, `_`, `-`")]
    TrustDomain,
    /// There is no path, or one with empty, `.` or `..` segments or other characters.
    #[error("the path is not made of plain segments of A-Z, a-z, 0-9, `.`, `_`, `-`")]
    Path,
    /// It is too long.
    #[error("the name is too long")]
    Long,
    /// It is not a host name: labels of `a-z0-9-`, without a wildcard.
    #[error("the DNS name is not a plain host name")]
    Dns,
}

/// A SPIFFE id of a workload: `spiffe://TRUST-DOMAIN/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins, with its slash.
    path_at: usize,
}

impl SpiffeId {
    /// Parses an id.
    ///
    /// # Errors
    /// When it is not exactly one, path included: no port, user, query, fragment or escape.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const SCHEME: &str = "spiffe://";
        if text.len() > SPIFFE_BYTES_MAX {
            return Err(NameError::Long);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(NameError::Scheme)?;
        let slash = rest.find('/').unwrap_or(rest.len());
        let (trust_domain, path) = rest.split_at(slash);
        if !is_trust_domain(trust_domain) {
            return Err(NameError::TrustDomain);
        }
        let mut segments = path.split('/').skip(1);
        let plain = |segment: &str| {
            let characters = segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            characters && !matches!(segment, "" | "." | "..")
        };
        if path.is_empty() || !segments.all(plain) {
            return Err(NameError::Path);
        }
        Ok(Self {
            path_at: SCHEME.len() + trust_domain.len(),
            text: text.to_owned(),
        })
    }

    /// Returns the whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text["spiffe://".len()..self.path_at]
    }

    /// Returns namespace and service account, if the path is `/ns/NAMESPACE/sa/ACCOUNT`.
    #[must_use]
    pub fn workload(&self) -> Option<(&str, &str)> {
        let mut segments = self.text[self.path_at..].split('/').skip(1);
        let mut next = || segments.next();
        match (next(), next(), next(), next(), next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Some((namespace, account))
            }
            _ => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Says whether a text can be a trust domain.
#[must_use]
pub fn is_trust_domain(text: &str) -> bool {
    (1..=TRUST_DOMAIN_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
}

/// Checks a host name and returns it in lowercase.
///
/// # Errors
/// When it is empty, too long, has a wildcard, or characters that host names have not.
pub fn dns_name(text: &str) -> Result<String, NameError> {
    let label = |label: &str| {
        let characters = label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let ends = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len()) && characters && !ends
    };
    let address = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if text.len() > 253 || address || !text.split('.').all(label) {
        return Err(NameError::Dns);
    }
    Ok(text.to_ascii_lowercase())
}

/// Both names of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshName {
    /// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub spiffe: SpiffeId,
    /// `ACCOUNT.NAMESPACE.serviceaccount.identity.CONTROL-NAMESPACE.TRUST-DOMAIN`; none where
    /// that is no host name.
    pub dns: Option<String>,
}

impl MeshName {
    /// Returns the names of a service account.
    ///
    /// # Errors
    /// When trust domain, namespace or account have characters that names cannot have.
    pub fn new(trust_domain: &str, namespace: &str, account: &str) -> Result<Self, NameError> {
        if namespace.contains('/') || account.contains('/') {
            return Err(NameError::Path);
        }
        let spiffe = SpiffeId::parse(&format!(
            "spiffe://{trust_domain}/ns/{namespace}/sa/{account}"
        ))?;
        Ok(Self {
            dns: alias(&spiffe),
            spiffe,
        })
    }
}

/// Returns the DNS name that Linkerd has for what a SPIFFE id names, if there is one.
#[must_use]
pub fn alias(id: &SpiffeId) -> Option<String> {
    let (namespace, account) = id.workload()?;
    // A dot would make another account of another namespace of it.
    if namespace.contains('.') || account.contains('.') {
        return None;
    }
    let name = format!(
        "{account}.{namespace}.serviceaccount.identity.{CONTROL_NAMESPACE}.{}",
        id.trust_domain()
    );
    dns_name(&name).ok().filter(|lower| *lower == name)
}

/// Returns namespace, account and trust domain of a DNS name as Linkerd makes them:
/// `ACCOUNT.NAMESPACE.serviceaccount.identity.CONTROL-NAMESPACE.TRUST-DOMAIN`.
#[must_use]
pub fn workload_of_dns(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.splitn(6, '.');
    let (account, namespace) = (parts.next()?, parts.next()?);
    let fixed = parts.next()? == "serviceaccount" && parts.next()? == "identity";
    parts.next()?;
    let trust_domain = parts.next()?;
    fixed.then_some((namespace, account, trust_domain))
}

/// Returns the server name that a client sends to reach a peer with this identity: the
/// identity itself if it is a DNS name, else its alias.
#[must_use]
pub fn server_name(identity: &str) -> Option<String> {
    match SpiffeId::parse(identity) {
        Ok(id) => alias(&id),
        Err(_) => dns_name(identity).ok(),
    }
}

/// Checks the text of an identity: a SPIFFE id or a host name, in its one spelling.
///
/// # Errors
/// When it is neither.
pub fn identity(text: &str) -> Result<String, NameError> {
    if text.contains(':') {
        SpiffeId::parse(text).map(|id| id.text)
    } else {
        dns_name(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_have_a_spiffe_id_and_the_name_that_linkerd_gives_them() {
        let name = MeshName::new("cluster.local", "emojivoto", "web").unwrap();
        assert_eq!(
            name.spiffe.as_str(),
            "spiffe://cluster.local/ns/emojivoto/sa/web"
        );
        assert_eq!(name.spiffe.trust_domain(), "cluster.local");
        assert_eq!(name.spiffe.workload(), Some(("emojivoto", "web")));
        let dns = "web.emojivoto.serviceaccount.identity.whodunit.cluster.local";
        assert_eq!(name.dns.as_deref(), Some(dns));
        assert_eq!(
            workload_of_dns(dns),
            Some(("emojivoto", "web", "cluster.local"))
        );
        assert_eq!(server_name(name.spiffe.as_str()).as_deref(), Some(dns));
        assert_eq!(server_name(dns).as_deref(), Some(dns));
        for odd in ["a.b", "a_b", "Web"] {
            assert_eq!(MeshName::new("t", "n", odd).unwrap().dns, None, "{odd}");
        }
        for wrong in ["", "..", "a/b", "a b", "a%20b", "ä"] {
            assert!(MeshName::new("t", "n", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        for good in [
            "spiffe://a/b",
            "spiffe://a.b-c_d/ns/X/sa/y",
            "spiffe://a/...",
        ] {
            assert_eq!(SpiffeId::parse(good).unwrap().as_str(), good);
        }
        use NameError::{Long, Path, Scheme, TrustDomain};
        for (text, why) in [
            ("", Scheme),
            ("SPIFFE://a/b", Scheme),
            ("https://a/b", Scheme),
            ("spiffe:/a/b", Scheme),
            ("spiffe:///b", TrustDomain),
            ("spiffe://A/b", TrustDomain),
            ("spiffe://a:1/b", TrustDomain),
            ("spiffe://u@a/b", TrustDomain),
            ("spiffe://a%41/b", TrustDomain),
            ("spiffe://a?q/b", TrustDomain),
            ("spiffe://a", Path),
            ("spiffe://a/", Path),
            ("spiffe://a/b/", Path),
            ("spiffe://a//b", Path),
            ("spiffe://a/./b", Path),
            ("spiffe://a/b/..", Path),
            ("spiffe://a/b?q=1", Path),
            ("spiffe://a/b#f", Path),
            ("spiffe://a/%62", Path),
            ("spiffe://a/b c", Path),
            ("spiffe://a/b\0", Path),
            ("spiffe://a/ü", Path),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(why), "{text:?}");
        }
        let long = format!("spiffe://a/{}", "b".repeat(2_048));
        assert_eq!(SpiffeId::parse(&long), Err(Long));
        let domain = format!("spiffe://{}/b", "a".repeat(256));
        assert_eq!(SpiffeId::parse(&domain), Err(TrustDomain));
    }

    #[test]
    fn host_names_are_plain() {
        assert_eq!(dns_name("Web.Example").as_deref(), Ok("web.example"));
        assert_eq!(dns_name("localhost").as_deref(), Ok("localhost"));
        let long = "a".repeat(64);
        for wrong in [
            "",
            ".",
            "a.",
            ".a",
            "*.example",
            "a..b",
            "a_b",
            "-a",
            "a-",
            "a b",
            "a\0b",
            "127.0.0.1",
            "ü.example",
            long.as_str(),
        ] {
            assert_eq!(dns_name(wrong), Err(NameError::Dns), "{wrong:?}");
        }
    }
}
