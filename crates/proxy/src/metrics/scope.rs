//! What is counted, and for whom.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use whodunit_model::latency::LATENCY_BUCKETS_MS;
use whodunit_model::policy::{Action, DEFAULT, PROBE};
use whodunit_model::{Cause, Outcome};

use crate::limits::{self, Limit};

/// Most series per process, as Linkerd's users have learned to fear what comes on top.
pub(crate) const SERIES_MAX: usize = Limit::Series.count();

/// Series of one histogram: its buckets, one for those beyond, sum and count.
const HISTOGRAM_SERIES: usize = LATENCY_BUCKETS_MS.len() + 3;

/// Series of one set of connections, with two ways to end.
const TRANSPORT_SERIES: usize = 6;

/// Bytes of a line on `/metrics` beside its labels: the longest name, a status, a bucket
/// or an errno, and the number.
const LINE_BYTES: usize = 120;

/// Bytes that the labels of a decision of policy take at most, as a guess.
const AUTHORIZATION_BYTES: usize = 512;

/// How many series there may still be, and how long their lines may be in all.
#[derive(Debug)]
struct Budget {
    series: Cell<usize>,
    bytes: Cell<usize>,
}

impl Budget {
    /// Takes room for some series with these labels; says whether there was any.
    fn take(&self, series: usize, labels: usize) -> bool {
        let (left, bytes_left) = (self.series.get(), self.bytes.get());
        let bytes = series * (labels + LINE_BYTES);
        if bytes_left < bytes {
            limits::hit(Limit::ScrapeBytes);
            return false;
        }
        if left < series {
            limits::hit(Limit::Series);
            return false;
        }
        self.series.set(left - series);
        self.bytes.set(bytes_left - bytes);
        true
    }
}

/// Builds the text between the braces of a series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels(String);

impl Labels {
    /// Adds one label; an empty value adds nothing.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            return self;
        }
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
        self
    }

    /// Adds all labels of another set.
    pub(crate) fn join(&mut self, other: &Self) {
        if !self.0.is_empty() && !other.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(&other.0);
    }

    /// Returns the text.
    pub(crate) fn text(self) -> String {
        self.0
    }
}

/// How a request ended, as metrics tell responses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Response {
    /// HTTP status, 0 if none was sent.
    pub(crate) status: u16,
    /// Success or failure.
    pub(crate) outcome: Outcome,
    /// gRPC status, if there was one.
    pub(crate) grpc_status: Option<u8>,
    /// Why it failed.
    pub(crate) cause: Cause,
}

/// Latencies of one status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// One count per bucket of [`LATENCY_BUCKETS_MS`], and one for those beyond; not cumulated.
    pub(crate) counts: [u64; LATENCY_BUCKETS_MS.len() + 1],
    /// Sum in whole milliseconds, as Linkerd sums.
    pub(crate) sum_ms: u64,
}

impl Histogram {
    fn add(&mut self, latency_us: i64) {
        let ms = u64::try_from(latency_us / 1_000).unwrap_or(0);
        let bucket = LATENCY_BUCKETS_MS.partition_point(|bound| *bound < ms);
        self.counts[bucket] += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }

    fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
    }
}

/// The requests of one set of labels.
#[derive(Debug)]
pub(crate) struct Scope {
    labels: String,
    requests: Cell<u64>,
    responses: RefCell<Vec<(Response, u64)>>,
    latencies: RefCell<Vec<(u16, Histogram)>>,
    /// Room for more kinds of responses, and where they are counted without it. The
    /// overflow scope itself has neither, and tells no kinds apart.
    bounds: Option<(Rc<Budget>, Rc<Scope>)>,
}

impl Scope {
    fn new(labels: String, bounds: Option<(Rc<Budget>, Rc<Self>)>) -> Self {
        Self {
            labels,
            requests: Cell::new(0),
            responses: RefCell::default(),
            latencies: RefCell::default(),
            bounds,
        }
    }

