//! The batch format: columns of interned, delta-coded values.
//!
//! Layout (all integers base-128 varints unless said otherwise):
//!
//! ```text
//! "WDB" version:u8 compression:u8 body-length body
//! body   = rows, strings, columns
//! strings= count, count × length, bytes
//! columns= count, count × (id, length, bytes)
//! ```
//!
//! The body is one zstd frame when `compression` is 1. A reader skips columns
//! it does not know and gives missing ones their defaults; `version` counts
//! only changes that old readers cannot skip.

mod columns;
#[cfg(test)]
mod tests;

use whodunit_model::Rows;

use crate::bytes_io::{Reader, put_varint};

const MAGIC: &[u8; 3] = b"WDB";

/// The version this build writes and the newest it reads.
pub const VERSION: u8 = 1;

/// Most rows of a batch.
pub const ROWS_MAX: usize = 1 << 20;

/// Largest body of a batch after decompression, bytes.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Bodies below this size are not compressed: a frame header would cost more.
const COMPRESS_BYTES_MIN: usize = 256;

/// Why bytes are not a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not begin like a batch.
    #[error("not a record batch")]
    NotABatch,
    /// A newer version wrote the batch.
    #[error("the record batch has version {found}, this build reads up to {VERSION}: update it")]
    Newer {
        /// The version found.
        found: u8,
    },
    /// The batch is damaged or was cut short.
    #[error("the record batch is damaged in {part}")]
    Damaged {
        /// Which part.
        part: &'static str,
    },
    /// The batch says it is larger than any batch may be.
    #[error("the record batch is too large: {what}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
    },
}

/// Appends the batch of `rows` to `out`.
pub fn encode(rows: &Rows, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(64 + rows.len() * 48);
    columns::write(rows, &mut body);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    let compressed = (body.len() >= COMPRESS_BYTES_MIN)
        .then(|| zstd::bulk::compress(&body, 1).ok())
        .flatten()
        .filter(|compressed| compressed.len() < body.len());
    out.push(u8::from(compressed.is_some()));
    put_varint(out, body.len() as u64);
    out.extend_from_slice(compressed.as_ref().unwrap_or(&body));
}

/// Reads a batch.
///
/// # Errors
/// When the bytes are not a whole, undamaged batch of a known version.
pub fn decode(bytes: &[u8]) -> Result<Rows, DecodeError> {
    let damaged = |part| DecodeError::Damaged { part };
    let mut reader = Reader::new(bytes);
    if reader.take(MAGIC.len()) != Some(MAGIC) {
        return Err(DecodeError::NotABatch);
    }
    let version = reader.byte().ok_or(damaged("the header"))?;
    if version > VERSION {
        return Err(DecodeError::Newer { found: version });
    }
    let compression = reader.byte().ok_or(damaged("the header"))?;
    let length = reader.length().ok_or(damaged("the header"))?;
    if length > BODY_BYTES_MAX {
        return Err(DecodeError::TooLarge { what: "body" });
    }
    let rest = &bytes[reader.at()..];
    match compression {
        0 if rest.len() == length => columns::read(rest),
        1 => {
            let body = zstd::bulk::decompress(rest, length).map_err(|_| damaged("the body"))?;
            if body.len() != length {
                return Err(damaged("the body"));
            }
            columns::read(&body)
        }
        _ => Err(damaged("the header")),
    }
}
