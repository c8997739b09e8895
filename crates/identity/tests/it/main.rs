//! The identity crate at its border.

mod authority;
mod handshake;
mod malformed;
mod mint;
