//! Gives each instance of a mesh a network namespace and an address of its own.
//!
//! What happens in a pod: rules of the kernel redirect every connection of and to an
//! application to the proxy beside it. The namespaces are joined by a bridge in one more, the
//! hub, which also leads out to this machine and the world. It takes root, and the programs
//! `ip` and `nft`; it changes nothing of this machine's own network but for one link, one
//! table of rules, and forwarding where that was off, and takes all of that back.

mod enter;
mod network;
mod rooms;

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use whodunit_control::mesh_file::Mesh;
use whodunit_model::capture::{PROXY_UID, Redirect};

use crate::error::LaunchError;
use crate::find;
use crate::layout::Layout;
use crate::ports::Picker;
use crate::process::Spec;

pub use enter::{ENTER_COMMAND, enter_main};
pub(crate) use network::{Network, clear_leftovers};
pub(crate) use rooms::{Doors, Namespaces, Opening};

/// Most instances: what one bridge of the kernel joins, and some to spare.
const INSTANCES_MAX: u32 = 1_000;

/// The network of a mesh, `198.18.0.0/16`: reserved for tests, so in use nowhere else.
const NETWORK: [u8; 2] = [198, 18];

/// The third byte of the first service's address; instances have lower ones.
const SERVICES_FROM: u8 = 128;

/// Where callers find a service whose port the mesh file leaves open.
const SERVICE_PORT: u16 = 80;

/// The network of the links between hubs and this machine, `198.19.0.0/16`.
const LINKS: [u8; 2] = [198, 19];

/// The hub, as instances see it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(NETWORK[0], NETWORK[1], 0, 1);

/// Names what one launcher made, so that the next one can tell whether that one still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pid: i32,
    /// When the process started, in ticks since the machine did.
    started: u64,
    /// Number of the link between hub and machine; one process may run several meshes.
    link: u16,
}

impl Run {
    /// Returns the name for the next mesh of this process.
    fn own(link: u16) -> Option<Self> {
        let pid = i32::try_from(std::process::id()).ok()?;
        let started = started(pid)?;
        Some(Self { pid, started, link })
    }

    /// Says whether the launcher is still there.
    fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Returns the name of the namespace of an instance, or of the hub.
    fn namespace(self, of: &str) -> String {
        format!("{self}.{of}")
    }

    /// Returns the name of this machine's end of the link.
    fn link_name(self) -> String {
        format!("whodunit{}", self.link)
    }

    /// Returns the addresses of the link: this machine's end and the hub's.
    fn link_ends(self) -> (Ipv4Addr, Ipv4Addr) {
        let [high, low] = (self.link << 2).to_be_bytes();
        let end = |last: u8| Ipv4Addr::new(LINKS[0], LINKS[1], high, low | last);
        (end(1), end(2))
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "whodunit-{}-{}-{}", self.pid, self.started, self.link)
    }
}

impl FromStr for Run {
    type Err = ();

    /// Reads the name of a run, with or without what follows a dot.
    fn from_str(text: &str) -> Result<Self, ()> {
        let name = text.split('.').next().unwrap_or_default();
        let mut parts = name.strip_prefix("whodunit-").ok_or(())?.split('-');
        let mut part = || parts.next().ok_or(());
        let run = Self {
            pid: part()?.parse().map_err(drop)?,
            started: part()?.parse().map_err(drop)?,
            link: part()?.parse().map_err(drop)?,
        };
        // Only what this program writes; nothing that merely looks alike.
        (run.to_string() == name).then_some(run).ok_or(())
    }
}

/// Returns when a process started; none if it is dead, even if nobody has noticed.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The programs that it takes.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) ip: PathBuf,
    pub(crate) nft: PathBuf,
}

impl Tools {
    /// Finds them.
    ///
    /// # Errors
    /// Names those that are missing.
    pub(crate) fn find() -> Result<Self, LaunchError> {
        let find = |name| find::program(name, &[], Path::new("/"));
        Self::from_found(find("ip"), find("nft"))
    }

