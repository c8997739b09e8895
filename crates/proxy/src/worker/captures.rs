//! Connections that were redirected here: one inlet per address that clients wanted.
//!
//! Each address is a destination of its own, with its own discovery, detection, connections
//! and numbers. Addresses that nobody has wanted for a while are forgotten.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use whodunit_model::Cause;
use whodunit_model::policy::Policy;
use whodunit_model::record::Side;

use super::Inlet;
use super::inlet::Given;
use super::routes::Routing;
use crate::clock::Instant;
use crate::control::Follow;
use crate::limits::{self, Limit};
use crate::log::Rarely;
use crate::net::{self, TcpStream};
use crate::upstream::{Known, Mesh};

/// How long an address is remembered without a connection to it.
const UNWANTED: Duration = Duration::from_secs(60);

thread_local! {
    /// Logs connections of which nobody knows where they were going.
    static LOST: Rarely = const { Rarely::new() };
}

/// What a listener for redirected connections has on one thread.
pub(super) struct Captures {
    pub(super) policy: (watch::Receiver<Arc<Policy>>, bool),
    pub(super) routing: watch::Receiver<Arc<Routing>>,
    pub(super) follow: Option<mpsc::Sender<Follow>>,
    pub(super) mesh: Mesh,
    pub(super) seed: u64,
    pub(super) addresses: RefCell<HashMap<SocketAddr, Wanted>>,
}

/// An address that clients wanted.
pub(super) struct Wanted {
    inlet: Rc<Inlet>,
    /// When a connection to it was last seen.
    seen: Instant,
}

impl Captures {
    /// Returns what stands for the address that a connection wanted; `base` is the listener
    /// that accepted it.
    ///
    /// # Errors
    /// When nobody can tell the address, it leads back here, or there are too many.
    pub(super) fn inlet(&self, base: &Inlet, stream: &TcpStream) -> Result<Rc<Inlet>, Cause> {
        let listener = base.name();
        let found = net::original_dst(stream).and_then(|to| Ok((to, stream.local_addr()?)));
        let (wanted, local) = match found {
            Ok((wanted, local)) => (canonical(wanted), canonical(local)),
            Err(error) => {
                if let Some(unlogged) = LOST.with(Rarely::due) {
                    tracing::warn!(
                        listener,
                        %error,
                        unlogged,
                        "cannot tell where a connection was going"
                    );
                }
                return Err(Cause::Unknown);
            }
        };
        let own = wanted.ip().is_loopback() || base.side() == Side::Inbound;
        if wanted == local || (own && base.worker.is_own_port(wanted.port())) {
            return Err(Cause::Loop);
        }
        let now = Instant::now();
        let mut addresses = self.addresses.borrow_mut();
        if let Some(known) = addresses.get_mut(&wanted) {
            known.seen = now;
            return Ok(known.inlet.clone());
        }
        if addresses.len() >= Limit::Destinations.count() / base.worker.config.workers {
            limits::hit(Limit::Destinations);
            let unused = addresses
                .iter()
                .filter(|(_, known)| known.is_unused())
                .min_by_key(|(_, known)| known.seen);
            let unused = unused.map(|(address, _)| *address);
            addresses.remove(&unused.ok_or(Cause::LoadShed)?);
        }
        let inlet = self.open(base, wanted)?;
        let known = Wanted {
            inlet: inlet.clone(),
            seen: now,
        };
        addresses.insert(wanted, known);
        Ok(inlet)
    }

    fn open(&self, base: &Inlet, address: SocketAddr) -> Result<Rc<Inlet>, Cause> {
        let mut discovery = None;
        if let (Side::Outbound, Some(follow)) = (base.side(), &self.follow) {
            let (sender, known) = watch::channel(Known::default());
            if follow.try_send(Follow { address, sender }).is_err() {
                // The control thread has enough to do with those that came before.
                limits::hit(Limit::Destinations);
                return Err(Cause::LoadShed);
            }
            discovery = Some(known);
        }
        let given = Given {
            address,
            wanted: Some(address),
            discovery,
            routing: self.routing.clone(),
            policy: self.policy.clone(),
            mesh: self.mesh.clone(),
            seed: self.seed.wrapping_add(u64::from(address.port())),
            captures: None,
        };
        Ok(Inlet::new(&base.worker, &base.listener, given))
    }

    /// Closes idle connections, and forgets addresses that nobody wants any more.
    pub(super) fn sweep(&self, now: Instant) {
        self.addresses.borrow_mut().retain(|_, known| {
            known.inlet.sweep(now);
            if !known.is_unused() {
                known.seen = now;
            }
            now.saturating_duration_since(known.seen) < UNWANTED
        });
    }
}

impl Wanted {
    /// Says whether no connection goes there now.
    fn is_unused(&self) -> bool {
        Rc::strong_count(&self.inlet) == 1
    }
}

/// Returns an IPv4 address as such, though it came through a socket for IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
