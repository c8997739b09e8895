//! HTTP/1.0 and 1.1, the message boundary: ours, so that it is strict.
//!
//! Nothing here does I/O. [`head`] turns bytes into a checked head and says how
//! the body is framed, [`body`] finds the end of a body, [`emit`] writes heads
//! and chunks anew. Two parsers that disagree on where a message ends are how
//! requests are smuggled, so this one accepts only what every parser reads the
//! same way (RFC 9112), drops the framing fields it received, and writes its own.

mod body;
pub(crate) mod emit;
mod head;

#[cfg(test)]
mod tests;

pub(crate) use body::{BodyDecoder, BodyError, Decoded};
pub(crate) use emit::{Reason, Spelling, Unwritable};
pub(crate) use head::{
    Framing, HeadError, Limits, RequestHead, ResponseHead, declared_length, is_host, is_plain_name,
    parse_request, parse_response,
};
