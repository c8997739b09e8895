//! One request from its head to its end, and the record it leaves.
//!
//! A [`Call`] is owned by whatever has to happen next: first the function that
//! serves the request, then the response body. Dropping it before the end means
//! that nobody waits for the response any more, and is recorded as that.

mod messages;
mod open;

pub(crate) use messages::Messages;
pub(crate) use open::OpenCalls;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use whodunit_flight::Begun;
use whodunit_model::outcome::{self, Ending};
use whodunit_model::record::{Kind, RequestRecord, Side};
use whodunit_model::redact::Attributes;
use whodunit_model::{Cause, Origin, Outcome, RequestId};

use crate::clock::Instant;
use crate::clock::micros;
use crate::metrics::{Response, Scope};
use crate::worker::Worker;

/// A client that leaves this shortly before the deadline leaves because of it.
const PUNCTUAL: Duration = Duration::from_millis(10);

/// What ended a request other than its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Why.
    pub(crate) cause: Cause,
    /// Where it began.
    pub(crate) origin: Origin,
}

impl Fault {
    /// Returns the fault of a cause seen on one side of a call; `meshed` says whether the
    /// chosen endpoint has a proxy of ours.
    pub(crate) const fn seen_from(side: Side, cause: Cause, meshed: bool) -> Self {
        Self {
            cause,
            origin: origin(side, cause, meshed),
        }
    }
}

/// Says where a failure began, as far as one side can know.
pub(crate) const fn origin(side: Side, cause: Cause, meshed: bool) -> Origin {
    let own_proxy = match side {
        Side::Inbound => Origin::ServerProxy,
        Side::Outbound => Origin::ClientProxy,
    };
    match cause {
        Cause::None => Origin::None,
        Cause::AppHttp5xx | Cause::AppGrpcStatus | Cause::NoGrpcStatus => Origin::Server,
        Cause::ClientCancelled | Cause::BadRequestHead => Origin::Client,
        // The callee did not answer in the time it was given.
        Cause::RequestTimeout
        | Cause::ResponseHeadersTimeout
        | Cause::ResponseStreamTimeout
        | Cause::IdleTimeout => Origin::Server,
        Cause::ConnectTimeout => match side {
            Side::Inbound => Origin::Server,
            Side::Outbound => Origin::Network,
        },
        Cause::ConnectRefused | Cause::Reset | Cause::ClosedEarly => match side {
            Side::Outbound if meshed => Origin::Network,
            _ => Origin::Server,
        },
        Cause::BadResponseHead | Cause::NotHttp2 => match side {
            Side::Outbound if meshed => Origin::ServerProxy,
            _ => Origin::Server,
        },
        _ => own_proxy,
    }
}

/// The part of a call that request body, response body and the sweep share.
#[derive(Debug)]
pub(crate) struct CallState {
    /// When the head was read.
    pub(crate) start: Instant,
    id: RequestId,
    side: Side,
    /// What is known so far; counts and times are in the cells until the end, when the record
    /// is handed over as it is.
    record: RefCell<Option<Box<RequestRecord>>>,
    first_byte: Cell<Option<Instant>>,
    request_bytes: Cell<u64>,
    request_messages: Cell<u32>,
    response_bytes: Cell<u64>,
    response_messages: Cell<u32>,
    /// The client's request body broke off.
    client_failed: Cell<Option<Cause>>,
    /// When the request must be over.
    deadline: Cell<Option<Instant>>,
    /// Age in microseconds at which the next open row is due.
    next_open_us: Cell<i64>,
    scope: RefCell<Option<Rc<Scope>>>,
}

impl CallState {
    /// Counts bytes and messages of the request body.
    pub(crate) fn sent(&self, bytes: usize, messages: u32) {
        self.request_bytes
            .set(self.request_bytes.get() + bytes as u64);
        self.request_messages
            .set(self.request_messages.get().saturating_add(messages));
    }

    /// Counts bytes and messages of the response body.
    pub(crate) fn received(&self, bytes: usize, messages: u32) {
        if bytes > 0 && self.first_byte.get().is_none() {
            self.first_byte.set(Some(Instant::now()));
        }
        self.response_bytes
            .set(self.response_bytes.get() + bytes as u64);
        self.response_messages
            .set(self.response_messages.get().saturating_add(messages));
    }

    /// Notes that the request body broke off.
    pub(crate) fn client_failed(&self, cause: Cause) {
        self.client_failed.set(Some(cause));
    }

    /// Returns why the request body broke off, if it did.
    pub(crate) fn client_failure(&self) -> Option<Cause> {
        self.client_failed.get()
    }

    /// Returns how many bytes have moved either way.
    pub(crate) fn moved(&self) -> u64 {
        self.request_bytes
            .get()
            .saturating_add(self.response_bytes.get())
    }

