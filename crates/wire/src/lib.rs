//! What proxies and server say to each other.
//!
//! [`v1`] is our own small protocol: records and reports. Discovery speaks
//! Linkerd's API ([`linkerd`]); its types are turned into ours only in
//! [`destination`], [`outbound`] and [`policy`]. The generated code is committed; `cargo xtask codegen`
//! makes it anew.

pub mod destination;
pub mod outbound;
pub mod policy;

/// The recorder protocol, package `whodunit.v1`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    reason = "generated code"
)]
pub mod v1 {
    include!("generated/whodunit.v1.rs");
}

/// Returns a timestamp of whole seconds since the Unix epoch.
#[must_use]
pub const fn timestamp(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

pub use linkerd2_proxy_api as linkerd;
pub use tonic;
