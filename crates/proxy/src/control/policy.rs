//! Follows who may ask the application for what: one `InboundServerPolicies.WatchPort`
//! stream per inbound port.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use whodunit_model::policy::Policy;
use whodunit_wire::linkerd::inbound::PortSpec;
use whodunit_wire::linkerd::inbound::inbound_server_policies_client::InboundServerPoliciesClient;
use whodunit_wire::policy;
use whodunit_wire::tonic::Status;

use super::Backoff;

/// Follows the policy of a port for ever. What was heard last holds while the server is
/// gone; before anything was heard, what the configuration says.
pub(super) async fn follow(
    server: SocketAddr,
    workload: String,
    port: u16,
    sender: watch::Sender<Arc<Policy>>,
    mut backoff: Backoff,
) {
    loop {
        if let Err(error) = stream(server, &workload, port, &sender, &mut backoff).await {
            tracing::debug!(port, %server, %error, "cannot follow the policy, keeping what is known");
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn stream(
    server: SocketAddr,
    workload: &str,
    port: u16,
    sender: &watch::Sender<Arc<Policy>>,
    backoff: &mut Backoff,
) -> Result<(), Status> {
    let endpoint = super::endpoint(server).ok_or_else(|| Status::internal("no endpoint"))?;
    let channel = endpoint
        .connect()
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
                sender.send_if_modified(|known| {
                    let differs = **known != policy;
                    if differs {
                        *known = Arc::new(policy);
                    }
                    differs
                });
            }
            Err(error) => {
                tracing::error!(port, %server, %error, "keeping the policy that is known")
            }
        }
    }
    Ok(())
}