    /// Returns the time since the head, µs.
    pub(crate) fn age_us(&self) -> i64 {
        self.age_us_at(Instant::now())
    }

    /// Returns the time from the head to `now`, µs.
    pub(crate) fn age_us_at(&self, now: Instant) -> i64 {
        micros(now.saturating_duration_since(self.start))
    }

    /// Says whether the call has left a row already.
    pub(crate) fn was_observed(&self) -> bool {
        self.next_open_us.get() != open::FIRST_US
    }

    /// Changes the record.
    fn note<T>(&self, change: impl FnOnce(&mut RequestRecord) -> T) -> T {
        let mut record = self.record.borrow_mut();
        // It is there until the call ends, and nobody notes anything after that.
        let fresh = || Box::new(RequestRecord::new(self.id, self.side, 0));
        change(record.get_or_insert_with(fresh))
    }

    /// Returns a row about the call as it is now.
    fn row(&self, now: Instant) -> RequestRecord {
        let mut row = self.note(|record| record.clone());
        self.fill(&mut row, now);
        row
    }

    fn fill(&self, record: &mut RequestRecord, now: Instant) {
        record.duration_us = micros(now.saturating_duration_since(self.start));
        record.at_us = record.start_at_us.saturating_add(record.duration_us);
        record.latency_us = match self.first_byte.get() {
            Some(first) => micros(first.saturating_duration_since(self.start)),
            None => record.duration_us,
        };
        record.request_bytes = self.request_bytes.get();
        record.request_messages = self.request_messages.get();
        record.response_bytes = self.response_bytes.get();
        record.response_messages = self.response_messages.get();
    }
}

/// One request, or one opaque connection, until it ends.
pub(crate) struct Call {
    worker: Rc<Worker>,
    state: Rc<CallState>,
    begun: Option<Begun>,
    slot: usize,
    fault: Option<Fault>,
}

impl Call {
    /// Begins a call whose head was read at `start`. A call that came with an id keeps it.
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        side: Side,
        id: Option<RequestId>,
        start: Instant,
    ) -> Self {
        let (begun, start_us) = identify(worker, id, start);
        let record = Box::new(RequestRecord::new(begun.id(), side, start_us));
        Self::with(worker, begun, record, start)
    }

    /// As [`Call::begin`], with a record that says what `like` says.
    pub(crate) fn begin_like(
        worker: &Rc<Worker>,
        like: &RequestRecord,
        id: Option<RequestId>,
        start: Instant,
    ) -> Self {
        let (begun, start_us) = identify(worker, id, start);
        let mut record = Box::new(like.clone());
        record.id = begun.id();
        (record.start_at_us, record.at_us) = (start_us, start_us);
        Self::with(worker, begun, record, start)
    }

    fn with(worker: &Rc<Worker>, begun: Begun, record: Box<RequestRecord>, start: Instant) -> Self {
        let state = Rc::new(CallState {
            start,
            id: record.id,
            side: record.side,
            record: RefCell::new(Some(record)),
            first_byte: Cell::new(None),
            request_bytes: Cell::new(0),
            request_messages: Cell::new(0),
            response_bytes: Cell::new(0),
            response_messages: Cell::new(0),
            client_failed: Cell::new(None),
            deadline: Cell::new(None),
            next_open_us: Cell::new(open::FIRST_US),
            scope: RefCell::default(),
        });
        let slot = worker.calls.borrow_mut().insert(state.clone());
        Self {
            worker: worker.clone(),
            state,
            begun: Some(begun),
            slot,
            fault: None,
        }
    }

    /// Returns the shared part.
    pub(crate) const fn state(&self) -> &Rc<CallState> {
        &self.state
    }

    /// Changes the record.
    pub(crate) fn note<T>(&self, change: impl FnOnce(&mut RequestRecord) -> T) -> T {
        self.state.note(change)
    }

    /// Returns the id.
    pub(crate) fn id(&self) -> RequestId {
        self.state.id
    }

    /// Counts the request in the metrics of `scope`, once; its end will be counted there too.
    pub(crate) fn count_in(&self, scope: Rc<Scope>) {
        let mut known = self.state.scope.borrow_mut();
        if known.is_none() {
            scope.request();
        }
        *known = Some(scope);
    }

    /// Says whether the request is counted somewhere already.
    pub(crate) fn is_counted(&self) -> bool {
        self.state.scope.borrow().is_some()
    }

    /// Says whether the response, as far as it is known, is none that counts as a failure.
    pub(crate) fn looks_well(&self) -> bool {
        self.note(|record| {
            let failing = record
                .grpc_status
                .is_some_and(outcome::grpc_status_is_failure);
            self.fault.is_none() && record.status < 500 && !failing
        })
    }

    /// Forgets the response of a try that is not the last.
    pub(crate) fn unanswered(&self) {
        self.note(|record| (record.status, record.grpc_status) = (0, None));
    }

    /// Notes when the request must be over.
    pub(crate) fn deadline(&self, deadline: Option<Instant>) {
        self.state.deadline.set(deadline);
    }

    /// Adds a decision to the trail of the record.
    pub(crate) fn decided(&self, name: &str, value: &str) {
        self.note(|record| {
            let mut trail = Attributes(record.trail.to_string());
            trail.push(name, value);
            record.trail = trail.0.into();
        });
    }

    /// Notes what went wrong; the end of the call will tell.
    pub(crate) const fn blame(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Leaves an extra row for a try that failed while another one follows.
    pub(crate) fn attempt_failed(&self, fault: Fault) {
        let now = Instant::now();
        let mut row = self.state.row(now);
        row.kind = Kind::Attempt;
        row.outcome = Outcome::Failure;
        row.cause = fault.cause;
        row.origin = fault.origin;
        self.worker.recorder.observe(row);
    }

    /// Leaves an extra row for an endpoint that could not be reached.
    pub(crate) fn attempt_at(&self, endpoint: &Arc<str>, fault: Fault) {
        let used = self.note(|record| std::mem::replace(&mut record.endpoint, endpoint.clone()));
        self.attempt_failed(fault);
        self.note(|record| record.endpoint = used);
    }

    /// Ends the call: hands over its record and counts its response.
    pub(crate) fn end(mut self) {
        self.close();
    }

    fn close(&mut self) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        self.worker.calls.borrow_mut().remove(self.slot);
        let Some(mut record) = self.state.record.borrow_mut().take() else {
            return;
        };
        self.state.fill(&mut record, Instant::now());
        let ending = Ending {
            status: record.status,
            grpc_status: record.grpc_status,
            fault: self.fault.map(|fault| fault.cause),
        };
        let classified = outcome::classify(record.protocol, ending);
        record.outcome = classified.outcome;
        record.cause = classified.cause;
        record.client_error = classified.client_error;
        record.origin = match self.fault {
            Some(fault) => fault.origin,
            None => origin(record.side, classified.cause, false),
        };
        if let Some(scope) = self.state.scope.borrow().as_ref() {
            let response = Response {
                status: record.status,
                outcome: record.outcome,
                grpc_status: record.grpc_status,
                cause: record.cause,
            };
            scope.response(response, record.latency_us);
        }
        begun.finish(record);
    }
}

