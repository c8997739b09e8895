//! WebSocket and other protocols that an HTTP/1.1 connection can turn into.

use whodunit_model::Cause;

use crate::call::{Call, Fault};
use crate::net::Io;
use crate::opaque::{Broken, relay};
use crate::upstream::InFlight;

/// An endpoint's side of a connection that goes on in another protocol.
pub(crate) struct Switched {
    /// The connection to the endpoint.
    pub(super) upstream: Io,
    /// Ends with the connection.
    pub(super) call: Call,
    pub(super) _in_flight: InFlight,
    pub(super) meshed: bool,
}

impl Switched {
    /// Relays both ways until both have ended, or one breaks.
    pub(super) async fn relay(mut self, mut client: Io) {
        let side = self.call.note(|record| record.side);
        let state = self.call.state().clone();
        let cause = match relay(&mut client, &mut self.upstream, &state).await {
            Ok(()) => None,
            Err(Broken::Client(_)) => {
                self.upstream.reset_on_close();
                Some(Cause::ClientCancelled)
            }
            Err(Broken::Upstream(cause)) => {
                client.reset_on_close();
                Some(cause)
            }
        };
        if let Some(cause) = cause {
            self.call.blame(Fault::seen_from(side, cause, self.meshed));
        }
        self.call.end();
    }
}
