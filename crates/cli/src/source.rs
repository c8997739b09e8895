//! Who answers: a server over HTTP, or the same questions on a data directory.

use std::path::Path;

use whodunit_api::check::Check;
use whodunit_api::culprit::{Culprit, CulpritQuery};
use whodunit_api::edges::{Edges, EdgesQuery};
use whodunit_api::explain::{Explain, ExplainQuery};
use whodunit_api::routes::{Routes, RoutesQuery};
use whodunit_api::stat::{Stat, StatQuery};
use whodunit_api::status::Status;
use whodunit_api::tap::{Tap, TapQuery};
use whodunit_api::top::{Top, TopQuery};
use whodunit_observe::store::open_read_only;
use whodunit_observe::{Queries, QueryError};

use crate::client::{Client, Events};
use crate::failure::Failure;

/// Where answers come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A server.
    Server(Client),
    /// A data directory or a Parquet file.
    Data(Box<Data>),
}

/// Records at rest.
#[derive(Debug)]
pub(crate) struct Data {
    queries: Queries,
    /// The moment that windows end at, µs since the Unix epoch.
    now_us: i64,
}

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident($query:ty) -> $answer:ty, $path:literal;)*) => {
        impl Source {
            $($(#[$doc])*
            ///
            /// # Errors
            /// When there is no answer.
            pub(crate) async fn $name(&self, query: &$query) -> Result<$answer, Failure> {
                match self {
                    Self::Server(client) => client.get($path, query).await,
                    Self::Data(data) => Ok(data.queries.$name(query, data.now_us)?),
                }
            })*
        }
    };
}

questions! {
    /// Asks for golden signals.
    stat(StatQuery) -> Stat, "/stat";
    /// Asks for golden signals per route.
    routes(RoutesQuery) -> Routes, "/routes";
    /// Asks who calls whom.
    edges(EdgesQuery) -> Edges, "/edges";
    /// Asks what is going on right now.
    top(TopQuery) -> Top, "/top";
    /// Asks for records of the past.
    tap(TapQuery) -> Tap, "/tap";
    /// Asks about one request.
    explain(ExplainQuery) -> Explain, "/explain";
    /// Asks who did it.
    culprit(CulpritQuery) -> Culprit, "/culprit";
}

impl Source {
    /// Opens a data directory or a Parquet file for reading. Returns the moment of
    /// its newest record too, µs since the Unix epoch.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<i64>), Failure> {
        let store = open_read_only(path).map_err(|error| {
            Failure::chain(
                format!("cannot read records from {}", path.display()),
                &error,
            )
            .fix(
                "--data takes a data directory of `whodunit serve`, `run` or `demo`, or one of \
                 its Parquet files",
            )
        })?;
        let newest_us = store.stats().newest_us;
        let data = Data {
            queries: Queries::new(store, None),
            now_us: 0,
        };
        Ok((Self::Data(Box::new(data)), newest_us))
    }

    /// Lets windows of records at rest end at this moment, µs since the Unix epoch.
    pub(crate) fn at(mut self, now_us: i64) -> Self {
        if let Self::Data(data) = &mut self {
            data.now_us = now_us;
        }
        self
    }

    /// Asks who answers here.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn status(&self) -> Result<Status, Failure> {
        match self {
            Self::Server(client) => client.get("/status", &()).await,
            Self::Data(data) => Ok(data.queries.status()),
        }
    }

    /// Asks whether the mesh is well.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn check(&self) -> Result<Check, Failure> {
        match self {
            Self::Server(client) => client.get("/check", &()).await,
            Self::Data(data) => Ok(data.queries.check(data.now_us)),
        }
    }

    /// Follows records as they come.
    ///
    /// # Errors
    /// When there is no server to follow.
    pub(crate) async fn follow(
        &self,
        query: &TapQuery,
        last_event: Option<&str>,
    ) -> Result<Events, Failure> {
        match self {
            Self::Server(client) => client.stream("/tap", query, last_event).await,
            Self::Data(_) => Err(Failure::usage("records at rest cannot be followed")
                .fix("leave out --data to follow the running server, or leave out --follow")),
        }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::detail(error.detail())
    }
}
