//! A server that answers what a test tells it to, and remembers what was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use whodunit_api::BASE;

/// A stream of events that stays open after the last one.
pub(crate) const OPEN_STREAM: &str = "text/event-stream; charset=utf-8";

/// What to answer to a path under [`BASE`]; after a `#` follows the last event the client saw.
pub(crate) type Answer = fn(&str) -> (u16, &'static str, String);

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts answering. The thread ends with the test's process.
    pub(crate) fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = log.clone();
                std::thread::spawn(move || serve(stream, answer, &log));
            }
        });
        Self { addr, asked }
    }

    /// The paths and queries that were asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test panicked").clone()
    }
}

fn serve(mut stream: TcpStream, answer: Answer, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let mut last_event = String::new();
    for line in lines
        .by_ref()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        if let Some(id) = line.strip_prefix("last-event-id: ") {
            last_event = format!("#{id}");
        }
    }
    let target = first.split(' ').nth(1).unwrap_or_default();
    let path = target.strip_prefix(BASE).unwrap_or(target).to_owned() + &last_event;
    log.lock().expect("no test panicked").push(path.clone());
    let (status, kind, body) = answer(&path);
    // Without a length the body ends with the connection, as a stream of events does.
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n");
    // The client may have gone away: a test about broken pipes wants just that.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
    if kind == OPEN_STREAM {
        // Until the client goes away.
        let _ = lines.next();
    }
}
