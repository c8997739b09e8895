//! Handshakes with those we connect to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};
use whodunit_identity::rustls::pki_types::ServerName;
use whodunit_identity::{Tls, name};
use whodunit_model::Cause;

use super::{Current, Failed, HANDSHAKE};
use crate::net::Io;

/// How long a request waits for the first certificate of its own proxy. After that it fails:
/// what is meant for a peer with an identity never goes out in plain text.
const FIRST_CERTIFICATE: Duration = Duration::from_secs(1);

/// Whom a connection is meant for.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The identity its certificate must have.
    pub(crate) identity: Arc<str>,
    /// The name it is asked for.
    server_name: ServerName<'static>,
    current: Current,
}

impl Peer {
    /// Returns the peer with this identity. Without a name that TLS can ask for, none is sent.
    pub(crate) fn new(identity: Arc<str>, server_name: Option<&str>, current: Current) -> Self {
        let derived = name::server_name(&identity);
        let server_name = server_name.or(derived.as_deref());
        let server_name = server_name
            .and_then(|name| ServerName::try_from(name.to_owned()).ok())
            // Addresses are never sent.
            .unwrap_or(ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()));
        Self {
            identity,
            server_name,
            current,
        }
    }

    /// Says whether this is the peer with that identity.
    pub(crate) fn is(&self, identity: &str) -> bool {
        &*self.identity == identity
    }
}

/// Shakes hands with a peer on a new connection, and checks who it is.
///
/// # Errors
/// When there is no certificate, the handshake fails, or the peer is another one.
pub(crate) async fn connect(io: Io, peer: &Peer) -> Result<Io, Failed> {
    let mut current = peer.current.clone();
    let first = timeout(FIRST_CERTIFICATE, current.wait_for(Option::is_some));
    let tls = match first.await.as_ref().map(|first| first.as_deref()) {
        Ok(Ok(Some(tls))) => tls.clone(),
        _ => return Err(Failed::new(Cause::TlsFailed, "there is no certificate yet")),
    };
    let connector = TlsConnector::from(tls.client.clone());
    let mut seen = None;
    let secured = io.secure(async |raw| {
        let stream = connector.connect(peer.server_name.clone(), raw).await?;
        seen = Tls::peer(stream.get_ref().1.peer_certificates()).ok();
        Ok(TlsStream::Client(stream))
    });
    let io = match timeout(HANDSHAKE, secured).await {
        Ok(secured) => secured.map_err(|error| Failed::of(&error))?,
        Err(_) => return Err(Failed::late()),
    };
    let seen = seen.ok_or_else(|| Failed::new(Cause::TlsFailed, "no identity"))?;
    // A peer may be meant by either of its names.
    let dns_names = || seen.dns_names.iter().any(|dns| peer.is(dns));
    if peer.is(&seen.identity) || dns_names() {
        return Ok(io);
    }
    let why = format!("expected {}, it is {}", peer.identity, seen.identity);
    Err(Failed::new(Cause::IdentityMismatch, why))
}
