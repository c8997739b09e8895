//! The HTTP surface: routes, and what each path does with its parameters.
//!
//! A handler reads parameters, asks one question on a blocking thread, and
//! writes JSON. The questions themselves live in [`crate::query`].

mod follow;
mod guard;
mod metrics;
mod page;
mod params;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use whodunit_api::culprit::CulpritQuery;
use whodunit_api::edges::EdgesQuery;
use whodunit_api::error::{ErrorBody, ErrorDetail};
use whodunit_api::explain::ExplainQuery;
use whodunit_api::routes::RoutesQuery;
use whodunit_api::stat::StatQuery;
use whodunit_api::tap::TapQuery;
use whodunit_api::top::TopQuery;

use crate::clock::now_us;
use crate::live::Live;
use crate::query::{Queries, QueryError};
use params::Params;

/// Questions that wait for their turn; later ones are turned away.
const WAITING_MAX: usize = 64;

/// How long a question waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) queries: Queries,
    pub(crate) live: Arc<Live>,
    pub(crate) stopping: watch::Receiver<bool>,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

impl App {
    /// Returns the state of a surface that answers from `queries`.
    pub(crate) fn new(
        queries: Queries,
        live: Arc<Live>,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        // A question keeps one processor busy, and memory for its rows.
        let turns = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        Arc::new(Self {
            queries,
            live,
            stopping,
            places: Arc::new(Semaphore::new(turns + WAITING_MAX)),
            turns: Arc::new(Semaphore::new(turns)),
            followers: Arc::new(Semaphore::new(follow::FOLLOWERS_MAX)),
        })
    }

    /// Asks a question on a blocking thread, when its turn comes.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Queries, i64) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let counters = &self.live.surface;
        let busy = || {
            counters.turned_away.fetch_add(1, Ordering::Relaxed);
            QueryError::Unavailable {
                message: "too many questions are waiting".to_owned(),
            }
        };
        let place = self
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| busy())?;
        let turn = tokio::time::timeout(TURN_WITHIN, self.turns.clone().acquire_owned());
        let turn = turn.await.map_err(|_| busy())?;
        let (queries, live) = (self.queries.clone(), self.live.clone());
        // The places are given back when the work is done, not when the asker leaves.
        let work = move || {
            let _held = (place, turn);
            live.surface.running.fetch_add(1, Ordering::Relaxed);
            let answer = question(&queries, now_us());
            live.surface.running.fetch_sub(1, Ordering::Relaxed);
            answer
        };
        let answer = tokio::task::spawn_blocking(work).await;
        counters.answered.fetch_add(1, Ordering::Relaxed);
        answer.map_err(|error| {
            tracing::error!(%error, "a query panicked or was stopped");
            QueryError::Internal {
                message: "the query failed".to_owned(),
            }
        })?
    }
}

/// Returns the router of everything the server answers.
pub(crate) fn router(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/status", get(status))
        .route("/stat", get(stat))
        .route("/routes", get(routes))
        .route("/edges", get(edges))
        .route("/top", get(top))
        .route("/tap", get(tap))
        .route("/explain", get(explain))
        .route("/check", get(check))
        .route("/culprit", get(culprit));
    Router::new()
        .nest(whodunit_api::BASE, api)
        .route("/", get(page::page))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics::metrics))
        .fallback(unknown)
        .layer(axum::middleware::from_fn_with_state(
            app.clone(),
            guard::guard,
        ))
        .with_state(app)
}

type Answer = Result<Response, QueryError>;

async fn status(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    Params::read(&uri, &[])?;
    json(&app.ask(|queries, _| Ok(queries.status())).await?)
}

async fn stat(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let known = ["kind", "name", "namespace", "from", "to", "since", "until"];
    let params = Params::read(&uri, &known)?;
    let query = StatQuery {
        kind: params.required("kind", "workload, instance, service, namespace or route")?,
        name: params.text("name"),
        namespace: params.text("namespace"),
        from: params.text("from"),
        to: params.text("to"),
        range: params.range(),
    };
    json(
        &app.ask(move |queries, now_us| queries.stat(&query, now_us))
            .await?,
    )
}

async fn routes(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let params = Params::read(&uri, &["name", "namespace", "from", "since", "until"])?;
    let query = RoutesQuery {
        name: params.text("name"),
        namespace: params.text("namespace"),
        from: params.text("from"),
        range: params.range(),
    };
    json(
        &app.ask(move |queries, now_us| queries.routes(&query, now_us))
            .await?,
    )
}

async fn edges(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let params = Params::read(&uri, &["name", "namespace", "since", "until"])?;
    let query = EdgesQuery {
        name: params.text("name"),
        namespace: params.text("namespace"),
        range: params.range(),
    };
    json(
        &app.ask(move |queries, now_us| queries.edges(&query, now_us))
            .await?,
    )
}

async fn top(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let params = Params::read(&uri, &["name", "namespace", "routes", "since", "until"])?;
    let query = TopQuery {
        name: params.text("name"),
        namespace: params.text("namespace"),
        routes: params.switch("routes")?,
        range: params.range(),
    };
    json(
        &app.ask(move |queries, now_us| queries.top(&query, now_us))
            .await?,
    )
}

async fn tap(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Answer {
    let known = [
        "filter",
        "limit",
        "oldest_first",
        "follow",
        "since",
        "until",
    ];
    let params = Params::read(&uri, &known)?;
    let query = TapQuery {
        filter: params.text("filter"),
        limit: params.number("limit")?,
        oldest_first: params.switch("oldest_first")?,
        follow: params.switch("follow")?,
        range: params.range(),
    };
    if query.follow {
        return follow::follow(app, query, &headers).await;
    }
    json(
        &app.ask(move |queries, now_us| queries.tap(&query, now_us))
            .await?,
    )
}

async fn explain(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let params = Params::read(&uri, &["id"])?;
    let query = ExplainQuery {
        id: params.required("id", "a request id as `tap` prints it")?,
    };
    json(
        &app.ask(move |queries, now_us| queries.explain(&query, now_us))
            .await?,
    )
}

async fn check(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    Params::read(&uri, &[])?;
    json(&app.ask(|queries, now_us| Ok(queries.check(now_us))).await?)
}

async fn culprit(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let params = Params::read(&uri, &["namespace", "service", "since", "until"])?;
    let query = CulpritQuery {
        namespace: params.text("namespace"),
        service: params.text("service"),
        range: params.range(),
    };
    json(
        &app.ask(move |queries, now_us| queries.culprit(&query, now_us))
            .await?,
    )
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready() -> &'static str {
    "ready\n"
}

async fn unknown(uri: Uri) -> Response {
    let detail = ErrorDetail {
        code: "not_found".to_owned(),
        message: format!("there is nothing at {}", params::shown(uri.path())),
        hint: format!("the API lies under {}", whodunit_api::BASE),
    };
    error_response(StatusCode::NOT_FOUND, detail)
}

fn json(answer: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(answer).map_err(|error| QueryError::Internal {
        message: format!("write the answer: {error}"),
    })?;
    Ok(json_response(StatusCode::OK, body))
}

fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = (status, body).into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Returns the answer that says what went wrong.
pub(crate) fn error_response(status: StatusCode, detail: ErrorDetail) -> Response {
    let body = serde_json::to_vec(&ErrorBody { error: detail }).unwrap_or_default();
    json_response(status, body)
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status());
        error_response(
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            self.detail(),
        )
    }
}
