//! HTTP/1 as a hostile peer speaks it, on real sockets and in both directions.
//!
//! Tables of raw requests and responses, from RFC 9110 and 9112 and from the history of
//! request smuggling. A witness keeps the bytes that were forwarded; parsers of other people's
//! habits must all read the same messages there.

pub(crate) mod dice;
pub(crate) mod generated;
pub(crate) mod lax;
pub(crate) mod maker;
pub(crate) mod models;
mod requests;
mod responses;
pub(crate) mod witness;
