//! Keeps the records of the mesh and answers questions about them.
//!
//! A received batch is written to the log first, as it came, and its
//! rows are visible to every question at once. Recent rows stay in memory as
//! Arrow batches; older ones move to Parquet files, one folder per hour. One
//! scan reads both. Whatever happens at whatever moment, a record that was
//! acknowledged as durable is there once after the next start.
//!
//! ```text
//! append ──▶ log/<n>.log ──▶ hot chunks (Arrow) ──flush──▶ requests/v1/date=…/hour=…/*.parquet
//!                                 └──────────── scan, follow ───────────┘
//! ```
//!
//! The interface blocks and knows neither an async runtime nor HTTP. Damage on
//! disk never fails the whole: it is skipped, named and counted.

pub mod boots;
mod checkpoint;
mod columns;
mod compact;
pub mod error;
mod filter;
pub mod follow;
mod hot;
mod keep;
mod log;
mod open;
pub mod options;
pub mod scan;
mod segment;
mod shared;
pub mod stats;
mod store;

pub use boots::{BootState, ProxyName};
pub use error::{BatchError, StoreError};
pub use follow::{Cursor, Followed};
pub use options::{Options, Sync};
pub use scan::{Order, Scan, Scanned};
pub use stats::{Damage, StoreStats};
pub use store::{Appended, ReceivedBatch, Store, open, open_read_only};

#[cfg(test)]
mod tests;
