//! What is known of each boot of each proxy: how far its batches have come.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use whodunit_model::BootId;

/// Names a proxy by the instance it stands beside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProxyName {
    /// Namespace of the workload.
    pub namespace: Arc<str>,
    /// Name of the workload.
    pub workload: Arc<str>,
    /// Name of the instance.
    pub instance: Arc<str>,
}

impl fmt::Display for ProxyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.workload, self.instance)
    }
}

/// How far the batches of one boot have come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootState {
    /// The proxy.
    pub proxy: ProxyName,
    /// Its boot.
    pub boot: BootId,
    /// Highest sequence that was written.
    pub written: u64,
    /// Highest sequence that survives a crash.
    pub durable: u64,
    /// The last sequence as the proxy said when it shut down in order.
    pub closed: Option<u64>,
    /// When it was last heard of, µs since the epoch, by the store's clock.
    pub last_seen_us: i64,
}

/// A proxy and its boot.
pub(crate) type BootKey = (ProxyName, BootId);

/// The boots that are remembered, at most a given number.
#[derive(Clone, Debug)]
pub(crate) struct Boots {
    states: HashMap<BootKey, BootState>,
    max: usize,
    /// Boots that were forgotten for lack of room.
    pub(crate) forgotten: u64,
}

impl Boots {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            states: HashMap::new(),
            max: max.max(1),
            forgotten: 0,
        }
    }

    pub(crate) fn get(&self, proxy: &ProxyName, boot: BootId) -> Option<&BootState> {
        self.states.get(&(proxy.clone(), boot))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &BootState> {
        self.states.values()
    }

    /// Returns the state of a boot, making room and a new one if it is not known.
    pub(crate) fn entry(&mut self, proxy: &ProxyName, boot: BootId, now_us: i64) -> &mut BootState {
        let key = (proxy.clone(), boot);
        if !self.states.contains_key(&key) && self.states.len() >= self.max {
            self.forget();
        }
        let state = self.states.entry(key).or_insert_with(|| BootState {
            proxy: proxy.clone(),
            boot,
            written: 0,
            durable: 0,
            closed: None,
            last_seen_us: now_us,
        });
        state.last_seen_us = state.last_seen_us.max(now_us);
        state
    }

    pub(crate) fn insert(&mut self, state: BootState) {
        self.states.insert((state.proxy.clone(), state.boot), state);
    }

    /// Marks the batches of a boot up to `sequence` as durable.
    pub(crate) fn set_durable(&mut self, key: &BootKey, sequence: u64) {
        if let Some(state) = self.states.get_mut(key) {
            state.durable = state.durable.max(sequence);
        }
    }

    /// Marks everything that was written as durable.
    pub(crate) fn set_all_durable(&mut self) {
        for state in self.states.values_mut() {
            state.durable = state.written;
        }
    }

    /// Forgets the boots that were not heard of for longest: a hundredth of all, so that it is rare.
    fn forget(&mut self) {
        let count = (self.max / 100).max(1);
        let mut seen: Vec<i64> = self.states.values().map(|s| s.last_seen_us).collect();
        let place = count.min(seen.len()) - 1;
        let (_, oldest, _) = seen.select_nth_unstable(place);
        let oldest = *oldest;
        let mut left = count;
        self.states.retain(|_, state| {
            let keep = left == 0 || state.last_seen_us > oldest;
            left -= usize::from(!keep);
            keep
        });
        self.forgotten += (count - left) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_not_heard_of_for_longest_is_forgotten_first() {
        let mut boots = Boots::new(3);
        let proxy = ProxyName::default();
        for boot in [5, 1, 4, 2] {
            boots
                .entry(&proxy, BootId(boot), i64::try_from(boot).unwrap())
                .written = boot;
        }
        assert_eq!(boots.forgotten, 1);
        assert_eq!(boots.iter().count(), 3);
        assert!(boots.get(&proxy, BootId(1)).is_none());
        assert_eq!(boots.get(&proxy, BootId(2)).unwrap().written, 2);
    }
}
