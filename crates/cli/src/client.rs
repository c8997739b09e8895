//! Asks the server over HTTP: one connection, one `GET`, one answer of JSON,
//! or a stream of Server-Sent Events.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use whodunit_api::BASE;

use crate::failure::Failure;
use crate::sse::{Event, Parser};

/// A server on this machine accepts at once; one across a network within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The slowest query has to end before this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Ten thousand records of `tap` are about 10 MiB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The port of the server's HTTP API.
const PORT: u16 = 7070;

/// A server to ask.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    addr: String,
}

impl Client {
    /// A server by address: `host`, `host:port` or `http://host:port`.
    ///
    /// # Errors
    /// When the text is not an address of that form.
    pub(crate) fn new(addr: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Err(Failure::usage(format!("wrong address `{addr}`"))
                .why(why)
                .fix("write it as HOST:PORT, for example 127.0.0.1:7070"))
        };
        let plain = addr.strip_prefix("http://").unwrap_or(addr);
        let plain = plain.strip_suffix('/').unwrap_or(plain);
        if addr.starts_with("https://") {
            return wrong("this client speaks plain HTTP only");
        }
        let Ok(uri) = plain.parse::<hyper::http::uri::Authority>() else {
            return wrong("it is not a host and a port");
        };
        if plain.contains('@') || uri.host().is_empty() {
            return wrong("it is not a host and a port");
        }
        // A port that is there but does not fit is not replaced by the default.
        let named = plain.len() > uri.host().len();
        let addr = match uri.port_u16() {
            Some(_) => plain.to_owned(),
            None if !named => format!("{plain}:{PORT}"),
            None => return wrong("the port is not a number up to 65535"),
        };
        Ok(Self { addr })
    }

    /// Returns the address, `host:port`.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// Asks `path` under the API's prefix and returns the answer.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or answers something else.
    pub(crate) async fn get<Answer: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<Answer, Failure> {
        let answer = async {
            let response = self.send(path, query, "application/json", None).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| {
                    Failure::failed(format!("the answer of {} broke off", self.addr), error)
                })?;
            Ok::<(u16, Bytes), Failure>((status, body.to_bytes()))
        };
        let (status, body) = match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(Failure::failed(
                    format!("the server at {} did not answer", self.addr),
                    format!("it took longer than {} s", ANSWER_TIMEOUT.as_secs()),
                )
                .fix("ask for a shorter range with --since and --until"));
            }
        };
        if status >= 400 {
            return Err(Failure::answered(&self.addr, status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| {
            Failure::failed(format!("cannot read the answer of {}", self.addr), error)
                .fix("`whodunit version` shows whether client and server are of one version")
        })
    }

    /// Opens a stream of events.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub(crate) async fn stream(
        &self,
        path: &str,
        query: &impl Serialize,
        last_event: Option<&str>,
    ) -> Result<Events, Failure> {
        let response = timeout(
            ANSWER_TIMEOUT,
            self.send(path, query, "text/event-stream", last_event),
        )
        .await
        .map_err(|_| Failure::unreachable(&self.addr, "it did not answer"))??;
        let status = response.status().as_u16();
        if status >= 400 {
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
            let body = body.await.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(Failure::answered(&self.addr, status, &body));
        }
        Ok(Events {
            body: response.into_body(),
            parser: Parser::default(),
        })
    }

    async fn send(
        &self,
        path: &str,
        query: &impl Serialize,
        accept: &str,
        last_event: Option<&str>,
    ) -> Result<Response<Incoming>, Failure> {
        let unreachable = |why: String| Failure::unreachable(&self.addr, why);
        let mut request = Request::get(format!("{BASE}{path}{}", query_string(query)?))
            .header(HOST, &self.addr)
            .header(ACCEPT, accept)
            .header(USER_AGENT, concat!("whodunit/", env!("CARGO_PKG_VERSION")));
        if let Some(id) = last_event {
            request = request.header("last-event-id", id);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::failed("cannot ask the server", error))?;

        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.addr))
            .await
            .map_err(|_| unreachable("it did not accept the connection in time".to_owned()))?
            .map_err(|error| unreachable(plain_io(&error)))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        // Ends when the response has been read or dropped.
        tokio::spawn(connection);
        sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(format!("it closed the connection ({error})")))
    }
}

/// Says an error of the network in words; the number of the error helps nobody.
fn plain_io(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            "connection refused: nothing listens there".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A stream of events.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    parser: Parser,
}

impl Events {
    /// Waits for the next event; none when the stream has ended.
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.parser.next() {
                return Some(event);
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(data) = frame.data_ref() {
                self.parser.push(data);
            }
        }
    }
}

/// Returns `?name=value&…` of a query type, empty if nothing is asked.
fn query_string(query: &impl Serialize) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::failed("cannot ask the server", why);
    let value = serde_json::to_value(query).map_err(|error| wrong(&error.to_string()))?;
    let fields = match value {
        serde_json::Value::Object(fields) => fields,
        serde_json::Value::Null => return Ok(String::new()),
        _ => return Err(wrong("a query is not an object")),
    };
    let mut out = String::new();
    for (name, value) in fields {
        let value = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        out.push(if out.is_empty() { '?' } else { '&' });
        encode(&name, &mut out);
        out.push('=');
        encode(&value, &mut out);
    }
    Ok(out)
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whodunit_api::Range;
    use whodunit_api::tap::TapQuery;

    #[test]
    fn addresses_as_people_type_them() {
        let check = |text: &str, expected: Option<&str>| {
            let found = Client::new(text).ok();
            assert_eq!(found.as_ref().map(Client::addr), expected, "{text}");
        };
        check("127.0.0.1:7070", Some("127.0.0.1:7070"));
        check("http://localhost:80/", Some("localhost:80"));
        check("[::1]:7070", Some("[::1]:7070"));
        check("server", Some("server:7070"));
        check("https://server", None);
        check("server:", None);
        check("server:99999", None);
        check("a b", None);
        check("", None);
        check("user@host:1", None);
        check("host:1/path", None);
    }

    #[test]
    fn queries_become_query_strings() {
        let query = TapQuery {
            filter: Some(r#"{"is":1}"#.to_owned()),
            follow: true,
            range: Range {
                since: Some("2026-01-31T14:02:31Z".to_owned()),
                until: None,
            },
            ..TapQuery::default()
        };
        assert_eq!(
            query_string(&query).expect("a query string"),
            "?filter=%7B%22is%22%3A1%7D&follow=true&since=2026-01-31T14%3A02%3A31Z"
        );
        assert_eq!(query_string(&()).expect("a query string"), "");
    }
}
