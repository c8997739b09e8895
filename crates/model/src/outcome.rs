//! Success or failure, why, and where it began: the one classifier.
//!
//! Metrics, recorder, command line, dashboard and analysis all use these
//! functions, so two of them can never disagree about one minute of traffic.

use serde::{Deserialize, Serialize};

use crate::record::Protocol;

/// Declares a field-less enum with a stable number and a stable name per variant.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        $vis enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant = $number,)* }

        impl $name {
            /// Every value, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the stable name used on the wire, in files and on screen.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Returns the stable number used on the wire.
            #[must_use]
            pub const fn number(self) -> u8 {
                self as u8
            }

            /// Returns the value with this number, or none if this version does not know it.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// Returns the value with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Whether a request did what its caller wanted.
    pub enum Outcome {
        /// The request was answered, client errors (4xx) included.
        Success = 0 "success",
        /// The request failed: see [`classify`].
        Failure = 1 "failure",
        /// Not known yet: the row describes a request that is still open.
        Pending = 2 "pending",
    }
}

words! {
    /// Why a request failed. [`Cause::None`] for a success.
    pub enum Cause {
        /// Nothing failed.
        None = 0 "none",
        /// The application answered an HTTP status of 500 or above.
        AppHttp5xx = 1 "app_http_5xx",
        /// The application answered a gRPC status that counts as failure.
        AppGrpcStatus = 2 "app_grpc_status",
        /// A gRPC response ended without a status.
        NoGrpcStatus = 3 "no_grpc_status",
        /// The upstream refused the connection.
        ConnectRefused = 4 "connect_refused",
        /// The upstream did not accept the connection in time.
        ConnectTimeout = 5 "connect_timeout",
        /// The stream or connection was reset by the peer.
        Reset = 6 "reset",
        /// The upstream closed the connection before the response was complete.
        ClosedEarly = 7 "closed_early",
        /// The whole request took longer than its limit.
        RequestTimeout = 8 "request_timeout",
        /// The response head did not come in time.
        ResponseHeadersTimeout = 9 "response_headers_timeout",
        /// The response body did not end in time.
        ResponseStreamTimeout = 10 "response_stream_timeout",
        /// Nothing moved for longer than the idle limit.
        IdleTimeout = 11 "idle_timeout",
        /// The service has no instance to send the request to.
        NoEndpoints = 12 "no_endpoints",
        /// The proxy gave up at once because nothing was reachable before.
        FailFast = 13 "fail_fast",
        /// The proxy shed the request to protect itself or the service.
        LoadShed = 14 "load_shed",
        /// Every instance is taken out by its circuit breaker.
        CircuitOpen = 15 "circuit_open",
        /// Policy denied the request.
        PolicyDenied = 16 "policy_denied",
        /// A rate limit was exceeded.
        RateLimited = 17 "rate_limited",
        /// The TLS handshake failed.
        TlsFailed = 18 "tls_failed",
        /// The peer proved another identity than expected.
        IdentityMismatch = 19 "identity_mismatch",
        /// The request head was not valid.
        BadRequestHead = 20 "bad_request_head",
        /// The response head was not valid.
        BadResponseHead = 21 "bad_response_head",
        /// The request came back to a proxy that had sent it.
        Loop = 22 "loop",
        /// The caller went away before the response was complete.
        ClientCancelled = 23 "client_cancelled",
        /// The proxy was shutting down.
        Shutdown = 24 "shutdown",
        /// Something else failed.
        Unknown = 25 "unknown",
        /// The request needs HTTP/2, which the endpoint does not speak.
        NotHttp2 = 26 "not_http2",
    }
}

words! {
    /// Where a failure began, seen from the record's own side.
    pub enum Origin {
        /// Nothing failed, or it is not known.
        None = 0 "none",
        /// The caller's application.
        Client = 1 "client",
        /// The proxy beside the caller.
        ClientProxy = 2 "client_proxy",
        /// Between the two proxies.
        Network = 3 "network",
        /// The proxy beside the callee.
        ServerProxy = 4 "server_proxy",
        /// The callee's application.
        Server = 5 "server",
    }
}

