//! The words of the mesh, defined once.
//!
//! Everything here is plain data and pure functions: no clock, no file, no
//! network, no async runtime. The proxy fills [`RequestRecord`]s, the recorder
//! and the store carry them as [`Rows`], and analysis, queries and surfaces
//! read them. Failure, latency, route and workload mean the same in all of
//! these places because they are defined only here.

pub mod answer;
pub mod capture;
pub mod filter;
pub mod id;
pub mod latency;
pub mod limit;
pub mod outcome;
pub mod policy;
pub mod record;
pub mod redact;
pub mod route;
pub mod route_rule;
pub mod rows;
pub mod time;
pub mod topology;

pub use filter::Filter;
pub use id::{BootId, RequestId};
pub use limit::Limit;
pub use outcome::{Cause, Origin, Outcome};
pub use record::{
    Detected, Kind, Party, Protocol, RequestRecord, Side, TlsState, TraceContext, Twin,
};
pub use route_rule::RouteRule;
pub use rows::{Rows, Strings, Symbol};
pub use topology::{Change, Endpoint, Service, Topology};