    fn from_found(ip: Option<PathBuf>, nft: Option<PathBuf>) -> Result<Self, LaunchError> {
        match (ip, nft) {
            (Some(ip), Some(nft)) => Ok(Self { ip, nft }),
            (ip, nft) => {
                let missing = [("ip", ip), ("nft", nft)];
                let missing = missing.into_iter().filter(|(_, found)| found.is_none());
                let missing: Vec<_> = missing.map(|(name, _)| format!("`{name}`")).collect();
                Err(LaunchError::Isolate {
                    what: format!("there is no program {}", missing.join(" and no ")),
                    fix: format!("`apt-get install iproute2 nftables` (Debian), {OR}"),
                })
            }
        }
    }
}

/// What can always be done instead.
const OR: &str = "or leave out `--isolate`: the mesh then takes no privileges";

/// What is known before anything is made: names and addresses.
#[derive(Clone, Debug)]
pub(crate) struct Isolation {
    pub(crate) tools: Tools,
    run: Run,
    whodunit: PathBuf,
    hosts: PathBuf,
    resolv: PathBuf,
    /// Addresses of services and externals: nobody's, connections to them are redirected.
    services: BTreeMap<String, SocketAddr>,
}

/// The namespace of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) instance: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) redirect: Redirect,
}

impl Isolation {
    /// Chooses names and addresses; `externals` are where they really are.
    ///
    /// # Errors
    /// When this machine or this user cannot do it, or there are too many instances.
    pub(crate) fn new(
        mesh: &Mesh,
        externals: &[Vec<SocketAddr>],
        layout: &Layout,
        whodunit: &Path,
        picker: &mut Picker,
    ) -> Result<Self, LaunchError> {
        allowed()?;
        let tools = Tools::find()?;
        let instances = mesh.services.iter().map(|service| service.instances);
        let instances: u32 = instances.map(u32::from).sum();
        if instances > INSTANCES_MAX {
            return Err(LaunchError::Isolate {
                what: format!("there are {instances} instances, of at most {INSTANCES_MAX}"),
                fix: format!("run fewer, {OR}"),
            });
        }
        // Launchers claim ports from each other, and so the links of the same numbers.
        let run = Run::own(picker.free()? % (1 << 14)).ok_or_else(|| LaunchError::Isolate {
            what: "/proc does not show this process".to_owned(),
            fix: format!("mount /proc, {OR}"),
        })?;
        let mut services = BTreeMap::new();
        for service in &mesh.services {
            let declared = service.port.filter(|port| *port > 0);
            let port = declared.unwrap_or(SERVICE_PORT);
            let address = service_address(services.len());
            services.insert(service.name.clone(), SocketAddr::new(address, port));
        }
        for (external, addresses) in mesh.externals.iter().zip(externals) {
            let port = addresses.first().map_or(0, SocketAddr::port);
            let address = service_address(services.len());
            services.insert(external.name.clone(), SocketAddr::new(address, port));
        }
        Ok(Self {
            tools,
            run,
            whodunit: whodunit.to_owned(),
            hosts: layout.run().join("hosts"),
            resolv: layout.run().join("resolv.conf"),
            services,
        })
    }

    /// Returns where a service or external is found by its callers.
    pub(crate) fn service(&self, name: &str) -> Option<SocketAddr> {
        self.services.get(name).copied()
    }

