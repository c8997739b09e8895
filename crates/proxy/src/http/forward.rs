//! Sends a request to an endpoint, and again or to another one where that is safe.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use whodunit_model::Cause;
use whodunit_model::record::{Protocol, Side, TlsState, Twin};
use whodunit_model::route_rule::RequestHead;

use super::body::{Outgoing, grpc_status};
use super::patience::{Patience, grpc_timeout, grpc_timeout_text};
use super::reply::relayed_fault;
use super::retry::{Next, Tries};
use super::serve::Refusal;
use super::stream::Incoming;
use super::{head, interim};
use crate::call::{Call, Fault};
use crate::clock::Instant;
use crate::config::ForwardProtocol;
use crate::limits::{self, Limit};
use crate::upstream::{Balancer, Endpoint, InFlight, Lease, Nowhere, TooMany, Turn, Version, Wish};
use crate::worker::{Inlet, Route};

/// Most endpoints that are tried for one connection.
const ENDPOINTS_MAX: usize = Limit::EndpointsTried.count();

/// The time a gRPC client gives its call.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The head of a response, and what it keeps in use.
pub(crate) struct Answered {
    /// The response.
    pub(crate) response: Response<Incoming>,
    /// Where it came from.
    pub(crate) endpoint: Rc<Endpoint>,
    /// What lives until its end.
    pub(super) kept: Kept,
}

/// What a response keeps in use until its end.
pub(super) struct Kept {
    /// Its connection.
    pub(super) lease: Lease,
    /// Counts the request as in flight to the endpoint.
    pub(super) in_flight: InFlight,
    /// What was read of the body already.
    pub(super) first: Option<Box<Frame<Bytes>>>,
    /// How long the end is waited for; none for ever.
    pub(super) patience: Option<Box<Patience>>,
    /// Whether a proxy of ours stands before the endpoint.
    pub(super) meshed: bool,
}

/// What stays the same for all tries of one request.
struct Forwarding<'a> {
    inlet: &'a Inlet,
    route: &'a Route,
    balancer: &'a Balancer,
    /// What the endpoint is to be spoken to in.
    wish: Wish,
    /// The same, where it grants the wish.
    version: Version,
    protocol: Protocol,
    hops: u32,
}

/// Forwards a request and waits for the head of the response. `hops` is the number of
/// proxies of ours that it has passed.
pub(crate) async fn forward(
    inlet: &Inlet,
    call: &mut Call,
    outgoing: &mut Outgoing,
    upgrade: bool,
    hops: u32,
) -> Result<Answered, Refusal> {
    let protocol = call.note(|record| record.protocol);
    let Outgoing {
        parts: Some(parts),
        body: Some(body),
    } = outgoing
    else {
        return Err(lost(inlet));
    };
    let route = route(inlet, call, parts, protocol);
    if head::strip_hop(&mut parts.headers, upgrade) && !body.is_end_stream() {
        interim::go_on();
    }
    let wish = match (inlet.forward_protocol(), protocol) {
        (ForwardProtocol::Http1, _) | (ForwardProtocol::Auto, Protocol::Http1 | Protocol::Tcp) => {
            Wish::Only(Version::Http1)
        }
        (ForwardProtocol::Http2, _) => Wish::Only(Version::Http2),
        (ForwardProtocol::Auto, Protocol::Http2) => Wish::PreferHttp2 { trial: true },
        (ForwardProtocol::Auto, Protocol::Grpc) => Wish::PreferHttp2 { trial: false },
    };
    let version = match wish {
        Wish::Only(version) => version,
        Wish::PreferHttp2 { .. } => Version::Http2,
    };
    let asked = if protocol == Protocol::Grpc {
        let asked = parts.headers.get(GRPC_TIMEOUT);
        asked.and_then(|asked| grpc_timeout(asked.to_str().ok()?))
    } else {
        None
    };
    let rules = &route.rule.retries;
    let mut tries = Tries::new(parts, body, rules, protocol);
    let mut patience = Patience::new(call.state(), route.rule.timeouts, asked);
    call.deadline(patience.deadline());
    let balancer = match route.choose() {
        None => &inlet.balancer,
        Some(chosen) => {
            call.decided("split", &chosen.service());
            chosen
        }
    };
    let forwarding = Forwarding {
        inlet,
        route: &route,
        balancer,
        version,
        wish,
        protocol,
        hops,
    };
    let late = |cause| forwarding.refusal(cause, None);
    if !balancer.has_heard() {
        let mut heard = Box::pin(balancer.wait());
        patience.bound(heard.as_mut()).await.map_err(late)?;
    }
    let turn = match &inlet.limiter {
        None => None,
        Some(limiter) => Some(match limiter.turn() {
            Some(turn) => turn,
            None => match patience.bound(pin!(limiter.wait())).await.map_err(late)? {
                Ok(turn) => turn,
                Err(TooMany) => {
                    let text = "the application has more requests than it can answer in time";
                    return Err(forwarding.refusal_with(Cause::LoadShed, text.to_owned(), false));
                }
            },
        }),
    };
    let running = forwarding.run(call, outgoing, &mut tries, &mut patience, turn);
    let mut answered = running.await?;
    answered.kept.patience = patience.is_limited().then(|| Box::new(patience));
    Ok(answered)
}

