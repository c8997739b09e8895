//! Requests that are still open: shown after a second, then ever less often.

use std::rc::Rc;

use whodunit_flight::Recorder;
use whodunit_model::record::{Kind, Side};

use super::CallState;
use crate::clock::Instant;

/// Age at which a request leaves its first open row, µs.
pub(super) const FIRST_US: i64 = 1_000_000;

/// Age at which it leaves the second one, µs.
const SECOND_US: i64 = 10_000_000;

/// Time between later ones, µs.
const EACH_US: i64 = 60_000_000;

/// The calls of one thread that have not ended, by slot.
///
/// Beginning and ending a call costs no more than a push and a pop; the sweep
/// looks at what is in flight, four times a second.
#[derive(Debug, Default)]
pub(crate) struct OpenCalls {
    slots: Vec<Option<Rc<CallState>>>,
    free: Vec<usize>,
}

impl OpenCalls {
    /// Adds a call; returns its slot.
    pub(super) fn insert(&mut self, state: Rc<CallState>) -> usize {
        if let Some(slot) = self.free.pop() {
            self.slots[slot] = Some(state);
            return slot;
        }
        self.slots.push(Some(state));
        self.slots.len() - 1
    }

    /// Removes the call in a slot.
    pub(super) fn remove(&mut self, slot: usize) {
        if self.slots[slot].take().is_some() {
            self.free.push(slot);
        }
    }

    /// Returns how many calls are open.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Says whether a call of one side is open.
    pub(crate) fn any_of(&self, side: Side) -> bool {
        let mut open = self.slots.iter().flatten();
        open.any(|state| state.side == side)
    }

    /// Leaves a row for every call whose time has come.
    pub(crate) fn sweep(&self, recorder: &Recorder, now: Instant) {
        for state in self.slots.iter().flatten() {
            let age_us = crate::clock::micros(now.saturating_duration_since(state.start));
            if age_us < state.next_open_us.get() {
                continue;
            }
            state.next_open_us.set(match age_us {
                ..SECOND_US => SECOND_US,
                _ => (age_us / EACH_US + 1) * EACH_US,
            });
            // Nobody changes a record across an await, so it is free here.
            let mut row = state.row(now);
            row.kind = Kind::Open;
            recorder.observe(row);
        }
    }
}