    /// Returns how an address of this machine is written inside: its loopback interface is
    /// not theirs.
    pub(crate) fn seen_from_inside(&self, address: SocketAddr) -> SocketAddr {
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            SocketAddr::new(IpAddr::V4(self.run.link_ends().0), address.port())
        } else {
            address
        }
    }

    /// Makes sure that those inside reach this machine.
    ///
    /// # Errors
    /// When they do not, most likely because of a firewall.
    pub(crate) async fn check(&self) -> Result<(), LaunchError> {
        let host = IpAddr::V4(self.run.link_ends().0);
        let reached = self.namespaces("hub").reach(host).await;
        reached.map_err(|why| LaunchError::Isolate {
            what: format!("instances do not reach this machine: {why}"),
            fix: format!(
                "let its firewall pass what comes in by the links `whodunit*`, such as by \
                 `iptables -I INPUT -i whodunit+ -j ACCEPT`, {OR}"
            ),
        })
    }

    /// Returns the room of an instance; `number` counts the instances of the mesh.
    pub(crate) fn room(&self, instance: &str, number: usize) -> Room {
        let (high, low) = parts(number);
        Room {
            instance: instance.to_owned(),
            address: Ipv4Addr::new(NETWORK[0], NETWORK[1], high + 1, low),
            redirect: Redirect::default(),
        }
    }

    /// Returns where sockets that reach an instance are made.
    pub(crate) fn namespaces(&self, instance: &str) -> Arc<Namespaces> {
        Arc::new(Namespaces::new(
            &self.run.namespace("hub"),
            &self.run.namespace(instance),
        ))
    }

    /// Makes a process start in the room of an instance, a proxy under the user id that its
    /// connections are told by.
    pub(crate) fn put_into(&self, instance: &str, spec: &mut Spec, is_proxy: bool) {
        let text = |path: &Path| path.display().to_string();
        let mut arguments = vec![
            "netns".to_owned(),
            "exec".to_owned(),
            self.run.namespace(instance),
            text(&self.whodunit),
            ENTER_COMMAND.to_owned(),
            text(&self.hosts),
            text(&self.resolv),
            if is_proxy { PROXY_UID } else { 0 }.to_string(),
            text(&spec.program),
        ];
        arguments.append(&mut spec.arguments);
        spec.program.clone_from(&self.tools.ip);
        spec.arguments = arguments;
    }

    /// Returns what stands for `/etc/hosts` inside, before what this machine has there.
    fn hosts(&self, mesh: &Mesh, rooms: &[&Room]) -> String {
        let namespace = &mesh.namespace;
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (name, address) in &self.services {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{} {name} {name}.{namespace} {name}.{namespace}.svc \
                 {name}.{namespace}.svc.cluster.local",
                address.ip()
            );
        }
        for room in rooms {
            let _ = writeln!(text, "{} {}", room.address, room.instance);
        }
        text
    }

    /// Returns what stands for `/etc/resolv.conf` inside, and the resolver on the loopback
    /// interface of this machine that it names, if it does.
    fn resolv(&self, own: &str) -> (String, Option<Ipv4Addr>) {
        let mut local = None;
        let mut text = String::new();
        for line in own.lines() {
            let mut words = line.split_ascii_whitespace();
            let server = (words.next() == Some("nameserver")).then(|| words.next());
            match server.flatten().map(str::parse::<IpAddr>) {
                Some(Ok(IpAddr::V4(server))) if server.is_loopback() => {
                    if local.replace(server).is_none() {
                        let _ = writeln!(text, "nameserver {}", self.run.link_ends().0);
                    }
                }
                // There is no IPv6 to the outside.
                Some(Ok(IpAddr::V6(_))) => {}
                _ => {
                    let _ = writeln!(text, "{line}");
                }
            }
        }
        (text, local)
    }
}

fn service_address(number: usize) -> IpAddr {
    let (high, low) = parts(number);
    IpAddr::V4(Ipv4Addr::new(
        NETWORK[0],
        NETWORK[1],
        SERVICES_FROM + high,
        low,
    ))
}

/// Returns the last two bytes of an address: some 250 numbers each.
fn parts(number: usize) -> (u8, u8) {
    let part = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    (part(number / 250), part(number % 250 + 1))
}

