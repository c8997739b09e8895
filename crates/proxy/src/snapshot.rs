//! What the server said last, on disk: a proxy that starts while the server is gone serves
//! from it.
//!
//! `docs/formats/snapshot-v1.md` has the layout. The file is replaced as a whole, so that a
//! reader finds the old one or the new one. What is damaged, foreign, of another version or
//! too old is named in the log and left out; nothing in it can stop a proxy from starting.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use whodunit_model::policy::Policy;
use whodunit_model::route_rule;
use whodunit_model::topology::{Endpoint, ServiceName};
use whodunit_model::{Limit, Party, RouteRule};
use whodunit_wire::destination::Destination;

/// What every file begins with.
const MAGIC: &str = "whodunit-snapshot";

/// The version that this build writes and reads.
const VERSION: u32 = 1;

/// Longest first line: the magic and three numbers.
const FIRST_LINE_MAX: usize = 80;

/// Most of the file that is read or written.
const BYTES_MAX: usize = Limit::SnapshotBytes.count();

/// What the server said last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Whose it is.
    pub(crate) owner: Owner,
    /// Where services live.
    pub(crate) services: Vec<Service>,
    /// Who may ask the application for what.
    pub(crate) policies: Vec<Port>,
}

/// The instance that a proxy stands beside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    namespace: String,
    workload: String,
    instance: String,
}

/// Where one service lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Service {
    #[serde(flatten)]
    pub(crate) name: ServiceName,
    /// When the server was last known to stand by it, µs since the Unix epoch.
    pub(crate) heard_us: i64,
    exists: bool,
    answers: Answers,
    endpoints: Vec<Endpoint>,
    /// What holds for requests to it; none if the server never said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) routes: Option<Vec<RouteRule>>,
}

/// Who answers for a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answers {
    namespace: String,
    workload: String,
    service: String,
}

/// The policy of one inbound listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Port {
    /// Name of the listener.
    pub(crate) listener: String,
    /// When the server was last known to stand by it, µs since the Unix epoch.
    pub(crate) heard_us: i64,
    pub(crate) policy: Policy,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// It could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is larger than any of ours.
    #[error("it is larger than {BYTES_MAX} bytes")]
    TooLarge,
    /// It is something else.
    #[error("it is no snapshot")]
    NoSnapshot,
    /// Another version of the proxy wrote it.
    #[error("it has version {0}, and this proxy reads version {VERSION}")]
    Version(u32),
    /// Not all of it is there, or not as it was written.
    #[error("it is damaged")]
    Damaged,
    /// What it says makes no sense.
    #[error("it makes no sense: {0}")]
    Content(#[from] serde_json::Error),
    /// It has routes that no server of ours tells.
    #[error("its routes are out of bounds")]
    Routes,
    /// It belongs to the proxy of another instance.
    #[error("it belongs to {0}")]
    Foreign(String),
}

impl Service {
    /// Returns what is to be kept of a service.
    pub(crate) fn new(name: ServiceName, heard_us: i64, known: &Destination) -> Self {
        Self {
            name,
            heard_us,
            exists: known.exists,
            answers: Answers {
                namespace: known.namespace.clone(),
                workload: known.workload.clone(),
                service: known.service.clone(),
            },
            endpoints: known.endpoints.clone(),
            routes: None,
        }
    }

    /// Returns what the server said.
    pub(crate) fn destination(&self) -> Destination {
        Destination {
            namespace: self.answers.namespace.clone(),
            workload: self.answers.workload.clone(),
            service: self.answers.service.clone(),
            exists: self.exists,
            endpoints: self.endpoints.clone(),
        }
    }
}

impl Owner {
    /// Returns the instance as an owner.
    pub(crate) fn of(own: &Party) -> Self {
        Self {
            namespace: own.namespace.to_string(),
            workload: own.workload.to_string(),
            instance: own.instance.to_string(),
        }
    }
}

impl Snapshot {
    /// Returns a snapshot in which nothing was heard.
    pub(crate) const fn empty(owner: Owner) -> Self {
        Self {
            owner,
            services: Vec::new(),
            policies: Vec::new(),
        }
    }