/// Gives a call its id; returns with it when the call began, µs since the Unix epoch.
fn identify(worker: &Worker, id: Option<RequestId>, start: Instant) -> (Begun, i64) {
    let start_us = worker.clock.at_us(start);
    let begun = match id {
        Some(id) => worker.recorder.adopt(id),
        None => worker.recorder.begin(start_us),
    };
    (begun, start_us)
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.begun.is_some() && self.fault.is_none() {
            let stopping = self.worker.stats.stopping.load(Ordering::Relaxed);
            let side = self.state.side;
            let deadline = self.state.deadline.get();
            let cause = if stopping {
                Cause::Shutdown
            } else if deadline.is_some_and(|at| Instant::now() + PUNCTUAL >= at) {
                // The client's clock for the same deadline began a little earlier.
                Cause::RequestTimeout
            } else {
                self.worker.given_up.get()
            };
            self.blame(Fault::seen_from(side, cause, false));
        }
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_told_from_each_side() {
        use Side::{Inbound, Outbound};
        let check = |side, cause, meshed, expected| {
            assert_eq!(
                origin(side, cause, meshed),
                expected,
                "{side} {cause} {meshed}"
            );
        };
        check(Outbound, Cause::AppHttp5xx, true, Origin::Server);
        check(Outbound, Cause::ConnectRefused, true, Origin::Network);
        check(Outbound, Cause::ConnectRefused, false, Origin::Server);
        check(Outbound, Cause::ConnectTimeout, false, Origin::Network);
        check(Outbound, Cause::NoEndpoints, false, Origin::ClientProxy);
        check(Outbound, Cause::LoadShed, false, Origin::ClientProxy);
        check(Outbound, Cause::ClientCancelled, true, Origin::Client);
        check(Inbound, Cause::ConnectRefused, false, Origin::Server);
        check(Inbound, Cause::Reset, false, Origin::Server);
        check(Inbound, Cause::BadRequestHead, false, Origin::Client);
        check(Inbound, Cause::LoadShed, false, Origin::ServerProxy);
        check(Inbound, Cause::Shutdown, false, Origin::ServerProxy);
        check(Inbound, Cause::None, false, Origin::None);
    }
}