/// Says whether this process may make namespaces.
#[cfg(target_os = "linux")]
fn allowed() -> Result<(), LaunchError> {
    use rustix::thread::{CapabilitySet, capabilities};
    let needed = [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
        (CapabilitySet::SETUID, "CAP_SETUID"),
        (CapabilitySet::SETGID, "CAP_SETGID"),
        (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
        (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    ];
    let have = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let missing = needed.iter().filter(|(one, _)| !have.contains(*one));
    let missing: Vec<&str> = missing.map(|(_, name)| *name).collect();
    let is_root = rustix::process::geteuid().is_root();
    if is_root && missing.is_empty() {
        return Ok(());
    }
    let (what, fix) = if is_root {
        let what = format!("root lacks {} here", missing.join(", "));
        (
            what,
            "start the container with more rights (`--privileged`)",
        )
    } else {
        let what = "namespaces and redirection take root".to_owned();
        (what, "run it with `sudo`")
    };
    Err(LaunchError::Isolate {
        what,
        fix: format!("{fix}, {OR}"),
    })
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Result<(), LaunchError> {
    Err(LaunchError::Isolate {
        what: "only Linux has network namespaces".to_owned(),
        fix: "leave out `--isolate`: the mesh then takes no privileges".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isolation() -> Isolation {
        let address = SocketAddr::new(service_address(0), 8_080);
        Isolation {
            tools: Tools {
                ip: "/sbin/ip".into(),
                nft: "/sbin/nft".into(),
            },
            run: Run {
                pid: 17,
                started: 4_711,
                link: 300,
            },
            whodunit: "/bin/whodunit".into(),
            hosts: "/data/run/hosts".into(),
            resolv: "/data/run/resolv.conf".into(),
            services: BTreeMap::from([("web".to_owned(), address)]),
        }
    }

    #[test]
    fn what_a_run_made_is_known_by_its_name() {
        let run = isolation().run;
        assert_eq!(run.namespace("web-0"), "whodunit-17-4711-300.web-0");
        assert_eq!(run.namespace("web-0").parse(), Ok(run));
        for other in [
            "whodunit-17-4711",
            "whodunit-test-1-2",
            "whodunit-17-04711-300.a",
            "a",
        ] {
            assert_eq!(other.parse::<Run>(), Err(()), "{other}");
        }
        assert!(run.link_name().len() < 16);
        let (here, hub) = run.link_ends();
        assert_eq!(here, Ipv4Addr::new(198, 19, 4, 177));
        assert_eq!(hub, Ipv4Addr::new(198, 19, 4, 178));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_living_are_told_from_the_dead_and_from_others_with_their_number() {
        let own = Run::own(1).unwrap();
        assert!(own.is_alive());
        let earlier = Run {
            started: own.started - 1,
            ..own
        };
        assert!(!earlier.is_alive());
        let nobody = Run {
            pid: 1 << 30,
            ..own
        };
        assert!(!nobody.is_alive());
    }

    #[test]
    fn names_lead_to_services_and_loopback_leads_to_this_machine() {
        let isolation = isolation();
        let room = isolation.room("web-0", 251);
        assert_eq!(room.address, Ipv4Addr::new(198, 18, 2, 2));
        let mesh = whodunit_control::mesh_file::parse(
            "namespace = 'shop'\n[service.web]\ncommand = 'web'\n",
            Path::new("mesh.toml"),
        );
        let hosts = isolation.hosts(&mesh.unwrap(), &[&room]);
        assert_eq!(
            hosts,
            "127.0.0.1 localhost\n::1 localhost\n198.18.128.1 web web.shop web.shop.svc \
             web.shop.svc.cluster.local\n198.18.2.2 web-0\n"
        );
        let own = "nameserver 127.0.0.53\nnameserver ::1\nsearch example.org\n";
        let (resolv, local) = isolation.resolv(own);
        assert_eq!(resolv, "nameserver 198.19.4.177\nsearch example.org\n");
        assert_eq!(local, Some(Ipv4Addr::new(127, 0, 0, 53)));
        let (resolv, local) = isolation.resolv("nameserver 9.9.9.9\n");
        assert_eq!((resolv.as_str(), local), ("nameserver 9.9.9.9\n", None));
        let inside = |text: &str| {
            isolation
                .seen_from_inside(text.parse().unwrap())
                .to_string()
        };
        assert_eq!(inside("127.0.0.1:7071"), "198.19.4.177:7071");
        assert_eq!(inside("192.0.2.1:5432"), "192.0.2.1:5432");
    }

    #[test]
    fn programs_that_are_missing_are_named_with_the_package_that_has_them() {
        let here = || Some(PathBuf::from("/here"));
        let says = |ip, nft| Tools::from_found(ip, nft).unwrap_err().to_string();
        assert_eq!(
            says(here(), None),
            "cannot isolate instances: there is no program `nft`\nhelp: `apt-get install iproute2 \
             nftables` (Debian), or leave out `--isolate`: the mesh then takes no privileges"
        );
        assert!(says(None, None).contains("no program `ip` and no `nft`"));
        assert!(Tools::from_found(here(), here()).is_ok());
    }

    #[test]
    fn a_process_is_put_into_its_room() {
        let mut spec = Spec {
            instance: "web-0".to_owned(),
            program: "/bin/web".into(),
            arguments: vec!["--port".to_owned()],
            env: vec![],
            working_dir: "/".into(),
            log: "/log".into(),
        };
        isolation().put_into("web-0", &mut spec, true);
        assert_eq!(spec.program, Path::new("/sbin/ip"));
        assert_eq!(
            spec.arguments.join(" "),
            "netns exec whodunit-17-4711-300.web-0 /bin/whodunit __enter /data/run/hosts \
             /data/run/resolv.conf 2102 /bin/web --port"
        );
    }
}
