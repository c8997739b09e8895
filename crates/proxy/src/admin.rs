//! The admin address: metrics, liveness, readiness. It changes nothing.

mod process;

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::control::State;
use crate::limits::{self, Limit};
use crate::metrics::{Own, Snapshot, render};
use crate::worker::{Ask, Phase, own_labels};

/// Most connections at a time; scrapers and probes need a few.
const CONNECTIONS_MAX: usize = Limit::AdminConnections.count();

/// How long a worker thread may take to tell its numbers.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// After this time the proxy is ready even if discovery has not answered for everything:
/// an application whose callees are unknown can still do part of its work.
const DISCOVERY_WAIT: Duration = Duration::from_secs(5);

/// Pause after an error of `accept`, which says that file descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers for ever.
pub(crate) async fn serve(state: Rc<State>, socket: std::net::TcpListener) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot accept admin connections");
            return;
        }
    };
    let slots = Rc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Above the limit the connection is closed at once.
        if slots.available_permits() == 0 {
            limits::hit(Limit::AdminConnections);
            continue;
        }
        let (state, slots) = (state.clone(), slots.clone());
        tokio::task::spawn_local(async move {
            let _slot = slots.acquire().await;
            let service = service_fn(move |request| answer(state.clone(), request));
            let http = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = http {
                tracing::debug!(%error, "admin connection ended");
            }
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(state: Rc<State>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    if !is_local(&request) {
        let why = "the Host of an admin request must be localhost or a loopback address\n";
        return Ok(text(StatusCode::FORBIDDEN, why.to_owned()));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered\n".to_owned(),
        );
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(answer);
    }
    Ok(match request.uri().path() {
        "/metrics" => {
            let mut answer = text(StatusCode::OK, metrics(&state).await);
            let format = HeaderValue::from_static("text/plain; version=0.0.4");
            answer.headers_mut().insert(CONTENT_TYPE, format);
            answer
        }
        "/live" => text(StatusCode::OK, "live\n".to_owned()),
        "/ready" => match unready(&state) {
            None => text(StatusCode::OK, "ready\n".to_owned()),
            Some(why) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {why}\n"),
            ),
        },
        _ => {
            let paths = "not found; there are /metrics, /live and /ready\n";
            text(StatusCode::NOT_FOUND, paths.to_owned())
        }
    })
}

/// A web page of a stranger can make a browser ask here under the stranger's name.
fn is_local(request: &Request<Incoming>) -> bool {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let Some(host) = host.or_else(|| request.uri().host()) else {
        return false;
    };
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

fn unready(state: &State) -> Option<&'static str> {
    if *state.phase.borrow() == Phase::Draining {
        return Some("shutting down");
    }
    let waiting = !state.all_discovered() && state.clock.uptime() < DISCOVERY_WAIT;
    waiting.then_some("waiting for discovery")
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

async fn metrics(state: &State) -> String {
    let mut all = Snapshot::default();
    let answers = state.asks.iter().map(|asks| async move {
        let (sender, receiver) = oneshot::channel();
        asks.try_send(Ask::Metrics(sender)).ok()?;
        tokio::time::timeout(ASK_TIMEOUT, receiver).await.ok()?.ok()
    });
    // A thread that does not answer is left out rather than waited for.
    for snapshot in futures_util::future::join_all(answers)
        .await
        .into_iter()
        .flatten()
    {
        all.merge(snapshot);
    }
    let stats = &state.stats;
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds since 1970 fit in 53 bits"
    )]
    let seconds = |us: i64| us as f64 / 1e6;
    let uptime_us = crate::clock::micros(state.clock.uptime());
    let counters = state.recorder.counters();
    let own = Own {
        labels: own_labels(&state.config.workload).text(),
        counters,
        detection_fall_backs: stats.detection_fall_backs.read(),
        identity: state
            .config
            .identity
            .as_ref()
            .map(|_| stats.identity.clone()),
        limits: stats.limits.all(&counters).collect(),
        discovery_age_s: state.discovery_age().map(|age| age.as_secs_f64()),
        clock_offset_s: seconds(state.clock_offset_us.get()),
        start_time_s: seconds(state.clock.now_us() - uptime_us),
        process: process::read(),
    };
    render(&all, &own)
}
