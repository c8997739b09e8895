//! Routes come from the server while the proxy runs, and from the snapshot without it.

use std::time::Instant;

use http::StatusCode;
use whodunit_model::RouteRule;
use whodunit_model::route_rule::Weighted;
use whodunit_model::topology::ServiceName;

use crate::app::App;
use crate::client::fetch;
use crate::mesh::{DEADLINE, Setup, at, end, endpoint, wait_for};
use crate::server::Server;

/// All requests go to another service.
fn diverted(to: &str) -> RouteRule {
    RouteRule {
        name: format!("to-{to}"),
        split: vec![Weighted {
            service: ServiceName {
                namespace: "test".to_owned(),
                name: to.to_owned(),
            },
            weight: 1,
        }],
        ..RouteRule::default()
    }
}

/// Asks until the application of `app` gets it.
async fn until_asked(proxy: std::net::SocketAddr, app: &App) {
    let before = app.seen.lock().unwrap().len();
    let start = Instant::now();
    while app.seen.lock().unwrap().len() == before {
        assert_eq!(fetch(proxy, "/").await.status, StatusCode::OK);
        assert!(start.elapsed() < DEADLINE, "the routes are not heard");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_the_server_hold_at_once_and_without_it() {
    let (first, second, third) = (App::start().await, App::start().await, App::start().await);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("caller.snapshot");
    let mut server = Server::start().await;
    for (name, app) in [("callee", &first), ("canary", &second), ("other", &third)] {
        server.discover(name, &[endpoint(app.address, name, false)]);
    }
    let setup = |server: &Server| {
        let own = "service = \"callee\"\n[[listener.route]]\nname = \"own\"\n\
                   split = [{ service = \"other\", weight = 1 }]";
        Setup::new("caller", server)
            .listener("callee", "outbound", "http1", own)
            .snapshot(&file)
            .routes()
    };
    let caller = setup(&server).start();
    // Until the server says something, what the configuration says holds.
    let own = fetch(at(&caller, "callee"), "/own").await;
    assert_eq!(own.status, StatusCode::OK);
    assert_eq!(third.seen.lock().unwrap().len(), 1);

    server.route(vec![diverted("canary")]);
    until_asked(at(&caller, "callee"), &second).await;
    wait_for("the snapshot", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.contains("to-canary").then_some(())
    })
    .await;
    end(caller).await;

    server.halt();
    let caller = setup(&server).start();
    let before = second.seen.lock().unwrap().len();
    assert_eq!(
        fetch(at(&caller, "callee"), "/").await.status,
        StatusCode::OK
    );
    assert_eq!(second.seen.lock().unwrap().len(), before + 1);

    // The server is back: no rule at all, which is not the same as no word.
    server.resume();
    server.route(vec![]);
    until_asked(at(&caller, "callee"), &first).await;
    end(caller).await;
}
