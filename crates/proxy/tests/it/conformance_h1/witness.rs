//! An upstream that keeps every byte it gets, and clients that say what they are told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::lax;
use crate::app;
use crate::mesh::DEADLINE;

/// The bytes of each connection that came in.
#[derive(Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<Vec<Vec<u8>>>>);

impl Witness {
    /// Starts it; it answers every complete request with 200 and `ok`.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let witness = Self::default();
        let kept = witness.clone();
        let address = app::tcp(move |stream| keep(kept.clone(), stream)).await;
        (witness, address)
    }

    /// Returns how many bytes each connection has brought so far.
    pub(crate) fn mark(&self) -> Vec<usize> {
        self.0.lock().unwrap().iter().map(Vec::len).collect()
    }

    /// Returns what has come since, per connection that brought anything.
    pub(crate) fn since(&self, mark: &[usize]) -> Vec<Vec<u8>> {
        let all = self.0.lock().unwrap();
        let new = all.iter().enumerate();
        new.map(|(i, bytes)| bytes[mark.get(i).copied().unwrap_or(0)..].to_vec())
            .filter(|bytes| !bytes.is_empty())
            .collect()
    }
}

async fn keep(witness: Witness, mut stream: TcpStream) {
    let index = {
        let mut all = witness.0.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    };
    let mut buffer = vec![0; 64 << 10];
    let mut answered = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let complete = {
            let mut all = witness.0.lock().unwrap();
            all[index].extend_from_slice(&buffer[..count]);
            lax::read(&all[index], lax::ALL[0]).0.len()
        };
        while answered < complete {
            answered += 1;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

/// Sends bytes and reads until the answers are complete or the other side closes. Returns
/// what came, and whether it was closed.
pub(crate) async fn talk(to: SocketAddr, bytes: &[u8], answers: usize) -> (String, bool) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The other side may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let read = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return true,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
            }
            let text = String::from_utf8_lossy(&answer);
            if answers > 0 && text.matches("\r\n\r\nok").count() >= answers {
                return false;
            }
        }
    };
    let closed = timeout(DEADLINE, read).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let what = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    (
        text,
        closed.unwrap_or_else(|_| panic!("no end after {what:?}")),
    )
}
