//! Runs the real binaries as a user would and looks at them from outside.
//!
//! Used by the tests beside it and by `cargo xtask bench`. Everything goes
//! through command lines, HTTP and files; nothing reaches inside. A mesh that is
//! dropped is stopped; its directory is kept when a test fails, and named.

pub mod http;
pub mod mesh;
pub mod slope;
pub mod wait;

pub use mesh::{Mesh, Output};
pub use wait::until;
