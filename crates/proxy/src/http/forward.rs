//! Sends a request to an endpoint, and to another one if the first cannot be reached.

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body as _;
use whodunit_model::Cause;
use whodunit_model::record::{Protocol, Side, TlsState, Twin};

use super::body::RequestBody;
use super::head;
use super::serve::Refusal;
use super::stream::Incoming;
use crate::call::{Call, Fault};
use crate::limits::{self, Limit};
use crate::upstream::{Endpoint, Failed, InFlight, Lease, Version};
use crate::worker::Inlet;

/// Most endpoints that are tried for one request.
const ENDPOINTS_MAX: usize = Limit::EndpointsTried.count();

/// Most connections that may turn out to be closed before the request fails with them.
const STALE_MAX: usize = 3;

/// The head of a response, and what it keeps in use.
pub(crate) struct Answered {
    /// The response.
    pub(crate) response: Response<Incoming>,
    /// Its connection.
    pub(crate) lease: Lease,
    /// Where it came from.
    pub(crate) endpoint: Rc<Endpoint>,
    /// Counts the request as in flight there.
    pub(crate) in_flight: InFlight,
}

/// Forwards a request and waits for the head of the response.
pub(crate) async fn forward(
    inlet: &Inlet,
    call: &mut Call,
    request: Request<RequestBody>,
    upgrade: bool,
) -> Result<Answered, Refusal> {
    let (mut parts, body) = request.into_parts();
    head::strip_hop(&mut parts.headers, upgrade);
    let version = match call.note(|record| record.protocol) {
        Protocol::Http1 | Protocol::Tcp => Version::Http1,
        Protocol::Http2 | Protocol::Grpc => Version::Http2,
    };
    inlet.balancer.wait().await;
    let (endpoint, mut lease) = reach(inlet, call, version).await?;
    let refusal = |cause, text: String| Refusal {
        fault: Fault::seen_from(inlet.side(), cause, endpoint.meshed),
        text,
    };
    let in_flight = InFlight::begin(&endpoint);
    head::retarget(&mut parts, endpoint.address)
        .map_err(|why| refusal(Cause::BadRequestHead, why.to_owned()))?;
    if inlet.side() == Side::Outbound {
        introduce(inlet, call, &mut parts, endpoint.meshed);
    }
    let mut request = Request::from_parts(parts, body);
    let mut resent = false;
    for stale in 0.. {
        let spare = if resent {
            None
        } else {
            spare(call, &request, &lease)
        };
        let failed = match lease.send(request).await {
            Ok(response) => {
                return Ok(Answered {
                    response,
                    lease,
                    endpoint,
                    in_flight,
                });
            }
            Err(failed) => failed,
        };
        let cause = failed.cause;
        let seen = failed.request.is_none();
        request = again(call, failed, spare, stale)
            .map_err(|cause| refusal(cause, answer_text(&endpoint, cause)))?;
        if seen {
            resent = true;
            // The endpoint may have begun with it, so this was a try of its own.
            call.attempt_failed(Fault::seen_from(inlet.side(), cause, endpoint.meshed));
            call.note(|record| record.attempts = record.attempts.saturating_add(1));
        }
        lease = Lease::acquire(&endpoint, version)
            .await
            .map_err(|cause| refusal(cause, answer_text(&endpoint, cause)))?;
        call.note(|record| record.reused = lease.is_reused());
    }
    Err(refusal(
        Cause::ClosedEarly,
        answer_text(&endpoint, Cause::ClosedEarly),
    ))
}

