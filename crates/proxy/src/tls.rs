//! mTLS between proxies: which certificate is in use, and both sides of a handshake.
//!
//! Certificates come from [`source`] and are read anew for each connection, so that a
//! rotation changes new connections and leaves old ones alone. Whoever is on the other
//! side is known by its certificate only.

mod certify;
mod inbound;
mod outbound;
mod source;

pub(crate) use inbound::{Arrived, arrive, record_refused};
pub(crate) use outbound::{Peer, connect};
pub(crate) use source::{Source, load_files};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use whodunit_identity::{Refused, Tls, refusal_of, rustls};
use whodunit_model::Cause;
use whodunit_model::record::TlsState;

/// The certificate in use; none until there is one.
pub(crate) type Current = watch::Receiver<Option<Arc<Tls>>>;

/// How long a handshake may take, from the first byte of the connection. Ten seconds, and a
/// little less so that a peer that counts them sees the end in time.
pub(crate) const HANDSHAKE: Duration = Duration::from_millis(9_500);

/// How a connection is secured.
#[derive(Clone, Debug)]
pub(crate) struct Security {
    /// Whether it is.
    pub(crate) tls: TlsState,
    /// Who is on the other side, by certificate.
    pub(crate) identity: Option<Arc<str>>,
}

impl Security {
    /// Returns that of a connection in plain text.
    pub(crate) const fn plain() -> Self {
        Self {
            tls: TlsState::Disabled,
            identity: None,
        }
    }

    /// Returns that of a connection to or from a peer with a certificate.
    pub(crate) const fn mutual(identity: Arc<str>) -> Self {
        Self {
            tls: TlsState::Mutual,
            identity: Some(identity),
        }
    }
}

/// Why there is no secure connection.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The cause for the record.
    pub(crate) cause: Cause,
    /// More of it, for the log.
    pub(crate) why: String,
}

impl Failed {
    fn new(cause: Cause, why: impl ToString) -> Self {
        Self {
            cause,
            why: why.to_string(),
        }
    }

    fn late() -> Self {
        Self::new(Cause::TlsFailed, "the handshake took too long")
    }

    /// Reads the reason out of an error of a handshake.
    fn of(error: &io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner.and_then(refusal_of) {
            Some(refused @ Refused::TrustDomain { .. }) => {
                Self::new(Cause::IdentityMismatch, refused)
            }
            Some(refused) => Self::new(Cause::TlsFailed, refused),
            None => Self::new(Cause::TlsFailed, error),
        }
    }
}
