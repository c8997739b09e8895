//! Follows what holds for requests to a service: one `OutboundPolicies.Watch` stream per
//! listener that discovers one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;
use whodunit_model::RouteRule;
use whodunit_model::topology::ServiceName;
use whodunit_wire::linkerd::outbound::outbound_policies_client::OutboundPoliciesClient;
use whodunit_wire::outbound;
use whodunit_wire::tonic::Status;

use super::services::Services;
use super::{Backoff, Heard};
use crate::net;
use crate::upstream::Known;
use crate::worker::Routing;

/// A listener whose routes the server has.
pub(crate) struct Routed {
    pub(crate) service: ServiceName,
    /// Where the routes are told to worker threads.
    pub(crate) sender: watch::Sender<Arc<Routing>>,
}

/// Follows the routes of a service for ever. What was heard last holds while the server is
/// gone; before anything was heard, what the configuration says.
pub(super) async fn follow(
    server: SocketAddr,
    workload: String,
    routed: Routed,
    heard: Rc<Heard>,
    services: Rc<Services>,
    mut backoff: Backoff,
) {
    let service = routed.service.clone();
    loop {
        let result = stream(server, &workload, &routed, &heard, &services, &mut backoff);
        let result = result.await;
        heard.lose(services.clock.now_us());
        if let Err(error) = result {
            tracing::debug!(%service, %server, %error, "cannot follow routes, keeping what is known");
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn stream(
    server: SocketAddr,
    workload: &str,
    routed: &Routed,
    heard: &Heard,
    services: &Services,
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let service = &routed.service;
    let endpoint = super::endpoint(server).ok_or_else(|| Status::internal("no endpoint"))?;
    let channel = net::channel(&endpoint)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = outbound::request(workload.to_owned(), service);
    let mut updates = OutboundPoliciesClient::new(channel)
        .watch(request)
        .await?
        .into_inner();
    while let Some(update) = updates.message().await? {
        backoff.reset();
        let rules = match outbound::rules(update) {
            Ok(Some(rules)) => rules,
            // The server may not know its services yet.
            Ok(None) => continue,
            Err(error) => {
                tracing::error!(%service, %server, %error, "keeping the routes that are known");
                continue;
            }
        };
        let Some(split) = split(&rules, services) else {
            tracing::error!(%service, "the routes name too many services, keeping those known");
            continue;
        };
        tracing::debug!(%service, rules = rules.len(), "heard the routes");
        let news = routed.sender.send_if_modified(|known| {
            let differs = known.rules != rules;
            if differs {
                *known = Arc::new(Routing { rules, split });
            }
            differs
        });
        heard.hear(news);
    }
    Ok(())
}

/// Returns where the services live that share requests, in the order of the rules.
fn split(rules: &[RouteRule], services: &Services) -> Option<Vec<watch::Receiver<Known>>> {
    let shares = rules.iter().flat_map(|rule| &rule.split);
    shares.map(|share| services.find(&share.service)).collect()
}
