//! The voting service: counts votes in memory, and fails the ones it is told to fail.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tonic::Status;

use crate::catalog;
use crate::faults::{Effect, FaultSwitch};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::random::Random;
use crate::rpc::{self, Methods, RawRequest, RawResponse};
use crate::v1;

/// Full name of the gRPC service.
pub const SERVICE: &str = "emojivoto.v1.VotingService";

/// Position in [`catalog::votes`] by method name.
static BY_METHOD: LazyLock<HashMap<&'static str, usize>> = LazyLock::new(|| {
    catalog::votes()
        .iter()
        .enumerate()
        .map(|(at, (method, _))| (method.as_str(), at))
        .collect()
});

/// How the service behaves.
#[derive(Debug)]
pub struct VotingOptions {
    /// Share (0 to 1) of doughnut votes that fail, whatever the fault.
    pub failure_rate: f64,
    /// Wait before each successful vote, on top of what the fault adds.
    pub artificial_delay: Duration,
    /// Where random numbers start, for faults and `failure_rate`.
    pub random: Random,
}

/// The service's state: one count per emoji, lost when the process ends.
#[derive(Debug)]
pub struct VotingService {
    /// In the order of [`catalog::votes`].
    counts: Mutex<Vec<i32>>,
    random: Mutex<Random>,
    failure_rate: f64,
    artificial_delay: Duration,
    faults: Arc<FaultSwitch>,
    metrics: Arc<Metrics>,
    log: Log,
}

impl VotingService {
    /// Starts with no votes.
    pub fn new(options: VotingOptions, faults: Arc<FaultSwitch>, log: Log) -> Self {
        let metrics = Metrics::new(SERVICE);
        metrics.register(catalog::votes().iter().map(|(method, _)| method.as_str()));
        metrics.register(["Results"]);
        Self {
            counts: Mutex::new(vec![0; catalog::votes().len()]),
            random: Mutex::new(options.random),
            failure_rate: options.failure_rate,
            artificial_delay: options.artificial_delay,
            faults,
            metrics: Arc::new(metrics),
            log,
        }
    }

    /// The counters, for the metrics page.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    async fn vote(&self, at: usize) -> Result<v1::VoteResponse, Status> {
        let (_, shortcode) = &catalog::votes()[at];
        let delay = match self.effect(shortcode) {
            // Callers learn nothing but this: that is the mystery.
            Effect::Fail => return Err(Status::unknown("ERROR")),
            Effect::Slow(delay) => self.artificial_delay.saturating_add(delay),
            Effect::Pass => self.artificial_delay,
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let total = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts[at] = counts[at].saturating_add(1);
            counts[at]
        };
        self.metrics.voted(shortcode);
        self.log.line(format_args!(
            "counted a vote for [{shortcode}], its total is [{total}]"
        ));
        Ok(v1::VoteResponse {})
    }

    fn effect(&self, shortcode: &str) -> Effect {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if shortcode == ":doughnut:"
            && self.failure_rate > 0.0
            && random.fraction() < self.failure_rate
        {
            return Effect::Fail;
        }
        self.faults.effect(shortcode, &mut random)
    }

    /// The answer to Results: most votes first, then in page order.
    pub fn results(&self) -> v1::ResultsResponse {
        let counts = self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut results: Vec<_> = catalog::votes()
            .iter()
            .zip(counts)
            .filter(|(_, votes)| *votes > 0)
            .map(|((_, shortcode), votes)| v1::VotingResult {
                shortcode: (*shortcode).to_owned(),
                votes,
            })
            .collect();
        results.sort_by_key(|result| Reverse(result.votes));
        v1::ResultsResponse { results }
    }
}

impl Methods for VotingService {
    const SERVICE: &'static str = SERVICE;

    async fn call(self: Arc<Self>, method: String, request: RawRequest) -> RawResponse {
        if method == "Results" {
            return rpc::unary(request, move |_: v1::ResultsRequest| {
                let this = Arc::clone(&self);
                async move {
                    this.metrics
                        .measure("Results", async { Ok(this.results()) })
                        .await
                }
            })
            .await;
        }
        let Some(&at) = BY_METHOD.get(method.as_str()) else {
            return rpc::unknown_method(SERVICE, &method);
        };
        rpc::unary(request, move |_: v1::VoteRequest| {
            let this = Arc::clone(&self);
            let method = method.clone();
            async move { this.metrics.measure(&method, this.vote(at)).await }
        })
        .await
    }
}
