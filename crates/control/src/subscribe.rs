//! Streams to proxies, whatever they are about.
//!
//! Each subscriber has a task that remembers what it has been told and sends
//! the difference whenever the topology moves. Nothing is sent before a state
//! is known, so a server that has just started never tells a proxy to forget
//! what it knows. A subscriber that does not read is dropped, never waited for:
//! it comes back and is told everything anew.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use whodunit_model::Topology;

use crate::discovery::Discovery;

/// Updates that wait for one subscriber. A proxy reads at once; one that is this
/// far behind has stopped.
const QUEUE: usize = 32;

/// Most streams at one time: a few per proxy, thousands of proxies.
const SUBSCRIBERS_MAX: usize = 20_000;

/// What a service has done since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams that are open now.
    pub subscribers: AtomicU64,
    /// Updates sent.
    pub updates: AtomicU64,
    /// Subscribers dropped because they did not read.
    pub slow_dropped: AtomicU64,
    /// Requests refused because of a bad name or too many streams.
    pub refused: AtomicU64,
}

/// What a subscriber reads.
pub type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The streams of one service.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    places: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
            counters: Arc::default(),
        }
    }
}

impl Streams {
    /// Returns the counters.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Counts a request that is refused.
    pub(crate) fn refuse(&self, status: Status) -> Status {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        status
    }

    /// Opens a stream; `differences` returns what leads from what it returned before to a
    /// topology.
    pub(crate) fn open<T: Send + 'static>(
        &self,
        discovery: &Discovery,
        mut differences: impl FnMut(&Topology) -> Vec<T> + Send + 'static,
    ) -> Result<Response<Updates<T>>, Status> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Err(self.refuse(Status::resource_exhausted(format!(
                "more than {SUBSCRIBERS_MAX} streams are open"
            ))));
        };

        let (sender, receiver) = mpsc::channel(QUEUE);
        let (last_word, ending) = oneshot::channel();
        let counters = self.counters.clone();
        let mut topology = discovery.watch();
        tokio::spawn(async move {
            let _place = place;
            counters.subscribers.fetch_add(1, Ordering::Relaxed);
            let status = loop {
                let now = topology.borrow_and_update().clone();
                let updates = now.map(|now| differences(&now));
                let sent = send(&sender, updates.unwrap_or_default(), &counters);
                if let Err(status) = sent {
                    break status;
                }
                tokio::select! {
                    changed = topology.changed() => if changed.is_err() {
                        break Status::unavailable("the server is shutting down");
                    },
                    () = sender.closed() => break Status::cancelled("the subscriber left"),
                }
            };
            counters.subscribers.fetch_sub(1, Ordering::Relaxed);
            // Fails only if the subscriber has left.
            let _ = last_word.send(status);
        });
        let ending = stream::once(ending).filter_map(async |status| status.ok().map(Err));
        let updates = ReceiverStream::new(receiver).map(Ok).chain(ending);
        Ok(Response::new(Box::pin(updates)))
    }
}

/// Queues updates for a subscriber, or says why it has to go.
fn send<T>(sender: &mpsc::Sender<T>, updates: Vec<T>, counters: &Counters) -> Result<(), Status> {
    for update in updates {
        match sender.try_send(update) {
            Ok(()) => counters.updates.fetch_add(1, Ordering::Relaxed),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Err(Status::cancelled("the subscriber left"));
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                counters.slow_dropped.fetch_add(1, Ordering::Relaxed);
                return Err(Status::resource_exhausted(
                    "the subscriber does not read its updates: ask again",
                ));
            }
        };
    }
    Ok(())
}