    /// Counts a request.
    pub(crate) fn request(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// Counts the end of a request.
    pub(crate) fn response(&self, response: Response, latency_us: i64) {
        let Some((budget, overflow)) = &self.bounds else {
            let any = Response {
                status: 0,
                grpc_status: None,
                cause: Cause::None,
                ..response
            };
            self.count(any);
            self.measure(any.status, latency_us);
            return;
        };
        let known = |(known, _): &(Response, u64)| *known == response;
        if self.responses.borrow().iter().any(known) || budget.take(1, self.labels.len()) {
            self.count(response);
        } else {
            overflow.count(Response {
                status: 0,
                grpc_status: None,
                cause: Cause::None,
                ..response
            });
        }
        let known = |(known, _): &(u16, Histogram)| *known == response.status;
        if self.latencies.borrow().iter().any(known)
            || budget.take(HISTOGRAM_SERIES, self.labels.len())
        {
            self.measure(response.status, latency_us);
        } else {
            overflow.measure(0, latency_us);
        }
    }

    fn count(&self, response: Response) {
        let mut responses = self.responses.borrow_mut();
        match responses.iter_mut().find(|(known, _)| *known == response) {
            Some((_, count)) => *count += 1,
            None => responses.push((response, 1)),
        }
    }

    fn measure(&self, status: u16, latency_us: i64) {
        let mut latencies = self.latencies.borrow_mut();
        if let Some((_, histogram)) = latencies.iter_mut().find(|(known, _)| *known == status) {
            histogram.add(latency_us);
            return;
        }
        let mut histogram = Histogram::default();
        histogram.add(latency_us);
        latencies.push((status, histogram));
    }
}

/// The connections of one set of labels. Shared, as connections may be handed to upgrades.
#[derive(Debug, Default)]
pub(crate) struct Transport {
    labels: String,
    open_total: AtomicU64,
    close_total: AtomicU64,
    read: AtomicU64,
    wrote: AtomicU64,
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

impl Transport {
    pub(crate) fn opened(&self) {
        self.open_total.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, count: u64) {
        self.read.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, count: u64) {
        self.wrote.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, error: Option<io::ErrorKind>) {
        self.close_total.fetch_add(1, Ordering::Relaxed);
        let errno = match error {
            None => "",
            Some(io::ErrorKind::ConnectionReset) => "ECONNRESET",
            Some(io::ErrorKind::BrokenPipe) => "EPIPE",
            Some(io::ErrorKind::TimedOut) => "ETIMEDOUT",
            Some(io::ErrorKind::NotConnected) => "ENOTCONN",
            Some(_) => "EIO",
        };
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(errno).or_default() += 1;
    }
}

/// What distinguishes scopes of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ScopeKey {
    /// Labels of listener and endpoint.
    pub(crate) base: Arc<str>,
    /// The authority, empty inbound.
    pub(crate) authority: Arc<str>,
}

/// What policy decided, and for whom, as metrics tell it apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Authorization {
    /// Labels of the listener.
    pub(crate) listener: Arc<str>,
    /// `http` or `tcp`.
    pub(crate) protocol: &'static str,
    /// What was decided.
    pub(crate) action: Action,
    /// The rule.
    pub(crate) by: Arc<str>,
    /// Whether the client proved an identity.
    pub(crate) proven: bool,
}

impl Authorization {
    fn family(&self) -> &'static str {
        match (self.action, self.protocol) {
            (Action::Allow, "tcp") => "inbound_tcp_authz_allow_total",
            (Action::Deny, "tcp") => "inbound_tcp_authz_deny_total",
            (Action::Allow, _) => "inbound_http_authz_allow_total",
            (Action::Deny, _) => "inbound_http_authz_deny_total",
            (Action::Audit, _) => "whodunit_policy_audit_total",
        }
    }

    fn labels(&self) -> String {
        let kind = match &*self.by {
            DEFAULT => DEFAULT,
            PROBE => PROBE,
            _ => "rule",
        };
        let own = Labels::default()
            .with("authz_group", "whodunit")
            .with("authz_kind", kind)
            .with("authz_name", &self.by)
            .with("tls", if self.proven { "true" } else { "disabled" });
        format!("{},{}", self.listener, own.text())
    }
}

