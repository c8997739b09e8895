//! Frames, streams and field compression: what RFC 9113 and RFC 7541 say of each mistake.
//!
//! Strict: a mistake has to be answered with the error code that its rule names, on the
//! stream or, where that is allowed, by ending the connection.

mod fields;
mod flow;
mod framing;
mod streams;

use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::app::App;
use crate::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, End, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, Raw,
    SETTINGS, block, frame, head,
};
use crate::mesh::{Setup, at, end};
use crate::server::Server;

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0xb0;

const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

/// What must come.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The connection ends, with one of these codes if it says any.
    Connection(&'static [u32]),
    /// The connection ends with this code and nothing less clear.
    Told(u32),
    /// The stream ends with one of these codes, or the connection does.
    Stream(u32, &'static [u32]),
    /// The stream is answered, and the connection goes on.
    Answered(u32),
    /// The stream is answered, and the connection may end.
    Last(u32),
    /// The connection goes on.
    Alive,
    /// An acknowledgment of this kind of frame.
    Acknowledged(u8),
    /// So many bytes of DATA come on stream 1, and no more until they are allowed.
    Sends(usize),
}
use Then::{Acknowledged, Alive, Answered, Connection, Last, Sends, Stream, Told};

struct Case {
    name: String,
    /// Sent after the preface and the first settings.
    bytes: Vec<u8>,
    /// Sent when stream 1 has been answered.
    later: Vec<u8>,
    then: Then,
}

type Fields = Vec<(&'static [u8], &'static [u8])>;

fn good(method: &'static str, path: &'static str) -> Fields {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"callee.test"),
    ]
}

fn get(stream: u32) -> Vec<u8> {
    head(stream, true, &good("GET", "/"))
}

/// A request whose body is still to come, and is waited for.
fn post(stream: u32) -> Vec<u8> {
    head(stream, false, &good("POST", "/echo"))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat()
}

fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, value)| setting(*id, *value))
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// Good fields, with these bytes in front and behind.
fn framed(before: &[u8], after: &[u8]) -> Vec<u8> {
    let block = [before, &block(&good("GET", "/")), after].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, name: impl Into<String>, parts: &[Vec<u8>], then: Then) {
        self.0.push(Case {
            name: name.into(),
            bytes: parts.concat(),
            later: Vec::new(),
            then,
        });
    }

    /// The same after a request that was answered in full.
    fn answered(&mut self, name: &str, later: &[Vec<u8>], then: Then) {
        self.0.push(Case {
            name: name.to_owned(),
            bytes: get(1),
            later: later.concat(),
            then,
        });
    }

    /// The same with each of these fields behind or before good ones.
    fn malformed(&mut self, name: &str, fields: &Fields) {
        let then = Stream(1, &[PROTOCOL_ERROR]);
        self.add(name, &[head(1, true, fields)], then);
    }
}

fn cases() -> Vec<Case> {
    let mut all = Cases::default();
    framing::framing(&mut all);
    flow::flow(&mut all);
    streams::streams(&mut all);
    fields::heads(&mut all);
    fields::compression(&mut all);
    all.0
}

/// Reads to the end of the connection; returns the code it ended with, if it said one.
async fn ending(client: &mut Raw) -> Option<u32> {
    let told = client.find(|frame| frame.kind == GOAWAY && frame.code() > 0);
    let code = told.await.map(|told| told.code());
    // It is not only said.
    while client.next().await.is_some() {}
    code
}

