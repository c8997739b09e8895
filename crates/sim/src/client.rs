//! Clients: requests through the outbound proxy, and what their answers must be.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use crate::backend::{BY, ID, LocalExecutor, filling, start_proxy};
use crate::random::Random;
use crate::world::{OUTBOUND_PORTS, World, take};

/// Clients that send at the same time.
pub(crate) const CLIENTS: u64 = 4;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Says why a proxy answered instead of the application.
const CAUSE: &str = "whodunit-cause";

/// The name of the host.
pub(crate) const HOST: &str = "client";

/// Runs until it is told that the scenario is over.
pub(crate) async fn run(world: World, server: SocketAddr, mut random: Random) -> turmoil::Result {
    let listener = |name: &str, port: u16| {
        format!(
            "[[listener]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\n\
             direction = \"outbound\"\nservice = \"app\"\n"
        )
    };
    let text = format!(
        "[workload]\nnamespace = \"n\"\nname = \"client\"\ninstance = \"client-0\"\n\
         [control]\nserver = \"{server}\"\n[record]\nserver = \"{server}\"\n\
         [shutdown]\ngrace_ms = 1000\n{}{}\
         [[listener.route]]\npath_prefix = \"/\"\n\
         retry = {{ attempts = 3, on = [\"5xx\", \"reset\", \"closed_early\", \"connect_refused\"] }}\n\
         timeout = {{ request_ms = 2500, response_headers_ms = 1000 }}\n",
        listener("plain", OUTBOUND_PORTS[0]),
        listener("routed", OUTBOUND_PORTS[1]),
    );
    start_proxy(HOST, &text, random.next())?;
    for _ in 0..CLIENTS {
        let random = Random::new(random.next(), 0);
        tokio::task::spawn_local(send_for_ever(world.clone(), random));
    }
    while !world.state().may_end {
        sleep(Duration::from_millis(20)).await;
    }
    let Some(proxy) = take(HOST) else {
        return Ok(());
    };
    let boot = proxy.boot().0;
    if !proxy.shutdown().await {
        world.violated("a thread of a proxy has panicked");
    }
    world.state().ended = Some(boot);
    std::future::pending().await
}

async fn send_for_ever(world: World, mut random: Random) {
    while !world.state().is_over {
        let port = OUTBOUND_PORTS[random.below(2) as usize];
        let requests = random.within(1..6);
        let version2 = random.chance(40);
        if let Err(error) = converse(&world, port, requests, version2, &mut random).await {
            world.count("cut");
            world.note(format_args!("cut: {error}"));
        }
        sleep(Duration::from_millis(random.below(60))).await;
    }
    world.state().stopped += 1;
}

/// One connection and a few requests.
async fn converse(
    world: &World,
    port: u16,
    requests: u64,
    version2: bool,
    random: &mut Random,
) -> Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let io = TokioIo::new(stream);
    let mut sender = if version2 {
        let (sender, connection) = http2::handshake(LocalExecutor, io).await?;
        tokio::task::spawn_local(connection);
        Sender::Two(sender)
    } else {
        let (sender, connection) = http1::handshake(io).await?;
        tokio::task::spawn_local(connection);
        Sender::One(sender)
    };
    for _ in 0..requests {
        let (id, request) = request(world, version2, random);
        let asked = async {
            let response = sender.send(request).await?;
            judge(world, id, response).await
        };
        match timeout(PATIENCE, asked).await {
            Ok(judged) => judged?,
            Err(_) => {
                world.note(format_args!("{id} given up"));
                world.count("given up");
                world.state().streak = 0;
                return Ok(());
            }
        }
    }
    Ok(())
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

fn request(world: &World, version2: bool, random: &mut Random) -> (u64, Request<Full<Bytes>>) {
    let post = random.chance(50);
    let (method, body) = if post {
        let length = random.below(3) * 20_000 + 5;
        (Method::POST, vec![b'b'; length as usize])
    } else {
        (Method::GET, Vec::new())
    };
    let id = {
        let mut state = world.state();
        // Odd numbers may be executed once only.
        state.next = (state.next + 2) & !1;
        state.next | u64::from(post)
    };
    let version = if version2 { "HTTP/2" } else { "HTTP/1" };
    world.note(format_args!("{id} {method} {version}"));
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    let path = format!("/work/{id}");
    let uri = if version2 {
        format!("http://app{path}")
    } else {
        path
    };
    *request.uri_mut() = uri.parse().unwrap_or_default();
    let headers = request.headers_mut();
    if !version2 {
        headers.insert(http::header::HOST, http::HeaderValue::from_static("app"));
    }
    headers.insert(ID, id.into());
    (id, request)
}

/// Checks an answer: it is the application's, whole, and to this request, or a proxy's with
/// a cause.
async fn judge(world: &World, id: u64, response: Response<Incoming>) -> Result<()> {
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let status = response.status().as_u16();
    let (by, cause) = (header(BY), header(CAUSE));
    let (of, bytes) = (header(ID), header("x-bytes"));
    world.note(format_args!(
        "{id} -> {status} {}",
        cause.as_deref().unwrap_or_default()
    ));
    let body = response.into_body().collect().await;
    match (by, cause) {
        (Some(_), None) => {
            if of != Some(id.to_string()) {
                world.violated(format_args!("{id} got the answer to {of:?}"));
            }
            let body = body?.to_bytes();
            if bytes != Some(body.len().to_string()) {
                world.violated(format_args!("{id} got {} of {bytes:?} bytes", body.len()));
            }
            if body.iter().any(|byte| *byte != filling(id)) {
                world.violated(format_args!("{id} got bytes of another answer"));
            }
            if !world.state().executed.contains_key(&id) {
                world.violated(format_args!("{id} was answered and never executed"));
            }
            world.count(if status == 200 { "good" } else { "failed" });
            world.state().streak += 1;
        }
        (None, Some(cause)) => {
            world.count(&cause);
            world.state().streak = 0;
            if status < 400 {
                world.violated(format_args!("{id} failed by {cause} with status {status}"));
            }
        }
        (by, cause) => {
            world.violated(format_args!(
                "{id} has status {status} by {by:?}, cause {cause:?}"
            ));
        }
    }
    if status == 0 {
        bail!("no status");
    }
    Ok(())
}
