//! Who is who: names, certificates, trust, and TLS between proxies.
//!
//! Three levels: a trust anchor signs an issuer, the issuer signs leaf
//! certificates that live a day, and each leaf names exactly one workload. What
//! goes in are bytes of peers and files; what comes out are names that were
//! proven, or the reason why not. Nothing here knows a service, opens a socket
//! or starts a task; time comes in as an argument, but for TLS handshakes,
//! which read the clock of the system.
//!
//! TLS is version 1.3 only, with a hybrid of X25519 and ML-KEM first.

pub mod authority;
mod certificate;
mod credentials;
pub mod name;
pub mod renewal;
pub mod request;
mod tls;
pub mod token;
mod trust;

pub use authority::{Authority, AuthorityError, Certified, Lifetimes};
pub use certificate::{CHAIN_MAX, Leaf, Refused};
pub use credentials::{Credentials, CredentialsError};
pub use name::{CONTROL_NAMESPACE, MeshName, SpiffeId};
pub use rustls;
pub use tls::{Tls, TlsError, refusal_of};
pub use trust::{SKEW, TrustAnchors, Use};
