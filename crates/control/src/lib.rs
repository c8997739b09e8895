//! Discovery: where services live, from files to proxies.
//!
//! A source of truth (the state file that the launcher writes) becomes a stream
//! of [`whodunit_model::Change`]s, these become one [`whodunit_model::Topology`]
//! in a watch channel ([`discovery`]), and [`destination`] tells each proxy what
//! changed since it last heard, as [`outbound`] tells what holds for requests to a service
//! and [`policies`] who may ask for what; [`identity`] certifies proxies. Nothing here reads a record or touches traffic.

pub mod destination;
pub mod discovery;
pub mod identity;
pub mod mesh_file;
pub mod outbound;
pub mod policies;
mod subscribe;
pub mod topology_file;
