//! HTTP/1, HTTP/2 and gRPC: from the head of a request to the end of its response.

mod body;
mod forward;
mod head;
mod http1;
mod reply;
mod serve;
mod stream;
mod upgrade;

pub(crate) use body::{RequestBody, ResponseBody};
pub(crate) use head::Claim;
pub(crate) use http1::{Wire, serve_http1};
pub(crate) use reply::refuse_connection;
pub(crate) use serve::{Refusal, record_bad_head, serve};
pub(crate) use stream::{Incoming, StreamError};

/// Most bytes of the fields of an HTTP/2 message; more is refused.
pub(crate) const HEADER_BYTES_MAX: u32 = crate::limits::Limit::Http2FieldBytes.count_u32();
