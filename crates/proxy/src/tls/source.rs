//! Where certificates come from, and how they are replaced while connections go on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use whodunit_identity::{Credentials, Tls, TrustAnchors};

use crate::config::{Identity, Proof};
use crate::stats::IdentityStats;

/// How often files are looked at. They are small, and a rotation is to be live at once.
const LOOK: Duration = Duration::from_millis(500);

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
    identity: Identity,
    sender: watch::Sender<Option<Arc<Tls>>>,
    stats: Arc<IdentityStats>,
}

impl Source {
    /// Returns a source, with the certificate of the files in use already.
    ///
    /// # Errors
    /// When files are named and cannot be used.
    pub(crate) fn start(identity: Identity, stats: Arc<IdentityStats>) -> Result<Self, String> {
        let Proof::Files { .. } = &identity.proof;
        let tls = load_files(&identity)?;
        let source = Self {
            identity,
            sender: watch::Sender::new(None),
            stats,
        };
        source.put(tls);
        Ok(source)
    }

    /// Returns what new connections look at.
    pub(crate) fn subscribe(&self) -> super::Current {
        self.sender.subscribe()
    }

    fn put(&self, tls: Tls) {
        self.stats.renewed(tls.not_after_s);
        if tls.identity.is_empty() {
            tracing::warn!("peers will refuse the certificate: it has not exactly one identity");
        }
        tracing::info!(identity = %tls.identity, not_after_s = tls.not_after_s, "certificate");
        self.sender.send_replace(Some(Arc::new(tls)));
    }

    /// Follows the files for ever.
    pub(crate) async fn follow(self) {
        let mut last = read(&self.identity).ok();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = read(&self.identity);
            if now.as_ref().ok() == last.as_ref() {
                continue;
            }
            match now.as_ref().map_err(Clone::clone).and_then(build) {
                Ok(tls) => self.put(tls),
                // Certificate and key are two files: half of a change is seen now and then.
                Err(why) => {
                    self.stats.failures.add();
                    tracing::warn!(why, "cannot use new certificates, keeping those before");
                }
            }
            last = now.ok();
        }
    }
}

/// Reads certificate, key and anchors from the files that the configuration names.
///
/// # Errors
/// When one cannot be read or used; the text names it.
pub(crate) fn load_files(identity: &Identity) -> Result<Tls, String> {
    build(&read(identity)?)
}

fn read(identity: &Identity) -> Result<Files, String> {
    let Proof::Files {
        certificate,
        private_key,
    } = &identity.proof;
    Ok(Files {
        anchors: read_file(&identity.trust_anchors)?,
        certificate: read_file(certificate)?,
        key: read_file(private_key)?,
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
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
    let anchors = TrustAnchors::from_pem(&files.anchors)
        .map_err(|error| format!("trust_anchors: {error}"))?;
    let credentials = Credentials::from_pem(&files.certificate, &files.key)
        .map_err(|error| format!("certificate and private_key: {error}"))?;
    Tls::new(&credentials, Arc::new(anchors)).map_err(|error| error.to_string())
}