/// Refuses a request that was given away before it was sent, which no way leads to.
fn lost(inlet: &Inlet) -> Refusal {
    let cause = Cause::Unknown;
    Refusal {
        fault: Fault::seen_from(inlet.side(), cause, false),
        text: cause.explanation().to_owned(),
    }
}

/// Returns what holds for a request, and records which rule says so.
fn route(inlet: &Inlet, call: &Call, parts: &Parts, protocol: Protocol) -> Rc<Route> {
    let host = || parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let route = inlet.route(RequestHead {
        host: authority.or_else(host).unwrap_or_default(),
        method: parts.method.as_str(),
        path: parts.uri.path(),
        grpc: protocol == Protocol::Grpc,
    });
    if !route.name.is_empty() {
        call.decided("rule", &route.name);
    }
    route
}

impl Forwarding<'_> {
    async fn run(
        &self,
        call: &mut Call,
        outgoing: &mut Outgoing,
        tries: &mut Tries,
        patience: &mut Patience,
        mut turn: Option<Turn>,
    ) -> Result<Answered, Refusal> {
        let rules = &self.route.rule.retries;
        let budget = self.balancer.budget();
        budget.deposit(rules.budget);
        let mut counted = false;
        loop {
            patience.begin_try();
            let reached = patience.bound(pin!(self.reach(call, tries, counted))).await;
            let (endpoint, in_flight, mut lease) = match reached {
                Ok(reached) => reached?,
                Err(cause) => return Err(self.refusal(cause, None)),
            };
            let speaks = lease.version();
            if self.protocol == Protocol::Grpc && speaks == Version::Http1 {
                return Err(self.refusal(Cause::NotHttp2, Some(&endpoint)));
            }
            let Some(parts) = &mut outgoing.parts else {
                return Err(lost(self.inlet));
            };
            self.prepare(call, parts, &endpoint, speaks, patience)?;
            tries.keep_head(parts, rules, self.version);
            let sent = patience.bound(pin!(lease.send(outgoing))).await;
            tries.has_begun = lease.has_passed_interim();
            let mut told = None;
            let (cause, next) = 'sent: {
                match sent {
                    Ok(Ok(response)) => {
                        patience.head_came();
                        if let Some(fault) = self.refused_unseen(&response, &endpoint)
                            && self.balancer.count() > tries.tried.len() + 1
                        {
                            let next = tries.unprocessed(call, outgoing);
                            if let Next::Again = next {
                                in_flight.unreachable(Cause::ConnectRefused);
                                told = Some(fault);
                                break 'sent (fault.cause, next);
                            }
                        }
                        let (latency, now) = in_flight.answered();
                        if let Some(turn) = turn.take() {
                            turn.answered(latency, now);
                        }
                        // Rare, and large: looking into a response has room of its own.
                        let judged = if rules.attempts_max < 2 {
                            Judged::Fine(response, None)
                        } else {
                            Box::pin(self.judge(call, response, patience)).await
                        };
                        match judged {
                            Judged::Fine(response, first) => {
                                return Ok(Answered {
                                    response,
                                    kept: Kept {
                                        lease,
                                        in_flight,
                                        first,
                                        patience: None,
                                        meshed: endpoint.meshed,
                                    },
                                    endpoint,
                                });
                            }
                            Judged::Failing(response, first, cause) => {
                                let next = tries.by_rule(call, outgoing, rules, budget);
                                if let Next::GiveUp(why) = next {
                                    note_give_up(call, why);
                                    call.unanswered();
                                    return Ok(Answered {
                                        response,
                                        kept: Kept {
                                            lease,
                                            in_flight,
                                            first,
                                            patience: None,
                                            meshed: endpoint.meshed,
                                        },
                                        endpoint,
                                    });
                                }
                                in_flight.answered_badly();
                                (cause, next)
                            }
                            Judged::Late(cause) => {
                                in_flight.failed();
                                return Err(self.refusal(cause, Some(&endpoint)));
                            }
                        }
                    }
                    Ok(Err(failed)) => {
                        if let Some(cause) = call.state().client_failure() {
                            return Err(self.refusal(cause, Some(&endpoint)));
                        }
                        if !failed.unsent {
                            in_flight.failed();
                        }
                        let reused = lease.is_reused();
                        let next =
                            tries.after_failure(call, outgoing, &failed, reused, rules, budget);
                        (failed.cause, next)
                    }
                    Err(cause) => {
                        in_flight.failed();
                        let next =
                            if cause == Cause::ResponseHeadersTimeout && rules.on_cause(cause) {
                                tries.by_rule(call, outgoing, rules, budget)
                            } else {
                                Next::GiveUp(None)
                            };
                        (cause, next)
                    }
                }
            };
            drop(lease);
            match next {
                Next::Unsent => {
                    counted = true;
                    if speaks == Version::Http2 {
                        // It ends its connections, so it is about to end itself.
                        tries.tried.push(endpoint.address);
                    }
                }
                Next::Again => {
                    counted = false;
                    // The endpoint may have begun with it, so this was a try of its own.
                    let seen = || Fault::seen_from(self.inlet.side(), cause, endpoint.meshed);
                    call.attempt_failed(told.unwrap_or_else(seen));
                    call.unanswered();
                    tries.tried.push(endpoint.address);
                    let pause = tries.pause(self.balancer.below(256));
                    let mut pause = Box::pin(tokio::time::sleep(pause));
                    if let Err(cause) = patience.bound(pause.as_mut()).await {
                        return Err(self.refusal(cause, Some(&endpoint)));
                    }
                }
                Next::GiveUp(why) => {
                    note_give_up(call, why);
                    return Err(self.refusal(cause, Some(&endpoint)));
                }
            }
        }
    }

    /// Says whether the proxy of an endpoint answers that its application was not there, so
    /// that the request was not begun: another instance may do it, whatever it is.
    fn refused_unseen(&self, response: &Response<Incoming>, endpoint: &Endpoint) -> Option<Fault> {
        let failing = response.status().is_server_error()
            || (self.protocol == Protocol::Grpc && http_body::Body::is_end_stream(response.body()));
        let ours = endpoint.meshed && self.inlet.side() == Side::Outbound;
        if !failing || !ours || !response.headers().contains_key(head::TWIN) {
            return None;
        }
        let fault = relayed_fault(response.headers())?;
        let unseen = matches!(
            fault.cause,
            Cause::ConnectRefused | Cause::ConnectTimeout | Cause::FailFast
        );
        unseen.then_some(fault)
    }

    /// Chooses an endpoint and connects to it; tries others when that fails. `counted` says
    /// that the present try was counted before, and only needs another connection.
    async fn reach(
        &self,
        call: &Call,
        tries: &Tries,
        counted: bool,
    ) -> Result<(Rc<Endpoint>, InFlight, Lease), Refusal> {
        // Only a try after another one has waited for something else before.
        let began_us = if tries.failed > 0 {
            call.state().age_us()
        } else {
            0
        };
        let mut unreachable: Vec<SocketAddr> = Vec::new();
        let mut last: Option<(Rc<Endpoint>, Cause)> = None;
        while unreachable.len() < ENDPOINTS_MAX {
            let endpoint = match self.pick(tries, &unreachable) {
                Ok(endpoint) => endpoint,
                Err(nowhere) if last.is_none() => return Err(self.nowhere(call, nowhere)),
                Err(_) => break,
            };
            if let Some((before, cause)) = last.take() {
                let fault = Fault::seen_from(self.inlet.side(), cause, before.meshed);
                call.attempt_failed(fault);
                call.decided("rejected", &format!("{} {cause}", before.text));
            }
            let in_flight = InFlight::begin(&endpoint);
            note_endpoint(
                self.inlet,
                call,
                &endpoint,
                !counted || !unreachable.is_empty(),
            );
            if self.inlet.leads_back(endpoint.address) {
                let text = format!("{} leads back into this proxy", endpoint.address);
                return Err(self.refusal_with(Cause::Loop, text, endpoint.meshed));
            }
            match Lease::acquire(&endpoint, self.wish, tries.is_repeatable()).await {
                Ok(lease) => {
                    let now = Instant::now();
                    in_flight.sent(now);
                    call.note(|record| {
                        record.queue_us = call.state().age_us_at(now) - began_us;
                        record.reused = lease.is_reused();
                        if self.inlet.side() == Side::Outbound {
                            if let Some(peer) = endpoint.connector.peer() {
                                record.tls = TlsState::Mutual;
                                record.peer_identity = peer.identity.clone();
                            }
                            // Until the head of the response tells.
                            record.twin = if endpoint.meshed {
                                Twin::Unknown
                            } else {
                                Twin::No
                            };
                        }
                    });
                    return Ok((endpoint, in_flight, lease));
                }
                Err(cause) => {
                    tracing::debug!(address = %endpoint.address, %cause, "cannot reach endpoint");
                    in_flight.unreachable(cause);
                    unreachable.push(endpoint.address);
                    if unreachable.len() == ENDPOINTS_MAX {
                        limits::hit(Limit::EndpointsTried);
                    }
                    last = Some((endpoint, cause));
                }
            }
        }
        Err(match last {
            Some((endpoint, cause)) => self.refusal(cause, Some(&endpoint)),
            None => self.nowhere(call, Nowhere::Tried),
        })
    }

    /// Chooses an endpoint that was not tried, else one that was only not unreachable.
    fn pick(&self, tries: &Tries, unreachable: &[SocketAddr]) -> Result<Rc<Endpoint>, Nowhere> {
        let metrics = &self.inlet.worker.metrics;
        if tries.tried.is_empty() {
            return self.balancer.pick(metrics, unreachable);
        }
        let avoided: Vec<SocketAddr> = tries.tried.iter().chain(unreachable).copied().collect();
        self.balancer
            .pick(metrics, &avoided)
            .or_else(|_| self.balancer.pick(metrics, unreachable))
    }

    /// Writes the head as this endpoint is to get it.
    fn prepare(
        &self,
        call: &Call,
        parts: &mut Parts,
        endpoint: &Rc<Endpoint>,
        speaks: Version,
        patience: &Patience,
    ) -> Result<(), Refusal> {
        head::retarget(parts, endpoint.address, speaks).map_err(|why| {
            self.refusal_with(Cause::BadRequestHead, why.to_owned(), endpoint.meshed)
        })?;
        if self.inlet.side() == Side::Outbound {
            introduce(self.inlet, call, parts, endpoint.meshed, self.hops);
        }
        if let Some(left) = patience.left()
            && parts.headers.contains_key(GRPC_TIMEOUT)
        {
            pass_on_timeout(parts, left);
        }
        Ok(())
    }

    /// Decides whether a response is good enough, where there is a rule for that; reads the
    /// first frame of a gRPC response where its status matters.
    async fn judge(
        &self,
        call: &Call,
        response: Response<Incoming>,
        patience: &mut Patience,
    ) -> Judged {
        let rules = &self.route.rule.retries;
        let status = response.status().as_u16();
        if rules.on_status(status) {
            call.note(|record| record.status = status);
            return Judged::Failing(response, None, Cause::AppHttp5xx);
        }
        if self.protocol != Protocol::Grpc || !rules.on_any_grpc() {
            return Judged::Fine(response, None);
        }
        let failing = |code: Option<u8>| code.filter(|code| rules.on_grpc(*code));
        if let Some(code) = failing(grpc_status(response.headers())) {
            call.note(|record| (record.status, record.grpc_status) = (status, Some(code)));
            return Judged::Failing(response, None, Cause::AppGrpcStatus);
        }
        if response.body().is_end_stream() {
            return Judged::Fine(response, None);
        }
        let mut response = response;
        let frame = match patience.bound(pin!(response.body_mut().frame())).await {
            Ok(frame) => frame,
            Err(cause) => return Judged::Late(cause),
        };
        let first = match frame {
            Some(Ok(frame)) => Box::new(frame),
            None => return Judged::Fine(response, None),
            Some(Err(error)) => return Judged::Late(error.cause()),
        };
        let code = first.trailers_ref().and_then(grpc_status);
        if let Some(code) = failing(code) {
            call.note(|record| (record.status, record.grpc_status) = (status, Some(code)));
            return Judged::Failing(response, Some(first), Cause::AppGrpcStatus);
        }
        Judged::Fine(response, Some(first))
    }

    fn refusal(&self, cause: Cause, endpoint: Option<&Rc<Endpoint>>) -> Refusal {
        let text = match endpoint {
            Some(endpoint) => answer_text(endpoint, cause),
            None => cause.explanation().to_owned(),
        };
        let meshed = endpoint.is_some_and(|endpoint| endpoint.meshed);
        self.refusal_with(cause, text, meshed)
    }

    fn refusal_with(&self, cause: Cause, text: String, meshed: bool) -> Refusal {
        Refusal {
            fault: Fault::seen_from(self.inlet.side(), cause, meshed),
            text,
        }
    }

    /// Refuses a request for which there is no endpoint.
    fn nowhere(&self, call: &Call, nowhere: Nowhere) -> Refusal {
        let mut service = self.balancer.service();
        if service.is_empty() {
            service = self.inlet.service();
        }
        call.note(|record| record.dst = self.balancer.destination());
        match nowhere {
            Nowhere::Empty | Nowhere::Tried => {
                let text = format!("service {service} has no instance");
                self.refusal_with(Cause::NoEndpoints, text, false)
            }
            Nowhere::Dark => {
                let text = format!("no instance of service {service} accepts connections");
                self.refusal_with(Cause::FailFast, text, false)
            }
        }
    }
}

