//! The rules of a listener on one thread, with where their requests go.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;
use whodunit_model::RouteRule;
use whodunit_model::route_rule::RequestHead;

use crate::clock::Instant;
use crate::metrics::Labels;
use crate::upstream::{Balancer, Known, Mesh};

/// What holds for some requests.
pub(crate) struct Route {
    /// The rule.
    pub(crate) rule: RouteRule,
    /// Names it in records; empty where no rule matched.
    pub(crate) name: Arc<str>,
    /// Services that share the requests: each with the sum of the weights up to it.
    split: Vec<(usize, Balancer)>,
}

impl Route {
    /// Returns one of the services that share the requests; none if the listener's own gets
    /// them all.
    pub(crate) fn choose(&self) -> Option<&Balancer> {
        let (sum, last) = self.split.last()?;
        let dice = last.below(*sum);
        let chosen = self.split.iter().find(|(until, _)| dice < *until);
        chosen.map(|(_, balancer)| balancer)
    }
}

/// What holds for the requests of a listener, on every thread.
#[derive(Debug)]
pub(crate) struct Routing {
    pub(crate) rules: Vec<RouteRule>,
    /// Where the services live that share requests, in the order of the rules.
    pub(crate) split: Vec<watch::Receiver<Known>>,
}

/// All rules of a listener.
pub(super) struct Routes {
    rules: Vec<Rc<Route>>,
    otherwise: Rc<Route>,
}

impl Routes {
    /// Returns the rules as they are used on one thread.
    pub(super) fn new(routing: &Routing, own: &Labels, mesh: &Mesh, seed: u64) -> Self {
        let mut split = routing.split.iter().cloned();
        let route = |(index, rule): (usize, &RouteRule)| {
            let mut sum = 0_usize;
            let mut shares = Vec::with_capacity(rule.split.len());
            for weighted in &rule.split {
                let Some(discovery) = split.next() else { break };
                sum = sum.saturating_add(weighted.weight as usize);
                let seed = seed.wrapping_add(index as u64).rotate_left(17);
                let service = weighted.service.clone();
                let balancer =
                    Balancer::discovered(service, discovery, own.clone(), seed, mesh.clone());
                shares.push((sum, balancer));
            }
            let name = if rule.name.is_empty() {
                format!("#{}", index + 1)
            } else {
                rule.name.clone()
            };
            Rc::new(Route {
                rule: rule.clone(),
                name: name.into(),
                split: shares,
            })
        };
        Self {
            rules: routing.rules.iter().enumerate().map(route).collect(),
            otherwise: Rc::new(Route {
                rule: RouteRule::default(),
                name: Arc::default(),
                split: Vec::new(),
            }),
        }
    }

    /// Returns the first rule that matches.
    pub(super) fn of(&self, head: RequestHead<'_>) -> Rc<Route> {
        let found = self
            .rules
            .iter()
            .find(|route| route.rule.matches.matches(head));
        found.unwrap_or(&self.otherwise).clone()
    }

    /// Closes idle connections.
    pub(super) fn sweep(&self, now: Instant) {
        for (_, balancer) in self.rules.iter().flat_map(|route| &route.split) {
            balancer.sweep(now);
        }
    }
}
