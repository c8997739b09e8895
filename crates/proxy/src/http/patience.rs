//! How long a request is waited for: the whole of it, the head of the response, a byte.
//!
//! One timer per request that has a limit, none for the others. A limit on silence is looked
//! at four times within its length, so it may be noticed up to a quarter late.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;
use whodunit_model::Cause;
use whodunit_model::route_rule::Timeouts;

use crate::call::CallState;
use crate::clock::Instant;

/// Looks per length of the limit on silence.
const LOOKS: u32 = 4;

/// The limits of one request.
pub(crate) struct Patience {
    /// When the request must be over.
    deadline: Option<Instant>,
    response_headers: Option<Duration>,
    /// When the head of the response must be there.
    head_by: Option<Instant>,
    idle: Option<Duration>,
    /// Bytes that had moved when something last moved, and when that was.
    moved: (u64, Instant),
    state: Rc<CallState>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Returns the limits of a request; `asked` is the time the client gives it.
    pub(super) fn new(state: &Rc<CallState>, timeouts: Timeouts, asked: Option<Duration>) -> Self {
        let request = timeouts.request_ms.map(Duration::from_millis);
        let request = match (request, asked) {
            (Some(request), Some(asked)) => Some(request.min(asked)),
            (request, asked) => request.or(asked),
        };
        Self {
            deadline: request.and_then(|request| state.start.checked_add(request)),
            response_headers: timeouts.response_headers_ms.map(Duration::from_millis),
            head_by: None,
            idle: timeouts.idle_ms.map(Duration::from_millis),
            moved: (0, state.start),
            state: state.clone(),
            timer: None,
        }
    }

    /// Says whether there is any limit.
    pub(super) const fn is_limited(&self) -> bool {
        self.deadline.is_some() || self.idle.is_some()
    }

    /// Returns how much time is left for the whole request, if there is a limit.
    pub(super) fn left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns when the request must be over, if there is a limit.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// A try begins: from now on the head of its response is waited for.
    pub(super) fn begin_try(&mut self) {
        if self.response_headers.is_none() && self.idle.is_none() {
            return;
        }
        let now = Instant::now();
        self.head_by = self.response_headers.map(|limit| now + limit);
        self.moved = (self.state.moved(), now);
    }

    /// The head of the response is there.
    pub(super) const fn head_came(&mut self) {
        self.head_by = None;
    }

    /// Waits for `work`, but not longer than the limits allow. The work stays where it is: one
    /// that is handed over would have room in the caller's future and in this one.
    pub(super) fn bound<T>(
        &mut self,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = Result<T, Cause>> {
        poll_fn(move |cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            self.poll(cx).map(Err)
        })
    }

    /// Becomes ready with the limit that was reached.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        loop {
            let look = self.idle.map(|idle| self.moved.1 + idle);
            let next = [self.deadline, self.head_by, look];
            let Some(next) = next.into_iter().flatten().min() else {
                return Poll::Pending;
            };
            let now = Instant::now();
            if let Some(cause) = self.reached(now) {
                return Poll::Ready(cause);
            }
            // Bytes move without a word to us, so a long silence is looked at in parts.
            let at = match self.idle {
                Some(idle) => next.min(now + idle / LOOKS),
                None => next,
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
            let armed = Instant::from(timer.deadline());
            if armed > at || armed <= now {
                timer.as_mut().reset(at.into());
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    fn reached(&mut self, now: Instant) -> Option<Cause> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Some(Cause::RequestTimeout);
        }
        if self.head_by.is_some_and(|head_by| now >= head_by) {
            return Some(Cause::ResponseHeadersTimeout);
        }
        let idle = self.idle?;
        let moved = self.state.moved();
        if moved != self.moved.0 {
            self.moved = (moved, now);
        }
        (now.saturating_duration_since(self.moved.1) >= idle).then_some(Cause::IdleTimeout)
    }
}

/// Most digits of a `grpc-timeout`.
const DIGITS_MAX: usize = 8;

/// Reads a `grpc-timeout`: at most eight digits and a unit.
pub(super) fn grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count * 3_600),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Writes a `grpc-timeout`, rounded down.
pub(super) fn grpc_timeout_text(time: Duration) -> String {
    let most = 10_u128.pow(8) - 1;
    if time.as_micros() <= most {
        format!("{}u", time.as_micros())
    } else if time.as_millis() <= most {
        format!("{}m", time.as_millis())
    } else {
        format!("{}S", u128::from(time.as_secs()).min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("40m", Some(Duration::from_millis(40))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("7n", Some(Duration::from_nanos(7))),
            ("100000000u", None),
            ("", None),
            ("m", None),
            ("+1S", None),
            ("1", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(grpc_timeout(text), expected, "{text}");
        }
        for ms in [0, 1, 99_999, 100_000, 3_600_000, 50_000_000_000] {
            let time = Duration::from_millis(ms);
            let text = grpc_timeout_text(time);
            let read = grpc_timeout(&text).unwrap();
            assert!(
                read <= time && time - read < Duration::from_secs(1),
                "{text}"
            );
        }
    }
}
