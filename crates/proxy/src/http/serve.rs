//! The way of a request.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Request, Response};
use whodunit_model::Cause;
use whodunit_model::id::{BootId, RequestId};
use whodunit_model::record::{Protocol, RequestRecord, Side, Twin};

use super::body::{Outgoing, Relayed, RequestBody, ResponseBody, grpc_status};
use super::forward::{self, Answered};
use super::head::{self, Claim};
use super::reply::{relayed_fault, reply};
use super::stream::Incoming;
use super::upgrade::Switched;
use crate::call::{Call, Fault};
use crate::clock::Instant;
use crate::limits::{self, Limit};
use crate::worker::{Connection, Inlet};

/// Serves one request: records it, checks it, forwards it, and hands back the answer.
///
/// What it begins with is done before the future is made, so that the future has room for one
/// copy of the request only.
pub(crate) fn serve(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    let busy = connection.begin_request();
    let (mut parts, body) = request.into_parts();
    let inlet = &connection.inlet;
    let claim = connection.proven(head::take_claim(&mut parts.headers, &inlet.worker));
    let to_twin = inlet.side() == Side::Inbound && claim.id.is_some();
    let hops = claim.hops;
    let mut call = begin(&connection, &parts, claim);
    let grpc = call.note(|record| record.protocol == Protocol::Grpc);
    let police = || {
        inlet
            .guard
            .judge(&inlet.worker, connection.peer, &call, &parts)
    };
    let admitted = admit(inlet, &parts, hops).and_then(|()| police());
    let wish = head::wanted_upgrade(&parts);
    let body = RequestBody::new(body, call.state().clone(), grpc);
    let mut outgoing = Outgoing {
        parts: Some(parts),
        body: Some(body),
    };
    async move {
        let inlet = &connection.inlet;
        let upgrade = wish.is_some();
        let result = match admitted {
            Ok(()) => forward::forward(inlet, &mut call, &mut outgoing, upgrade, hops).await,
            Err(refusal) => Err(refusal),
        };
        let response = match result {
            Ok(answered) => answer(inlet, call, answered, wish.as_ref(), to_twin),
            Err(refusal) => refuse(inlet, call, &refusal, grpc, to_twin),
        };
        // The request counts until its call is told how it ended.
        drop(busy);
        Ok(response)
    }
}

/// Why a request was not answered by an endpoint.
pub(crate) struct Refusal {
    /// Cause and origin.
    pub(crate) fault: Fault,
    /// What the client is told.
    pub(crate) text: String,
}

fn begin(connection: &Rc<Connection>, parts: &Parts, claim: Claim) -> Call {
    let inlet = &connection.inlet;
    let side = inlet.side();
    // Only a peer's outbound proxy may say which request this is; applications may not.
    let id = if side == Side::Inbound {
        claim.id
    } else {
        None
    };
    let start = Instant::now();
    let mut template = inlet.template.borrow_mut();
    let template = match &mut *template {
        Some(template) if is_template(template, connection) => template,
        template => template.insert(Box::new(template_of(connection))),
    };
    let call = Call::begin_like(&inlet.worker, template, id, start);
    call.note(|record| {
        // Until an endpoint is reached, an outbound record is the only one of its call.
        record.twin = if id.is_some() { Twin::Yes } else { Twin::No };
        if let Some(from) = claim.from.filter(|_| side == Side::Inbound) {
            record.src = from;
        }
        head::describe(parts, &inlet.worker, record);
    });
    call
}

/// Says whether the records of a connection's requests begin like this one.
fn is_template(record: &RequestRecord, connection: &Connection) -> bool {
    record.detected == connection.detected
        && record.tls == connection.tls
        && connection.inlet.still_serves(&record.service)
        && match &connection.identity {
            Some(identity) => Arc::ptr_eq(&record.peer_identity, identity),
            None => record.peer_identity.is_empty(),
        }
}

/// Returns what the records of a connection's requests begin with.
fn template_of(connection: &Connection) -> RequestRecord {
    let inlet = &connection.inlet;
    let nobody = RequestId {
        start_us: 0,
        boot: BootId(0),
        n: 0,
    };
    let mut record = RequestRecord::new(nobody, inlet.side(), 0);
    let own = inlet.worker.config.workload.clone();
    match inlet.side() {
        Side::Inbound => record.dst = own,
        Side::Outbound => record.src = own,
    }
    record.service = inlet.service();
    record.detected = connection.detected;
    record.tls = connection.tls;
    record.peer_identity = connection.identity.clone().unwrap_or_default();
    record.attempts = 0;
    record
}

/// Refuses what must not go on.
fn admit(inlet: &Inlet, parts: &Parts, hops: u32) -> Result<(), Refusal> {
    let fault = |cause| Fault::seen_from(inlet.side(), cause, false);
    if let Err(why) = head::check(parts) {
        return Err(Refusal {
            fault: fault(Cause::BadRequestHead),
            text: why.to_owned(),
        });
    }
    if hops > head::HOPS_MAX {
        return Err(Refusal {
            fault: fault(Cause::Loop),
            text: format!("the request has passed {hops} proxies: it runs in a loop"),
        });
    }
    if inlet.worker.is_overloaded() {
        limits::hit(Limit::InFlight);
        let text = "the proxy has too many requests in flight".to_owned();
        return Err(Refusal {
            fault: fault(Cause::LoadShed),
            text,
        });
    }
    Ok(())
}

