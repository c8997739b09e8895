//! The file `proxy.toml`: what it may say, and clear errors for what it may not.
//!
//! `docs/proxy-toml.md` is its reference. Unknown keys are errors, as a
//! misspelled key would otherwise be silently without effect.

mod file;
mod policy;
mod route;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use whodunit_flight::Mode;
use whodunit_model::policy::Policy;
use whodunit_model::record::Side;
use whodunit_model::redact::Redaction;
use whodunit_model::topology::ServiceName;
use whodunit_model::{Party, RouteRule};

/// Everything a proxy is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The workload and instance the proxy stands beside.
    pub workload: Party,
    /// Where metrics, liveness and readiness are answered; loopback only.
    pub admin: Option<SocketAddr>,
    /// Where requests come in.
    pub listeners: Vec<Listener>,
    /// Whether the server is asked for the policy of inbound listeners. What it says holds
    /// instead of what this configuration says.
    pub policy_watch: bool,
    /// The discovery server.
    pub control: Option<SocketAddr>,
    /// Whether the server is asked for the routes of services. What it says holds instead of
    /// what this configuration says.
    pub routes_watch: bool,
    /// File that keeps what the server says, for a start while it is gone.
    pub snapshot: Option<PathBuf>,
    /// What becomes of records.
    pub record: Record,
    /// What records may contain in clear.
    pub redaction: Redaction,
    /// How long open requests may go on after the order to stop.
    pub shutdown_grace: Duration,
    /// Worker threads.
    pub workers: usize,
    /// Who the proxy is and whom it trusts; none speaks plain text only.
    pub identity: Option<Identity>,
}

/// Who the proxy is and whom it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM file with the certificates that are trusted to say who is who.
    pub trust_anchors: PathBuf,
    /// Where the proxy's own certificate comes from.
    pub proof: Proof,
}

/// Where the proxy's own certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// From files that somebody else replaces in time.
    Files {
        /// PEM file with the leaf and its issuers.
        certificate: PathBuf,
        /// PEM file with the private key.
        private_key: PathBuf,
    },
    /// From a server that certifies a fresh key in time, again and again.
    Server {
        /// The server's gRPC address.
        server: SocketAddr,
        /// File with the token that says to the server whom the proxy stands beside.
        token_file: PathBuf,
        /// File that keeps certificate and key over a restart of the proxy.
        state_file: Option<PathBuf>,
    },
}

/// What becomes of records.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whether they are made, dropped or sent.
    pub mode: Mode,
    /// Where they are sent.
    pub server: Option<SocketAddr>,
    /// Most bytes of batches that are not durable at the server yet.
    pub buffer_bytes: usize,
    /// Most records waiting to be encoded.
    pub queue_rows: usize,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Names it in errors and reports.
    pub name: String,
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The port by which clients know it, if that is another one.
    pub port: Option<u16>,
    /// Whether requests come to the application or from it.
    pub direction: Side,
    /// What is spoken.
    pub protocol: Declared,
    /// Where requests go.
    pub target: Target,
    /// What endpoints are spoken to in.
    pub forward_protocol: ForwardProtocol,
    /// The identity that the endpoint at a fixed address must prove, over mesh TLS.
    pub server_identity: Option<String>,
    /// Whether requests wait, and are refused, when the application becomes slow by their
    /// number; inbound listeners only.
    pub adaptive_limit: bool,
    /// What holds for which requests; the first rule that matches counts.
    pub routes: Vec<RouteRule>,
    /// Who may ask for what; inbound listeners only.
    pub policy: Policy,
}

/// What a listener is declared to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// Not declared: the first bytes of each connection decide.
    Detect,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, which is HTTP/2.
    Grpc,
    /// Any bytes.
    Opaque,
}

/// What endpoints are spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardProtocol {
    /// The version the client speaks, but HTTP/1.1 where an endpoint has no HTTP/2.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Where a listener's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To one address.
    Forward(SocketAddr),
    /// To an instance of a service, found by discovery.
    Service(ServiceName),
    /// To where the client wanted to connect before it was redirected here.
    OriginalDst,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When the file cannot be read or says something that makes no sense.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Checks what the files that the configuration names hold.
    ///
    /// # Errors
    /// When one cannot be read or used; the text names it.
    pub fn check_files(&self) -> Result<(), String> {
        let identity = self.identity.as_ref();
        identity.map_or(Ok(()), |identity| {
            crate::tls::load_files(identity).map(|_| ())
        })
    }

    /// Reads a configuration from `text`; `path` names it in errors.
    ///
    /// # Errors
    /// When the text says something that makes no sense, or the key file cannot be read.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        file::parse(text, path)
    }
}

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that makes no sense.
    #[error("{path}:{line}: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, what is wrong with it and how to fix it.
        what: String,
    },
}

#[cfg(test)]
mod tests;
