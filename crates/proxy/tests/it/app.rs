//! An application that knows nothing of us.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// The application, and what it saw.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    /// Heads that arrived: target, headers, version.
    pub(crate) seen: Arc<Mutex<Vec<(String, HeaderMap, Version)>>>,
    /// Lets `/held`, `/broken` and `/streamed` go on.
    pub(crate) go_on: Arc<Notify>,
}

impl App {
    /// Starts it; it speaks HTTP/1 and HTTP/2.
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    /// The same at an address.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let app = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            go_on: Arc::default(),
        };
        let served = app.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let app = served.clone();
                tokio::spawn(async move {
                    let mut first = [0; 3];
                    let http2 = stream.peek(&mut first).await.is_ok() && &first == b"PRI";
                    let service = service_fn(move |request| {
                        let app = app.clone();
                        async move { app.answer(request).await }
                    });
                    if http2 {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    } else {
                        stream.set_nodelay(true).unwrap();
                        let server = hyper::server::conn::http1::Builder::new();
                        let connection =
                            server.serve_connection(TokioIo::new(&mut stream), service);
                        let _ = connection.await;
                    }
                });
            }
        });
        app
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let target = request
            .uri()
            .path_and_query()
            .map_or(String::new(), ToString::to_string);
        let head = (target, request.headers().clone(), request.version());
        self.seen.lock().unwrap().push(head);
        let path = request.uri().path().to_owned();
        // hyper leaves the body away over HTTP/1 alone.
        let is_http2 = request.version() == Version::HTTP_2;
        let bodiless = is_http2 && request.method() == http::Method::HEAD;
        let mut response = Response::new(text("hello"));
        match path.as_str() {
            "/echo" => {
                let body = request.into_body().map_err(std::io::Error::other);
                *response.body_mut() = body.boxed();
            }
            "/held" => self.go_on.notified().await,
            "/broken" => {
                let go_on = self.go_on.clone();
                *response.body_mut() = body(1, |sender| async move {
                    sender.send(Ok(Frame::data("part".into()))).await.unwrap();
                    go_on.notified().await;
                    let reset = std::io::Error::other("the application fails half way");
                    let _ = sender.send(Err(reset)).await;
                })
            }
            "/streamed" => {
                let go_on = self.go_on.clone();
                *response.body_mut() = body(1, |sender| async move {
                    let _ = sender.send(Ok(Frame::data("one".into()))).await;
                    go_on.notified().await;
                    let _ = sender.send(Ok(Frame::data("two".into()))).await;
                });
            }
            "/trailed" => {
                let trailer = "x-sum".parse().unwrap();
                response.headers_mut().insert("trailer", trailer);
                *response.body_mut() = body(2, |sender| async move {
                    let _ = sender.send(Ok(Frame::data("one".into()))).await;
                    let sum = HeaderMap::from_iter([(TRAILER_NAME, "42".parse().unwrap())]);
                    let _ = sender.send(Ok(Frame::trailers(sum))).await;
                });
            }
            "/hangs-up" => {
                return Err(std::io::Error::other(
                    "the application drops the connection",
                ));
            }
            path => {
                if let Some(status) = path.strip_prefix("/status/") {
                    *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap();
                } else if let Some(code) = path.strip_prefix("/test.Service/Code") {
                    return Ok(self.grpc(request, code.to_owned()).await);
                } else if path == "/test.Service/Bare" {
                    response
                        .headers_mut()
                        .insert("grpc-status", "14".parse().unwrap());
                    *response.body_mut() = empty();
                } else if path == "/test.Service/Silent" {
                    *response.body_mut() = empty();
                }
            }
        }
        if bodiless {
            *response.body_mut() = empty();
        }
        if path.starts_with("/test.Service/") {
            let grpc = "application/grpc".parse().unwrap();
            response.headers_mut().insert(CONTENT_TYPE, grpc);
        }
        response
            .headers_mut()
            .insert("X-From-App", "yes".parse().unwrap());
        response
            .headers_mut()
            .insert("whodunit-cause", "loop".parse().unwrap());
        response
            .headers_mut()
            .insert("connection", "x-hop".parse().unwrap());
        response.headers_mut().insert("x-hop", "1".parse().unwrap());
        if path.starts_with("/test.") || request_is_http2(&self.seen) {
            response.headers_mut().remove("connection");
        }
        Ok(response)
    }

    /// Answers each message with itself, and ends with a status in the trailers.
    async fn grpc(&self, request: Request<Incoming>, code: String) -> Response<Body> {
        let mut requests = request.into_body();
        let body = body(4, |sender| async move {
            let mut trailers = HeaderMap::new();
            while let Some(Ok(frame)) = requests.frame().await {
                match frame.into_data() {
                    Ok(data) => drop(sender.send(Ok(Frame::data(data))).await),
                    Err(frame) => {
                        if let Ok(found) = frame.into_trailers() {
                            trailers = found;
                        }
                    }
                }
            }
            trailers.insert("grpc-status", code.parse().unwrap());
            trailers.insert("grpc-message", "in the trailers".parse().unwrap());
            let _ = sender.send(Ok(Frame::trailers(trailers))).await;
        });
        Response::builder()
            .header(CONTENT_TYPE, "application/grpc+proto")
            .body(body)
            .unwrap()
    }

    /// Returns the headers of the last request with this target.
    pub(crate) fn headers(&self, target: &str) -> HeaderMap {
        let seen = self.seen.lock().unwrap();
        let found = seen.iter().rev().find(|(known, _, _)| known == target);
        found
            .unwrap_or_else(|| panic!("{target} never came: {seen:?}"))
            .1
            .clone()
    }
}

fn request_is_http2(seen: &Mutex<Vec<(String, HeaderMap, Version)>>) -> bool {
    seen.lock()
        .unwrap()
        .last()
        .is_some_and(|(_, _, version)| *version == Version::HTTP_2)
}

fn text(text: &'static str) -> Body {
    Full::new(Bytes::from(text))
        .map_err(|never: Infallible| match never {})
        .boxed()
}

fn empty() -> Body {
    text("")
}

const TRAILER_NAME: http::HeaderName = http::HeaderName::from_static("x-sum");

type Frames = tokio::sync::mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

fn body<F: Future<Output = ()> + Send + 'static>(
    size: usize,
    write: impl FnOnce(Frames) -> F,
) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(size);
    tokio::spawn(write(sender));
    BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver)))
}

/// Starts a TCP server that handles each connection with `handle`.
pub(crate) async fn tcp<F>(
    handle: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

/// Starts a server that agrees to switch protocols and then shouts back in upper case.
pub(crate) async fn shouting() -> SocketAddr {
    tcp(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(
            head.contains("upgrade: shout") && head.contains("connection: upgrade"),
            "{head}"
        );
        let agreed = format!(
            "HTTP/1.1 101 Switching Protocols\r\n{CONNECTION}: upgrade\r\n{UPGRADE}: shout\r\n\r\n"
        );
        stream.write_all(agreed.as_bytes()).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            buffer.make_ascii_uppercase();
            stream.write_all(&buffer[..count]).await.unwrap();
        }
    })
    .await
}

/// Returns an address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap()
}

/// Longest time anything in an application may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
