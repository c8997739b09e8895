//! WebSocket and other protocols that an HTTP/1.1 connection can turn into.

use bytes::Bytes;

use crate::call::Call;
use crate::h1::Fields;
use crate::net::Io;
use crate::opaque::relay;
use crate::upstream::InFlight;

/// An endpoint's side of a connection that goes on in another protocol.
pub(crate) struct Switched {
    /// The connection to the endpoint.
    pub(super) upstream: Io,
    /// Ends with the connection.
    pub(super) call: Call,
    pub(super) _in_flight: InFlight,
    pub(super) meshed: bool,
    /// The fields and the reason phrase with which it agreed.
    pub(super) head: Option<(Fields, Bytes)>,
}

impl Switched {
    /// Relays both ways until both have ended, or one breaks.
    pub(super) async fn relay(mut self, mut client: Io) {
        let side = self.call.note(|record| record.side);
        let state = self.call.state().clone();
        if let Err(broken) = relay(&mut client, &mut self.upstream, &state).await {
            let fault = broken.settle(side, self.meshed, &client, Some(&self.upstream));
            self.call.blame(fault);
        }
        self.call.end();
    }
}
