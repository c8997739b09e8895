//! A small HTTP/1.1 client: one persistent connection, reopened when lost.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest wait for an answer, so that a server that hangs does not hang us forever.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer we read; the emoji list is under 6 kB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The client. Requests go one after the other.
#[derive(Debug)]
pub(crate) struct HttpClient {
    address: String,
    host: String,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl HttpClient {
    /// Talks to this `host:port` (port 80 when it has none) and names `host` in the
    /// Host header, or the address when that is `None`.
    pub(crate) fn new(address: &str, host: Option<&str>) -> anyhow::Result<Self> {
        let authority: http::uri::Authority = address
            .parse()
            .with_context(|| format!("`{address}` is not HOST:PORT"))?;
        let host = host.unwrap_or(address).to_owned();
        http::HeaderValue::from_str(&host).with_context(|| format!("`{host}` is not a host"))?;
        let port = authority.port_u16().unwrap_or(80);
        let address = format!("{}:{port}", authority.host());
        Ok(Self {
            address,
            host,
            connection: None,
        })
    }

    /// Sends a request without a body and reads the whole answer.
    pub(crate) async fn request(
        &mut self,
        method: Method,
        path: &str,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let reused = self.connection.is_some();
        match self.attempt(&method, path).await {
            // The server may have closed an idle connection while we wrote to it.
            Err(_) if reused && method.is_safe() => self.attempt(&method, path).await,
            result => result,
        }
    }

    async fn attempt(
        &mut self,
        method: &Method,
        path: &str,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        let exchange = async {
            connection.ready().await.context("use the connection")?;
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, &self.host)
                .header(USER_AGENT, concat!("emojivoto/", env!("CARGO_PKG_VERSION")))
                .body(Empty::new())
                .with_context(|| format!("build the request {method} {path}"))?;
            let answer = connection
                .send_request(request)
                .await
                .context("send the request")?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("read the answer: {error}"))?;
            anyhow::Ok((status, body.to_bytes()))
        };
        let result = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .with_context(|| format!("no answer within {} s", TIMEOUT.as_secs()))
            .flatten()
            .with_context(|| format!("{method} http://{}{path}", self.address))?;
        self.connection = Some(connection);
        Ok(result)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let connect = async {
            let socket = TcpStream::connect(&self.address).await?;
            socket.set_nodelay(true)?;
            anyhow::Ok(handshake(TokioIo::new(socket)).await?)
        };
        let (sender, connection) = tokio::time::timeout(TIMEOUT, connect)
            .await
            .context("no answer in time")
            .flatten()
            .with_context(|| format!("connect to {}", self.address))?;
        // Its errors reach the sender of the request.
        tokio::spawn(connection);
        Ok(sender)
    }
}