    /// Returns what is kept of a service.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.iter().find(|service| service.name == *name)
    }

    /// Returns what is kept of an inbound listener.
    pub(crate) fn port(&self, listener: &str) -> Option<&Port> {
        self.policies.iter().find(|port| port.listener == listener)
    }

    /// Returns the file's bytes.
    ///
    /// # Errors
    /// When there are too many of them.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, SnapshotError> {
        let body = serde_json::to_vec(self)?;
        let bytes = with_sum(&body);
        if bytes.len() > BYTES_MAX {
            return Err(SnapshotError::TooLarge);
        }
        Ok(bytes)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// When they are not those of a whole snapshot of this version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        if bytes.len() > BYTES_MAX {
            return Err(SnapshotError::TooLarge);
        }
        let first = &bytes[..bytes.len().min(FIRST_LINE_MAX)];
        let end = first.iter().position(|byte| *byte == b'\n');
        let line = std::str::from_utf8(&first[..end.unwrap_or(first.len())]);
        let mut words = line.unwrap_or_default().split(' ');
        if words.next() != Some(MAGIC) {
            return Err(SnapshotError::NoSnapshot);
        }
        let version = words.next().and_then(|word| word.parse().ok());
        let version = version.ok_or(SnapshotError::Damaged)?;
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let length: Option<usize> = words.next().and_then(|word| word.parse().ok());
        let sum = words.next();
        let sum = sum.and_then(|word| u32::from_str_radix(word, 16).ok());
        let (Some(end), Some(length), Some(sum), None) = (end, length, sum, words.next()) else {
            return Err(SnapshotError::Damaged);
        };
        let body = &bytes[end + 1..];
        if body.len() != length || crc32fast::hash(body) != sum {
            return Err(SnapshotError::Damaged);
        }
        let snapshot: Self = serde_json::from_slice(body)?;
        let routes = snapshot
            .services
            .iter()
            .filter_map(|service| service.routes.as_ref());
        if !routes
            .into_iter()
            .all(|rules| route_rule::are_bounded(rules))
        {
            return Err(SnapshotError::Routes);
        }
        Ok(snapshot)
    }

    /// Leaves out what the server has not stood by for too long. A moment that is yet to
    /// come counts as now: clocks are set back, too.
    fn forget_old(&mut self, now_us: i64) {
        let young = |heard_us: i64| {
            let age_us = now_us.saturating_sub(heard_us).max(0);
            u64::try_from(age_us / 1_000).unwrap_or(u64::MAX) < Limit::SnapshotAge.about().value
        };
        let before = self.services.len() + self.policies.len();
        self.services.retain(|service| young(service.heard_us));
        self.policies.retain(|port| young(port.heard_us));
        let forgotten = before - self.services.len() - self.policies.len();
        if forgotten > 0 {
            tracing::warn!(
                forgotten,
                "the snapshot is more than a day old, what it says is not used"
            );
        }
    }
}

/// Returns a body with its first line before it.
pub(crate) fn with_sum(body: &[u8]) -> Vec<u8> {
    let sum = crc32fast::hash(body);
    let mut bytes = format!("{MAGIC} {VERSION} {} {sum:08x}\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads what is kept for this instance and not too old: nothing if there is no file, or
/// none that can be used, which is logged.
pub(crate) fn load(path: &Path, own: &Party, now_us: i64) -> Snapshot {
    let owner = Owner::of(own);
    match read(path, &owner) {
        Ok(mut snapshot) => {
            snapshot.forget_old(now_us);
            let heard = snapshot.services.iter().map(|service| service.heard_us);
            let heard = heard.chain(snapshot.policies.iter().map(|port| port.heard_us));
            if let Some(oldest_us) = heard.min() {
                let age_s = now_us.saturating_sub(oldest_us).max(0) / 1_000_000;
                let (services, policies) = (snapshot.services.len(), snapshot.policies.len());
                tracing::info!(services, policies, age_s, "serving from the snapshot");
            }
            snapshot
        }
        Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            Snapshot::empty(owner)
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "starting without the snapshot");
            Snapshot::empty(owner)
        }
    }
}

fn read(path: &Path, owner: &Owner) -> Result<Snapshot, SnapshotError> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    // Whatever else may be there under this name: a pipe would never end.
    if !file.metadata()?.is_file() {
        return Err(SnapshotError::NoSnapshot);
    }
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let snapshot = Snapshot::parse(&bytes)?;
    if snapshot.owner != *owner {
        let Owner {
            namespace,
            workload,
            instance,
        } = snapshot.owner;
        let whose = format!("{namespace}/{workload}/{instance}");
        return Err(SnapshotError::Foreign(whose));
    }
    Ok(snapshot)
}

