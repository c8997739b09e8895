//! Listening, and stopping within a second.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long requests in flight may take to end once the process is asked to stop.
/// Below a second, so that whoever stops us need not kill us.
pub const GRACE: Duration = Duration::from_millis(800);

/// Says when to stop. Clones hear the same word.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Says the word; dropping it says it too.
#[derive(Debug)]
pub struct StopTrigger(watch::Sender<bool>);

impl StopTrigger {
    /// Asks everybody who holds the other half to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Makes both halves.
    pub fn new() -> (StopTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (StopTrigger(sender), Self(receiver))
    }

    /// Stops on SIGTERM or SIGINT. Must be called inside a Tokio runtime. Fails when the
    /// signals cannot be listened for.
    pub fn on_signal() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let (trigger, stop) = Self::new();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            trigger.stop();
        });
        Ok(stop)
    }

    /// Whether the word was said.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for the word.
    pub async fn requested(mut self) {
        // An error means that the other half is gone, which says the same.
        let _said_or_gone = self.0.wait_for(|stop| *stop).await;
    }

    /// Waits for the word and then for the time that requests in flight may take.
    pub async fn overdue(self) {
        self.requested().await;
        tokio::time::sleep(GRACE).await;
    }
}

/// Opens a listening socket; `setting` names the setting that the port came from, which
/// the error repeats when the port is taken or the host is not ours.
pub async fn listen(host: &str, port: u16, setting: &str) -> anyhow::Result<TcpListener> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    TcpListener::bind((bare, port))
        .await
        .with_context(|| format!("listen on {host} port {port} (change {setting} or LISTEN_HOST)"))
}

/// Serves HTTP/1.1 until asked to stop; fails when the listener does.
pub async fn http(listener: TcpListener, routes: Router, stop: Stop) -> anyhow::Result<()> {
    let listener = listener.tap_io(|socket| {
        // Only costs latency when it fails.
        let _best_effort = socket.set_nodelay(true);
    });
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().requested());
    tokio::select! {
        result = server => result.context("serve HTTP"),
        () = stop.overdue() => Ok(()),
    }
}
