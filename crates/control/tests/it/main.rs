//! Discovery end to end: a state file on one side, a gRPC client on the other.

mod destination;
mod identity;
mod outbound;
mod policies;
mod topology_file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use whodunit_control::destination::Destinations;
use whodunit_control::discovery::Discovery;
use whodunit_control::topology_file::follow;
use whodunit_model::Topology;
use whodunit_wire::linkerd::destination::destination_client::DestinationClient;
use whodunit_wire::tonic::transport::server::TcpIncoming;
use whodunit_wire::tonic::transport::{Channel, Server};

/// Longest wait for something that has to happen.
const DEADLINE: Duration = Duration::from_secs(10);

/// A state file in a directory of its own.
struct StateFile {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl StateFile {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("topology.json");
        Self { _dir: dir, path }
    }

    /// Replaces the file as the launcher does. `services` has one per line: `name port port …`.
    fn put(&self, services: &str) {
        let services: Vec<String> = services.trim().lines().map(service).collect();
        self.put_text(&format!("{{\"services\":[{}]}}", services.join(",")));
    }

    fn put_text(&self, text: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &self.path).unwrap();
    }

    fn follow(&self) -> Discovery {
        let (discovery, follower) = follow(&self.path);
        tokio::spawn(follower.run());
        discovery
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn service(line: &str) -> String {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap();
    let endpoints: Vec<String> = words
        .map(|port| {
            format!(
                r#"{{"address":"127.0.0.1:{port}","instance":"{name}-{port}","meshed":true,"ready":true}}"#
            )
        })
        .collect();
    format!(
        r#"{{"namespace":"n","name":"{name}","workload":"{name}","endpoints":[{}]}}"#,
        endpoints.join(",")
    )
}

/// Waits until the topology is as wanted.
async fn wait_for(
    watch: &mut watch::Receiver<Option<Arc<Topology>>>,
    wanted: impl FnMut(&Option<Arc<Topology>>) -> bool,
) -> Arc<Topology> {
    let found = tokio::time::timeout(DEADLINE, watch.wait_for(wanted)).await;
    found
        .expect("in time")
        .expect("followed")
        .clone()
        .expect("known")
}

/// Waits until `condition` holds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Serves `destinations` and returns a client.
async fn connect(destinations: Destinations) -> DestinationClient<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .add_service(destinations.into_service())
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    DestinationClient::new(endpoint.connect().await.unwrap())
}
