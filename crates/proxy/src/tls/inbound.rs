//! Handshakes of those who connect to us.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout_at;
use tokio_rustls::{TlsAcceptor, TlsStream};
use whodunit_identity::{Tls, rustls};
use whodunit_model::Cause;
use whodunit_model::record::{Kind, Protocol, Side, Twin};

use super::{Current, Failed, HANDSHAKE, Security};
use crate::call::{Call, Fault};
use crate::clock::Instant;
use crate::net::Io;
use crate::worker::Connection;

/// Longest client hello that is read: one with several key shares of hybrid groups takes
/// about 5 KiB.
const HELLO_BYTES_MAX: usize = 16 << 10;

/// What became of a connection that began as TLS does.
pub(crate) enum Arrived {
    /// It is for us, and the peer has proven who it is.
    Secured(Io, Security),
    /// It is the application's own; the bytes read so far are in `first`.
    Passed(Io),
}

/// What a client hello asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hello {
    Ours,
    Others,
}

/// Reads a client hello, of which `first` has the first bytes, and shakes hands if it is for
/// us. Where `pass` is set, TLS that asks for another name is left to the application.
///
/// # Errors
/// When the peer breaks the protocol, is too slow, or does not prove an identity.
pub(crate) async fn arrive(
    current: &Current,
    mut io: Io,
    first: &mut BytesMut,
    pass: bool,
    accepted: Instant,
) -> Result<Arrived, Failed> {
    let deadline = (accepted + HANDSHAKE).into();
    let mut waiting = current.clone();
    let handshake = async {
        // A proxy that has just started may be asked before it has a certificate.
        let tls = match waiting.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(tls)) => tls.clone(),
            _ => return Err(Failed::new(Cause::TlsFailed, "there is no certificate")),
        };
        if hello(&tls, &mut io, first, pass).await? == Hello::Others {
            return Ok(Arrived::Passed(io));
        }
        io.put_back(std::mem::take(first).freeze());
        let acceptor = TlsAcceptor::from(tls.server.clone());
        let mut identity = None;
        let secured = io.secure(async |raw| {
            let stream = acceptor.accept(raw).await?;
            identity = Tls::peer(stream.get_ref().1.peer_certificates()).ok();
            Ok(TlsStream::Server(stream))
        });
        let io = secured.await.map_err(|error| Failed::of(&error))?;
        let identity = identity.ok_or_else(|| Failed::new(Cause::TlsFailed, "no identity"))?;
        Ok(Arrived::Secured(io, Security::mutual(identity.identity)))
    };
    match timeout_at(deadline, handshake).await {
        Ok(arrived) => arrived,
        Err(_) => Err(Failed::late()),
    }
}

/// Finds out for whom a client hello is. Its bytes are left in `first`.
async fn hello(tls: &Tls, io: &mut Io, first: &mut BytesMut, pass: bool) -> Result<Hello, Failed> {
    if !pass {
        return Ok(Hello::Ours);
    }
    let mut acceptor = rustls::server::Acceptor::default();
    let mut fed = 0;
    loop {
        if let [_, version, ..] = first[..]
            && version != 3
        {
            // Another protocol whose first byte happens to be the same.
            return Ok(Hello::Others);
        }
        while fed < first.len() {
            let mut bytes = &first[fed..];
            let read = acceptor.read_tls(&mut bytes);
            fed += read.map_err(|error| Failed::new(Cause::TlsFailed, error))?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_owned);
                    return Ok(judge(tls, name.as_deref()));
                }
                Err((error, _)) => return Err(Failed::new(Cause::TlsFailed, error)),
            }
        }
        if first.len() > HELLO_BYTES_MAX {
            let why = "the client hello is too long";
            return Err(Failed::new(Cause::TlsFailed, why));
        }
        let read = io.read_buf(first).await;
        if read.map_err(|error| Failed::of(&error))? == 0 {
            let why = "the peer left before its client hello was complete";
            return Err(Failed::new(Cause::TlsFailed, why));
        }
    }
}

fn judge(tls: &Tls, server_name: Option<&str>) -> Hello {
    if tls.is_for_us(server_name) {
        Hello::Ours
    } else {
        Hello::Others
    }
}

/// Records a connection that ended with its handshake.
pub(crate) fn record_refused(connection: &Rc<Connection>, accepted: Instant, failed: &Failed) {
    let inlet = &connection.inlet;
    let mut call = Call::begin(&inlet.worker, Side::Inbound, None, accepted);
    call.note(|record| {
        record.kind = Kind::Connection;
        record.protocol = Protocol::Tcp;
        record.detected = connection.detected;
        record.service = inlet.service();
        record.dst = inlet.worker.config.workload.clone();
        record.attempts = 0;
        record.twin = Twin::No;
    });
    call.blame(Fault::seen_from(Side::Inbound, failed.cause, false));
    call.end();
}
