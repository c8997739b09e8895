//! The flight recorder's side in the proxy.
//!
//! The request path hands finished records to a [`Recorder`], which never
//! blocks: a bounded queue takes them, and what does not fit is counted. The
//! sending task owns the [`Outbox`], which turns queued records into encoded,
//! numbered batches and keeps them, within a bound, until the server says that
//! they are durable. [`encode`] and [`decode`] are the batch format, specified
//! in `docs/formats/batch-v1.md`.
//!
//! Nothing here knows sockets, clocks or an async runtime.

mod bytes_io;
pub mod codec;
pub mod recorder;

pub use codec::{DecodeError, decode, encode};
pub use recorder::{Begun, Config, Counters, Mode, Outbox, Recorder, SealedBatch};
