//! The web workload: pages for people, a small REST API for the pages and the bot.
//!
//! Status codes and bodies of the API are a contract. An error of a service behind is
//! passed on as its bare gRPC text, and logged on one line from which nobody can tell
//! which service it came from.

mod form;
mod printed;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::any;
use http::{StatusCode, header};
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Channel;

use crate::log::Log;
use crate::rpc;
use crate::{catalog, go, v1};
use printed::Printed;

const SHELL: &str = include_str!("../assets/index.html");
const SCRIPT: &str = include_str!("../assets/app.js");
const STYLE: &str = include_str!("../assets/app.css");
const ICON: &[u8] = include_bytes!("../assets/favicon.ico");

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json; charset=UTF-8";

/// What web needs to serve.
#[derive(Debug)]
pub struct Web {
    /// Connection to the emoji service, opened when first used.
    pub emoji: Channel,
    /// Connection to the voting service, opened when first used.
    pub voting: Channel,
    /// A script to serve at `/js` instead of the built-in one; read anew each time.
    pub index_bundle: Option<PathBuf>,
    /// A server that has the script, as a URL: the page then loads
    /// `/dist/index_bundle.js` from there.
    pub webpack_dev_server: Option<String>,
    /// Text above the ballot; empty for none.
    pub message_of_the_day: String,
    /// Where errors are logged.
    pub log: Log,
}

/// Every route of web. An unknown path gets the page, as in the original.
pub fn routes(web: Arc<Web>) -> Router {
    Router::new()
        .route("/api/list", any(list))
        .route("/api/vote", any(vote))
        .route("/api/leaderboard", any(leaderboard))
        .route("/js", any(script))
        .route("/img/favicon.ico", any(icon))
        .route("/dist/", any(not_found))
        .route("/dist/{*name}", any(dist))
        .route("/healthz", any(|| async { "ok\n" }))
        .route("/readyz", any(readiness))
        .fallback(page)
        .with_state(web)
}

/// Why a request of the API failed: the status and the text of its error body.
struct Failure(StatusCode, String);

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, go::status_text(&status))
    }
}

async fn list(
    State(web): State<Arc<Web>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let answer = web.list().await;
    web.answer(answer, || Printed::new(&request, peer))
}

async fn leaderboard(
    State(web): State<Arc<Web>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let answer = web.leaderboard().await;
    web.answer(answer, || Printed::new(&request, peer))
}

async fn vote(
    State(web): State<Arc<Web>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let form = form::read(&head, body).await;
    match web.vote(form.value("choice")).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(failure) => {
            let request = Request::from_parts(head, Body::empty());
            web.failed(failure, &Printed::new(&request, peer).with_form(&form))
        }
    }
}

impl Web {
    async fn list(&self) -> Result<Value, Failure> {
        let path = "/emojivoto.v1.EmojiService/ListAll".to_owned();
        let answer: v1::ListAllEmojiResponse =
            rpc::call(&self.emoji, path, v1::ListAllEmojiRequest {}).await?;
        let entry =
            |emoji: v1::Emoji| json!({ "shortcode": emoji.shortcode, "unicode": emoji.unicode });
        Ok(answer.list.into_iter().map(entry).collect())
    }

    async fn vote(&self, choice: &str) -> Result<(), Failure> {
        if choice.is_empty() {
            let text = format!("Emoji choice [{choice}] is mandatory");
            return Err(Failure(StatusCode::BAD_REQUEST, text));
        }
        if self.find(choice).await?.is_none() {
            // The spelling is the original's, which clients may compare with.
            let text = format!("Choosen emoji shortcode [{choice}] doesnt exist");
            return Err(Failure(StatusCode::BAD_REQUEST, text));
        }
        let path = format!("/{}/{}", crate::voting::SERVICE, catalog::method_of(choice));
        let _: v1::VoteResponse = rpc::call(&self.voting, path, v1::VoteRequest {}).await?;
        Ok(())
    }

    /// One call for the counts and then one more per emoji, one after the other: the
    /// original's way, and a classic to be found in a trace.
    async fn leaderboard(&self) -> Result<Value, Failure> {
        let path = format!("/{}/Results", crate::voting::SERVICE);
        let answer: v1::ResultsResponse =
            rpc::call(&self.voting, path, v1::ResultsRequest {}).await?;
        let mut board = Vec::with_capacity(answer.results.len());
        for result in answer.results {
            // An emoji of another era may have votes and no entry in the list.
            if let Some(emoji) = self.find(&result.shortcode).await? {
                board.push(json!({
                    "votes": result.votes.to_string(),
                    "unicode": emoji.unicode,
                    "shortcode": emoji.shortcode,
                }));
            }
        }
        Ok(Value::Array(board))
    }

    async fn find(&self, shortcode: &str) -> Result<Option<v1::Emoji>, Status> {
        let path = "/emojivoto.v1.EmojiService/FindByShortcode".to_owned();
        let question = v1::FindByShortcodeRequest {
            shortcode: shortcode.to_owned(),
        };
        let answer: v1::FindByShortcodeResponse = rpc::call(&self.emoji, path, question).await?;
        Ok(answer.emoji)
    }

    fn answer(
        &self,
        answer: Result<Value, Failure>,
        request: impl FnOnce() -> Printed,
    ) -> Response {
        match answer {
            Ok(value) => json_answer(StatusCode::OK, &value),
            Err(failure) => self.failed(failure, &request()),
        }
    }

    fn failed(&self, Failure(status, text): Failure, request: &Printed) -> Response {
        self.log
            .line(format_args!("Error serving request [{request}]: {text}"));
        json_answer(status, &json!({ "error": text }))
    }

    async fn bundle(&self) -> Result<String, Failure> {
        let Some(path) = &self.index_bundle else {
            return Ok(SCRIPT.to_owned());
        };
        tokio::fs::read_to_string(path).await.map_err(|error| {
            let text = format!("read INDEX_BUNDLE {}: {error}", path.display());
            Failure(StatusCode::INTERNAL_SERVER_ERROR, text)
        })
    }
}

fn json_answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], go::json_line(value)).into_response()
}

async fn page(State(web): State<Arc<Web>>) -> Html<String> {
    let script = match &web.webpack_dev_server {
        Some(server) => format!("{}/dist/index_bundle.js", server.trim_end_matches('/')),
        None => "/js".to_owned(),
    };
    let page = SHELL.replace("{script}", &escaped(&script));
    Html(page.replace("{message_of_the_day}", &escaped(&web.message_of_the_day)))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

async fn script(
    State(web): State<Arc<Web>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    match web.bundle().await {
        Ok(script) => ([(header::CONTENT_TYPE, JAVASCRIPT)], script).into_response(),
        Err(failure) => web.failed(failure, &Printed::new(&request, peer)),
    }
}

async fn icon() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "image/x-icon")], ICON)
}

async fn dist(Path(name): Path<String>) -> Response {
    let (kind, content) = match name.as_str() {
        "index_bundle.js" => (JAVASCRIPT, SCRIPT),
        "app.css" => ("text/css; charset=utf-8", STYLE),
        _ => return not_found().await,
    };
    ([(header::CONTENT_TYPE, kind)], content).into_response()
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

/// Ready when the page with its script can be served. The services behind are not asked:
/// web works on, and says so with errors, while they are away.
async fn readiness(State(web): State<Arc<Web>>) -> Response {
    match web.bundle().await {
        Ok(_) => "ok\n".into_response(),
        Err(Failure(_, reason)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
    }
}