async fn check(to: SocketAddr, case: Case) -> Result<(), String> {
    let mut client = Raw::connect(to).await;
    client.send(&case.bytes).await;
    if !case.later.is_empty() {
        let answer = client.end_of(1).await;
        if answer != End::Status(200) {
            return Err(format!("{}: {answer:?} before it", case.name));
        }
        client.send(&case.later).await;
    }
    let told = match case.then {
        Told(code) => match ending(&mut client).await {
            Some(told) if told == code => Ok(()),
            other => Err(format!("GOAWAY {other:?}")),
        },
        Connection(codes) => match ending(&mut client).await {
            None => Ok(()),
            Some(code) if codes.contains(&code) => Ok(()),
            Some(code) => Err(format!("GOAWAY {code}")),
        },
        Stream(stream, codes) => loop {
            // What came before it may have been answered.
            match client.end_of(stream).await {
                End::Status(200) => {}
                End::Reset(code) | End::GoAway(code) if codes.contains(&code) => break Ok(()),
                End::Closed => break Ok(()),
                other => break Err(format!("{other:?}")),
            }
        },
        Answered(stream) => match client.end_of(stream).await {
            End::Status(200) if client.is_alive().await => Ok(()),
            other => Err(format!("{other:?}")),
        },
        Last(stream) => match client.end_of(stream).await {
            End::Status(200) => Ok(()),
            other => Err(format!("{other:?}")),
        },
        Alive => {
            let alive = client.is_alive().await;
            alive.then_some(()).ok_or_else(|| "it ended".to_owned())
        }
        Acknowledged(kind) => {
            let ack = |frame: &crate::frames::Frame| frame.kind == kind && frame.flags == ACK;
            let first = client.find(ack).await.is_some();
            // The first settings are acknowledged too.
            let second = kind != SETTINGS || client.find(ack).await.is_some();
            let both = first && second && client.is_alive().await;
            both.then_some(()).ok_or_else(|| "no answer".to_owned())
        }
        Sends(most) => {
            let mut got = 0;
            while got < most {
                let data = client.find(|frame| frame.kind == DATA).await;
                got += data.map_or(most + 1, |data| data.payload.len());
            }
            // An answer to this says that nothing more was on its way.
            let alive = client.is_alive().await;
            if got == most && alive {
                client.send(&window(1, 100)).await;
                let rest = client
                    .find(|frame| frame.kind == DATA && frame.flags == 1)
                    .await;
                rest.map(drop)
                    .ok_or_else(|| "the rest is missing".to_owned())
            } else {
                Err(format!("{got} bytes, alive {alive}"))
            }
        }
    };
    told.map_err(|why| format!("{}: {why}, not {:?}", case.name, case.then))
}

async fn run(to: SocketAddr) {
    let mut wrong = Vec::new();
    let mut running = JoinSet::new();
    let mut count = 0;
    for case in cases() {
        count += 1;
        let name = case.name.clone();
        running.spawn(async move {
            let checked = tokio::spawn(check(to, case)).await;
            checked.unwrap_or_else(|_| Err(format!("{name}: nothing came")))
        });
        if running.len() >= 16 {
            wrong.extend(running.join_next().await.unwrap().unwrap().err());
        }
    }
    while let Some(checked) = running.join_next().await {
        wrong.extend(checked.unwrap().err());
    }
    wrong.sort();
    assert!(count >= 190, "{count}");
    assert!(wrong.is_empty(), "of {count}:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_has_its_answer() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .listener(
            "any",
            "inbound",
            "detect",
            &format!("forward = \"{}\"", app.address),
        )
        .start();
    run(at(&proxy, "in")).await;
    run(at(&proxy, "any")).await;
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefaces_and_first_frames_are_checked() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    for bytes in [
        b"INVALID CONNECTION PREFACE\r\n\r\n".to_vec(),
        [&PREFACE[..20], b"XX\r\n"].concat(),
        [PREFACE, &get(1)].concat(),
        [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
        [PREFACE, &frame(SETTINGS, ACK, 0, &[])].concat(),
    ] {
        let mut client = Raw::bare(at(&proxy, "in")).await;
        client.send(&bytes).await;
        let code = ending(&mut client).await;
        assert!(
            matches!(code, None | Some(PROTOCOL_ERROR)),
            "{:?}: {code:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
    assert!(app.seen.lock().unwrap().is_empty());
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_were_allowed_are_refused() {
    let app = App::start().await;
    let server = Server::start().await;
    let proxy = Setup::new("web", &server)
        .inbound("http2", app.address)
        .start();
    let mut client = Raw::connect(at(&proxy, "in")).await;
    let first = client.find(|frame| frame.kind == SETTINGS).await.unwrap();
    let allowed = first.payload.chunks(6).find(|pair| pair[..2] == [0, 3]);
    let allowed = allowed.map(|pair| u32::from_be_bytes(pair[2..].try_into().unwrap()));
    let allowed = allowed.expect("the settings name it");
    let held = |stream| head(stream, true, &good("GET", "/held"));
    let all: Vec<u8> = (0..=allowed).flat_map(|i| held(1 + 2 * i)).collect();
    client.send(&all).await;
    let last = client.end_of(1 + 2 * allowed).await;
    assert!(
        matches!(last, End::Reset(REFUSED_STREAM | PROTOCOL_ERROR)),
        "{last:?}"
    );
    drop(client);
    end(proxy).await;
}
