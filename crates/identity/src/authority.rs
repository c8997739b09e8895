//! The authority of a mesh: the files of trust anchor and issuer, and the leaves they sign.
//!
//! Everything is in one directory that only its owner may read:
//!
//! - `anchors.pem`: the bundle that proxies trust; two certificates during a rotation.
//! - `anchor.pem`, `anchor.key`: the anchor that signs issuers. The key may be kept elsewhere.
//! - `issuer.pem`, `issuer.key`: the issuer that signs leaves.
//! - `token.key`: what launcher and server know proxies by, see [`crate::token`].
//!
//! Files are replaced whole. Who holds an [`Authority`] calls [`Authority::refresh`] now and
//! then, and goes on with what it finds.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;

use crate::certificate;
use crate::name::{MeshName, NameError};
use crate::token::{TokenKey, from_hex};
use crate::trust::SKEW;

/// Longest certificate signing request that is looked at, bytes.
const CSR_BYTES_MAX: usize = 16 << 10;

/// How long certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of the trust anchor.
    pub anchor: Duration,
    /// Of the issuer. It is replaced when a third is left.
    pub issuer: Duration,
    /// Of the leaf of a workload.
    pub leaf: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            anchor: 3_650 * DAY,
            issuer: 365 * DAY,
            leaf: DAY,
        }
    }
}

/// Why the authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} cannot be used: {why}; remove the directory to begin anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The issuer's own certificate is over, and there is no anchor to renew it with.
    #[error("the issuer's certificate has expired: replace issuer.pem and issuer.key")]
    IssuerExpired,
    /// The request for a certificate makes no sense, or its sender has not the key.
    #[error("the certificate signing request is not valid: {0}")]
    Request(String),
    /// The workload has a name that no certificate can have.
    #[error("the workload's name cannot be certified")]
    Name(#[from] NameError),
    /// A certificate could not be made.
    #[error("make a certificate: {0}")]
    Make(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Make(error.to_string())
    }
}

/// A leaf that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The leaf, DER.
    pub leaf: Vec<u8>,
    /// The issuers to show with it, DER.
    pub intermediates: Vec<Vec<u8>>,
    /// When it expires, seconds since the Unix epoch.
    pub not_after_s: i64,
}

/// Signs leaves.
pub struct Authority {
    dir: PathBuf,
    trust_domain: String,
    lifetimes: Lifetimes,
    token: [u8; 32],
    /// The text of `issuer.pem` and `issuer.key` as last read.
    files: (Vec<u8>, Vec<u8>),
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after_s: i64,
}

impl Authority {
    /// Opens the authority in `dir`, and makes it first where there is none. `now_s` are
    /// seconds since the Unix epoch.
    ///
    /// # Errors
    /// When files cannot be read or written, or are damaged.
    pub fn open(
        dir: &Path,
        trust_domain: &str,
        lifetimes: Lifetimes,
        now_s: i64,
    ) -> Result<Self, AuthorityError> {
        if !dir.join("issuer.pem").exists() {
            create(dir, trust_domain, lifetimes, now_s)?;
        }
        let files = read_issuer(dir)?;
        let (issuer, certificate, not_after_s) = parse_issuer(dir, &files)?;
        let token = dir.join("token.key");
        let digits = read(&token)?;
        let digits = String::from_utf8_lossy(&digits);
        let token = from_hex(digits.trim()).ok_or_else(|| AuthorityError::Damaged {
            path: token,
            why: "expected 64 hexadecimal digits".to_owned(),
        })?;
        let mut authority = Self {
            dir: dir.to_owned(),
            trust_domain: trust_domain.to_owned(),
            lifetimes,
            token,
            files,
            issuer,
            certificate,
            not_after_s,
        };
        authority.refresh(now_s)?;
        Ok(authority)
    }

    /// Returns the key that launcher and server share.
    #[must_use]
    pub fn token_key(&self) -> TokenKey {
        TokenKey::new(&self.token)
    }

    /// Returns the trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Returns the file with the bundle of trust anchors.
    #[must_use]
    pub fn anchors_file(&self) -> PathBuf {
        self.dir.join("anchors.pem")
    }

    /// Returns when the issuer's certificate expires, seconds since the Unix epoch.
    #[must_use]
    pub const fn issuer_not_after_s(&self) -> i64 {
        self.not_after_s
    }