/// Answers a request that failed here.
fn refuse(
    inlet: &Inlet,
    mut call: Call,
    refusal: &Refusal,
    grpc: bool,
    to_twin: bool,
) -> Response<ResponseBody> {
    let mut reply = reply(refusal.fault, &refusal.text, grpc, to_twin);
    let bodyless = call.note(|record| {
        record.status = reply.status;
        record.grpc_status = reply.grpc_status;
        &*record.method == "HEAD"
    });
    if bodyless {
        *reply.response.body_mut() = ResponseBody::empty();
    }
    if !call.is_counted() {
        let (authority, client) =
            call.note(|record| (record.authority.clone(), record.peer_identity.clone()));
        call.count_in(inlet.scope(&authority, &client));
    }
    call.blame(refusal.fault);
    call.end();
    reply.response
}

/// Hands an endpoint's answer on.
fn answer(
    inlet: &Inlet,
    mut call: Call,
    answered: Answered,
    wish: Option<&HeaderValue>,
    to_twin: bool,
) -> Response<ResponseBody> {
    let Answered {
        response,
        endpoint,
        kept,
    } = answered;
    let (mut parts, body) = response.into_parts();
    let agreed = parts.status == http::StatusCode::SWITCHING_PROTOCOLS;
    note_head(inlet, &mut call, &mut parts, endpoint.meshed);
    head::strip_hop(&mut parts.headers, agreed);
    if to_twin {
        parts
            .headers
            .insert(head::TWIN, HeaderValue::from_static("1"));
    }
    if parts.version < http::Version::HTTP_2 {
        parts.version = http::Version::HTTP_11;
    }
    if agreed {
        let granted = wish.is_some_and(|wish| head::grants(wish, &parts.headers));
        let upstream = if granted { kept.lease.into_io() } else { None };
        return match upstream {
            Some(upstream) => {
                let switched = Switched {
                    upstream,
                    call,
                    _in_flight: kept.in_flight,
                    meshed: endpoint.meshed,
                    head: body.take_head(),
                };
                Response::from_parts(parts, ResponseBody::Switched(Box::new(switched)))
            }
            None => {
                let fault = Fault::seen_from(inlet.side(), Cause::BadResponseHead, endpoint.meshed);
                let text = "the endpoint switched protocols without being asked".to_owned();
                refuse(inlet, call, &Refusal { fault, text }, false, to_twin)
            }
        };
    }
    let grpc = call.note(|record| record.protocol == Protocol::Grpc);
    let body = Relayed::new(body, call, kept, grpc);
    Response::from_parts(parts, ResponseBody::Relayed(Box::new(body)))
}

/// Records the head of a response and takes out what is between proxies only.
fn note_head(inlet: &Inlet, call: &mut Call, parts: &mut http::response::Parts, meshed: bool) {
    let mut twin = false;
    if head::has_own(&parts.headers) {
        twin = parts.headers.remove(head::TWIN).is_some() && meshed;
        let fault = relayed_fault(&parts.headers);
        parts.headers.remove(head::ORIGIN);
        match inlet.side() {
            Side::Outbound if twin => {
                if let Some(fault) = fault {
                    call.blame(fault);
                }
            }
            // Neither the application nor a stranger may speak for a proxy.
            Side::Inbound | Side::Outbound => {
                parts.headers.remove(head::CAUSE);
            }
        }
    }
    call.note(|record| {
        record.status = parts.status.as_u16();
        if inlet.side() == Side::Outbound {
            record.twin = if twin { Twin::Yes } else { Twin::No };
        }
        if record.protocol == Protocol::Grpc {
            record.grpc_status = grpc_status(&parts.headers);
        }
    });
}

/// Records a stream that ended before it was served, and was answered with `status`; 0 if it
/// was not.
pub(crate) fn record_unserved(connection: &Rc<Connection>, cause: Cause, status: u16) {
    let call = begin_refused(connection, Protocol::Http2, Instant::now(), status);
    end_refused(connection, call, cause);
}

/// Records a head that was refused before it became a request, and answered with `status`;
/// 0 if the connection was ended without an answer.
///
/// `bytes` is what arrived: method and path are recorded as far as they can be told.
pub(crate) fn record_bad_head(
    connection: &Rc<Connection>,
    protocol: Protocol,
    started: Instant,
    status: u16,
    bytes: &[u8],
) {
    let call = begin_refused(connection, protocol, started, status);
    let worker = &connection.inlet.worker;
    call.note(|record| head::describe_refused(bytes, worker, record));
    end_refused(connection, call, Cause::BadRequestHead);
}

fn begin_refused(
    connection: &Rc<Connection>,
    protocol: Protocol,
    started: Instant,
    status: u16,
) -> Call {
    let inlet = &connection.inlet;
    let call = Call::begin_like(&inlet.worker, &template_of(connection), None, started);
    call.note(|record| {
        record.protocol = protocol;
        record.twin = Twin::No;
        record.status = status;
    });
    call
}

fn end_refused(connection: &Connection, mut call: Call, cause: Cause) {
    let inlet = &connection.inlet;
    let client = connection.identity.clone().unwrap_or_default();
    call.count_in(inlet.scope(&Arc::default(), &client));
    call.blame(Fault::seen_from(inlet.side(), cause, false));
    call.end();
}
