//! Follows where a service lives: one `Destination.Get` stream per service.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout_at;
use whodunit_model::topology::ServiceName;
use whodunit_wire::destination::{self, Destination};
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

/// Follows a service for ever. What was heard last stays known while the server is gone.
pub(super) async fn follow(
    server: SocketAddr,
    service: ServiceName,
    instance: String,
    sender: watch::Sender<Known>,
    heard: Rc<Heard>,
    clock: Clock,
    mut backoff: Backoff,
) {
    loop {
        let result = stream(server, &service, &instance, &sender, &heard, &mut backoff).await;
        if heard.lose(clock.now_us()) {
            tracing::warn!(%service, %server, "lost the discovery server, keeping what is known");
        }
        if let Err(error) = result {
            tracing::debug!(%service, %server, %error, "discovery failed");
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn stream(
    server: SocketAddr,
    service: &ServiceName,
    instance: &str,
    sender: &watch::Sender<Known>,
    heard: &Heard,
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let endpoint = super::endpoint(server).ok_or_else(|| Status::internal("no endpoint"))?;
    let channel = net::channel(&endpoint)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = GetDestination {
        scheme: "k8s".to_owned(),
        path: destination::path(service),
        context_token: instance.to_owned(),
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
