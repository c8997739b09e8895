//! Asks an instance whether it is well.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::isolate::Namespaces;

/// Bytes of an answer that are looked at: its first line.
const ANSWER_BYTES_MAX: usize = 512;

/// A question, ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Whether something accepts connections.
    Tcp(SocketAddr),
    /// Whether a GET is answered by a status from 200 to 399.
    Http {
        /// Where to connect.
        address: SocketAddr,
        /// The Host header.
        host: String,
        /// Path and query.
        path: String,
    },
}

impl Question {
    /// Reads `tcp://HOST:PORT` or `http://HOST[:PORT][/PATH]`. The host must be
    /// an IP address or `localhost`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        if let Some(host) = url.strip_prefix("tcp://") {
            return Some(Self::Tcp(address(host.strip_suffix('/').unwrap_or(host))?));
        }
        let rest = url.strip_prefix("http://")?;
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let path = path.split('#').next().unwrap_or_default().to_owned();
        let address = address(host).or_else(|| address(&format!("{host}:80")))?;
        Some(Self::Http {
            address,
            host: host.to_owned(),
            path,
        })
    }

    /// Asks; the error says what was wrong with the answer.
    pub(crate) async fn ask(
        &self,
        timeout: Duration,
        by: Option<&Namespaces>,
    ) -> Result<(), String> {
        let (address, answer) = match self {
            Self::Tcp(address) => (
                address,
                tokio::time::timeout(timeout, connect(*address, by))
                    .await
                    .map(|connected| connected.map(drop)),
            ),
            Self::Http {
                address,
                host,
                path,
            } => (
                address,
                tokio::time::timeout(timeout, get(*address, host, path, by)).await,
            ),
        };
        let late = |_| Err(format!("{address} does not answer within {timeout:?}"));
        answer.unwrap_or_else(late)
    }
}

fn address(host: &str) -> Option<SocketAddr> {
    match host.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => host.parse().ok(),
    }
    .filter(|address| address.port() > 0)
}

async fn connect(address: SocketAddr, by: Option<&Namespaces>) -> Result<TcpStream, String> {
    let connected = match by {
        None => TcpStream::connect(address).await,
        Some(namespaces) => namespaces.connect(address).await,
    };
    connected.map_err(|error| format!("cannot connect to {address}: {error}"))
}

async fn get(
    address: SocketAddr,
    host: &str,
    path: &str,
    by: Option<&Namespaces>,
) -> Result<(), String> {
    let broken = |error| format!("{address} does not answer: {error}");
    let mut stream = connect(address, by).await?;
    let version = env!("CARGO_PKG_VERSION");
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: whodunit-probe/{version}\r\n\
         accept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    let mut part = [0; ANSWER_BYTES_MAX];
    while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
        match stream.read(&mut part).await.map_err(broken)? {
            0 => break,
            length => answer.extend_from_slice(&part[..length]),
        }
    }
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("{address}{path} answers status {status}")),
        None => Err(format!("{address} does not answer in HTTP")),
    }
}

/// Returns the status of a response that begins with these bytes.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    let status = line.split(' ').nth(1)?.trim();
    status
        .parse()
        .ok()
        .filter(|status| (100..1_000).contains(status))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn http(address: [u8; 4], port: u16, host: &str, path: &str) -> Option<Question> {
        let address = SocketAddr::from((address, port));
        Some(Question::Http {
            address,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }

    #[test]
    fn questions_are_read_from_urls() {
        let local = [127, 0, 0, 1];
        let parse = Question::parse;
        assert_eq!(
            parse("http://127.0.0.1:80/a?b#c"),
            http(local, 80, "127.0.0.1:80", "/a?b")
        );
        assert_eq!(
            parse("http://localhost:81"),
            http(local, 81, "localhost:81", "/")
        );
        assert_eq!(
            parse("http://127.0.0.1?x"),
            http(local, 80, "127.0.0.1", "/?x")
        );
        let address = SocketAddr::from((local, 9));
        assert_eq!(parse("tcp://127.0.0.1:9"), Some(Question::Tcp(address)));
        for bad in [
            "",
            "http://",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:0",
            "ftp://127.0.0.1:1",
            "http://a:1/",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_answers_in_http_have_a_status() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 200\r\n"), Some(200));
        for bad in [
            "",
            "\n",
            "HTTP/1.1",
            "HTTP/1.1 2\r\n",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 x y",
        ] {
            assert_eq!(status(bad.as_bytes()), None, "{bad}");
        }
    }

    async fn ask_one_that_says(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ready", listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1_024];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            assert!(request.starts_with("GET /ready HTTP/1.1\r\n"), "{request}");
            assert!(
                request.contains("\r\nuser-agent: whodunit-probe/"),
                "{request}"
            );
            stream.write_all(answer).await.unwrap();
        };
        let question = Question::parse(&url).unwrap();
        tokio::join!(question.ask(Duration::from_secs(5), None), server).0
    }

    #[tokio::test]
    async fn statuses_below_400_are_well() {
        assert_eq!(ask_one_that_says(b"HTTP/1.1 200 OK\r\n\r\n").await, Ok(()));
        assert_eq!(
            ask_one_that_says(b"HTTP/1.1 302 Found\r\n\r\n").await,
            Ok(())
        );
        let error = ask_one_that_says(b"HTTP/1.1 503 Not Now\r\n\r\n")
            .await
            .unwrap_err();
        assert!(error.ends_with("/ready answers status 503"), "{error}");
        let error = ask_one_that_says(b"\x16\x03\x01junk").await.unwrap_err();
        assert!(error.ends_with("does not answer in HTTP"), "{error}");
    }

    #[tokio::test]
    async fn silence_and_refusal_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let question = Question::parse(&format!("http://{address}/")).unwrap();
        let silent = question
            .ask(Duration::from_millis(20), None)
            .await
            .unwrap_err();
        assert!(silent.contains("does not answer within 20ms"), "{silent}");
        assert_eq!(
            Question::Tcp(address)
                .ask(Duration::from_secs(5), None)
                .await,
            Ok(())
        );
        drop(listener);
        let refused = question
            .ask(Duration::from_secs(5), None)
            .await
            .unwrap_err();
        assert!(refused.starts_with("cannot connect to"), "{refused}");
    }
}
