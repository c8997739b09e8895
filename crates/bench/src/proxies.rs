//! The proxies that are measured: ours, and peers that are installed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::engine::Speak;
use crate::secure::Identity;

/// How long a proxy may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours; records are made, counted and sent.
    Ours,
    /// Ours, without records.
    OursUnrecorded,
    /// Ours, and clients prove who they are by mesh TLS.
    Secured,
    /// Two of ours behind each other, as between two workloads, with mesh TLS between them.
    SecuredPair,
    /// The same two in plain text.
    PlainPair,
    HaProxy,
    Nginx,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursUnrecorded => "ours, recording off",
            Self::Secured => "ours, with mTLS",
            Self::SecuredPair => "a pair of ours with mTLS",
            Self::PlainPair => "a pair of ours",
            Self::HaProxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }
}

/// Where the applications are that a proxy stands before.
pub(crate) type Applications = [(Speak, SocketAddr); Speak::ALL.len()];

/// What proxies need to be started.
pub(crate) struct Setting {
    pub(crate) applications: Applications,
    pub(crate) sink: SocketAddr,
    /// The program of ours.
    pub(crate) ours: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) identity: Identity,
    /// The core proxies run on.
    pub(crate) core: usize,
}

/// A running proxy.
pub(crate) struct Running {
    children: Vec<Child>,
    ports: Vec<(Speak, SocketAddr)>,
}

impl Setting {
    /// Starts a proxy on its core, or a pair of them, and waits until it listens.
    pub(crate) fn start(&self, kind: Kind) -> Result<Running> {
        let mut running = Running {
            children: Vec::new(),
            ports: self.applications.to_vec(),
        };
        match kind {
            Kind::SecuredPair | Kind::PlainPair => {
                self.add(&mut running, kind, Side::Inbound)?;
                self.add(&mut running, kind, Side::Outbound)?;
            }
            _ => self.add(&mut running, kind, Side::Inbound)?,
        }
        Ok(running)
    }

