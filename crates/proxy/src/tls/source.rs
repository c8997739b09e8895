//! Where certificates come from, and how they are replaced while connections go on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use whodunit_identity::{Credentials, Tls, TrustAnchors};

use super::certify;
use crate::config::{Identity, Proof};
use crate::stats::IdentityStats;

/// How often files are looked at. They are small, and a rotation is to be live at once.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// Largest file that is read, bytes: a full bundle of anchors takes less.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The bytes of the three files.
#[derive(PartialEq, Eq)]
struct Files {
    anchors: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Keeps the certificate in use up to date.
pub(crate) struct Source {
    pub(super) identity: Identity,
    sender: watch::Sender<Option<Arc<Tls>>>,
    pub(super) stats: Arc<IdentityStats>,
    /// The files that the certificate in use was made of.
    used: Option<Files>,
}

impl Source {
    /// Returns a source; with files their certificate is in use already.
    ///
    /// # Errors
    /// When files are named and cannot be used.
    pub(crate) fn start(identity: Identity, stats: Arc<IdentityStats>) -> Result<Self, String> {
        let used = read(&identity)?;
        let loaded = used.as_ref().map(build).transpose()?;
        let source = Self {
            identity,
            sender: watch::Sender::new(None),
            stats,
            used,
        };
        if let Some(tls) = loaded {
            source.put(tls);
        }
        Ok(source)
    }

    /// Returns what new connections look at.
    pub(crate) fn subscribe(&self) -> super::Current {
        self.sender.subscribe()
    }

    pub(super) fn put(&self, tls: Tls) {
        self.stats.renewed(tls.not_after_s);
        if tls.identity.is_empty() {
            tracing::warn!("peers will refuse the certificate: it has not exactly one identity");
        }
        tracing::info!(identity = %tls.identity, not_after_s = tls.not_after_s, "certificate");
        self.sender.send_replace(Some(Arc::new(tls)));
    }

    /// Keeps the certificate up to date for ever. `seed` spreads proxies over time.
    pub(crate) async fn follow(self, seed: u64) {
        match self.identity.proof.clone() {
            Proof::Files { .. } => self.follow_files().await,
            Proof::Server {
                server,
                token_file,
                state_file,
            } => certify::follow(self, server, &token_file, state_file, seed).await,
        }
    }

    async fn follow_files(mut self) {
        // Files may have changed since the start: what counts is what is in use.
        let mut last = Some(self.used.take());
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = read(&self.identity);
            if now.as_ref().ok() == last.as_ref() {
                continue;
            }
            let built = match &now {
                Ok(Some(files)) => build(files).map(Some),
                Ok(None) => Ok(None),
                Err(why) => Err(why.clone()),
            };
            match built {
                Ok(tls) => tls.into_iter().for_each(|tls| self.put(tls)),
                // Certificate and key are two files: half of a change is seen now and then.
                Err(why) => {
                    self.stats.not_renewed();
                    tracing::warn!(why, "cannot use new certificates, keeping those before");
                }
            }
            last = now.ok();
        }
    }
}

/// Reads certificate, key and anchors from the files that the configuration names; none
/// where a server is asked instead.
///
/// # Errors
/// When one cannot be read or used; the text names it.
pub(crate) fn load_files(identity: &Identity) -> Result<Option<Tls>, String> {
    read(identity)?.as_ref().map(build).transpose()
}

fn read(identity: &Identity) -> Result<Option<Files>, String> {
    let Proof::Files {
        certificate,
        private_key,
    } = &identity.proof
    else {
        return Ok(None);
    };
    Ok(Some(Files {
        anchors: read_file(&identity.trust_anchors)?,
        certificate: read_file(certificate)?,
        key: read_file(private_key)?,
    }))
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("read {}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!(
            "{} has {length} bytes, at most {FILE_BYTES_MAX} are read",
            path.display()
        ));
    }
    std::fs::read(path).map_err(failed)
}

fn build(files: &Files) -> Result<Tls, String> {
    let credentials = Credentials::from_pem(&files.certificate, &files.key)
        .map_err(|error| format!("certificate and private_key: {error}"))?;
    with_anchors(&credentials, &files.anchors)
}

pub(super) fn with_anchors(credentials: &Credentials, anchors: &[u8]) -> Result<Tls, String> {
    let anchors =
        TrustAnchors::from_pem(anchors).map_err(|error| format!("trust_anchors: {error}"))?;
    Tls::new(credentials, Arc::new(anchors)).map_err(|error| error.to_string())
}
