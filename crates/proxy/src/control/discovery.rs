//! Follows where a service lives: one `Destination.Get` stream per service.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout_at;
use whodunit_wire::destination::Destination;
use whodunit_wire::linkerd::destination::destination_client::DestinationClient;
use whodunit_wire::linkerd::destination::{GetDestination, Update};
use whodunit_wire::tonic::Status;

use super::{Backoff, Heard};
use crate::clock::{Clock, Instant};
use crate::net;
use crate::upstream::Known;

/// How long "there is no such service" is doubted while endpoints are known: a server that
/// has just started may not know its services yet.
const DOUBT: Duration = Duration::from_secs(2);

/// What the server is asked.
pub(super) struct Asked {
    pub(super) server: SocketAddr,
    /// Names it in messages.
    pub(super) name: String,
    /// The service or the address, in the words of the protocol.
    pub(super) path: String,
    /// Who asks.
    pub(super) instance: String,
}

/// Follows a service or an address for as long as anyone listens. What was heard last stays
/// known while the server is gone.
pub(super) async fn follow(
    asked: Asked,
    sender: watch::Sender<Known>,
    heard: Rc<Heard>,
    clock: Clock,
    mut backoff: Backoff,
) {
    let (service, server) = (&asked.name, asked.server);
    loop {
        let result = tokio::select! {
            result = stream(&asked, &sender, &heard, &mut backoff) => result,
            () = sender.closed() => return,
        };
        if heard.lose(clock.now_us()) {
            tracing::warn!(%service, %server, "lost the discovery server, keeping what is known");
        }
        if let Err(error) = result {
            tracing::debug!(%service, %server, %error, "discovery failed");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => {}
            () = sender.closed() => return,
        }
    }
}

async fn stream(
    asked: &Asked,
    sender: &watch::Sender<Known>,
    heard: &Heard,
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let service = &asked.name;
    let endpoint = super::endpoint(asked.server).ok_or_else(|| Status::internal("no endpoint"))?;
    let channel = net::channel(&endpoint)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = GetDestination {
        scheme: "k8s".to_owned(),
        path: asked.path.clone(),
        context_token: asked.instance.clone(),
    };
    let mut updates = DestinationClient::new(channel)
        .get(request)
        .await?
        .into_inner();
    // Each stream tells everything anew.
    let mut destination = Destination::default();
    let mut doubt: Option<Instant> = None;
    loop {
        let update = match doubt {
            None => updates.message().await?,
            Some(until) => match timeout_at(until.into(), updates.message()).await {
                Ok(update) => update?,
                Err(_) => Some(Update::default()),
            },
        };
        let Some(update) = update else { return Ok(()) };
        backoff.reset();
        destination.apply(update);
        heard.hear(false);
        let had_endpoints = !sender.borrow().destination.endpoints.is_empty();
        if had_endpoints && !destination.exists {
            let until = *doubt.get_or_insert_with(|| Instant::now() + DOUBT);
            if Instant::now() < until {
                continue;
            }
        }
        doubt = None;
        tracing::debug!(%service, endpoints = destination.endpoints.len(), "discovered");
        let news = sender.send_if_modified(|known| {
            let differs = !known.heard || known.destination != destination;
            *known = Known {
                heard: true,
                destination: destination.clone(),
            };
            differs
        });
        heard.hear(news);
    }
}
