//! Both directions of a relayed connection.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use whodunit_model::Cause;
use whodunit_model::record::Side;

use super::introduction::encode_answer;
use super::opening::{Answer, Caller, Opening};
use super::pump::{Failed, Pump};
use crate::call::{CallState, Fault};
use crate::net::Io;
use crate::upstream::io_cause;

/// How long a client may take to read the last words of an endpoint that is gone.
const LINGER: Duration = Duration::from_secs(2);

/// Which side broke a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The client.
    Client,
    /// The endpoint.
    Upstream(Cause),
    /// The endpoint took no more, and has said all that it wanted to say.
    Deaf(Cause),
    /// A proxy of ours at one end says so, or is not understood.
    Peer(Fault),
}

impl Broken {
    /// Lets both sides know, and returns what to blame.
    pub(crate) fn settle(
        self,
        side: Side,
        meshed: bool,
        client: &Io,
        upstream: Option<&Io>,
    ) -> Fault {
        match self {
            Self::Client => {
                upstream.inspect(|upstream| upstream.reset_on_close());
                Fault::seen_from(side, Cause::ClientCancelled, meshed)
            }
            Self::Upstream(cause) => {
                client.reset_on_close();
                Fault::seen_from(side, cause, meshed)
            }
            Self::Deaf(cause) => Fault::seen_from(side, cause, meshed),
            Self::Peer(fault) => {
                client.reset_on_close();
                upstream.inspect(|upstream| upstream.reset_on_close());
                fault
            }
        }
    }
}

/// Both directions of a connection, and what proxies say to each other before it.
pub(super) struct Relay {
    pub(super) up: Pump,
    pub(super) down: Pump,
    /// Whether the client is a proxy of ours is not known yet.
    pub(super) opening: Option<Opening>,
    /// The proxy of the endpoint has not answered yet.
    pub(super) answer: Option<Answer>,
}

/// What becomes known while bytes are relayed.
pub(super) enum Notice {
    /// Who the client is.
    Introduced(Caller),
    /// The endpoint's proxy is there.
    Answered,
    /// The client speaks TLS, for this server.
    Hello(Option<String>),
    /// Bulk had to be copied.
    NoPipe,
}

/// Relays both ways until both have ended, or one breaks. Bytes are counted in `state`.
pub(crate) async fn relay(
    client: &mut Io,
    upstream: &mut Io,
    state: &CallState,
) -> Result<(), Broken> {
    let mut relay = Relay {
        up: Pump::new(),
        down: Pump::new(),
        opening: None,
        answer: None,
    };
    relay.run(client, upstream, state, |_| {}).await
}

impl Relay {
    pub(super) async fn run(
        &mut self,
        client: &mut Io,
        upstream: &mut Io,
        state: &CallState,
        notice: impl Fn(Notice),
    ) -> Result<(), Broken> {
        // What the endpoint said before it went is still to be heard.
        let mut deaf = None;
        let ended = poll_fn(|cx| {
            if let Some(opening) = &mut self.opening
                && let Poll::Ready(opened) = opening.poll(cx, client)
            {
                self.opening = None;
                if let Some(caller) = opened? {
                    // The application may have spoken already, which says it as well.
                    self.down.begin_with(&encode_answer(None));
                    notice(Notice::Introduced(caller));
                }
            }
            if let Some(answer) = &mut self.answer
                && let Poll::Ready(answered) = answer.poll(cx, upstream)
            {
                self.answer = None;
                if !matches!(answered, Ok(false) | Err(Broken::Upstream(_))) {
                    notice(Notice::Answered);
                }
                answered?;
            }
            let no_pipe = || notice(Notice::NoPipe);
            let mut sent = Poll::Pending;
            if deaf.is_some() {
                sent = Poll::Ready(Ok(()));
            } else if self.opening.is_none() {
                let count = |count| state.sent(count, 0);
                sent = self.up.poll(cx, client, upstream, count, no_pipe);
            }
            if let Some(name) = self.up.hello() {
                notice(Notice::Hello(name));
            }
            match sent {
                Poll::Ready(Err(Failed::Reader(_))) => return Poll::Ready(Err(Broken::Client)),
                Poll::Ready(Err(Failed::Writer(error))) => {
                    deaf = Some(io_cause(error));
                    sent = Poll::Ready(Ok(()));
                }
                _ => {}
            }
            let mut received = Poll::Pending;
            if self.answer.is_none() {
                let count = |count| state.received(count, 0);
                received = self.down.poll(cx, upstream, client, count, no_pipe);
            }
            match received {
                Poll::Ready(Err(Failed::Reader(error))) => {
                    return Poll::Ready(Err(Broken::Upstream(io_cause(error))));
                }
                Poll::Ready(Err(Failed::Writer(_))) => return Poll::Ready(Err(Broken::Client)),
                _ => {}
            }
            match deaf {
                _ if !(sent.is_ready() && received.is_ready()) => Poll::Pending,
                None => Poll::Ready(Ok(())),
                Some(cause) => Poll::Ready(Err(Broken::Deaf(cause))),
            }
        })
        .await;
        if matches!(ended, Err(Broken::Deaf(_))) {
            hear_out(client).await;
        }
        ended
    }
}

/// Reads what a client still sends to nobody, until it ends: closing before that would take
/// back what it has not read yet.
async fn hear_out(client: &mut Io) {
    let mut buffer = [0; 1_024];
    let rest = async { while let Ok(1..) = client.read(&mut buffer).await {} };
    // A client that goes on is left behind.
    let _ = tokio::time::timeout(LINGER, rest).await;
}
