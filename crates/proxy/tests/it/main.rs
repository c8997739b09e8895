//! The proxy as a whole, over real sockets: proxies, applications and servers in one process.

mod app;
mod client;
mod mesh;
#[path = "../../../identity/tests/it/mint.rs"]
mod mint;
mod process;
mod server;

mod admin;
mod balancing;
mod binary;
mod cardinality;
mod conformance_h1;
mod conformance_h2;
mod convert;
mod discovery;
mod failures;
mod frames;
mod grpc;
#[cfg(target_os = "linux")]
mod hostile;
mod http;
mod http1;
mod http2;
mod junk;
mod kept_connections;
mod limits;
mod opaque;
mod operation;
#[cfg(target_os = "linux")]
mod original_dst;
mod overload;
mod policy;
mod records;
mod recovery;
mod retries;
mod rolling;
mod routes;
mod sending;
mod shutdown;
mod snapshot;
mod timeouts;
mod tls;
