//! Ending in order, and not starting at all.

use std::path::Path;

use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use whodunit_model::record::Side;
use whodunit_model::{Cause, Origin};
use whodunit_proxy::{Config, Proxy, StartError};

use crate::app::{App, PATIENCE};
use crate::client::{get, http1, whole};
use crate::mesh::{Setup, at, end, record, wait_for};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn open_requests_may_finish_and_nothing_new_is_accepted() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .patient()
        .start();
    let address = at(&proxy, "in");
    let held = tokio::spawn(async move { whole(http1(address, get("/held")).await).await });
    wait_for("the request", || {
        (!app.seen.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    let ending = tokio::spawn(end(proxy));
    let start = std::time::Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    app.go_on.notify_one();
    assert_eq!(held.await.unwrap().unwrap().status, StatusCode::OK);
    ending.await.unwrap();
    assert_eq!(
        record(&server, Side::Inbound, "/held").await.cause,
        Cause::None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_grace_is_recorded_as_ended_by_the_shutdown() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("detect", app.address)
        .start();
    let address = at(&proxy, "in");
    let held = tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(get("/held")).await.is_err()
    });
    wait_for("the request", || {
        (!app.seen.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    end(proxy).await;
    assert!(held.await.unwrap(), "the client sees the connection end");
    let row = record(&server, Side::Inbound, "/held").await;
    assert_eq!(
        (row.cause, row.origin),
        (Cause::Shutdown, Origin::ServerProxy)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_with_its_listener() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = taken.local_addr().unwrap();
    for workers in [1, 2] {
        let text = format!(
            "workers = {workers}\n[workload]\nnamespace = \"n\"\nname = \"w\"\ninstance = \"w-0\"\n\
             [[listener]]\nname = \"web-in\"\nlisten = \"{address}\"\ndirection = \"inbound\"\n\
             forward = \"127.0.0.1:1\"\n"
        );
        let config = Config::parse(&text, Path::new("proxy.toml")).unwrap();
        let error = Proxy::start(config).err().expect("the port is taken");
        assert!(matches!(error, StartError::PortTaken { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "listener `web-in`: {address} is used by another process; stop it or choose \
                 another port"
            )
        );
    }
}
