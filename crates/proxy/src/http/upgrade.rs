//! WebSocket and other protocols that an HTTP/1.1 connection can turn into.

use http::Response;
use http::request::Parts;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use whodunit_model::Cause;

use super::ResponseBody;
use super::head;
use crate::call::{Call, Fault};
use crate::opaque::{Broken, relay};
use crate::upstream::{InFlight, Lease};

/// The client's wish to go on in another protocol.
pub(crate) struct Wish(OnUpgrade);

impl Wish {
    /// Takes the wish out of a request, if it has one.
    pub(crate) fn take(parts: &mut Parts) -> Option<Self> {
        let wanted = head::wants_upgrade(parts);
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        upgrade.filter(|_| wanted).map(Self)
    }

    /// Relays both ways once `response`, which agrees, has been sent. The call ends with
    /// the connection; `kept` stays in use until then.
    pub(crate) fn relay(
        self,
        response: &mut Response<ResponseBody>,
        mut call: Call,
        kept: (Lease, InFlight),
        meshed: bool,
    ) {
        let upstream = on(response);
        tokio::task::spawn_local(async move {
            let _kept = kept;
            let side = call.note(|record| record.side);
            let (client, upstream) = match tokio::join!(self.0, upstream) {
                (Ok(client), Ok(upstream)) => (client, upstream),
                // Dropping the call tells that the client went away.
                (Err(_), _) => return,
                (Ok(_), Err(_)) => {
                    call.blame(Fault::seen_from(side, Cause::ClosedEarly, meshed));
                    call.end();
                    return;
                }
            };
            let state = call.state().clone();
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            match relay(&mut client, &mut upstream, &state).await {
                Ok(()) => {}
                Err(Broken::Client(_)) => {
                    call.blame(Fault::seen_from(side, Cause::ClientCancelled, meshed));
                }
                Err(Broken::Upstream(cause)) => {
                    call.blame(Fault::seen_from(side, cause, meshed));
                }
            }
            call.end();
        });
    }
}
