//! HTTP/2 as a hostile client speaks it, with raw frames on real sockets.
//!
//! Tables from RFC 9113, 9110 and 9112, and from the history of smuggling by downgrade. What
//! reaches an HTTP/1 origin is kept byte by byte and has to mean the same to every parser.

mod downgrade;
mod frames;
mod generated;
