//! The admin address: metrics, liveness, readiness, and what is logged.
//!
//! Only the log level can be changed, with PUT, from loopback and on a loopback address.
//! No request can end the proxy, and slow clients cannot keep others from being answered.

mod process;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::control::State;
use crate::limits::{self, Limit};
use crate::log::{self, LevelError, Rarely};
use crate::metrics::{Own, Snapshot, render};
use crate::net::{Bound, TcpListener, TcpStream};
use crate::worker::{Ask, Phase, own_labels};

/// Most connections at a time; scrapers and probes need a few.
const CONNECTIONS_MAX: usize = Limit::AdminConnections.count();

/// How long one connection may take in all: a whole scrape, read slowly.
const CONNECTION_TIME: Duration = Limit::AdminTime.time().saturating_mul(2);

/// Most bytes of a head; what asks here sends little.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long a worker thread may take to tell its numbers.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// After this time the proxy is ready even if discovery has not answered for everything:
/// an application whose callees are unknown can still do part of its work.
const DISCOVERY_WAIT: Duration = Duration::from_secs(5);

/// Pause after an error of `accept`, which says that file descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers for ever.
pub(crate) async fn serve(state: Rc<State>, socket: Bound) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot accept admin connections");
            return;
        }
    };
    let own = listener.local_addr().ok();
    let refused = Rarely::new();
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(unlogged) = refused.due() {
                    tracing::warn!(%error, unlogged, "cannot accept an admin connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        // The oldest makes room: clients that dribble never keep a probe out.
        if open.len() >= CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            limits::hit(Limit::AdminConnections);
            oldest.abort();
        }
        let asker = Asker {
            local: own.is_some_and(|own| own.ip().is_loopback()) && peer.ip().is_loopback(),
        };
        let connection = serve_one(state.clone(), stream, asker);
        open.push_back(tokio::task::spawn_local(connection));
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
struct Asker {
    /// The address is a loopback one, and so is the client's.
    local: bool,
}

/// Answers one request: whoever asks again connects again.
async fn serve_one(state: Rc<State>, stream: TcpStream, asker: Asker) {
    let service = service_fn(move |request| answer(state.clone(), asker, request));
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Limit::AdminTime.time())
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME, http).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            if error.is_timeout() {
                limits::hit(Limit::AdminTime);
            }
            tracing::debug!(%error, "admin connection ended");
        }
        Err(_) => limits::hit(Limit::AdminTime),
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(
    state: Rc<State>,
    asker: Asker,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    if !host_is_safe(&request, asker) {
        let why = "the Host of an admin request must be localhost or a loopback address\n";
        return Ok(text(StatusCode::FORBIDDEN, why.to_owned()));
    }
    let read = request.method() == Method::GET || request.method() == Method::HEAD;
    Ok(match request.uri().path() {
        "/log-level" if request.method() == Method::PUT => set_log_level(asker, request).await,
        "/log-level" if read => match log::level() {
            Ok(level) => text(StatusCode::OK, format!("{level}\n")),
            Err(why) => text(StatusCode::CONFLICT, format!("{why}\n")),
        },
        "/log-level" => refuse_method("GET, HEAD, PUT"),
        _ if !read => refuse_method("GET, HEAD"),
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
            let paths = "not found; there are /metrics, /live, /ready and /log-level\n";
            text(StatusCode::NOT_FOUND, paths.to_owned())
        }
    })
}

fn refuse_method(allowed: &'static str) -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("only {allowed} is answered here\n"),
    );
    let allowed = HeaderValue::from_static(allowed);
    answer.headers_mut().insert(ALLOW, allowed);
    answer
}

/// Changes what is logged, if whoever asks is on this machine and no web page.
async fn set_log_level(asker: Asker, request: Request<Incoming>) -> Answer {
    if !asker.local {
        let why = "only loopback may change anything, on an admin address that is loopback\n";
        return text(StatusCode::FORBIDDEN, why.to_owned());
    }
    if request.headers().contains_key(ORIGIN) {
        let why = "web pages may not change anything\n";
        return text(StatusCode::FORBIDDEN, why.to_owned());
    }
    let body = Limited::new(request.into_body(), Limit::AdminBytes.count());
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            limits::hit(Limit::AdminBytes);
            let why = format!(
                "the body is longer than {} bytes\n",
                Limit::AdminBytes.count()
            );
            return text(StatusCode::PAYLOAD_TOO_LARGE, why);
        }
        Err(_) => return text(StatusCode::BAD_REQUEST, "the body ended early\n".to_owned()),
    };
    let level = String::from_utf8_lossy(&body);
    match log::set_level(&level) {
        Ok(()) => {
            tracing::info!(level = level.trim(), "what is logged has changed");
            text(StatusCode::OK, format!("{}\n", level.trim()))
        }
        Err(why @ LevelError::Bad) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        Err(why @ LevelError::NotOurs) => text(StatusCode::CONFLICT, format!("{why}\n")),
    }
}

/// A web page of a stranger can make a browser ask here under the stranger's name, but not
/// under an address: where the admin address is no loopback one, scrapers use addresses.
fn host_is_safe(request: &Request<Incoming>, asker: Asker) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = host.and_then(|host| host.to_str().ok());
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
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback() || !asker.local)
}

fn unready(state: &State) -> Option<&'static str> {
    if *state.phase.borrow() == Phase::Draining {
        return Some("shutting down");
    }
    let waiting = !state.services.all_heard() && state.clock.uptime() < DISCOVERY_WAIT;
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
    let fall_backs = stats.fall_backs.each();
    let own = Own {
        labels: own_labels(&state.config.workload).text(),
        counters,
        fall_backs: state
            .listeners
            .iter()
            .map(|(name, _)| {
                (
                    name.to_string(),
                    fall_backs.get(&**name).copied().unwrap_or(0),
                )
            })
            .collect(),
        identity: state
            .config
            .identity
            .as_ref()
            .map(|_| stats.identity.clone()),
        limits: stats.limits.all(&counters).collect(),
        pipes_missing: stats.pipes_missing.read(),
        discovery_age_s: state.services.age().map(|age| age.as_secs_f64()),
        clock_offset_s: seconds(state.clock_offset_us.get()),
        start_time_s: seconds(state.clock.now_us() - uptime_us),
        process: process::read(),
    };
    render(&all, &own)
}
