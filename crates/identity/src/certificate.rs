//! What a certificate says: the one identity in it, and whether it may be a leaf at all.
//!
//! Signatures, validity, usage and constraints are checked by `webpki`; here is what it
//! leaves to its users.

use std::sync::Arc;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use crate::name::{self, NameError, SpiffeId};

/// Most certificates in the chain of a peer, the leaf included: leaf, two issuers, anchor.
pub const CHAIN_MAX: usize = 4;

/// Fewest bits of an RSA key.
const RSA_BITS_MIN: usize = 2_048;

/// Why a certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bytes are no certificate, or have a part that cannot be read.
    #[error("the certificate cannot be read")]
    Malformed,
    /// The chain has more than [`CHAIN_MAX`] certificates.
    #[error("the chain has {0} certificates, at most {CHAIN_MAX} are taken")]
    LongChain(usize),
    /// It names nobody.
    #[error("the certificate has no identity: no URI and no DNS name")]
    NoIdentity,
    /// It names more than one.
    #[error("the certificate has more than one identity")]
    ManyIdentities,
    /// What it has is no name.
    #[error("the name in the certificate is none: {0}")]
    BadName(#[from] NameError),
    /// It is of another trust domain.
    #[error("the identity is of trust domain `{theirs}`, ours is `{ours}`")]
    TrustDomain {
        /// The peer's.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// A leaf that may sign certificates.
    #[error("the certificate may sign others, so it is not one of a workload")]
    Authority,
    /// An issuer in the chain that may not sign certificates.
    #[error("an issuer in the chain may not sign certificates")]
    Issuer,
    /// The key may not be used for signatures.
    #[error("the key of the certificate is not for signatures")]
    KeyUsage,
    /// An RSA key that is too short.
    #[error("the RSA key has {0} bits, at least {RSA_BITS_MIN} are needed")]
    ShortKey(usize),
    /// It is over.
    #[error("the certificate has expired; is a clock wrong, or the renewal stuck?")]
    Expired,
    /// It has not begun.
    #[error("the certificate is not valid yet; is a clock wrong?")]
    NotYetValid,
    /// Nobody we trust signed it.
    #[error("no trust anchor of ours issued the certificate")]
    UnknownIssuer,
    /// It is for another purpose.
    #[error("the certificate is not for this side of a connection")]
    Purpose,
    /// Its issuer may not sign such a name.
    #[error("the issuer may not certify this name")]
    NameConstraint,
    /// Anything else that is wrong with signature, algorithm or extensions.
    #[error("the certificate is not valid: {0}")]
    Invalid(String),
}

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The identity: a SPIFFE id, or a DNS name where there is none.
    pub identity: Arc<str>,
    /// The trust domain, if the identity tells it.
    pub trust_domain: Option<String>,
    /// All DNS names, in lowercase.
    pub dns_names: Vec<String>,
    /// Begin of the validity, seconds since the Unix epoch.
    pub not_before_s: i64,
    /// End of the validity, seconds since the Unix epoch.
    pub not_after_s: i64,
}

/// Reads a leaf and checks what it may be: one identity, no authority, a sound key.
///
/// # Errors
/// When it is not a certificate that a workload may have.
pub(crate) fn leaf(der: &[u8]) -> Result<Leaf, Refused> {
    let certificate = parse(der)?;
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| Refused::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Refused::Authority);
    }
    let usage = certificate.key_usage().map_err(|_| Refused::Malformed)?;
    if let Some(usage) = usage {
        if usage.value.key_cert_sign() || usage.value.crl_sign() {
            return Err(Refused::Authority);
        }
        if !usage.value.digital_signature() {
            return Err(Refused::KeyUsage);
        }
    }
    sound_key(&certificate)?;
    let (uris, dns_names) = names(&certificate)?;
    let (identity, trust_domain) = match (uris.as_slice(), dns_names.as_slice()) {
        ([], []) => return Err(Refused::NoIdentity),
        ([uri], dns_names) => {
            let id = SpiffeId::parse(uri)?;
            // Beside it only other spellings of the same may stand.
            let same = |dns: &String| names_the_same(dns, &id);
            if !dns_names.iter().all(same) {
                return Err(Refused::ManyIdentities);
            }
            (id.as_str().into(), Some(id.trust_domain().to_owned()))
        }
        ([], [dns]) => {
            let trust_domain = name::workload_of_dns(dns).map(|(_, _, domain)| domain.to_owned());
            (dns.as_str().into(), trust_domain)
        }
        _ => return Err(Refused::ManyIdentities),
    };
    Ok(Leaf {
        identity,
        trust_domain,
        dns_names,
        not_before_s: certificate.validity().not_before.timestamp(),
        not_after_s: certificate.validity().not_after.timestamp(),
    })
}

/// Says whether a DNS name beside a SPIFFE id claims nothing else: it is the name Linkerd
/// has for the same workload, or none that Linkerd would give a workload.
fn names_the_same(dns: &str, id: &SpiffeId) -> bool {
    match name::workload_of_dns(dns) {
        Some((namespace, account, domain)) => {
            id.workload() == Some((namespace, account)) && id.trust_domain() == domain
        }
        None => true,
    }
}

/// Checks a certificate of the chain that is not the leaf.
///
/// # Errors
/// When it cannot be read or may not sign certificates.
pub(crate) fn issuer(der: &[u8]) -> Result<(), Refused> {
    let certificate = parse(der)?;
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| Refused::Malformed)?;
    let usage = certificate.key_usage().map_err(|_| Refused::Malformed)?;
    let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !may_sign || !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Refused::Issuer);
    }
    sound_key(&certificate)
}

/// Returns the validity of a certificate, seconds since the Unix epoch.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn validity(der: &[u8]) -> Result<(i64, i64), Refused> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

/// Returns the names of a certificate of our own, whatever peers would say to it.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn own_names(der: &[u8]) -> Result<Vec<String>, Refused> {
    let certificate = parse(der)?;
    let mut out = Vec::new();
    for name in general_names(&certificate)? {
        match name {
            GeneralName::DNSName(dns) => out.extend(name::dns_name(dns)),
            GeneralName::URI(uri) => {
                out.extend(SpiffeId::parse(uri).ok().as_ref().and_then(name::alias));
            }
            _ => {}
        }
    }
    Ok(out)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refused> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refused::Malformed),
    }
}

fn general_names<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<Vec<&'a GeneralName<'a>>, Refused> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Refused::Malformed)?;
    Ok(names.map_or(vec![], |names| names.value.general_names.iter().collect()))
}

fn names(certificate: &X509Certificate<'_>) -> Result<(Vec<String>, Vec<String>), Refused> {
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    for name in general_names(certificate)? {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => dns_names.push(name::dns_name(dns)?),
            GeneralName::Invalid(..) => return Err(Refused::Malformed),
            // Addresses and the like name machines and people, not workloads.
            _ => {}
        }
    }
    Ok((uris, dns_names))
}

fn sound_key(certificate: &X509Certificate<'_>) -> Result<(), Refused> {
    let key = certificate
        .public_key()
        .parsed()
        .map_err(|_| Refused::Malformed)?;
    match key {
        PublicKey::RSA(key) if key.key_size() < RSA_BITS_MIN => {
            Err(Refused::ShortKey(key.key_size()))
        }
        _ => Ok(()),
    }
}

/// Says whether a certificate is for this public key.
pub(crate) fn has_key(der: &[u8], public_key: &[u8]) -> bool {
    let certificate = parse(der);
    certificate.is_ok_and(|certificate| {
        let key = &certificate.public_key().subject_public_key;
        key.data.as_ref() == public_key
    })
}
