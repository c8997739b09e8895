//! HTTP/1, HTTP/2 and gRPC: from the head of a request to the end of its response.

mod body;
mod forward;
mod head;
mod http1;
mod http2;
pub(crate) mod interim;
mod patience;
mod replay;
mod reply;
mod retry;
mod serve;
mod stream;
mod upgrade;

pub(crate) use body::{Outgoing, RequestBody, ResponseBody};
pub(crate) use head::Claim;
pub(crate) use http1::{Wire, serve_http1};
pub(crate) use http2::{ReceivedBody, Upload, serve_http2};
pub(crate) use reply::{refuse_connection, refuse_preface};
pub(crate) use serve::{Refusal, record_bad_head};
pub(crate) use stream::{Incoming, StreamError};

/// Most bytes of the fields of an HTTP/2 message, as RFC 9113 counts them; more is refused.
pub(crate) const HEADER_LIST_BYTES_MAX: u32 = crate::limits::Limit::Http2FieldBytes.count_u32();