impl Cause {
    /// Returns Linkerd's `error` label for this cause, or none where Linkerd has no label.
    ///
    /// The vocabulary is the one of Linkerd's `outbound_http_route_request_statuses_total`.
    #[must_use]
    pub const fn linkerd_error(self) -> Option<&'static str> {
        Some(match self {
            Self::None | Self::AppHttp5xx | Self::AppGrpcStatus | Self::NoGrpcStatus => {
                return None;
            }
            Self::ConnectRefused | Self::ConnectTimeout | Self::ClosedEarly => "IO",
            Self::Reset => "RESET",
            Self::RequestTimeout => "REQUEST_TIMEOUT",
            Self::ResponseHeadersTimeout => "RESPONSE_HEADERS_TIMEOUT",
            Self::ResponseStreamTimeout => "RESPONSE_STREAM_TIMEOUT",
            Self::IdleTimeout => "IDLE_TIMEOUT",
            Self::NoEndpoints | Self::FailFast | Self::CircuitOpen => "FAIL_FAST",
            Self::LoadShed => "LOAD_SHED",
            Self::ClientCancelled => "CANCEL",
            Self::Shutdown => "GO_AWAY",
            Self::PolicyDenied | Self::RateLimited => "REFUSED",
            Self::TlsFailed
            | Self::IdentityMismatch
            | Self::BadRequestHead
            | Self::BadResponseHead
            | Self::Loop
            | Self::NotHttp2
            | Self::Unknown => "UNKNOWN",
        })
    }

    /// Says whether the application itself answered, as opposed to a proxy or the network.
    #[must_use]
    pub const fn is_application(self) -> bool {
        matches!(
            self,
            Self::AppHttp5xx | Self::AppGrpcStatus | Self::NoGrpcStatus
        )
    }

    /// Explains the cause in a few words a tired person understands.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::None => "nothing failed",
            Self::AppHttp5xx => "the application answered a server error",
            Self::AppGrpcStatus => "the application answered a failing gRPC status",
            Self::NoGrpcStatus => "the gRPC response ended without a status",
            Self::ConnectRefused => "the connection was refused",
            Self::ConnectTimeout => "the connection was not accepted in time",
            Self::Reset => "the connection or stream was reset",
            Self::ClosedEarly => "the connection closed before the response was complete",
            Self::RequestTimeout => "the request took longer than its limit",
            Self::ResponseHeadersTimeout => "no response head came in time",
            Self::ResponseStreamTimeout => "the response did not end in time",
            Self::IdleTimeout => "nothing moved for too long",
            Self::NoEndpoints => "the service has no instance",
            Self::FailFast => "the proxy gave up at once: nothing was reachable before",
            Self::LoadShed => "the proxy shed load",
            Self::CircuitOpen => "every instance was taken out of use",
            Self::PolicyDenied => "policy denied the request",
            Self::RateLimited => "a rate limit was exceeded",
            Self::TlsFailed => "the TLS handshake failed",
            Self::IdentityMismatch => "the peer proved another identity",
            Self::BadRequestHead => "the request head was not valid",
            Self::BadResponseHead => "the response head was not valid",
            Self::Loop => "the request ran in a loop",
            Self::ClientCancelled => "the caller went away",
            Self::Shutdown => "the proxy was shutting down",
            Self::Unknown => "an unknown failure",
            Self::NotHttp2 => "gRPC needs HTTP/2, which the endpoint does not speak",
        }
    }
}

/// What a proxy knows about the end of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// HTTP status, 0 if no response head was sent.
    pub status: u16,
    /// gRPC status code from headers or trailers, if one was seen.
    pub grpc_status: Option<u8>,
    /// The failure a proxy or the transport reported, if any.
    pub fault: Option<Cause>,
}

/// The verdict on one request: what the rest of the product calls failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classified {
    /// Success or failure.
    pub outcome: Outcome,
    /// Why it failed.
    pub cause: Cause,
    /// The status was a 4xx: the caller asked for something it should not have.
    pub client_error: bool,
}

