//! What keeps the server from starting, and how it says so.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use whodunit_observe::{Server, ServerError};

use crate::{TestServer, options};

#[tokio::test]
async fn an_address_that_is_not_loopback_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut http = options(dir.path());
    http.http = open;
    let mut grpc = options(dir.path());
    grpc.grpc = open;
    for (options, flag) in [(http, "--listen"), (grpc, "--grpc-listen")] {
        let error = Server::start(options).await.unwrap_err();
        assert!(matches!(error, ServerError::NotLoopback { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(flag) && text.contains("use 127.0.0.1"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(dir.path());
    options.http = taken.local_addr().unwrap();
    let error = Server::start(options).await.unwrap_err().to_string();
    assert!(error.contains("--listen"), "{error}");
    assert!(
        error.contains(&taken.local_addr().unwrap().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let server = TestServer::start().await;
    let error = Server::start(options(server.dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    std::fs::write(&file, "x").unwrap();
    let error = Server::start(options(&file)).await.unwrap_err();
    assert!(error.to_string().contains("a-file"), "{error}");
}
