//! Takes records from the request path and keeps them until they are durable.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use whodunit_model::Limit;
use whodunit_model::id::{BootId, RequestId};
use whodunit_model::record::RequestRecord;
use whodunit_model::rows::{Recent, Rows};

use crate::codec::encode;

/// What becomes of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// None are made.
    Off,
    /// They are made, counted and discarded.
    Drop,
    /// They are kept for sending.
    #[default]
    Send,
}

/// Bounds of the recorder.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// This boot of the proxy.
    pub boot: BootId,
    /// What becomes of records.
    pub mode: Mode,
    /// Most records waiting to be encoded. One takes about 600 bytes.
    pub queue_rows: usize,
    /// Most records of a batch.
    pub batch_rows: usize,
    /// Most bytes of encoded batches that are not durable yet.
    pub buffer_bytes: usize,
}

impl Config {
    /// Returns the default bounds: 8,192 queued records, batches of 2,048, 6 MiB of batches.
    #[must_use]
    pub const fn new(boot: BootId) -> Self {
        Self {
            boot,
            mode: Mode::Send,
            queue_rows: Limit::QueueRows.count(),
            batch_rows: 2_048,
            buffer_bytes: Limit::BufferBytes.count(),
        }
    }
}

/// Numbers that account for every request and every row of a boot.
///
/// At any moment in which nothing moves:
/// `started = recorded + in_flight + dropped_abandoned + dropped_queue_full` and
/// `rows = acknowledged + buffered + discarded_buffer_full + discarded_queue_full + discarded_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests begun.
    pub started: u64,
    /// Requests with a final row handed over.
    pub recorded: u64,
    /// Requests not finished.
    pub in_flight: u64,
    /// Requests given up without a final row.
    pub dropped_abandoned: u64,
    /// Requests whose final row found the queue full.
    pub dropped_queue_full: u64,
    /// Rows handed over, those of open requests included.
    pub rows: u64,
    /// Rows that are durable.
    pub acknowledged: u64,
    /// Rows in the queue and in batches that are not durable.
    pub buffered: u64,
    /// Rows of batches that had to make room for newer ones.
    pub discarded_buffer_full: u64,
    /// Rows of open requests that found the queue full.
    pub discarded_queue_full: u64,
    /// Rows discarded because the mode says so.
    pub discarded_mode: u64,
}

#[derive(Default)]
struct Counts {
    started: AtomicU64,
    recorded: AtomicU64,
    in_flight: AtomicU64,
    dropped_abandoned: AtomicU64,
    dropped_queue_full: AtomicU64,
    rows: AtomicU64,
    acknowledged: AtomicU64,
    sealed: AtomicU64,
    discarded_buffer_full: AtomicU64,
    discarded_queue_full: AtomicU64,
    discarded_mode: AtomicU64,
}

struct Shared {
    config: Config,
    /// Boxed, so that an empty queue takes no more than a pointer for each place.
    queue: ArrayQueue<Box<RequestRecord>>,
    next: AtomicU32,
    counts: Counts,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn take(counter: &AtomicU64, amount: u64) {
    counter.fetch_sub(amount, Ordering::Relaxed);
}

/// The request path's handle: cheap to clone, never blocks.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

impl Recorder {
    /// Returns a recorder and the outbox its records come out of.
    #[must_use]
    pub fn new(config: Config) -> (Self, Outbox) {
        let queue = ArrayQueue::new(config.queue_rows.max(1));
        let counts = Counts::default();
        let shared = Arc::new(Shared {
            config,
            queue,
            next: AtomicU32::new(0),
            counts,
        });
        (
            Self {
                shared: shared.clone(),
            },
            Outbox::new(shared),
        )
    }

    /// Says whether records should be made at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.shared.config.mode != Mode::Off
    }

    /// Begins a request that this proxy is the first to see, and gives it an id.
    #[must_use]
    pub fn begin(&self, start_us: i64) -> Begun {
        self.adopt(self.issue(start_us))
    }

