//! The side door of the gRPC services, on PROM_PORT: metrics, health, and faults.
//!
//! Whoever can reach the port may read metrics and health. The faults are for this
//! machine alone: the peer must be a loopback address, and so must the name that it
//! calls us by, lest a web page reach us through a name of its own that resolves here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use crate::faults::{self, FaultSwitch};
use crate::metrics::Metrics;
use crate::rpc::SelfCheck;

/// The routes of a service; those of the faults only when it has a switch.
pub fn routes(metrics: Arc<Metrics>, ready: SelfCheck, faults: Option<Arc<FaultSwitch>>) -> Router {
    let open = Router::new()
        .route("/metrics", get(move || async move { render(&metrics) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move { readiness(&ready).await }),
        );
    match faults {
        Some(switch) => open.merge(fault_routes(switch)),
        None => open,
    }
}

fn render(metrics: &Metrics) -> impl IntoResponse + use<> {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        metrics.render(),
    )
}

async fn readiness(ready: &SelfCheck) -> Response {
    match ready.run().await {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

fn fault_routes(switch: Arc<FaultSwitch>) -> Router {
    Router::new()
        .route("/faults", get(show))
        .route("/faults/{name}", put(set))
        .layer(middleware::from_fn(only_from_here))
        .with_state(switch)
}

async fn show(State(switch): State<Arc<FaultSwitch>>) -> Json<faults::State> {
    Json(switch.state())
}

async fn set(State(switch): State<Arc<FaultSwitch>>, Path(name): Path<String>) -> Response {
    match faults::find(&name) {
        Ok(fault) => {
            switch.set(fault);
            Json(switch.state()).into_response()
        }
        Err(error) => refusal(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

async fn only_from_here(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        let reason = format!("faults can only be switched from this machine, not from {peer}");
        return refusal(StatusCode::FORBIDDEN, &reason);
    }
    if !names_this_machine(request.headers()) {
        let reason = "the Host header must name a loopback address, such as 127.0.0.1";
        return refusal(StatusCode::FORBIDDEN, reason);
    }
    next.run(request).await
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(Ok(host)) = headers.get(header::HOST).map(|host| host.to_str()) else {
        return false;
    };
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn refusal(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::Service as _;

    use super::*;

    async fn switch_from(peer: &str) -> (StatusCode, String) {
        let switch = Arc::new(FaultSwitch::new(
            faults::default_of(crate::catalog::Era::Y2018),
            0,
        ));
        let mut request = Request::put("/faults/none")
            .header(header::HOST, "127.0.0.1")
            .body(Body::empty())
            .unwrap();
        let peer: SocketAddr = peer.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut routes = fault_routes(Arc::clone(&switch));
        let answer = routes.call(request).await.unwrap();
        (answer.status(), switch.state().active)
    }

    #[tokio::test]
    async fn only_this_machine_switches_faults() {
        for peer in [
            "127.0.0.1:5",
            "127.3.2.1:5",
            "[::1]:5",
            "[::ffff:127.0.0.1]:5",
        ] {
            assert_eq!(
                switch_from(peer).await,
                (StatusCode::OK, "none".to_owned()),
                "{peer}"
            );
        }
        for peer in ["10.0.0.1:5", "[2001:db8::1]:5", "[::ffff:10.0.0.1]:5"] {
            let expected = (StatusCode::FORBIDDEN, "poop".to_owned());
            assert_eq!(switch_from(peer).await, expected, "{peer}");
        }
    }

    #[test]
    fn only_loopback_names_pass() {
        for (host, expected) in [
            ("127.0.0.1:8801", true),
            ("127.9.9.9", true),
            ("LOCALHOST:1", true),
            ("[::1]:8801", true),
            ("evil.example:8801", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            assert_eq!(names_this_machine(&headers), expected, "{host}");
        }
        assert!(!names_this_machine(&HeaderMap::new()));
    }
}
