//! Whom we trust, and whether a chain of certificates leads there.

use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::{self, CHAIN_MAX, Leaf, Refused};
use crate::credentials::CredentialsError;

/// How far the clock of an issuer may be ahead of ours.
pub const SKEW: Duration = Duration::from_secs(20);

/// Most anchors in a bundle: one, two during a rotation, and room.
const ANCHORS_MAX: usize = 64;

/// Which side of a connection a certificate was shown on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The peer is the client.
    Client,
    /// The peer is the server.
    Server,
}

/// The certificates that we trust to say who is who.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustAnchors {
    anchors: Vec<(CertificateDer<'static>, TrustAnchor<'static>, i64)>,
}

impl TrustAnchors {
    /// Reads a bundle of PEM certificates.
    ///
    /// # Errors
    /// When there is none in it, or one cannot be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CredentialsError> {
        let mut anchors = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let der = certificate.map_err(|error| CredentialsError::Pem(error.to_string()))?;
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|error| CredentialsError::Pem(error.to_string()))?
                .to_owned();
            let (_, not_after_s) = certificate::validity(&der)?;
            anchors.push((der, anchor, not_after_s));
        }
        match anchors.len() {
            0 => Err(CredentialsError::NoCertificate),
            1..=ANCHORS_MAX => Ok(Self { anchors }),
            count => Err(CredentialsError::ManyAnchors(count)),
        }
    }

    /// Returns how many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Says whether there is none, which cannot be.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Checks the chain a peer has shown, the leaf first, and returns what the leaf says.
    /// `trust_domain` is ours; a peer that tells another one is refused.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        side: Use,
        now: UnixTime,
        trust_domain: Option<&str>,
    ) -> Result<Leaf, Refused> {
        let (end, issuers) = chain.split_first().ok_or(Refused::Malformed)?;
        if chain.len() > CHAIN_MAX {
            return Err(Refused::LongChain(chain.len()));
        }
        let certificate = EndEntityCert::try_from(end).map_err(refused)?;
        let leaf = certificate::leaf(end)?;
        for der in issuers {
            certificate::issuer(der)?;
        }
        let at = |now| self.verify_at(&certificate, issuers, side, now);
        match at(now) {
            Err(webpki::Error::CertNotValidYet { .. }) => {
                at(UnixTime::since_unix_epoch(duration(now) + SKEW)).map_err(refused)?;
            }
            verified => verified.map_err(refused)?,
        }
        if let (Some(ours), Some(theirs)) = (trust_domain, &leaf.trust_domain)
            && ours != theirs
        {
            return Err(Refused::TrustDomain {
                theirs: theirs.clone(),
                ours: ours.to_owned(),
            });
        }
        Ok(leaf)
    }

    fn verify_at(
        &self,
        end: &EndEntityCert<'_>,
        issuers: &[CertificateDer<'_>],
        side: Use,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = self.anchors.iter().filter(|(_, _, end)| seconds <= *end);
        let anchors: Vec<TrustAnchor<'_>> = valid.map(|(_, anchor, _)| anchor.clone()).collect();
        let usage = match side {
            Use::Client => KeyUsage::client_auth(),
            Use::Server => KeyUsage::server_auth(),
        };
        end.verify_for_usage(
            aws_lc_rs::default_provider()
                .signature_verification_algorithms
                .all,
            &anchors,
            issuers,
            now,
            usage,
            None,
            None,
        )
        .map(|_| ())
    }
}

fn duration(time: UnixTime) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn refused(error: webpki::Error) -> Refused {
    match error {
        webpki::Error::CertExpired { .. } => Refused::Expired,
        webpki::Error::CertNotValidYet { .. } => Refused::NotYetValid,
        webpki::Error::UnknownIssuer => Refused::UnknownIssuer,
        webpki::Error::CaUsedAsEndEntity => Refused::Authority,
        webpki::Error::EndEntityUsedAsCa => Refused::Issuer,
        webpki::Error::NameConstraintViolation => Refused::NameConstraint,
        webpki::Error::RequiredEkuNotFoundContext(_) => Refused::Purpose,
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            Refused::Malformed
        }
        other => Refused::Invalid(other.to_string()),
    }
}
