//! Somebody who watches discovery, as a proxy of another make might.

use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::sleep;
use turmoil::net::TcpStream;
use whodunit_wire::destination::{self, Destination};
use whodunit_wire::linkerd::destination::GetDestination;
use whodunit_wire::linkerd::destination::destination_client::DestinationClient;
use whodunit_wire::tonic::Status;
use whodunit_wire::tonic::transport::Endpoint;

use crate::server::service_name;
use crate::world::World;

/// The name of the host.
pub(crate) const HOST: &str = "watcher";

/// Pause before the server is asked again.
const PAUSE: Duration = Duration::from_millis(300);

/// Watches for ever.
pub(crate) async fn run(world: World, server: SocketAddr) -> turmoil::Result {
    loop {
        if let Err(error) = watch(&world, server).await {
            world.note(format_args!("watcher: {}", error.code()));
        }
        sleep(PAUSE).await;
    }
}

async fn watch(world: &World, server: SocketAddr) -> Result<(), Status> {
    let unavailable = |error: String| Status::unavailable(error);
    let dial = move |_| async move { TcpStream::connect(server).await.map(TokioIo::new) };
    let channel = Endpoint::from_shared(format!("http://{server}"))
        .map_err(|error| unavailable(error.to_string()))?
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(1))
        .keep_alive_while_idle(true)
        .connect_with_connector(tower::service_fn(dial))
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let request = GetDestination {
        scheme: "k8s".to_owned(),
        path: destination::path(&service_name()),
        context_token: String::new(),
    };
    let updates = DestinationClient::new(channel).get(request).await?;
    let mut updates = updates.into_inner();
    let mut known = Destination::default();
    while let Some(update) = updates.message().await? {
        known.apply(update);
        let mut found: Vec<_> = known.endpoints.iter().map(|known| known.address).collect();
        found.sort_unstable();
        let unheard = {
            let state = world.state();
            found.iter().any(|address| !state.told.contains(address))
        };
        if unheard {
            world.violated(format_args!("discovery made up an address: {found:?}"));
        }
        world.note(format_args!("watcher knows {} backends", found.len()));
        world.state().watched = found;
    }
    Ok(())
}
