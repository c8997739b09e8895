//! The records of one case, joined and indexed once.

use whodunit_model::{Rows, Symbol};

use super::blame::Blame;
use super::suspects::Signal;
use crate::hops::{Hops, Standing};
use crate::stat::service_names;
use crate::symbols::{FastMap, Name};
use crate::window::Window;

/// Everything the verdict is drawn from.
pub(super) struct Case<'a> {
    pub(super) hops: Hops<'a>,
    pub(super) blame: Blame,
    pub(super) window: Window,
    services: FastMap<Name, Symbol>,
    /// Calls per callee that finished or were given up on, by the moment they ended.
    calls: FastMap<Name, Vec<usize>>,
    /// The same, and those still waiting for an answer by the moment they were last seen.
    waits: FastMap<Name, Vec<usize>>,
}

impl<'a> Case<'a> {
    pub(super) fn new(rows: &'a Rows, window: Window) -> Self {
        let hops = Hops::new(rows, window, false);
        let blame = Blame::new(&hops);
        let mut calls: FastMap<Name, Vec<usize>> = FastMap::default();
        let mut waits: FastMap<Name, Vec<usize>> = FastMap::default();
        let mut ended = Vec::new();
        for (index, hop) in hops.hops.iter().enumerate() {
            if hop.standing != Standing::Open || blame.faults[index].is_some() {
                calls.entry(hop.callee).or_default().push(index);
                ended.push(rows.at_us[hop.row()]);
            }
            if hop.standing != Standing::Open || hops.is_unanswered(index) {
                waits.entry(hop.callee).or_default().push(index);
            }
        }
        for calls in calls.values_mut().chain(waits.values_mut()) {
            calls.sort_unstable_by_key(|&hop| (rows.at_us[hops.hops[hop].row()], hop));
        }
        // An open window is told by what is in it.
        let last = ended.iter().copied().max().unwrap_or_default();
        let first = ended.iter().copied().min().unwrap_or_default();
        let window = Window {
            from_us: if window.from_us == i64::MIN {
                first
            } else {
                window.from_us
            },
            until_us: if window.until_us == i64::MAX {
                last.saturating_add(1)
            } else {
                window.until_us
            },
        };
        Self {
            hops,
            blame,
            window,
            services: service_names(rows),
            calls,
            waits,
        }
    }

    pub(super) fn rows(&self) -> &'a Rows {
        self.hops.rows
    }

    /// Calls of a callee that finished or were given up on, by the moment they ended.
    pub(super) fn calls_of(&self, callee: Name) -> &[usize] {
        self.calls.get(&callee).map_or(&[], Vec::as_slice)
    }

    /// The calls of a callee that can show `signal`, by the moment they ended: a call
    /// that waits for its answer has not failed, but it takes long.
    pub(super) fn calls_showing(&self, signal: Signal, callee: Name) -> &[usize] {
        match signal {
            Signal::Failures => self.calls_of(callee),
            Signal::Latency => self.waits.get(&callee).map_or(&[], Vec::as_slice),
        }
    }

    /// How many callees there are.
    pub(super) fn callees(&self) -> usize {
        self.calls.len()
    }

    /// When a hop ended, µs since the epoch.
    pub(super) fn at_us(&self, hop: usize) -> i64 {
        self.rows().at_us[self.hops.hops[hop].row()]
    }

    /// The service name of a workload: what callers mostly use.
    pub(super) fn service(&self, callee: Name) -> &'a str {
        self.services
            .get(&callee)
            .map_or("", |service| self.hops.text(*service))
    }

    /// Namespace, name and route as texts.
    pub(super) fn place_texts(&self, place: (Name, Symbol)) -> (&'a str, &'a str, &'a str) {
        let (namespace, name) = place.0.texts(self.hops.rows);
        (namespace, name, self.hops.text(place.1))
    }
}
