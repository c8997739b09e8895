//! What proves who we are: a leaf certificate with its issuers, and its private key.

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::certificate::{self, CHAIN_MAX, Leaf, Refused};

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The text is no PEM, or what is in it is none of what it should be.
    #[error("not in PEM form: {0}")]
    Pem(String),
    /// There is no certificate.
    #[error("there is no certificate: expected -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// There is no private key.
    #[error("there is no private key: expected -----BEGIN PRIVATE KEY-----")]
    NoKey,
    /// More anchors than anybody needs.
    #[error("there are {0} certificates, at most 64 are taken")]
    ManyAnchors(usize),
    /// The chain is longer than peers accept.
    #[error("the chain has {0} certificates, peers take at most {CHAIN_MAX}")]
    LongChain(usize),
    /// A certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] Refused),
    /// The key is none, or of another certificate.
    #[error("the private key does not fit the certificate: {0}")]
    Key(String),
}

/// A leaf certificate, the issuers to show with it, and the private key.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    leaf: Result<Leaf, Refused>,
    own_names: Vec<String>,
    not_after_s: i64,
}

impl Credentials {
    /// Reads a chain, the leaf first, and a private key, both in PEM form.
    ///
    /// # Errors
    /// When either cannot be read, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| CredentialsError::Pem(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CredentialsError::NoKey)?;
        Self::new(chain, key)
    }

    /// Puts a chain, the leaf first, and the private key together, both in DER form; the
    /// key in PKCS #8.
    ///
    /// # Errors
    /// When either cannot be read, or they do not belong together.
    pub fn from_der(chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Self, CredentialsError> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(key.into());
        Self::new(chain, key)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CredentialsError> {
        let end = chain.first().ok_or(CredentialsError::NoCertificate)?;
        if chain.len() > CHAIN_MAX {
            return Err(CredentialsError::LongChain(chain.len()));
        }
        let (_, not_after_s) = certificate::validity(end)?;
        let own_names = certificate::own_names(end)?;
        let leaf = certificate::leaf(end);
        let credentials = Self {
            leaf,
            own_names,
            not_after_s,
            chain,
            key,
        };
        credentials.certified()?;
        Ok(credentials)
    }

    /// Returns what the leaf says, or why peers will refuse it.
    ///
    /// # Errors
    /// When it is not a certificate that a workload may have.
    pub fn leaf(&self) -> Result<&Leaf, &Refused> {
        self.leaf.as_ref()
    }

    /// Returns the chain, the leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Returns chain and private key in PEM form.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let block = |label: &str, der: &[u8]| {
            let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
            pem::encode_config(&pem::Pem::new(label, der), config)
        };
        let key = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let mut out: String = self
            .chain
            .iter()
            .map(|der| block("CERTIFICATE", der))
            .collect();
        out.push_str(&block(key, self.key.secret_der()));
        out
    }

    /// Returns the names under which TLS clients may ask for us.
    #[must_use]
    pub fn own_names(&self) -> &[String] {
        &self.own_names
    }

    /// Returns when the leaf expires, seconds since the Unix epoch.
    #[must_use]
    pub const fn not_after_s(&self) -> i64 {
        self.not_after_s
    }

    /// Returns chain and key as TLS uses them.
    pub(crate) fn certified(&self) -> Result<CertifiedKey, CredentialsError> {
        let provider = aws_lc_rs::default_provider();
        let wrong = |error: rustls::Error| CredentialsError::Key(error.to_string());
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider).map_err(wrong)
    }
}

impl std::fmt::Debug for Credentials {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}