/// Decides whether a request failed, and why.
///
/// A failure is: anything a proxy or the transport reported (`fault`), an HTTP
/// status of 500 or above, a gRPC status of Unknown (2), DeadlineExceeded (4),
/// PermissionDenied (7), Internal (13), Unavailable (14) or DataLoss (15), or a
/// gRPC response that ended without a status. A 4xx is a success with
/// `client_error` set. A request that its own caller abandoned is a failure
/// with cause `client_cancelled`.
#[must_use]
pub fn classify(protocol: Protocol, ending: Ending) -> Classified {
    let client_error = (400..500).contains(&ending.status);
    let failure = |cause| Classified {
        outcome: Outcome::Failure,
        cause,
        client_error,
    };
    if let Some(fault) = ending.fault {
        return failure(fault);
    }
    if ending.status >= 500 {
        return failure(Cause::AppHttp5xx);
    }
    if protocol == Protocol::Grpc {
        match ending.grpc_status {
            Some(code) if grpc_status_is_failure(code) => return failure(Cause::AppGrpcStatus),
            Some(_) => {}
            None if client_error => {}
            None => return failure(Cause::NoGrpcStatus),
        }
    }
    Classified {
        outcome: Outcome::Success,
        cause: Cause::None,
        client_error,
    }
}

/// Says whether a gRPC status code counts as failure.
#[must_use]
pub const fn grpc_status_is_failure(code: u8) -> bool {
    matches!(code, 2 | 4 | 7 | 13 | 14 | 15)
}

/// The gRPC status codes by number, named as in the gRPC specification.
const GRPC_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Returns the name of a gRPC status code, `UNKNOWN_CODE` if the code is not one.
#[must_use]
pub fn grpc_status_name(code: u8) -> &'static str {
    GRPC_STATUS
        .get(usize::from(code))
        .copied()
        .unwrap_or("UNKNOWN_CODE")
}

/// Returns the code of a gRPC status given by number or by name in any case
/// (`14`, `Unavailable`, `UNAVAILABLE`, `deadline-exceeded`).
#[must_use]
pub fn grpc_status_code(text: &str) -> Option<u8> {
    if let Ok(code) = text.parse::<u8>() {
        return (usize::from(code) < GRPC_STATUS.len()).then_some(code);
    }
    let plain = |text: &str| -> String {
        text.chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let wanted = plain(text);
    let code = GRPC_STATUS.iter().position(|name| plain(name) == wanted)?;
    u8::try_from(code).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        protocol: Protocol,
        status: u16,
        grpc: Option<u8>,
        fault: Option<Cause>,
        expected: Cause,
    ) {
        let ending = Ending {
            status,
            grpc_status: grpc,
            fault,
        };
        let found = classify(protocol, ending);
        assert_eq!(found.cause, expected);
        assert_eq!(found.outcome == Outcome::Failure, expected != Cause::None);
    }

    #[test]
    fn failure_is_defined_once() {
        check(Protocol::Http1, 200, None, None, Cause::None);
        check(Protocol::Http1, 404, None, None, Cause::None);
        check(Protocol::Http1, 500, None, None, Cause::AppHttp5xx);
        check(
            Protocol::Http2,
            503,
            None,
            Some(Cause::NoEndpoints),
            Cause::NoEndpoints,
        );
        check(Protocol::Grpc, 200, Some(0), None, Cause::None);
        check(Protocol::Grpc, 200, Some(2), None, Cause::AppGrpcStatus);
        check(Protocol::Grpc, 200, Some(5), None, Cause::None);
        check(Protocol::Grpc, 200, None, None, Cause::NoGrpcStatus);
        check(Protocol::Grpc, 404, None, None, Cause::None);
        check(
            Protocol::Http1,
            0,
            None,
            Some(Cause::ClientCancelled),
            Cause::ClientCancelled,
        );
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for cause in Cause::ALL {
            assert_eq!(Cause::from_number(cause.number()), Some(*cause));
            assert_eq!(Cause::from_name(cause.name()), Some(*cause));
            assert_eq!(
                serde_json::to_string(cause).unwrap(),
                format!("\"{}\"", cause.name())
            );
        }
    }

    #[test]
    fn grpc_status_is_read_in_every_spelling() {
        for text in ["14", "UNAVAILABLE", "Unavailable", "unavailable"] {
            assert_eq!(grpc_status_code(text), Some(14));
        }
        assert_eq!(grpc_status_code("DeadlineExceeded"), Some(4));
        assert_eq!(grpc_status_code("99"), None);
    }
}
