//! What a running server knows beyond its stored records.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use tokio::sync::watch;
use whodunit_control::destination;
use whodunit_control::discovery::Discovery;

use crate::proxies::Proxies;

/// State shared by ingest, queries and the HTTP surface.
#[derive(Debug)]
pub struct Live {
    /// When the server started.
    pub started: Instant,
    /// Where its data lie.
    pub data_dir: PathBuf,
    /// The HTTP listener.
    pub http: SocketAddr,
    /// The gRPC listener.
    pub grpc: SocketAddr,
    /// The proxies it has heard of.
    pub proxies: Proxies,
    /// Where services live; none without a source.
    pub discovery: Option<Discovery>,
    /// What discovery has sent.
    pub destinations: Arc<destination::Counters>,
    /// What ingest has done.
    pub ingest: IngestCounters,
    /// What the HTTP surface is doing.
    pub surface: SurfaceCounters,
    /// Moves whenever rows were ingested.
    pub ingested: watch::Sender<u64>,
    /// Moves whenever more batches became durable.
    pub durable: watch::Sender<u64>,
}

/// What ingest has done since the server started.
#[derive(Debug, Default)]
pub struct IngestCounters {
    /// Record streams open now.
    pub streams: AtomicU64,
    /// Batches taken.
    pub batches: AtomicU64,
    /// Rows taken.
    pub rows: AtomicU64,
    /// Batches that were here already.
    pub duplicates: AtomicU64,
    /// Batches refused: damaged or of a newer version.
    pub refused: AtomicU64,
    /// Batches that could not be written.
    pub failed: AtomicU64,
    /// Whether the last batch that came could not be written.
    pub failing: AtomicBool,
    /// Messages of a kind this version does not know.
    pub unknown: AtomicU64,
    /// Reports taken.
    pub reports: AtomicU64,
}

/// What the HTTP surface is doing.
#[derive(Debug, Default)]
pub struct SurfaceCounters {
    /// HTTP connections open now.
    pub connections: AtomicU64,
    /// HTTP connections closed at once because as many requests were being answered as may be.
    pub crowded: AtomicU64,
    /// Followers of the live stream.
    pub followers: AtomicU64,
    /// Records that followers missed because they were too slow.
    pub followers_lost: AtomicU64,
    /// Queries running now.
    pub running: AtomicU64,
    /// Queries answered.
    pub answered: AtomicU64,
    /// Queries turned away because too many were waiting.
    pub turned_away: AtomicU64,
    /// Requests refused because of their Host or Origin.
    pub forbidden: AtomicU64,
}
