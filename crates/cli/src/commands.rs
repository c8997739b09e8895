//! One file per command: its flags, what it asks, and how the answer looks.

pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod culprit;
pub(crate) mod demo;
pub(crate) mod edges;
pub(crate) mod explain;
pub(crate) mod routes;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod stat;
pub(crate) mod tap;
pub(crate) mod top;
pub(crate) mod version;

use std::collections::BTreeSet;

use crate::view::View;

/// Says whether a NAMESPACE column is needed: asked for, or names alone would not do.
fn shows_namespaces<'a>(view: &View, namespaces: impl Iterator<Item = &'a str>) -> bool {
    view.namespaces || namespaces.collect::<BTreeSet<_>>().len() > 1
}
