//! A backend: an inbound proxy, and an application that counts what it executes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::time::sleep;
use turmoil::net::TcpListener;
use whodunit_proxy::{Config, Proxy};

use crate::random::Random;
use crate::world::{APPLICATION_PORT, INBOUND_PORT, World, keep};

/// Names a request, at the client and back.
pub(crate) const ID: &str = "x-id";

/// Says that an answer is the application's.
pub(crate) const BY: &str = "x-by";

/// Bytes in a piece of a body.
const PIECE_BYTES: usize = 3_000;

/// Starts a proxy from the text of its configuration.
pub(crate) fn start_proxy(host: &str, text: &str, seed: u64) -> Result<()> {
    let config = Config::parse(text, Path::new("proxy.toml")).context("read a configuration")?;
    let proxy = Proxy::simulate(config, seed).context("start a proxy")?;
    keep(host, proxy);
    Ok(())
}

/// Runs until the host dies.
pub(crate) async fn run(
    world: World,
    host: String,
    server: SocketAddr,
    mut random: Random,
) -> turmoil::Result {
    let listener = TcpListener::bind(("127.0.0.1", APPLICATION_PORT)).await?;
    let text = format!(
        "[workload]\nnamespace = \"n\"\nname = \"app\"\ninstance = \"{host}\"\n\
         [[listener]]\nname = \"in\"\nlisten = \"0.0.0.0:{INBOUND_PORT}\"\n\
         direction = \"inbound\"\nforward = \"127.0.0.1:{APPLICATION_PORT}\"\n\
         [control]\nserver = \"{server}\"\n[record]\nserver = \"{server}\"\n"
    );
    start_proxy(&host, &text, random.next())?;
    world.note(format_args!("{host} starts"));
    let application = Rc::new(Application {
        world,
        host,
        random: RefCell::new(random),
    });
    loop {
        let (stream, _) = listener.accept().await?;
        let application = application.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| application.clone().answer(request));
            let server = auto::Builder::new(LocalExecutor);
            // A connection may end as it likes.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Spawns beside the others.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

struct Application {
    world: World,
    host: String,
    random: RefCell<Random>,
}

/// How an answer ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// With an error instead of the last piece.
    Torn,
}

impl Application {
    async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let id = request.headers().get(ID);
        let id = id.and_then(|id| id.to_str().ok()?.parse().ok());
        let id: u64 = id.unwrap_or_default();
        let (wait_ms, status, pieces, end) = {
            let mut random = self.random.borrow_mut();
            let (slow, calm) = {
                let state = self.world.state();
                (state.slow.contains(&self.host), state.is_calm)
            };
            let wait_ms = if slow {
                random.within(200..2_000)
            } else {
                random.below(30)
            };
            let status = if calm || random.chance(90) { 200 } else { 503 };
            let end = if calm || random.chance(95) {
                End::Whole
            } else {
                End::Torn
            };
            (wait_ms, status, random.below(6) as usize, end)
        };
        let whole = request.into_body().collect().await.is_ok();
        if whole {
            let mut state = self.world.state();
            *state.executed.entry(id).or_default() += 1;
            drop(state);
            self.world.note(format_args!("{} executes {id}", self.host));
        }
        sleep(Duration::from_millis(wait_ms)).await;
        let body = Body {
            id,
            piece: 0,
            pieces,
            end,
        };
        let mut response = Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(ID, id.into());
        headers.insert(BY, http::HeaderValue::from_static("application"));
        headers.insert("x-bytes", (pieces * PIECE_BYTES).into());
        Ok(response)
    }
}

/// A body of pieces that all say whose they are.
struct Body {
    id: u64,
    piece: usize,
    pieces: usize,
    end: End,
}

/// Returns the byte that the body of a request's answer consists of.
pub(crate) fn filling(id: u64) -> u8 {
    id.to_le_bytes()[0]
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.piece == self.pieces {
            return Poll::Ready(None);
        }
        self.piece += 1;
        if self.piece == self.pieces && self.end == End::Torn {
            return Poll::Ready(Some(Err(std::io::ErrorKind::Other.into())));
        }
        let piece = vec![filling(self.id); PIECE_BYTES];
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}
