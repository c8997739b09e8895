//! The services that are followed: those of the configuration, and those that routes of the
//! server's name.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use whodunit_model::topology::ServiceName;

use super::{Backoff, Heard, discovery};
use crate::clock::Clock;
use crate::limits::{self, Limit};
use crate::upstream::Known;

/// A service that is followed.
#[derive(Clone)]
pub(super) struct Followed {
    pub(super) name: ServiceName,
    pub(super) known: watch::Receiver<Known>,
    pub(super) heard: Rc<Heard>,
}

/// Follows services, each once.
pub(crate) struct Services {
    /// None follows nothing.
    pub(super) server: Option<SocketAddr>,
    /// Says to the server who asks.
    pub(super) instance: String,
    pub(super) clock: Clock,
    pub(super) seed: u64,
    /// Told when anything is news.
    pub(super) changed: Rc<Notify>,
    pub(super) all: RefCell<Vec<Followed>>,
}

impl Services {
    /// Follows a service for ever, and tells `sender`; `kept_us` is when the server was heard
    /// in the life before.
    pub(super) fn follow(
        &self,
        name: ServiceName,
        sender: watch::Sender<Known>,
        kept_us: Option<i64>,
    ) {
        let (clock, changed) = (self.clock, self.changed.clone());
        let heard = Rc::new(Heard::new(kept_us, clock.now_us(), changed));
        let mut all = self.all.borrow_mut();
        let backoff = Backoff::new(self.seed.wrapping_add(all.len() as u64));
        all.push(Followed {
            name: name.clone(),
            known: sender.subscribe(),
            heard: heard.clone(),
        });
        if let Some(server) = self.server {
            let asked = discovery::Asked {
                server,
                path: whodunit_wire::destination::path(&name),
                name: name.to_string(),
                instance: self.instance.clone(),
            };
            tokio::task::spawn_local(discovery::follow(asked, sender, heard, clock, backoff));
        }
    }

    /// Follows who has an address, for as long as anyone listens to `sender`. It is not kept on
    /// disk, and of no account for readiness: clients choose such addresses.
    pub(super) fn follow_address(&self, address: SocketAddr, sender: watch::Sender<Known>) {
        let Some(server) = self.server else { return };
        let seed = self.seed.wrapping_add(u64::from(address.port()));
        let heard = Heard::new(None, self.clock.now_us(), Rc::default());
        let asked = discovery::Asked {
            server,
            name: address.to_string(),
            path: address.to_string(),
            instance: self.instance.clone(),
        };
        let follow = discovery::follow(
            asked,
            sender,
            Rc::new(heard),
            self.clock,
            Backoff::new(seed),
        );
        tokio::task::spawn_local(follow);
    }

    /// Returns where a service lives, and follows it from now on if it was not followed; none
    /// if there are too many already.
    pub(super) fn find(&self, name: &ServiceName) -> Option<watch::Receiver<Known>> {
        let find = || {
            let all = self.all.borrow();
            let found = all.iter().find(|followed| followed.name == *name);
            found.map(|followed| followed.known.clone())
        };
        if let Some(known) = find() {
            return Some(known);
        }
        if self.all.borrow().len() >= Limit::Services.count() {
            limits::hit(Limit::Services);
            return None;
        }
        self.follow(name.clone(), watch::Sender::new(Known::default()), None);
        find()
    }

    /// Returns how long discovery has not been connected, zero while it is, none without
    /// discovery. With several services the longest counts.
    pub(crate) fn age(&self) -> Option<Duration> {
        let now_us = self.clock.now_us();
        let all = self.all.borrow();
        let age_us = all.iter().map(|followed| followed.heard.age_us(now_us));
        let age_us = age_us.max()?;
        Some(Duration::from_micros(u64::try_from(age_us).unwrap_or(0)))
    }

    /// Says whether every service was answered for at least once.
    pub(crate) fn all_heard(&self) -> bool {
        let all = self.all.borrow();
        all.iter().all(|followed| followed.heard.ever())
    }
}
