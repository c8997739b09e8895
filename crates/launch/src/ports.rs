//! Picks ports that are free.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::process::getuid;

/// Ports to pick from: below the range (from 32768 on Linux) out of which the
/// kernel takes the local ports of outgoing connections, one of which could
/// otherwise sit on the port of an application that is just being restarted.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// No port of the range is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free port from {} to {}; end some of what listens there", RANGE.start, RANGE.end - 1)]
pub struct NoFreePort;

/// Hands out ports, none of them twice.
///
/// Between the look at a port and the moment when a process listens there,
/// another launcher could take the same one. So launchers of one user claim
/// the ports that they hand out, by locks on files in a folder of theirs.
#[derive(Debug)]
pub(crate) struct Picker {
    next: u16,
    /// Handed out, or asked for by someone else of the mesh.
    held: BTreeSet<u16>,
    /// Where claims are made; none if there can be no such folder.
    folder: Option<PathBuf>,
    claims: Vec<File>,
}

/// Keeps the ports of a mesh from being handed out by other launchers until it is dropped.
#[derive(Debug)]
pub(crate) struct Claims {
    _locks: Vec<File>,
}

impl Picker {
    /// Starts at a port that depends on `seed`, so that launchers which start
    /// at the same moment do not all try the same ports.
    pub(crate) fn new(seed: u64) -> Self {
        let offset = seed % u64::from(RANGE.end - RANGE.start);
        let offset = u16::try_from(offset).unwrap_or_default();
        // Not the runtime folder, which may differ between sessions of one user.
        let folder = PathBuf::from(format!("/tmp/whodunit-{}/ports", getuid().as_raw()));
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        Self {
            next: RANGE.start + offset,
            held: BTreeSet::new(),
            folder: made.is_ok().then_some(folder),
            claims: Vec::new(),
        }
    }

    /// Ends the picking.
    pub(crate) fn into_claims(self) -> Claims {
        Claims {
            _locks: self.claims,
        }
    }

    /// Whether the port is free and no other launcher has claimed it; claims it then.
    pub(crate) fn claim(&mut self, address: SocketAddr) -> bool {
        let claimed = match &self.folder {
            Some(folder) => {
                let path = folder.join(address.port().to_string());
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(path);
                match file {
                    Ok(file) => {
                        let lock = FlockOperation::NonBlockingLockExclusive;
                        if flock(&file, lock).is_err() {
                            return false;
                        }
                        Some(file)
                    }
                    // Without claims a port is taken by chance at worst.
                    Err(_) => None,
                }
            }
            None => None,
        };
        let free = TcpListener::bind(address).is_ok();
        if free {
            self.claims.extend(claimed);
        }
        free
    }

    /// Keeps a port from being picked for anyone but those who ask for it.
    pub(crate) fn hold(&mut self, port: u16) {
        self.held.insert(port);
    }

    /// Returns `wanted` if one can listen there and nobody else of the mesh
    /// asks for the port, else a free port of the same host.
    pub(crate) fn wanted_or_free(&mut self, wanted: SocketAddr) -> Result<SocketAddr, NoFreePort> {
        let port = wanted.port();
        if port > 0 && !self.held.contains(&port) && self.claim(wanted) {
            self.held.insert(port);
            return Ok(wanted);
        }
        Ok(SocketAddr::new(wanted.ip(), self.free()?))
    }

    /// Returns a free port.
    pub(crate) fn free(&mut self) -> Result<u16, NoFreePort> {
        for _ in RANGE {
            let port = self.next;
            self.next = if port + 1 == RANGE.end {
                RANGE.start
            } else {
                port + 1
            };
            if !self.held.contains(&port) && self.claim(local(port)) {
                self.held.insert(port);
                return Ok(port);
            }
        }
        Err(NoFreePort)
    }
}

/// Returns the address of a port on this machine only.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_never_handed_out_twice() {
        let mut picker = Picker::new(u64::MAX);
        let first = picker.free().unwrap();
        let mut again = Picker::new(u64::MAX);
        let listener = TcpListener::bind(local(first)).unwrap();
        assert_ne!(again.free().unwrap(), first);
        drop(listener);
        let ports: BTreeSet<u16> = (0..50).map(|_| picker.free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        assert!(!ports.contains(&first));
        assert!(ports.iter().all(|port| RANGE.contains(port)));
    }

    #[test]
    fn a_wanted_port_is_given_once() {
        let mut picker = Picker::new(11);
        let wanted = local(picker.free().unwrap());
        drop(picker);
        let mut other = Picker::new(12);
        assert_eq!(other.wanted_or_free(wanted), Ok(wanted));
        assert_ne!(other.wanted_or_free(wanted), Ok(wanted));
        assert_ne!(other.wanted_or_free(local(0)).unwrap().port(), 0);
    }

    #[test]
    fn what_one_launcher_claims_no_other_gets() {
        let mut picker = Picker::new(500);
        let port = picker.free().unwrap();
        let claims = picker.into_claims();
        let mut other = Picker::new(500);
        assert!(!other.claim(local(port)));
        assert_ne!(other.free().unwrap(), port);
        drop(claims);
        assert!(other.claim(local(port)));
    }

    #[test]
    fn held_ports_are_left_alone() {
        let mut picker = Picker::new(7);
        picker.hold(RANGE.start + 7);
        assert_ne!(picker.free().unwrap(), RANGE.start + 7);
    }
}
