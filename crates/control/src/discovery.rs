//! The seam between sources of discovery and those who follow them.
//!
//! A [`Source`] is fed whole states, turns them into [`Change`]s and applies
//! them; every [`Discovery`] sees the newest [`Topology`]. A follower that
//! sleeps misses steps but never the newest state, and holds up nobody.
//!
//! [`Change`]: whodunit_model::Change

use std::sync::Arc;

use tokio::sync::watch;
use whodunit_model::{Service, Topology};

/// Feeds the topology. When it is dropped, followers learn that discovery ended.
#[derive(Debug)]
pub struct Source {
    topology: watch::Sender<Option<Arc<Topology>>>,
    health: watch::Sender<Health>,
}

/// Follows the topology. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Discovery {
    topology: watch::Receiver<Option<Arc<Topology>>>,
    health: watch::Receiver<Health>,
}

/// How discovery is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Where the topology comes from, for messages.
    pub source: String,
    /// Why the newest state could not be used, if so. The last good one stays in force.
    pub error: Option<String>,
    /// States that could not be used since the start.
    pub refused: u64,
}

/// Returns the two ends of discovery. `source` names the origin in messages.
#[must_use]
pub fn channel(source: impl Into<String>) -> (Source, Discovery) {
    let (topology_sender, topology) = watch::channel(None);
    let (health_sender, health) = watch::channel(Health {
        source: source.into(),
        ..Health::default()
    });
    let source = Source {
        topology: topology_sender,
        health: health_sender,
    };
    (source, Discovery { topology, health })
}

impl Source {
    /// Makes `services` the state of the world; wakes followers only if it differs.
    pub fn set(&self, services: Vec<Service>) {
        self.topology.send_if_modified(|current| {
            let mut topology = current.as_deref().cloned().unwrap_or_default();
            let mut differs = current.is_none();
            for change in topology.changes_to(services) {
                differs |= topology.apply(change);
            }
            if differs {
                *current = Some(Arc::new(topology));
            }
            differs
        });
        self.health.send_if_modified(|health| {
            let was_wrong = health.error.is_some();
            health.error = None;
            was_wrong
        });
    }

    /// Says that the newest state could not be used. Returns whether that is news.
    pub fn refuse(&self, error: String) -> bool {
        self.health.send_if_modified(|health| {
            let news = health.error.as_ref() != Some(&error);
            if news {
                health.refused += 1;
                health.error = Some(error);
            }
            news
        })
    }
}

impl Discovery {
    /// Returns the newest topology, or none as long as no state is known.
    #[must_use]
    pub fn topology(&self) -> Option<Arc<Topology>> {
        self.topology.borrow().clone()
    }

    /// Returns how discovery is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Returns a receiver of every newest topology.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Topology>>> {
        self.topology.clone()
    }
}
