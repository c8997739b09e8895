//! Who may stay connected when more clients come than are served at one time.
//!
//! A client that only opens connections, or sends its requests byte by byte,
//! must not keep others out. So the number of HTTP connections is bounded, and
//! when all places are taken, the connection that has waited longest without a
//! request being answered makes room.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Notify;

/// The places there are.
#[derive(Debug)]
pub(crate) struct Seats {
    max: usize,
    taken: Arc<Mutex<Vec<Arc<Place>>>>,
}

/// What is known of one connection.
#[derive(Debug)]
struct Place {
    /// Since when no request is being answered; none while one is.
    waiting: Mutex<Option<Instant>>,
    cut: Notify,
}

/// The place of one connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    place: Arc<Place>,
    taken: Arc<Mutex<Vec<Arc<Place>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seats {
    /// Returns `max` empty places.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            taken: Arc::default(),
        }
    }

    /// How many there are.
    pub(crate) const fn max(&self) -> usize {
        self.max
    }

    /// Takes a place, from who has waited longest if all are taken; none if
    /// every connection has a request being answered.
    pub(crate) fn take(&self) -> Option<Seat> {
        let mut taken = lock(&self.taken);
        if taken.len() >= self.max {
            let waiting = taken.iter().enumerate().filter_map(|(index, place)| {
                let since = *lock(&place.waiting);
                since.map(|since| (since, index))
            });
            let (_, longest) = waiting.min()?;
            taken.swap_remove(longest).cut.notify_one();
        }
        let place = Arc::new(Place {
            waiting: Mutex::new(Some(Instant::now())),
            cut: Notify::new(),
        });
        taken.push(place.clone());
        drop(taken);
        Some(Seat {
            place,
            taken: self.taken.clone(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.taken).retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

impl Seat {
    /// Returns when the connection has to make room.
    pub(crate) async fn cut(&self) {
        self.place.cut.notified().await;
    }

    /// Returns the service that answers by `router` and notes while it does.
    pub(crate) fn attend(&self, router: Router) -> Attended {
        Attended {
            router: TowerToHyperService::new(router),
            place: self.place.clone(),
        }
    }
}

/// Answers the requests of one connection.
#[derive(Debug)]
pub(crate) struct Attended {
    router: TowerToHyperService<Router>,
    place: Arc<Place>,
}

impl Service<Request<Incoming>> for Attended {
    type Response = Response<Answering>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = Busy::new(&self.place);
        let answer = self.router.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| Answering { body, _busy: busy }))
        })
    }
}

/// A request is being answered while this lives.
#[derive(Debug)]
struct Busy(Arc<Place>);

impl Busy {
    fn new(place: &Arc<Place>) -> Self {
        *lock(&place.waiting) = None;
        Self(place.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.waiting) = Some(Instant::now());
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Answering {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_longest_makes_room_and_who_is_answered_does_not() {
        let seats = Seats::new(2);
        let first = seats.take().expect("a place");
        let second = seats.take().expect("a place");
        let answered = Busy::new(&first.place);
        let third = seats.take().expect("the place of the second");
        assert!(seats.taken.lock().expect("no panic").len() == 2);
        let _third_answered = Busy::new(&third.place);
        assert!(seats.take().is_none(), "both are being answered");
        drop(second);
        assert!(seats.take().is_none(), "the second had left already");
        drop(answered);
        assert!(seats.take().is_some(), "the first waits again");
    }

    #[test]
    fn a_place_is_given_back() {
        let seats = Seats::new(1);
        let first = seats.take().expect("a place");
        let _answered = Busy::new(&first.place);
        drop(first);
        assert!(seats.take().is_some());
    }
}
