//! Tables keyed by symbols, and the names things go by.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use whodunit_model::{Rows, Side, Symbol};

/// A table whose keys are small numbers such as symbols and row numbers.
pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// A set of small numbers such as symbols and row numbers.
pub(crate) type FastSet<K> = HashSet<K, BuildHasherDefault<FastHasher>>;

/// Multiply and rotate: a few cycles per word.
///
/// Keys are numbers this process handed out, so nobody can choose them to
/// collide; the default hasher's protection would cost most of a scan.
#[derive(Default)]
pub(crate) struct FastHasher(u64);

/// 2^64 divided by the golden ratio, odd: spreads consecutive numbers evenly.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(26) ^ n).wrapping_mul(SPREAD);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes its slot from the low bits, the product mixes the high ones best.
        self.0 ^ (self.0 >> 32)
    }
}

/// A workload, or a service that has none: namespace and name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) namespace: Symbol,
    pub(crate) name: Symbol,
}

impl Name {
    /// The caller of a row; empty if it is not known.
    pub(crate) fn source(rows: &Rows, row: usize) -> Self {
        Self {
            namespace: rows.src_namespace[row],
            name: rows.src_workload[row],
        }
    }

    /// The callee of a row: its workload, else the service, authority or address it was called by.
    pub(crate) fn destination(rows: &Rows, row: usize) -> Self {
        let name = [
            rows.dst_workload[row],
            rows.service[row],
            rows.authority[row],
            rows.endpoint[row],
        ]
        .into_iter()
        .find(|symbol| !symbol.is_empty())
        .unwrap_or_default();
        Self {
            namespace: rows.dst_namespace[row],
            name,
        }
    }

    /// Namespace and name as texts, for ordering and for answers.
    pub(crate) fn texts(self, rows: &Rows) -> (&str, &str) {
        (rows.text(self.namespace), rows.text(self.name))
    }
}

/// The instance that made a row: its proxy recorded it.
pub(crate) fn reporter(rows: &Rows, row: usize) -> (Name, Symbol) {
    match rows.side[row] {
        Side::Inbound => (
            Name {
                namespace: rows.dst_namespace[row],
                name: rows.dst_workload[row],
            },
            rows.dst_instance[row],
        ),
        Side::Outbound => (Name::source(rows, row), rows.src_instance[row]),
    }
}

/// Counts things and returns the most frequent one, the smallest text among equals.
#[derive(Default)]
pub(crate) struct Votes(FastMap<Symbol, u64>);

impl Votes {
    pub(crate) fn add(&mut self, symbol: Symbol) {
        if !symbol.is_empty() {
            *self.0.entry(symbol).or_default() += 1;
        }
    }

    pub(crate) fn winner(&self, rows: &Rows) -> Symbol {
        self.0
            .iter()
            .max_by(|(a, a_votes), (b, b_votes)| {
                a_votes
                    .cmp(b_votes)
                    .then_with(|| rows.text(**b).cmp(rows.text(**a)))
            })
            .map_or(Symbol::EMPTY, |(symbol, _)| *symbol)
    }
}
