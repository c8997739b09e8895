//! TLS as proxies speak it with each other: version 1.3, certificates on both sides.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme, version,
};

use crate::certificate::{self, Leaf, Refused};
use crate::credentials::{Credentials, CredentialsError};
use crate::name;
use crate::trust::{TrustAnchors, Use};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The library refuses.
    #[error("set up TLS")]
    Library {
        /// Why.
        source: Error,
    },
}

impl From<Error> for TlsError {
    fn from(source: Error) -> Self {
        Self::Library { source }
    }
}

/// Both sides of TLS with one certificate: what new connections use until the next renewal.
#[derive(Clone, Debug)]
pub struct Tls {
    /// For connections that come in.
    pub server: Arc<ServerConfig>,
    /// For connections that go out. It proves who the peer is, not that it is the one that
    /// was meant: compare [`Tls::peer`] with the identity that was expected.
    pub client: Arc<ClientConfig>,
    /// When the leaf expires, seconds since the Unix epoch.
    pub not_after_s: i64,
    /// Our own identity; empty if peers will not accept the certificate.
    pub identity: Arc<str>,
    own_names: Vec<String>,
    trust_domain: Option<String>,
}

impl Tls {
    /// Sets both sides up.
    ///
    /// # Errors
    /// When certificate and key do not fit each other.
    pub fn new(credentials: &Credentials, anchors: Arc<TrustAnchors>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let leaf = credentials.leaf().ok();
        let verifier = Arc::new(Verifier {
            anchors,
            trust_domain: leaf.and_then(|leaf| leaf.trust_domain.clone()),
            provider: provider.clone(),
        });
        let key = Arc::new(SingleCertAndKey::from(credentials.certified()?));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(key.clone());
        // A resumed session would go on with the identity of an older handshake.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(key);
        client.resumption = Resumption::disabled();
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            not_after_s: credentials.not_after_s(),
            identity: leaf.map(|leaf| leaf.identity.clone()).unwrap_or_default(),
            own_names: credentials.own_names().to_vec(),
            trust_domain: leaf.and_then(|leaf| leaf.trust_domain.clone()),
        })
    }

    /// Says whether a client that asks for `server_name` means us: one of our names, none at
    /// all, or that of another workload of our trust domain.
    #[must_use]
    pub fn is_for_us(&self, server_name: Option<&str>) -> bool {
        let Some(name) = server_name else {
            return true;
        };
        let name = name.to_ascii_lowercase();
        // A workload of our own mesh that is another one is better told who is here than
        // handed to an application that cannot know.
        let meshed = || {
            let domain = name::workload_of_dns(&name).map(|(_, _, domain)| domain);
            domain.is_some() && domain == self.trust_domain.as_deref()
        };
        self.own_names.contains(&name) || meshed()
    }

    /// Reads the identity of a peer whose handshake has succeeded.
    ///
    /// # Errors
    /// When it has shown no certificate that a workload may have, which a handshake of ours
    /// does not let pass.
    pub fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Result<Leaf, Refused> {
        let end = certificates.and_then(<[_]>::first);
        certificate::leaf(end.ok_or(Refused::NoIdentity)?)
    }
}

/// Returns our own reason in an error of a handshake, if it is ours.
#[must_use]
pub fn refusal_of(error: &Error) -> Option<&Refused> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<Refused>()
        }
        _ => None,
    }
}

/// Checks the certificates of peers, whichever side they are on.
#[derive(Debug)]
struct Verifier {
    anchors: Arc<TrustAnchors>,
    trust_domain: Option<String>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn verify(
        &self,
        end: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        side: Use,
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut chain = Vec::with_capacity(1 + issuers.len());
        chain.push(end.clone());
        chain.extend_from_slice(issuers);
        let verified = self
            .anchors
            .verify(&chain, side, now, self.trust_domain.as_deref());
        verified.map(|_| ()).map_err(|refused| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
        })
    }

    fn verify_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// TLS 1.2 is not spoken, so nobody asks.
const NO_TLS12: Error = Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered);

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end, issuers, Use::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end, issuers, Use::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