/// All counters of one thread.
#[derive(Debug)]
pub(crate) struct Metrics {
    scopes: RefCell<HashMap<ScopeKey, Rc<Scope>>>,
    transports: RefCell<HashMap<String, Arc<Transport>>>,
    authorizations: RefCell<HashMap<Authorization, u64>>,
    overflow: Rc<Scope>,
    overflow_transport: Arc<Transport>,
    overflowed: Cell<u64>,
    budget: Rc<Budget>,
}

impl Metrics {
    /// Returns empty counters of one of `threads` threads; `own` are the labels of the workload.
    pub(crate) fn new(own: &Labels, threads: usize) -> Self {
        let labels = own.clone().with("overflow", "true").text();
        Self {
            scopes: RefCell::default(),
            transports: RefCell::default(),
            authorizations: RefCell::default(),
            overflow: Rc::new(Scope::new(labels.clone(), None)),
            overflow_transport: Arc::new(Transport {
                labels,
                ..Transport::default()
            }),
            overflowed: Cell::new(0),
            budget: Rc::new(Budget {
                series: Cell::new(SERIES_MAX / threads.max(1)),
                bytes: Cell::new(Limit::ScrapeBytes.count() / threads.max(1)),
            }),
        }
    }

    /// Returns the scope for requests with these labels.
    pub(crate) fn scope(&self, key: &ScopeKey) -> Rc<Scope> {
        let mut scopes = self.scopes.borrow_mut();
        if let Some(scope) = scopes.get(key) {
            return scope.clone();
        }
        let length = key.base.len() + key.authority.len() + 16;
        if !self.budget.take(1, length) {
            self.overflowed.set(self.overflowed.get() + 1);
            return self.overflow.clone();
        }
        let labels = if key.authority.is_empty() {
            key.base.to_string()
        } else {
            let authority = Labels::default().with("authority", &key.authority).text();
            format!("{},{authority}", key.base)
        };
        let scope = Rc::new(Scope::new(
            labels,
            Some((self.budget.clone(), self.overflow.clone())),
        ));
        scopes.insert(key.clone(), scope.clone());
        scope
    }

    /// Says whether a scope is the one of those that found no room.
    pub(crate) fn is_overflow(&self, scope: &Rc<Scope>) -> bool {
        Rc::ptr_eq(scope, &self.overflow)
    }

    /// Returns the counters of connections with these labels.
    pub(crate) fn transport(&self, labels: &str) -> Arc<Transport> {
        let mut transports = self.transports.borrow_mut();
        if let Some(transport) = transports.get(labels) {
            return transport.clone();
        }
        if !self.budget.take(TRANSPORT_SERIES, labels.len()) {
            self.overflowed.set(self.overflowed.get() + 1);
            return self.overflow_transport.clone();
        }
        let transport = Arc::new(Transport {
            labels: labels.to_owned(),
            ..Transport::default()
        });
        transports.insert(labels.to_owned(), transport.clone());
        transport
    }

    /// Counts what policy decided.
    pub(crate) fn authorization(&self, authorization: Authorization) {
        let mut counts = self.authorizations.borrow_mut();
        if let Some(count) = counts.get_mut(&authorization) {
            *count += 1;
        } else if self.budget.take(1, AUTHORIZATION_BYTES) {
            counts.insert(authorization, 1);
        } else {
            self.overflowed.set(self.overflowed.get() + 1);
        }
    }

    /// Returns a copy of all numbers.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            overflowed: self.overflowed.get(),
            ..Snapshot::default()
        };
        for scope in self.scopes.borrow().values().chain([&self.overflow]) {
            snapshot.add_scope(scope);
        }
        for (authorization, count) in self.authorizations.borrow().iter() {
            let key = (authorization.family(), authorization.labels());
            *snapshot.authorizations.entry(key).or_default() += count;
        }
        let transports = self.transports.borrow();
        for transport in transports.values().chain([&self.overflow_transport]) {
            snapshot.add_transport(transport);
        }
        snapshot
    }
}

