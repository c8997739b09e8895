//! HTTP/1.0 and 1.1, the message boundary: ours, so that it is strict.
//!
//! Nothing here does I/O. [`head`] turns bytes into a checked head and says how
//! the body is framed, with what [`scan`], [`fields`] and [`host`] read of it;
//! [`body`] finds the end of a body, [`emit`] writes heads and chunks anew. Two parsers that disagree on where a message ends are how
//! requests are smuggled, so this one accepts only what every parser reads the
//! same way (RFC 9112), drops the framing fields it received, and writes its own.

mod body;
pub(crate) mod emit;
mod fields;
mod head;
mod host;
mod scan;

#[cfg(test)]
mod tests;

pub(crate) use body::{BodyDecoder, BodyError, Decoded};
pub(crate) use emit::Unwritable;
pub(crate) use fields::{Fields, declared_length, is_plain_name};
pub(crate) use head::{
    Framing, HeadError, Limits, RequestHead, ResponseHead, parse_request, parse_response,
};
pub(crate) use host::is_host;
