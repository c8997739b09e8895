//! Keeps on disk what the server says: see [`crate::snapshot`].
//!
//! Written when something has changed, once a second at most, and now and then while
//! connected so that its age is true. Writing happens in a thread of its own.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use whodunit_model::policy::Policy;
use whodunit_model::topology::ServiceName;

use super::{Heard, Services};
use crate::clock::Clock;
use crate::limits::{self, Limit};
use crate::snapshot::{self, Owner, Port, Service, Snapshot, SnapshotError};
use crate::worker::Routing;

/// Shortest time between two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the file is written anew although nothing has changed: what it says is at most
/// this much younger than the file shows.
const REFRESH: Duration = Duration::from_mins(10);

/// What is kept, and where.
pub(super) struct Keeper {
    pub(super) path: PathBuf,
    pub(super) owner: Owner,
    pub(super) clock: Clock,
    pub(super) services: Rc<Services>,
    /// By name of the service.
    pub(super) routes: Vec<(ServiceName, watch::Receiver<Arc<Routing>>, Rc<Heard>)>,
    /// By name of the listener.
    pub(super) policies: Vec<(String, watch::Receiver<Arc<Policy>>, Rc<Heard>)>,
    /// Told when any of it changes.
    pub(super) changed: Rc<tokio::sync::Notify>,
}

impl Keeper {
    /// Keeps for ever.
    pub(super) async fn follow(self) {
        let mut failing = false;
        loop {
            // Without a change in time it is written all the same.
            let _ = timeout(REFRESH, self.changed.notified()).await;
            let (path, snapshot) = (self.path.clone(), self.take());
            let saving = move || snapshot::save(&path, &snapshot);
            // The error is one of a runtime that is ending.
            let Ok(saved) = tokio::task::spawn_blocking(saving).await else {
                return;
            };
            match saved {
                Ok(()) => failing = false,
                Err(error) => {
                    if matches!(error, SnapshotError::TooLarge) {
                        limits::hit(Limit::SnapshotBytes);
                    }
                    if !failing {
                        let path = self.path.display();
                        tracing::warn!(%path, %error, "cannot keep what the server says");
                    }
                    failing = true;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Returns what is known now.
    fn take(&self) -> Snapshot {
        let now_us = self.clock.now_us();
        let mut snapshot = Snapshot::empty(self.owner.clone());
        for followed in &*self.services.all.borrow() {
            let Some(at_us) = followed.heard.at_us(now_us) else {
                continue;
            };
            let mut routes = self.routes.iter();
            let routing = routes.find(|(name, _, heard)| *name == followed.name && heard.ever());
            let known = followed.known.borrow();
            let mut service = Service::new(followed.name.clone(), at_us, &known.destination);
            service.routes = routing.map(|(_, routing, _)| routing.borrow().rules.clone());
            snapshot.services.push(service);
        }
        for (listener, policy, heard) in &self.policies {
            if let Some(at_us) = heard.at_us(now_us) {
                snapshot.policies.push(Port {
                    listener: listener.clone(),
                    heard_us: at_us,
                    policy: (**policy.borrow()).clone(),
                });
            }
        }
        snapshot
    }
}
