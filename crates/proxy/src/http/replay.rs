//! A request body that can be sent again: what was read of it is kept, up to a bound.
//!
//! Data are kept as they came, shared and not copied. A body that turns out to be longer
//! than the bound goes on as a stream; it just cannot be sent again any more.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::stream::{Incoming, StreamError};

/// What several tries share.
pub(super) struct Replay {
    source: RefCell<Incoming>,
    kept: RefCell<Vec<Kept>>,
    bytes: Cell<usize>,
    bytes_max: usize,
    /// More came than may be kept.
    is_over: Cell<bool>,
    has_ended: Cell<bool>,
    /// Only the last try may read on.
    tries: Cell<u32>,
}

/// A frame, and whether it is read for the first time.
type Replayable = (bool, Result<Frame<Bytes>, StreamError>);

enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The body as one try sends it.
pub(super) struct Replayed {
    shared: Rc<Replay>,
    next: usize,
    number: u32,
}

impl Replay {
    /// Keeps what is read of a body, up to `bytes_max`.
    pub(super) fn new(source: Incoming, bytes_max: usize) -> Rc<Self> {
        Rc::new(Self {
            source: RefCell::new(source),
            kept: RefCell::default(),
            bytes: Cell::new(0),
            bytes_max,
            is_over: Cell::new(false),
            has_ended: Cell::new(false),
            tries: Cell::new(0),
        })
    }

    /// Says whether everything that was read so far can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_over.get()
    }

    /// Returns the body for another try; earlier ones read nothing more.
    pub(super) fn begin(self: &Rc<Self>) -> Replayed {
        self.tries.set(self.tries.get() + 1);
        Replayed {
            shared: self.clone(),
            next: 0,
            number: self.tries.get(),
        }
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        if self.is_over.get() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        let part = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                self.bytes.set(self.bytes.get() + data.len());
                Kept::Data(data.clone())
            }
            (None, Some(trailers)) => Kept::Trailers(trailers.clone()),
            (None, None) => return,
        };
        if self.bytes.get() > self.bytes_max {
            self.is_over.set(true);
            kept.clear();
        } else {
            kept.push(part);
        }
    }
}

impl Replayed {
    /// Looks at where the body comes from.
    pub(super) fn source<T>(&self, look: impl FnOnce(&Incoming) -> T) -> T {
        look(&self.shared.source.borrow())
    }

    /// Returns the next frame, and whether it is read for the first time.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Replayable>> {
        let shared = &self.shared;
        if shared.tries.get() != self.number {
            return Poll::Ready(Some((false, Err(StreamError::Client))));
        }
        if let Some(kept) = shared.kept.borrow().get(self.next) {
            self.next += 1;
            let frame = match kept {
                Kept::Data(data) => Frame::data(data.clone()),
                Kept::Trailers(trailers) => Frame::trailers(trailers.clone()),
            };
            return Poll::Ready(Some((false, Ok(frame))));
        }
        if shared.has_ended.get() {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut *shared.source.borrow_mut()).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                shared.keep(frame);
                self.next += 1;
            }
            Some(Err(_)) | None => shared.has_ended.set(true),
        }
        Poll::Ready(frame.map(|frame| (true, frame)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let shared = &self.shared;
        let all_sent = self.next >= shared.kept.borrow().len() || shared.is_over.get();
        all_sent && (shared.has_ended.get() || shared.source.borrow().is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let kept = self.shared.kept.borrow();
        let unsent = kept.iter().skip(self.next).map(|part| match part {
            Kept::Data(data) => data.len() as u64,
            Kept::Trailers(_) => 0,
        });
        let unsent: u64 = unsent.sum();
        let rest = self.shared.source.borrow().size_hint();
        let exact = rest.exact().map(|rest| rest + unsent);
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