/// What is thought of a response.
enum Judged {
    /// It goes to the client, with what was read of it.
    Fine(Response<Incoming>, Option<Box<Frame<Bytes>>>),
    /// The rule says that another try may help.
    Failing(Response<Incoming>, Option<Box<Frame<Bytes>>>, Cause),
    /// It did not go on.
    Late(Cause),
}

fn note_give_up(call: &Call, why: Option<&'static str>) {
    if let Some(why) = why {
        call.decided("not_retried", why);
    }
}

fn pass_on_timeout(parts: &mut Parts, left: Duration) {
    // Digits and a letter always are a header value.
    if let Ok(value) = HeaderValue::from_str(&grpc_timeout_text(left)) {
        parts.headers.insert(GRPC_TIMEOUT, value);
    }
}

fn note_endpoint(inlet: &Inlet, call: &Call, endpoint: &Rc<Endpoint>, is_try: bool) {
    let (authority, client) = call.note(|record| {
        if is_try {
            record.attempts = record.attempts.saturating_add(1);
        }
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
fn introduce(inlet: &Inlet, call: &Call, parts: &mut Parts, meshed: bool, hops: u32) {
    if !meshed {
        // An earlier try may have gone to a peer.
        head::strip_own(&mut parts.headers);
        return;
    }
    // An id is ASCII, so it always is a header value.
    if let Ok(id) = HeaderValue::from_str(&call.id().to_string()) {
        parts.headers.insert(head::ID, id);
    }
    parts
        .headers
        .insert(head::FROM, inlet.worker.from_header.clone());
    parts
        .headers
        .insert(head::HOPS, HeaderValue::from(hops + 1));
}

fn answer_text(endpoint: &Endpoint, cause: Cause) -> String {
    let name = if endpoint.party.instance.is_empty() {
        endpoint.text.to_string()
    } else {
        format!("{} at {}", endpoint.party.instance, endpoint.text)
    };
    format!("{name}: {}", cause.explanation())
}
