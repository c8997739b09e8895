//! Follows who may ask the application for what: one `InboundServerPolicies.WatchPort`
//! stream per inbound port.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use whodunit_wire::linkerd::inbound::PortSpec;
use whodunit_wire::linkerd::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use whodunit_wire::policy;
use whodunit_wire::tonic::Status;

use super::{Backoff, Heard, Watched};
use crate::clock::Clock;
use crate::net;

/// Follows the policy of a port for ever. What was heard last holds while the server is
/// gone; before anything was heard, what the configuration says.
pub(super) async fn follow(
    server: SocketAddr,
    workload: String,
    watched: Watched,
    heard: Rc<Heard>,
    clock: Clock,
    mut backoff: Backoff,
) {
    let port = watched.port;
    loop {
        let result = stream(server, &workload, &watched, &heard, &mut backoff).await;
        heard.lose(clock.now_us());
        if let Err(error) = result {
            tracing::debug!(port, %server, %error, "cannot follow the policy, keeping what is known");
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn stream(
    server: SocketAddr,
    workload: &str,
    watched: &Watched,
    heard: &Heard,
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let port = watched.port;
    let endpoint = super::endpoint(server).ok_or_else(|| Status::internal("no endpoint"))?;
    let channel = net::channel(&endpoint)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = PortSpec {
        workload: workload.to_owned(),
        port: u32::from(port),
    };
    let mut updates = InboundServerPoliciesClient::new(channel)
        .watch_port(request)
        .await?
        .into_inner();
    while let Some(update) = updates.message().await? {
        backoff.reset();
        match policy::policy(update) {
            Ok(policy) => {
                tracing::debug!(port, rules = policy.rules.len(), "heard the policy");
                let news = watched.sender.send_if_modified(|known| {
                    let differs = **known != policy;
                    if differs {
                        *known = Arc::new(policy);
                    }
                    differs
                });
                heard.hear(news);
            }
            Err(error) => {
                tracing::error!(port, %server, %error, "keeping the policy that is known")
            }
        }
    }
    Ok(())
}