    /// Starts a proxy before what runs already.
    fn add(&self, running: &mut Running, kind: Kind, side: Side) -> Result<()> {
        let ports: Vec<_> = free_ports(Speak::ALL.len())?;
        let ports: Vec<_> = Speak::ALL.into_iter().zip(ports).collect();
        let routes: Vec<_> = ports
            .iter()
            .zip(&running.ports)
            .map(|((speak, listen), (_, behind))| (*speak, *listen, *behind))
            .collect();
        let (file, text) = match kind {
            Kind::HaProxy => ("haproxy.cfg".to_owned(), haproxy(&routes)),
            Kind::Nginx => ("nginx.conf".to_owned(), nginx(&routes)),
            _ => (format!("{side:?}.toml"), self.ours(&routes, kind, side)),
        };
        let path = self.folder.join(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let mut command = match kind {
            Kind::HaProxy => {
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-q").arg("-f").arg(&path);
                command
            }
            Kind::Nginx => {
                let mut command = Command::new("nginx");
                command.arg("-c").arg(&path).arg("-p").arg(&self.folder);
                command.args(["-e", "stderr"]);
                command
            }
            _ => {
                let mut command = Command::new(&self.ours);
                command
                    .arg("--config")
                    .arg(&path)
                    .env("WHODUNIT_LOG", "warn");
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // Children inherit the core of the thread that starts them.
        let own = sched_getaffinity(None)?;
        pin(self.core)?;
        let child = command.spawn();
        sched_setaffinity(None, &own)?;
        running
            .children
            .push(child.with_context(|| format!("start {}", kind.name()))?);
        running.ports = ports;
        running.wait_until_listening(kind)
    }

    /// Returns the configuration of one of ours.
    fn ours(&self, routes: &[Route], kind: Kind, side: Side) -> String {
        let secured = matches!(kind, Kind::Secured | Kind::SecuredPair);
        let (direction, name) = match side {
            Side::Inbound => ("inbound", "app"),
            Side::Outbound => ("outbound", "client"),
        };
        let mut text = format!(
            "[workload]\nnamespace = \"bench\"\nname = \"{name}\"\ninstance = \"{name}-0\"\n\
             [shutdown]\ngrace_ms = 500\n"
        );
        if secured {
            text += &self.identity.table();
        }
        text += &match kind {
            Kind::OursUnrecorded => "[record]\nmode = \"off\"\n".to_owned(),
            _ => format!("[record]\nmode = \"send\"\nserver = \"{}\"\n", self.sink),
        };
        for (speak, listen, behind) in routes {
            let protocol = match speak {
                Speak::Http1 | Speak::Endless => "http1",
                Speak::Http2 => "http2",
                Speak::Grpc => "grpc",
                Speak::Bytes => "opaque",
            };
            text += &format!(
                "[[listener]]\nname = \"{speak:?}\"\nlisten = \"{listen}\"\n\
                 direction = \"{direction}\"\nprotocol = \"{protocol}\"\n\
                 forward = \"{behind}\"\n"
            );
            if secured && side == Side::Outbound {
                text += &format!("server_identity = \"{}\"\n", self.identity.expected());
            }
        }
        text
    }
}

/// Which of two proxies it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Before an application, or the only one.
    Inbound,
    /// Before a client.
    Outbound,
}

impl Running {
    fn wait_until_listening(&mut self, kind: Kind) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for (_, address) in self.ports.clone() {
            while TcpStream::connect(address).is_err() {
                for child in &mut self.children {
                    if let Some(status) = child.try_wait()? {
                        bail!("{} ended at once: {status}", kind.name());
                    }
                }
                if Instant::now() > deadline {
                    bail!("{} does not listen on {address}", kind.name());
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Returns where the proxy takes connections of this kind.
    pub(crate) fn port(&self, speak: Speak) -> Result<SocketAddr> {
        let mut ports = self.ports.iter();
        let found = ports.find(|(spoken, _)| *spoken == speak);
        Ok(found.context("a port for each kind")?.1)
    }

    /// Returns its processes and their children.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.children.iter().map(Child::id).collect();
        for own in all.clone() {
            let children = format!("/proc/{own}/task/{own}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
        all
    }

    /// Ends it, in order if it wants to.
    pub(crate) fn stop(mut self) -> Result<()> {
        for child in &self.children {
            if let Some(id) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_process(id, Signal::TERM)?;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        for child in &mut self.children {
            while child.try_wait()?.is_none() {
                if Instant::now() > deadline {
                    bail!("a proxy does not end");
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Binds this thread to a core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("bind to core {core}"))
}

/// Says what is installed of a peer; None when it is not.
pub(crate) fn version(kind: Kind) -> Option<String> {
    let (program, argument) = match kind {
        Kind::HaProxy => ("haproxy", "-v"),
        Kind::Nginx => ("nginx", "-v"),
        _ => return Some(kind.name().to_owned()),
    };
    let output = Command::new(program).arg(argument).output().ok()?;
    let mut text = String::new();
    let _ = (&output.stdout[..]).read_to_string(&mut text);
    let _ = (&output.stderr[..]).read_to_string(&mut text);
    let line = text.lines().next()?;
    let word = line
        .split([' ', '/'])
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    Some(format!("{} {word}", kind.name()))
}

/// Returns ports that are free now.
fn free_ports(number: usize) -> Result<Vec<SocketAddr>> {
    let held: Vec<TcpListener> = (0..number)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    let addresses = held.iter().map(TcpListener::local_addr);
    addresses.collect::<Result<_, _>>().context("free ports")
}

type Route = (Speak, SocketAddr, SocketAddr);

/// One thread, no logs, upstream connections kept and shared, as many streams as come.
fn haproxy(routes: &[Route]) -> String {
    let mut text = String::from(
        "global\n  nbthread 1\n  no strict-limits\n  maxconn 12000\n  \
         tune.h2.max-concurrent-streams 1000\n\
         defaults\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  \
         timeout http-keep-alive 600s\n  http-reuse always\n",
    );
    for (speak, listen, application) in routes {
        let (mode, proto) = match speak {
            Speak::Http1 | Speak::Endless => ("http", ""),
            Speak::Http2 | Speak::Grpc => ("http", " proto h2"),
            Speak::Bytes => ("tcp", ""),
        };
        text += &format!(
            "listen {speak:?}\n  mode {mode}\n  bind {listen}{proto}\n  \
             server app {application}{proto}\n"
        );
    }
    text
}

/// One worker, no logs, upstream connections kept. It takes HTTP/2 to applications for gRPC
/// only, so its plain HTTP/2 goes that way as well; bytes need a module that is not
/// everywhere, and are left out.
fn nginx(routes: &[Route]) -> String {
    let keep = "keepalive 1024; keepalive_requests 1000000000;";
    let mut text = String::from(
        "daemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr crit;\n\
         events { worker_connections 20000; multi_accept on; }\nhttp {\naccess_log off;\n\
         client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u;\n\
         scgi_temp_path s;\n\
         keepalive_timeout 600s; keepalive_requests 1000000000; \
         http2_max_concurrent_streams 1000;\n",
    );
    for (speak, listen, application) in routes {
        text += &match speak {
            Speak::Http1 | Speak::Endless | Speak::Bytes => format!(
                "upstream {speak:?} {{ server {application}; {keep} }}\n\
                 server {{ listen {listen} backlog=4096; location / {{ \
                 proxy_pass http://{speak:?}; proxy_http_version 1.1; \
                 proxy_set_header Connection \"\"; }} }}\n"
            ),
            Speak::Http2 | Speak::Grpc => format!(
                "upstream {speak:?} {{ server {application}; {keep} }}\n\
                 server {{ listen {listen} http2; location / {{ grpc_pass grpc://{speak:?}; }} }}\n"
            ),
        };
    }
    text + "}\n"
}

/// Makes the folder that peers of another user may enter too.
pub(crate) fn folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, open).with_context(|| format!("open {}", path.display()))
}

/// Writes a line to standard error.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "bench-proxy: {line}");
}