/// Chooses an endpoint and connects to it; tries others when that fails.
async fn reach(
    inlet: &Inlet,
    call: &mut Call,
    version: Version,
) -> Result<(Rc<Endpoint>, Lease), Refusal> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last: Option<(Rc<Endpoint>, Cause)> = None;
    while tried.len() < ENDPOINTS_MAX {
        let Some(endpoint) = inlet.balancer.pick(&inlet.worker.metrics, &tried) else {
            break;
        };
        if let Some((before, cause)) = last.take() {
            call.attempt_failed(Fault::seen_from(inlet.side(), cause, before.meshed));
        }
        note_endpoint(inlet, call, &endpoint);
        if inlet.worker.is_own_outbound(endpoint.address) {
            let fault = Fault::seen_from(inlet.side(), Cause::Loop, endpoint.meshed);
            let text = format!("{} leads back into this proxy", endpoint.address);
            return Err(Refusal { fault, text });
        }
        match Lease::acquire(&endpoint, version).await {
            Ok(lease) => {
                call.note(|record| {
                    record.queue_us = call.state().age_us();
                    record.reused = lease.is_reused();
                    if inlet.side() == Side::Outbound {
                        // Until the head of the response tells.
                        if let Some(peer) = endpoint.connector.peer() {
                            record.tls = TlsState::Mutual;
                            record.peer_identity = peer.identity.clone();
                        }
                        record.twin = if endpoint.meshed {
                            Twin::Unknown
                        } else {
                            Twin::No
                        };
                    }
                });
                return Ok((endpoint, lease));
            }
            Err(cause) => {
                tracing::debug!(address = %endpoint.address, %cause, "cannot reach endpoint");
                tried.push(endpoint.address);
                if tried.len() == ENDPOINTS_MAX {
                    limits::hit(Limit::EndpointsTried);
                }
                last = Some((endpoint, cause));
            }
        }
    }
    Err(match last {
        Some((endpoint, cause)) => Refusal {
            fault: Fault::seen_from(inlet.side(), cause, endpoint.meshed),
            text: answer_text(&endpoint, cause),
        },
        None => {
            call.note(|record| record.dst = inlet.balancer.destination());
            Refusal {
                fault: Fault::seen_from(inlet.side(), Cause::NoEndpoints, false),
                text: format!("service {} has no instance", inlet.service),
            }
        }
    })
}

fn note_endpoint(inlet: &Inlet, call: &Call, endpoint: &Rc<Endpoint>) {
    let (authority, client) = call.note(|record| {
        record.attempts = record.attempts.saturating_add(1);
        record.endpoint = endpoint.text.clone();
        if inlet.side() == Side::Outbound {
            record.dst = endpoint.party.clone();
        }
        (record.authority.clone(), record.peer_identity.clone())
    });
    call.count_in(match inlet.side() {
        Side::Inbound => inlet.scope(&authority, &client),
        Side::Outbound => endpoint.scope(
            &inlet.worker.metrics,
            &inlet.worker.authority_label(&authority),
        ),
    });
}

/// Tells a peer's proxy which request this is and who sends it; nobody else.
fn introduce(inlet: &Inlet, call: &Call, parts: &mut Parts, meshed: bool) {
    if !meshed {
        return;
    }
    // An id is ASCII, so it always is a header value.
    if let Ok(id) = HeaderValue::from_str(&call.id().to_string()) {
        parts.headers.insert(head::ID, id);
    }
    parts
        .headers
        .insert(head::FROM, inlet.worker.from_header.clone());
}

/// Returns a copy of a request that may be sent twice, if its connection might turn out to
/// be closed: one without a body whose method changes nothing. HTTP/2 endpoints say what
/// they did nothing with, so that there any request without a body is kept.
fn spare(
    call: &Call,
    request: &Request<RequestBody>,
    lease: &Lease,
) -> Option<Request<RequestBody>> {
    let kept = is_safe(request.method()) || matches!(lease, Lease::Http2(_));
    if !lease.is_reused() || !kept || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty(call.state().clone()));
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    Some(copy)
}

/// Returns the request to send again, or the cause it failed with: again only if nothing
/// of it was sent, or, once, if sending it twice does no harm and a used connection was
/// closed.
fn again(
    call: &Call,
    failed: Failed,
    spare: Option<Request<RequestBody>>,
    stale: usize,
) -> Result<Request<RequestBody>, Cause> {
    if let Some(cause) = call.state().client_failure() {
        return Err(cause);
    }
    if stale >= STALE_MAX {
        return Err(failed.cause);
    }
    let closed = matches!(failed.cause, Cause::ClosedEarly | Cause::Reset);
    match failed.request {
        Some(request) => Ok(*request),
        None => spare
            .filter(|spare| failed.unprocessed || (closed && is_safe(spare.method())))
            .ok_or(failed.cause),
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn answer_text(endpoint: &Endpoint, cause: Cause) -> String {
    let name = if endpoint.party.instance.is_empty() {
        endpoint.text.to_string()
    } else {
        format!("{} at {}", endpoint.party.instance, endpoint.text)
    };
    format!("{name}: {}", cause.explanation())
}