/// Replaces the file as a whole; only its owner may read it.
///
/// # Errors
/// When the snapshot is too large or the file cannot be written.
pub(crate) fn save(path: &Path, snapshot: &Snapshot) -> Result<(), SnapshotError> {
    let bytes = snapshot.to_bytes()?;
    whodunit_identity::authority::write_private(path, &bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use whodunit_model::policy::Mode;

    use super::*;

    const NOW_US: i64 = 1_700_000_000_000_000;
    const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;

    fn own(instance: &str) -> Party {
        Party {
            namespace: "n".into(),
            workload: "web".into(),
            instance: instance.into(),
            version: "v1".into(),
        }
    }

    fn snapshot(service_us: i64, policy_us: i64) -> Snapshot {
        let name = ServiceName {
            namespace: "n".to_owned(),
            name: "voting".to_owned(),
        };
        let known = Destination {
            workload: "voting".to_owned(),
            exists: true,
            endpoints: vec![Endpoint {
                address: ([127, 0, 0, 1], 80).into(),
                instance: "voting-0".to_owned(),
                version: String::new(),
                meshed: true,
                ready: true,
                identity: "spiffe://local/ns/n/sa/voting".to_owned(),
                server_name: String::new(),
            }],
            ..Destination::default()
        };
        let mut service = Service::new(name, service_us, &known);
        service.routes = Some(vec![RouteRule::default()]);
        Snapshot {
            services: vec![service],
            policies: vec![Port {
                listener: "in".to_owned(),
                heard_us: policy_us,
                policy: Policy::plain(Mode::Deny),
            }],
            ..Snapshot::empty(Owner::of(&own("web-0")))
        }
    }

    #[test]
    fn what_was_saved_is_loaded_for_a_day() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web-0.snapshot");
        let load = || load(&path, &own("web-0"), NOW_US);
        assert_eq!(load(), Snapshot::empty(Owner::of(&own("web-0"))));
        let young = snapshot(NOW_US - DAY_US + 1_000, NOW_US + DAY_US);
        save(&path, &young).unwrap();
        assert_eq!(load(), young);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let known = young.services[0].destination();
        assert_eq!(
            Service::new(young.services[0].name.clone(), 7, &known).destination(),
            known
        );
        save(&path, &snapshot(NOW_US - DAY_US, NOW_US)).unwrap();
        let half = load();
        assert_eq!((half.services.len(), half.policies.len()), (0, 1));
    }

    #[test]
    fn what_is_not_ours_or_not_whole_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web-0.snapshot");
        let nothing = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            let found = load(&path, &own("web-0"), NOW_US);
            assert_eq!(found, Snapshot::empty(Owner::of(&own("web-0"))), "{what}");
        };
        let whole = snapshot(NOW_US, NOW_US).to_bytes().unwrap();
        for length in 0..whole.len() {
            nothing(&whole[..length], "cut off");
            let mut flipped = whole.clone();
            flipped[length] ^= 0x20;
            let harmless = Snapshot::parse(&flipped).ok() == Snapshot::parse(&whole).ok();
            if !harmless {
                nothing(&flipped, "one bit is wrong");
            }
        }
        nothing(&[whole.as_slice(), b" "].concat(), "something follows");
        let newer = String::from_utf8(whole.clone()).unwrap();
        nothing(newer.replacen(" 1 ", " 2 ", 1).as_bytes(), "newer");
        nothing(&vec![b' '; BYTES_MAX + 1], "large");
        let sum = crc32fast::hash(b"{}");
        nothing(
            format!("{MAGIC} 1 2 {sum:08x}\n{{}}").as_bytes(),
            "says nothing",
        );
        let mut endless = snapshot(NOW_US, NOW_US);
        let rules = endless.services[0].routes.as_mut().unwrap();
        rules[0].retries.attempts_max = u8::MAX;
        nothing(&endless.to_bytes().unwrap(), "tries without end");
        fs::write(&path, &whole).unwrap();
        assert!(load(&path, &own("web-1"), NOW_US).services.is_empty());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(load(&path, &own("web-0"), NOW_US).services.is_empty());
    }

    #[test]
    fn one_that_is_too_large_does_not_replace_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web-0.snapshot");
        let good = snapshot(NOW_US, NOW_US);
        save(&path, &good).unwrap();
        let mut large = good.clone();
        large.policies[0].listener = "x".repeat(BYTES_MAX);
        assert!(matches!(save(&path, &large), Err(SnapshotError::TooLarge)));
        assert_eq!(load(&path, &own("web-0"), NOW_US), good);
    }
}
