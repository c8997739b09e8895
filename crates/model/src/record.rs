//! What one request leaves on one side.

use std::sync::Arc;

use crate::id::RequestId;
use crate::outcome::{Cause, Origin, Outcome, words};

words! {
    /// What a row describes.
    pub enum Kind {
        /// A finished request: the only kind that counts as one.
        Request = 0 "request",
        /// One try of a retried request.
        Attempt = 1 "attempt",
        /// A finished opaque connection.
        Connection = 2 "connection",
        /// A request, stream or connection that is still open at `at`.
        Open = 3 "open",
    }
}

words! {
    /// On which side of the call the record was made.
    pub enum Side {
        /// Beside the callee.
        Inbound = 0 "inbound",
        /// Beside the caller.
        Outbound = 1 "outbound",
    }
}

words! {
    /// Whether the other side of the call was one of our proxies too.
    pub enum Twin {
        /// Not known, for example because no response came.
        Unknown = 0 "unknown",
        /// Yes: the call has two records with the same id.
        Yes = 1 "yes",
        /// No: this record is the only one.
        No = 2 "no",
    }
}

words! {
    /// What was spoken.
    pub enum Protocol {
        /// HTTP/1.0 or HTTP/1.1.
        Http1 = 0 "http1",
        /// HTTP/2 that is not gRPC.
        Http2 = 1 "http2",
        /// gRPC over HTTP/2.
        Grpc = 2 "grpc",
        /// Anything else over TCP.
        Tcp = 3 "tcp",
    }
}

words! {
    /// How the protocol was known.
    pub enum Detected {
        /// The configuration says so.
        Declared = 0 "declared",
        /// The first bytes said so.
        Bytes = 1 "bytes",
        /// An earlier connection to the same destination said so.
        Remembered = 2 "remembered",
        /// It was not recognized: treated as opaque.
        FallBack = 3 "fall_back",
    }
}

words! {
    /// Whether the connection that carried the request was encrypted by the mesh.
    pub enum TlsState {
        /// Plain text.
        Disabled = 0 "disabled",
        /// Mutual TLS between two proxies.
        Mutual = 1 "mutual",
        /// TLS of the application's own, passed through.
        Opaque = 2 "opaque",
    }
}

/// One end of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Party {
    /// Namespace of the workload, empty if not known.
    pub namespace: Arc<str>,
    /// Name of the workload (deployment, process group …), empty if not known.
    pub workload: Arc<str>,
    /// Name of the instance (pod, process), empty if not known.
    pub instance: Arc<str>,
    /// Version of the application, empty if not known.
    pub version: Arc<str>,
}

/// Trace identifiers that the application passed along (`traceparent` or b3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// 128-bit trace id; 0 if absent.
    pub trace_id: u128,
    /// Span id of the caller as sent in the header; 0 if absent.
    pub parent_id: u64,
}

/// Everything one side recorded about one request.
///
/// Times are microseconds: `*_at_us` since the Unix epoch, durations otherwise.
/// Byte counts are of bodies, without framing. Empty strings mean "not known".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// What the row describes.
    pub kind: Kind,
    /// The same on both sides of a call, and on open rows and the final one.
    pub id: RequestId,
    /// Which side recorded it.
    pub side: Side,
    /// When this side read the request head, µs since the Unix epoch.
    pub start_at_us: i64,
    /// When the request ended or was observed, µs since the Unix epoch. Rows are filed by it.
    pub at_us: i64,
    /// From the head to the first response body byte, or to the end if there was none, µs.
    pub latency_us: i64,
    /// From the head to the end (or to the observation of an open row), µs.
    pub duration_us: i64,
    /// The caller.
    pub src: Party,
    /// The callee.
    pub dst: Party,
    /// The name the caller used: service name, empty if the callee was not addressed by one.
    pub service: Arc<str>,
    /// The `Host` or `:authority` of the request.
    pub authority: Arc<str>,
    /// Whether the other side was ours too.
    pub twin: Twin,
    /// What was spoken.
    pub protocol: Protocol,
    /// How the protocol was known.
    pub detected: Detected,
    /// Encryption of the connection between the proxies.
    pub tls: TlsState,
    /// Identity from the peer's certificate, empty without one.
    pub peer_identity: Arc<str>,
    /// HTTP method.
    pub method: Arc<str>,
    /// Route: method and path template, or gRPC `Service/Method`. See [`crate::route`].
    pub route: Arc<str>,
    /// Path with query after redaction, at most 512 bytes.
    pub path: Arc<str>,
    /// HTTP status, 0 if no response head was sent.
    pub status: u16,
    /// gRPC status, if there was one.
    pub grpc_status: Option<u8>,
    /// Success, failure or pending.
    pub outcome: Outcome,
    /// Why it failed.
    pub cause: Cause,
    /// Where the failure began.
    pub origin: Origin,
    /// The status was a 4xx.
    pub client_error: bool,
    /// How many tries were made, 1 without retries, 0 if none was made.
    pub attempts: u16,
    /// Bytes of the request body.
    pub request_bytes: u64,
    /// Bytes of the response body.
    pub response_bytes: u64,
    /// Messages (gRPC) or body frames of the request.
    pub request_messages: u32,
    /// Messages (gRPC) or body frames of the response.
    pub response_messages: u32,
    /// Address that was chosen, `ip:port`.
    pub endpoint: Arc<str>,
    /// Time the request waited for an endpoint or connection, µs.
    pub queue_us: i64,
    /// The connection to the endpoint was reused.
    pub reused: bool,
    /// Trace identifiers the application passed along.
    pub trace: TraceContext,
    /// `x-request-id` of the application, after redaction.
    pub correlation: Arc<str>,
    /// Captured attributes, allow-listed: see [`crate::redact::Attributes`] for the text form.
    pub attributes: Arc<str>,
    /// What the proxy decided on the way, besides what other fields say, in the same text form:
    /// `rule`, `split`, `rejected`, `policy` … Empty where nothing was decided.
    pub trail: Arc<str>,
    /// The request was a health probe: left out of golden signals and of the verdict.
    pub probe: bool,
    /// Some fields were stripped because memory for requests in flight was full.
    pub stripped: bool,
}

impl RequestRecord {
    /// Returns an empty record of a request that began at `start_at_us`.
    #[must_use]
    pub fn new(id: RequestId, side: Side, start_at_us: i64) -> Self {
        let none: Arc<str> = Arc::default();
        Self {
            kind: Kind::Request,
            id,
            side,
            start_at_us,
            at_us: start_at_us,
            latency_us: 0,
            duration_us: 0,
            src: Party::default(),
            dst: Party::default(),
            service: none.clone(),
            authority: none.clone(),
            twin: Twin::Unknown,
            protocol: Protocol::Http1,
            detected: Detected::Declared,
            tls: TlsState::Disabled,
            peer_identity: none.clone(),
            method: none.clone(),
            route: none.clone(),
            path: none.clone(),
            status: 0,
            grpc_status: None,
            outcome: Outcome::Pending,
            cause: Cause::None,
            origin: Origin::None,
            client_error: false,
            attempts: 1,
            request_bytes: 0,
            response_bytes: 0,
            request_messages: 0,
            response_messages: 0,
            endpoint: none.clone(),
            queue_us: 0,
            reused: false,
            trace: TraceContext::default(),
            correlation: none.clone(),
            attributes: none.clone(),
            trail: none,
            probe: false,
            stripped: false,
        }
    }
}