/// Numbers of one thread, or of all of them merged.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Requests by labels.
    pub(crate) scopes: BTreeMap<String, ScopeNumbers>,
    /// Connections by labels.
    pub(crate) transports: BTreeMap<String, TransportNumbers>,
    /// Decisions of policy by family and labels.
    pub(crate) authorizations: BTreeMap<(&'static str, String), u64>,
    /// How often a scope was asked for that had no room.
    pub(crate) overflowed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct ScopeNumbers {
    pub(crate) requests: u64,
    pub(crate) responses: BTreeMap<Response, u64>,
    pub(crate) latencies: BTreeMap<u16, Histogram>,
}

#[derive(Debug, Default)]
pub(crate) struct TransportNumbers {
    pub(crate) open_total: u64,
    pub(crate) close_total: u64,
    pub(crate) read: u64,
    pub(crate) wrote: u64,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

impl Snapshot {
    fn add_scope(&mut self, scope: &Scope) {
        if scope.requests.get() == 0 && scope.responses.borrow().is_empty() {
            return;
        }
        let numbers = self.scopes.entry(scope.labels.clone()).or_default();
        numbers.requests += scope.requests.get();
        for (response, count) in scope.responses.borrow().iter() {
            *numbers.responses.entry(*response).or_default() += count;
        }
        for (status, histogram) in scope.latencies.borrow().iter() {
            numbers
                .latencies
                .entry(*status)
                .or_default()
                .merge(histogram);
        }
    }

    fn add_transport(&mut self, transport: &Transport) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        if read(&transport.open_total) == 0 {
            return;
        }
        let numbers = self.transports.entry(transport.labels.clone()).or_default();
        numbers.open_total += read(&transport.open_total);
        numbers.close_total += read(&transport.close_total);
        numbers.read += read(&transport.read);
        numbers.wrote += read(&transport.wrote);
        let errors = transport
            .errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (errno, count) in errors.iter() {
            *numbers.errors.entry(errno).or_default() += count;
        }
    }

    /// Adds the numbers of another thread.
    pub(crate) fn merge(&mut self, other: Self) {
        self.overflowed += other.overflowed;
        for (key, more) in other.authorizations {
            *self.authorizations.entry(key).or_default() += more;
        }
        for (labels, more) in other.scopes {
            let numbers = self.scopes.entry(labels).or_default();
            numbers.requests += more.requests;
            for (response, count) in more.responses {
                *numbers.responses.entry(response).or_default() += count;
            }
            for (status, histogram) in more.latencies {
                numbers
                    .latencies
                    .entry(status)
                    .or_default()
                    .merge(&histogram);
            }
        }
        for (labels, more) in other.transports {
            let numbers = self.transports.entry(labels).or_default();
            numbers.open_total += more.open_total;
            numbers.close_total += more.close_total;
            numbers.read += more.read;
            numbers.wrote += more.wrote;
            for (errno, count) in more.errors {
                *numbers.errors.entry(errno).or_default() += count;
            }
        }
    }
}

impl Response {
    /// Returns the labels that responses are told apart by.
    pub(crate) fn labels(&self) -> String {
        let mut out = String::new();
        if self.status != 0 {
            let _ = write!(out, "status_code=\"{}\",", self.status);
        }
        let classification = if self.outcome == Outcome::Failure {
            "failure"
        } else {
            "success"
        };
        let _ = write!(out, "classification=\"{classification}\"");
        if let Some(code) = self.grpc_status {
            let _ = write!(out, ",grpc_status=\"{code}\"");
        }
        if let Some(error) = self.cause.linkerd_error() {
            let _ = write!(out, ",error=\"{error}\"");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(authority: &str) -> ScopeKey {
        ScopeKey {
            base: "direction=\"outbound\"".into(),
            authority: authority.into(),
        }
    }

    #[test]
    fn series_are_bounded_and_the_rest_is_counted_in_one() {
        let metrics = Metrics::new(&Labels::default(), 1);
        let response = |status| Response {
            status,
            outcome: Outcome::Success,
            grpc_status: None,
            cause: Cause::None,
        };
        for i in 0..500 {
            let scope = metrics.scope(&key(&format!("host-{i}")));
            scope.request();
            scope.response(response(200), 1_000);
            scope.response(response(404), 1_000);
        }
        let snapshot = metrics.snapshot();
        let series = |scope: &ScopeNumbers| {
            1 + scope.responses.len() + scope.latencies.len() * HISTOGRAM_SERIES
        };
        let total: usize = snapshot.scopes.values().map(series).sum();
        assert!(total < SERIES_MAX + 2 * HISTOGRAM_SERIES, "{total}");
        assert!(total > SERIES_MAX * 9 / 10, "{total}");
        let overflow = &snapshot.scopes["overflow=\"true\""];
        assert!(!overflow.responses.is_empty());
        assert!(overflow.requests == snapshot.overflowed);
        let counted: u64 = snapshot
            .scopes
            .values()
            .flat_map(|s| s.responses.values())
            .sum();
        assert_eq!(counted, 1_000, "nothing is lost");
        assert_eq!(
            snapshot.scopes.values().map(|s| s.requests).sum::<u64>(),
            500
        );
    }

    #[test]
    fn any_number_of_hosts_makes_a_scrape_of_two_mebibytes_at_most() {
        let hits = Arc::<limits::Hits>::default();
        limits::enter(&hits);
        let metrics = Metrics::new(&Labels::default(), 1);
        let base = format!("direction=\"outbound\",dst=\"{}\"", "x".repeat(300));
        let base: Arc<str> = base.into();
        for host in 0..200_000 {
            let scope = metrics.scope(&ScopeKey {
                base: base.clone(),
                authority: format!("host-{host}.test").into(),
            });
            scope.request();
            let ok = Response {
                status: 200,
                outcome: Outcome::Success,
                grpc_status: None,
                cause: Cause::None,
            };
            scope.response(ok, 1_000);
        }
        let snapshot = metrics.snapshot();
        let requests = snapshot.scopes.values().map(|scope| scope.requests);
        assert_eq!(requests.sum::<u64>(), 200_000, "nothing is lost");
        let text = crate::metrics::render(&snapshot, &crate::metrics::Own::default());
        assert!(text.len() <= 2 << 20, "{}", text.len());
        assert!(text.len() > 1 << 20, "{}", text.len());
        assert!(hits.read(Limit::ScrapeBytes) > 100_000);
    }

    #[test]
    fn threads_merge() {
        let response = Response {
            status: 200,
            outcome: Outcome::Success,
            grpc_status: Some(0),
            cause: Cause::None,
        };
        let mut all = Snapshot::default();
        for _ in 0..2 {
            let metrics = Metrics::new(&Labels::default(), 2);
            let scope = metrics.scope(&key("a"));
            scope.request();
            scope.response(response, 4_999);
            scope.response(response, 5_000_000_000);
            all.merge(metrics.snapshot());
        }
        let numbers = &all.scopes["direction=\"outbound\",authority=\"a\""];
        assert_eq!((numbers.requests, numbers.responses[&response]), (2, 4));
        let histogram = &numbers.latencies[&200];
        assert_eq!((histogram.counts[3], histogram.counts[25]), (2, 2));
        assert_eq!(
            response.labels(),
            "status_code=\"200\",classification=\"success\",grpc_status=\"0\""
        );
    }

    #[test]
    fn label_values_are_escaped() {
        let labels = Labels::default().with("a", "x\"y\\z\n").with("b", "");
        assert_eq!(labels.text(), "a=\"x\\\"y\\\\z\\n\"");
    }
}
