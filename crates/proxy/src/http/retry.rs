//! Whether a request is tried again, and what is kept of it for that.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http_body::Body as _;
use whodunit_model::Cause;
use whodunit_model::record::Protocol;
use whodunit_model::route_rule::{RETRY_BODY_BYTES_MAX, Retries};

use super::body::{Outgoing, RequestBody};
use super::http1::Wire;
use super::replay::Replay;
use crate::call::Call;
use crate::clock::Instant;
use crate::limits::Limit;
use crate::upstream::{Budget, Failed, Version};

/// Most endpoints that are tried for one request without a rule that allows more.
const ENDPOINTS_MAX: usize = Limit::EndpointsTried.count();

/// Most connections that may turn out to be closed before the request fails with them.
const STALE_MAX: usize = 3;

/// Pause before the second try; each further one doubles it.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// What a failed try leads to.
pub(super) enum Next {
    /// The same once more on another connection: nothing was sent.
    Unsent,
    /// Another try.
    Again,
    /// No other try; why not, where that is worth a word.
    GiveUp(Option<&'static str>),
}

/// The tries of one request.
pub(super) struct Tries {
    /// Endpoints that failed.
    pub(super) tried: Vec<SocketAddr>,
    /// Tries that failed.
    pub(super) failed: u32,
    /// The client has got an interim response, so this is the last try.
    pub(super) has_begun: bool,
    stale: usize,
    idempotent: bool,
    body: Body,
    /// The head, where the connection does not give it back.
    head: Option<Box<Parts>>,
}

enum Body {
    /// There is none; the connection of an HTTP/1 client still has the fields.
    Empty(Option<Rc<Wire>>),
    Kept(Rc<Replay>),
    /// It can be sent once.
    Stream,
}

impl Tries {
    /// Prepares a request for more than one try, if it may come to that.
    pub(super) fn new(
        parts: &Parts,
        body: &mut RequestBody,
        rules: &Retries,
        protocol: Protocol,
    ) -> Self {
        let idempotent = protocol != Protocol::Grpc
            && matches!(
                parts.method,
                Method::GET
                    | Method::HEAD
                    | Method::OPTIONS
                    | Method::TRACE
                    | Method::PUT
                    | Method::DELETE
            );
        let by_rule = rules.attempts_max > 1 && (idempotent || rules.non_idempotent);
        let body = if body.is_end_stream() {
            Body::Empty(body.client())
        } else {
            // An endpoint may refuse a request unseen, which is no reason to fail it.
            let most = if by_rule {
                rules.body_bytes_max
            } else {
                RETRY_BODY_BYTES_MAX
            };
            let length = parts.headers.get(CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            if length.is_some_and(|length| length > most.into()) {
                Body::Stream
            } else {
                let kept = body.keep(most as usize);
                kept.map_or(Body::Stream, Body::Kept)
            }
        };
        Self {
            tried: Vec::new(),
            failed: 0,
            has_begun: false,
            stale: 0,
            idempotent,
            body,
            head: None,
        }
    }

    /// Keeps the head of a request that is about to be sent, if it may be needed again and
    /// the connection will not give it back.
    pub(super) fn keep_head(&mut self, parts: &Parts, rules: &Retries, version: Version) {
        let by_rule = rules.attempts_max > 1 && (self.idempotent || rules.non_idempotent);
        let asks_more = || *rules != Retries::default();
        let needed = version == Version::Http2 || (by_rule && asks_more());
        if needed && !matches!(self.body, Body::Stream) {
            self.head = Some(Box::new(parts.clone()));
        }
    }

    /// Says whether the request goes out again if an old connection turns out to be closed.
    pub(super) const fn is_repeatable(&self) -> bool {
        self.idempotent && self.has_more() && matches!(self.body, Body::Empty(_))
    }

    /// Decides after a try that got no response; `reused` says that its connection was old.
    pub(super) fn after_failure(
        &mut self,
        call: &Call,
        outgoing: &mut Outgoing,
        failed: &Failed,
        reused: bool,
        rules: &Retries,
        budget: &Budget,
    ) -> Next {
        if failed.unsent {
            self.stale += 1;
            return if self.stale <= STALE_MAX {
                Next::Unsent
            } else {
                Next::GiveUp(None)
            };
        }
        self.take_back(outgoing);
        let closed = matches!(failed.cause, Cause::ClosedEarly | Cause::Reset);
        // The connection was given up by the endpoint while the request was on its way.
        let raced = reused && closed && self.idempotent;
        if (failed.unprocessed || raced) && self.has_more() && !self.has_begun {
            return self.again(call, outgoing);
        }
        if rules.on_cause(failed.cause) {
            return self.by_rule(call, outgoing, rules, budget);
        }
        Next::GiveUp(None)
    }

    /// Decides after an answer which says that the request was not even begun.
    pub(super) fn unprocessed(&mut self, call: &Call, outgoing: &mut Outgoing) -> Next {
        self.take_back(outgoing);
        if self.has_more() {
            self.again(call, outgoing)
        } else {
            Next::GiveUp(None)
        }
    }

    /// Keeps the head that was sent, where the connection left it.
    fn take_back(&mut self, outgoing: &mut Outgoing) {
        if let Some(parts) = outgoing.parts.take() {
            self.head = Some(Box::new(parts));
        }
    }

    /// Says whether a request that was not begun may be sent once more.
    const fn has_more(&self) -> bool {
        (self.failed as usize) + 1 < ENDPOINTS_MAX
    }

    /// Decides after a try that failed in a way the rule names.
    pub(super) fn by_rule(
        &mut self,
        call: &Call,
        outgoing: &mut Outgoing,
        rules: &Retries,
        budget: &Budget,
    ) -> Next {
        if self.has_begun {
            return Next::GiveUp((rules.attempts_max > 1).then_some("interim"));
        }
        if self.failed + 1 >= rules.attempts_max.into() {
            return Next::GiveUp((rules.attempts_max > 1).then_some("attempts"));
        }
        if !self.idempotent && !rules.non_idempotent {
            return Next::GiveUp(Some("not_idempotent"));
        }
        if !self.can_repeat() {
            return Next::GiveUp(Some("body"));
        }
        if !budget.withdraw(rules.budget, Instant::now()) {
            crate::limits::hit(Limit::RetryBudget);
            return Next::GiveUp(Some("budget"));
        }
        self.again(call, outgoing)
    }

    /// Says whether the request could be sent once more.
    fn can_repeat(&self) -> bool {
        self.head.is_some()
            && match &self.body {
                Body::Empty(_) => true,
                Body::Kept(replay) => replay.is_whole(),
                Body::Stream => false,
            }
    }

    fn again(&mut self, call: &Call, outgoing: &mut Outgoing) -> Next {
        if !self.can_repeat() {
            return Next::GiveUp(Some("body"));
        }
        let Some(head) = self.head.take() else {
            return Next::GiveUp(None);
        };
        let grpc = call.note(|record| record.protocol == Protocol::Grpc);
        let body = match &self.body {
            Body::Kept(replay) => RequestBody::again(replay, call.state().clone(), grpc),
            Body::Empty(client) => RequestBody::empty(call.state().clone(), client.clone()),
            Body::Stream => RequestBody::empty(call.state().clone(), None),
        };
        self.failed += 1;
        outgoing.parts = Some(*head);
        outgoing.body = Some(body);
        Next::Again
    }

    /// Returns how long to wait before the next try: `random` spreads those of many requests.
    pub(super) fn pause(&self, random: usize) -> Duration {
        let pause = PAUSE * 2_u32.saturating_pow(self.failed.saturating_sub(1).min(8));
        let pause = pause.min(PAUSE_MAX);
        pause / 2 + pause * u32::try_from(random % 256).unwrap_or(0) / 256
    }
}
