//! Answers that the proxy makes itself.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use whodunit_model::{Cause, Origin};

use super::ResponseBody;
use super::head::{CAUSE, ORIGIN, TWIN};
use crate::call::Fault;

/// What a proxy answers for a fault: HTTP status and gRPC status.
fn statuses(cause: Cause) -> (StatusCode, u8) {
    let unknown = (StatusCode::BAD_GATEWAY, 13);
    cause.answer().map_or(unknown, |answer| {
        let status = StatusCode::from_u16(answer.http);
        (status.unwrap_or(unknown.0), answer.grpc)
    })
}

/// Returns the gRPC status that a proxy answers for a fault.
pub(super) fn grpc_code(cause: Cause) -> u8 {
    statuses(cause).1
}

/// Returns the trailers that end a gRPC response which cannot go on.
pub(super) fn grpc_trailers(cause: Cause) -> http::HeaderMap {
    let mut trailers = http::HeaderMap::with_capacity(3);
    trailers.insert(
        "grpc-status",
        HeaderValue::from(u16::from(grpc_code(cause))),
    );
    let message = HeaderValue::from_static(cause.explanation());
    trailers.insert("grpc-message", message);
    trailers.insert(CAUSE, HeaderValue::from_static(cause.name()));
    trailers
}

/// An answer, and what of it goes into the record.
pub(crate) struct Reply {
    /// The answer.
    pub(crate) response: Response<ResponseBody>,
    /// Its HTTP status.
    pub(crate) status: u16,
    /// Its gRPC status.
    pub(crate) grpc_status: Option<u8>,
}

/// Makes the answer to a request that failed here. `to_twin` says that the client is a
/// proxy of ours, which is told more.
pub(crate) fn reply(fault: Fault, text: &str, grpc: bool, to_twin: bool) -> Reply {
    let (status, code) = statuses(fault.cause);
    let mut response = if grpc {
        let mut response = Response::new(ResponseBody::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
        // Texts are ours and plain; one that is not would only be left out.
        if let Ok(message) = HeaderValue::from_str(text) {
            headers.insert("grpc-message", message);
        }
        response
    } else {
        let body = Bytes::from(format!("{text}\n"));
        let mut response = Response::new(ResponseBody::Made(Some(body)));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        if fault.cause == Cause::BadRequestHead {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    };
    let headers = response.headers_mut();
    headers.insert(CAUSE, HeaderValue::from_static(fault.cause.name()));
    if to_twin {
        headers.insert(ORIGIN, HeaderValue::from_static(fault.origin.name()));
        headers.insert(TWIN, HeaderValue::from_static("1"));
    }
    Reply {
        status: response.status().as_u16(),
        grpc_status: grpc.then_some(code),
        response,
    }
}

/// Refuses a connection whose first bytes are not what its port is declared to carry.
pub(crate) async fn refuse_connection(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    let answer = bad_head(StatusCode::BAD_REQUEST, text, false);
    // Whoever sends junk may be gone before the answer; there is nobody else to tell.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Refuses a connection whose first bytes are neither of HTTP.
pub(crate) async fn refuse_preface(stream: &mut (impl AsyncWrite + Unpin)) {
    // SETTINGS, which come first, and GOAWAY with PROTOCOL_ERROR.
    const ANSWER: [u8; 26] = [
        0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    ];
    // As above.
    let _ = stream.write_all(&ANSWER).await;
    let _ = stream.shutdown().await;
}

/// Returns the whole answer to a head that is no request, without a body to `HEAD`.
pub(super) fn bad_head(status: StatusCode, text: &str, head_only: bool) -> String {
    let cause = Cause::BadRequestHead.name();
    let reason = status.canonical_reason().unwrap_or_default();
    let body = if head_only {
        String::new()
    } else {
        format!("{text}\n")
    };
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\nwhodunit-cause: {cause}\r\n\r\n{body}",
        status.as_u16(),
        text.len() + 1
    )
}

/// Reads the fault that a proxy of ours answered with.
pub(crate) fn relayed_fault(headers: &http::HeaderMap) -> Option<Fault> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let cause = Cause::from_name(text(CAUSE)?)?;
    let origin = text(ORIGIN)
        .and_then(Origin::from_name)
        .unwrap_or(Origin::ServerProxy);
    (cause != Cause::None).then_some(Fault { cause, origin })
}