    /// Returns an id for what may begin later: the connection of a peer that is told first.
    #[must_use]
    pub fn issue(&self, start_us: i64) -> RequestId {
        RequestId {
            start_us,
            boot: self.shared.config.boot,
            n: self.shared.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Begins a request that came with an id from another proxy.
    #[must_use]
    pub fn adopt(&self, id: RequestId) -> Begun {
        add(&self.shared.counts.started, 1);
        add(&self.shared.counts.in_flight, 1);
        Begun {
            shared: self.shared.clone(),
            id,
            finished: false,
        }
    }

    /// Hands over a row that does not finish its request: an open row or an attempt.
    pub fn observe(&self, record: RequestRecord) {
        let counts = &self.shared.counts;
        match self.shared.config.mode {
            Mode::Off => {}
            Mode::Drop => {
                add(&counts.rows, 1);
                add(&counts.discarded_mode, 1);
            }
            Mode::Send => {
                add(&counts.rows, 1);
                if self.shared.queue.push(Box::new(record)).is_err() {
                    add(&counts.discarded_queue_full, 1);
                }
            }
        }
    }

    /// Says whether enough records wait to fill a batch, or half the queue where that is
    /// less: the outbox should be sealed now.
    #[must_use]
    pub fn wants_seal(&self) -> bool {
        let queue = &self.shared.queue;
        let half = queue.capacity().div_ceil(2);
        queue.len() >= self.shared.config.batch_rows.min(half)
    }

    /// Returns the accounting of this boot.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }
}

impl Shared {
    fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        Counters {
            started: read(&counts.started),
            recorded: read(&counts.recorded),
            in_flight: read(&counts.in_flight),
            dropped_abandoned: read(&counts.dropped_abandoned),
            dropped_queue_full: read(&counts.dropped_queue_full),
            rows: read(&counts.rows),
            acknowledged: read(&counts.acknowledged),
            buffered: self.queue.len() as u64 + read(&counts.sealed),
            discarded_buffer_full: read(&counts.discarded_buffer_full),
            discarded_queue_full: read(&counts.discarded_queue_full),
            discarded_mode: read(&counts.discarded_mode),
        }
    }
}

/// A request that has begun. Dropping it without [`Begun::finish`] counts it as abandoned.
pub struct Begun {
    shared: Arc<Shared>,
    id: RequestId,
    finished: bool,
}

impl Begun {
    /// Returns the request's id.
    #[must_use]
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// Hands over the final row.
    pub fn finish(mut self, record: Box<RequestRecord>) {
        self.finished = true;
        let counts = &self.shared.counts;
        match self.shared.config.mode {
            Mode::Off => add(&counts.recorded, 1),
            Mode::Drop => {
                add(&counts.rows, 1);
                add(&counts.discarded_mode, 1);
                add(&counts.recorded, 1);
            }
            Mode::Send => {
                if self.shared.queue.push(record).is_ok() {
                    add(&counts.rows, 1);
                    add(&counts.recorded, 1);
                } else {
                    add(&counts.dropped_queue_full, 1);
                }
            }
        }
        take(&counts.in_flight, 1);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.finished {
            add(&self.shared.counts.dropped_abandoned, 1);
            take(&self.shared.counts.in_flight, 1);
        }
    }
}

/// An encoded, numbered batch.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    /// Counts the batches of a boot from 1. Discarded batches leave gaps.
    pub sequence: u64,
    /// Rows in it.
    pub rows: u32,
    /// The batch in the format of [`crate::codec`].
    pub payload: Bytes,
}

/// Keeps encoded batches until they are durable. Belongs to the one sending task.
pub struct Outbox {
    shared: Arc<Shared>,
    batches: VecDeque<SealedBatch>,
    bytes: usize,
    /// Sequence of the last batch sent on the present connection.
    sent: u64,
    last_sequence: u64,
}

impl Outbox {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            batches: VecDeque::new(),
            bytes: 0,
            sent: 0,
            last_sequence: 0,
        }
    }

    /// Turns all queued records into batches. When the batches outgrow their
    /// bound the oldest ones are discarded and counted.
    pub fn seal(&mut self) {
        // As many as waited at the beginning: under load the queue may never be empty.
        let mut waiting = self.shared.queue.len();
        while waiting > 0 {
            let mut rows = Rows::default();
            let mut recent = Recent::default();
            rows.reserve(waiting.min(self.shared.config.batch_rows));
            while rows.len() < self.shared.config.batch_rows.max(1) {
                let Some(record) = self.shared.queue.pop() else {
                    break;
                };
                rows.push_recent(&record, &mut recent);
            }
            if rows.is_empty() {
                break;
            }
            waiting = waiting.saturating_sub(rows.len());
            self.push(&rows);
        }
    }

    fn push(&mut self, rows: &Rows) {
        let mut payload = Vec::new();
        encode(rows, &mut payload);
        self.last_sequence += 1;
        self.bytes += payload.len();
        add(&self.shared.counts.sealed, rows.len() as u64);
        self.batches.push_back(SealedBatch {
            sequence: self.last_sequence,
            rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            payload: payload.into(),
        });
        while self.bytes > self.shared.config.buffer_bytes && self.batches.len() > 1 {
            let rows = self.pop();
            add(&self.shared.counts.discarded_buffer_full, rows);
        }
    }

    /// Removes the oldest batch; returns its rows.
    fn pop(&mut self) -> u64 {
        let Some(batch) = self.batches.pop_front() else {
            return 0;
        };
        self.bytes -= batch.payload.len();
        take(&self.shared.counts.sealed, u64::from(batch.rows));
        u64::from(batch.rows)
    }

    /// Returns the oldest batch that was not sent on the present connection.
    #[must_use]
    pub fn unsent(&self) -> Option<&SealedBatch> {
        let index = self
            .batches
            .partition_point(|batch| batch.sequence <= self.sent);
        self.batches.get(index)
    }

    /// Notes that the batch with this sequence was sent.
    pub fn mark_sent(&mut self, sequence: u64) {
        self.sent = self.sent.max(sequence);
    }

    /// Notes a new connection: every batch that is not durable is unsent again.
    pub fn reconnected(&mut self) {
        self.sent = 0;
    }

    /// Frees the batches up to `durable`.
    ///
    /// A number beyond what this boot ever sent is ignored: it cannot be meant for it.
    pub fn acknowledge(&mut self, durable: u64) {
        if durable > self.last_sequence {
            return;
        }
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.sequence <= durable)
        {
            let rows = self.pop();
            add(&self.shared.counts.acknowledged, rows);
        }
    }

    /// Returns the sequence of the newest batch, 0 before the first.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Says whether everything that was recorded is durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.shared.queue.is_empty()
    }

    /// Returns the bytes of batches that are not durable.
    #[must_use]
    pub const fn buffered_bytes(&self) -> usize {
        self.bytes
    }
}