    /// Takes up a new issuer that was put into the directory, and makes one when a third of
    /// the life is left and the anchor's key is there. Says whether the issuer is another.
    ///
    /// # Errors
    /// When the files cannot be used; what was there before stays in use.
    pub fn refresh(&mut self, now_s: i64) -> Result<bool, AuthorityError> {
        let due = seconds(self.lifetimes.issuer / 3);
        if self.not_after_s - now_s < due && self.dir.join("anchor.key").exists() {
            renew_issuer(&self.dir, self.lifetimes, now_s)?;
        }
        let files = read_issuer(&self.dir)?;
        if files == self.files {
            return Ok(false);
        }
        let (issuer, certificate, not_after_s) = parse_issuer(&self.dir, &files)?;
        self.files = files;
        self.issuer = issuer;
        self.certificate = certificate;
        self.not_after_s = not_after_s;
        Ok(true)
    }

    /// Signs a leaf for a workload. What the request says about names is not looked at.
    ///
    /// # Errors
    /// When the request is not signed with its own key, or the issuer has expired.
    pub fn certify(
        &self,
        csr: &[u8],
        namespace: &str,
        account: &str,
        now_s: i64,
    ) -> Result<Certified, AuthorityError> {
        if self.not_after_s <= now_s {
            return Err(AuthorityError::IssuerExpired);
        }
        if csr.len() > CSR_BYTES_MAX {
            return Err(AuthorityError::Request("it is too long".to_owned()));
        }
        let request = CertificateSigningRequestParams::from_der(&csr.into())
            .map_err(|error| AuthorityError::Request(error.to_string()))?;
        let algorithm = request.public_key.algorithm();
        let known: [&SignatureAlgorithm; 3] = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ];
        if !known.contains(&algorithm) {
            let why = "use a key of ECDSA P-256, P-384 or Ed25519".to_owned();
            return Err(AuthorityError::Request(why));
        }
        let name = MeshName::new(&self.trust_domain, namespace, account)?;
        let not_after_s = (now_s + seconds(self.lifetimes.leaf)).min(self.not_after_s);
        let mut params = params(account, now_s - seconds(SKEW), not_after_s)?;
        params.subject_alt_names = vec![SanType::URI(ia5(name.spiffe.as_str())?)];
        if let Some(dns) = &name.dns {
            params.subject_alt_names.push(SanType::DnsName(ia5(dns)?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(Certified {
            leaf: leaf.der().to_vec(),
            intermediates: vec![self.certificate.to_vec()],
            not_after_s,
        })
    }
}

impl std::fmt::Debug for Authority {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("dir", &self.dir)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// First step of replacing the anchor: a new one joins the bundle that proxies trust. The
/// issuer stays, so that proxies that have not heard yet go on.
///
/// # Errors
/// When files cannot be read or written.
pub fn add_anchor(
    dir: &Path,
    trust_domain: &str,
    lifetimes: Lifetimes,
    now_s: i64,
) -> Result<(), AuthorityError> {
    let (certificate, key) = make_anchor(trust_domain, lifetimes, now_s)?;
    let mut bundle = read(&dir.join("anchors.pem"))?;
    bundle.extend_from_slice(certificate.as_bytes());
    write(dir, "anchors.pem", &bundle)?;
    write(dir, "anchor.key", key.as_bytes())?;
    write(dir, "anchor.pem", certificate.as_bytes())
}

/// Second step: an issuer signed by the newest anchor. Leaves are renewed on their own.
///
/// # Errors
/// When files cannot be read or written.
pub fn renew_issuer(dir: &Path, lifetimes: Lifetimes, now_s: i64) -> Result<(), AuthorityError> {
    let (anchor, key) = (dir.join("anchor.pem"), dir.join("anchor.key"));
    let damaged = |path: &Path, why: String| AuthorityError::Damaged {
        path: path.to_owned(),
        why,
    };
    let text = String::from_utf8_lossy(&read(&key)?).into_owned();
    let signing = KeyPair::from_pem(&text).map_err(|error| damaged(&key, error.to_string()))?;
    let text = String::from_utf8_lossy(&read(&anchor)?).into_owned();
    let issuer = Issuer::from_ca_cert_pem(&text, signing)
        .map_err(|error| damaged(&anchor, error.to_string()))?;
    let (certificate, key) = make_issuer(&issuer, lifetimes, now_s)?;
    write(dir, "issuer.key", key.as_bytes())?;
    write(dir, "issuer.pem", certificate.as_bytes())
}

/// Last step: only the newest anchor is trusted. Leaves of older issuers are refused from
/// then on.
///
/// # Errors
/// When files cannot be read or written.
pub fn drop_old_anchors(dir: &Path) -> Result<(), AuthorityError> {
    let newest = read(&dir.join("anchor.pem"))?;
    write(dir, "anchors.pem", &newest)
}

fn create(
    dir: &Path,
    trust_domain: &str,
    lifetimes: Lifetimes,
    now_s: i64,
) -> Result<(), AuthorityError> {
    // Made aside and moved, so that nobody sees half of it and of two makers one wins.
    let mut aside = dir.as_os_str().to_owned();
    aside.push(format!(".new-{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let failed = |what, path: &Path, source| AuthorityError::File {
        what,
        path: path.to_owned(),
        source,
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(&aside)
        .map_err(|source| failed("create", &aside, source))?;
    let (anchor, anchor_key) = make_anchor(trust_domain, lifetimes, now_s)?;
    write(&aside, "anchors.pem", anchor.as_bytes())?;
    write(&aside, "anchor.pem", anchor.as_bytes())?;
    write(&aside, "anchor.key", anchor_key.as_bytes())?;
    renew_issuer(&aside, lifetimes, now_s)?;
    let mut token = [0; 32];
    rand::fill(&mut token).map_err(|_| AuthorityError::Make("no random numbers".to_owned()))?;
    let digits: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    write(&aside, "token.key", digits.as_bytes())?;
    if let Err(source) = fs::rename(&aside, dir) {
        // What is left is only in the way.
        let _ = fs::remove_dir_all(&aside);
        if !dir.join("issuer.pem").exists() {
            return Err(failed("create", dir, source));
        }
    }
    Ok(())
}

fn make_anchor(
    trust_domain: &str,
    lifetimes: Lifetimes,
    now_s: i64,
) -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate()?;
    let name = format!("whodunit anchor of {trust_domain} {now_s}");
    let mut params = authority_params(&name, lifetimes.anchor, now_s)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn make_issuer(
    anchor: &Issuer<'_, KeyPair>,
    lifetimes: Lifetimes,
    now_s: i64,
) -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = authority_params("whodunit issuer", lifetimes.issuer, now_s)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, anchor)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn authority_params(
    name: &str,
    lifetime: Duration,
    now_s: i64,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(name, now_s - seconds(SKEW), now_s + seconds(lifetime))?;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(name: &str, begin_s: i64, end_s: i64) -> Result<CertificateParams, AuthorityError> {
    let time = |seconds| {
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|error| AuthorityError::Make(error.to_string()))
    };
    let mut params = CertificateParams::default();
    params.not_before = time(begin_s)?;
    params.not_after = time(end_s)?;
    params.distinguished_name = DistinguishedName::new();
    // The standard allows 64 characters.
    let name: String = name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn ia5(text: &str) -> Result<Ia5String, AuthorityError> {
    Ia5String::try_from(text).map_err(|error| AuthorityError::Make(error.to_string()))
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

type Parsed = (Issuer<'static, KeyPair>, CertificateDer<'static>, i64);

fn parse_issuer(dir: &Path, files: &(Vec<u8>, Vec<u8>)) -> Result<Parsed, AuthorityError> {
    let damaged = |file: &str, why: String| AuthorityError::Damaged {
        path: dir.join(file),
        why,
    };
    let certificate = CertificateDer::from_pem_slice(&files.0)
        .map_err(|error| damaged("issuer.pem", error.to_string()))?;
    let text = String::from_utf8_lossy(&files.1);
    let key = KeyPair::from_pem(&text).map_err(|error| damaged("issuer.key", error.to_string()))?;
    let (_, not_after_s) = certificate::validity(&certificate)
        .map_err(|error| damaged("issuer.pem", error.to_string()))?;
    certificate::issuer(&certificate).map_err(|error| damaged("issuer.pem", error.to_string()))?;
    if !certificate::has_key(&certificate, key.public_key_raw()) {
        let why = "it is of another key than issuer.key".to_owned();
        return Err(damaged("issuer.pem", why));
    }
    let issuer = Issuer::from_ca_cert_der(&certificate, key)
        .map_err(|error| damaged("issuer.pem", error.to_string()))?;
    Ok((issuer, certificate, not_after_s))
}

fn read_issuer(dir: &Path) -> Result<(Vec<u8>, Vec<u8>), AuthorityError> {
    Ok((
        read(&dir.join("issuer.pem"))?,
        read(&dir.join("issuer.key"))?,
    ))
}

fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    fs::read(path).map_err(|source| AuthorityError::File {
        what: "read",
        path: path.to_owned(),
        source,
    })
}

/// Replaces a file that only its owner may read.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), AuthorityError> {
    write_private(&dir.join(name), bytes).map_err(|source| AuthorityError::File {
        what: "write",
        path: dir.join(name),
        source,
    })
}

/// Replaces a file as a whole; only its owner may read it.
///
/// # Errors
/// When the file cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".new-{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)
}
