//! The wish to stop: in order, or at once.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// What somebody wants of a process or of the whole mesh. Wishes only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// Go on.
    Run,
    /// End in good order.
    InOrder,
    /// End now, whatever is lost.
    AtOnce,
}

/// Hears when the mesh is to stop. Clones hear the same.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Wish>);

/// Says when the mesh is to stop. Dropping it says nothing.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<watch::Sender<Wish>>);

impl Stop {
    /// Makes both halves.
    #[must_use]
    pub fn manual() -> (StopHandle, Self) {
        let (sender, receiver) = watch::channel(Wish::Run);
        (StopHandle(Arc::new(sender)), Self(receiver))
    }

    /// Stops on SIGINT, SIGTERM and SIGHUP: the first stops in order, the
    /// second at once. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    pub fn on_signals() -> io::Result<Self> {
        Ok(Self::on_signals_with_handle()?.1)
    }

    /// Like [`Stop::on_signals`], with a handle that may stop earlier.
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    pub fn on_signals_with_handle() -> io::Result<(StopHandle, Self)> {
        let (handle, stop) = Self::manual();
        let signals = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        for kind in signals {
            tokio::spawn(forward(signal(kind)?, handle.clone()));
        }
        Ok((handle, stop))
    }

    /// Waits until the wish is at least this strong.
    pub(crate) async fn at_least(&mut self, wish: Wish) {
        if self.0.wait_for(|current| *current >= wish).await.is_err() {
            // Nobody is left who could say it.
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn wish(&self) -> Wish {
        *self.0.borrow()
    }
}

impl StopHandle {
    /// Asks to stop in order.
    pub fn stop(&self) {
        self.raise(Wish::InOrder);
    }

    /// Asks to stop at once.
    pub fn now(&self) {
        self.raise(Wish::AtOnce);
    }

    pub(crate) fn raise(&self, wish: Wish) {
        self.0.send_if_modified(|current| {
            let stronger = wish > *current;
            if stronger {
                *current = wish;
            }
            stronger
        });
    }
}

async fn forward(mut signal: Signal, handle: StopHandle) {
    while signal.recv().await.is_some() {
        let next = if *handle.0.borrow() == Wish::Run {
            Wish::InOrder
        } else {
            Wish::AtOnce
        };
        handle.raise(next);
    }
}
