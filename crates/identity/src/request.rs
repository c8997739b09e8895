//! Asking for a certificate: a fresh key each time, and a request signed with it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

/// A new private key and the request to certify it.
pub struct Request {
    /// The private key, PKCS #8 in DER form. It never leaves the proxy.
    pub key: Vec<u8>,
    /// The certificate signing request, DER. It names nobody: who we are is what the
    /// server knows by other means.
    pub csr: Vec<u8>,
}

/// Draws an ECDSA P-256 key and makes a request.
///
/// # Errors
/// When the system has no random numbers.
pub fn fresh() -> Result<Request, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?;
    Ok(Request {
        key: key.serialize_der(),
        csr: csr.der().to_vec(),
    })
}

impl std::fmt::Debug for Request {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}
