//! The server and the proxies, as processes with addresses that stay the same.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use whodunit_identity::authority::write_private;
use whodunit_identity::name::LOCAL_TRUST_DOMAIN;
use whodunit_identity::token::Subject;
use whodunit_identity::{Authority, Lifetimes};

/// How often something that has to come is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// A proxy by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Takes the load.
    Edge,
    /// Before one of two instances.
    Web0,
    /// Before the other.
    Web1,
    /// Before an instance that is hardly asked.
    Quiet,
    /// Asks as the edge does; started again and again.
    Spare,
}

impl Stand {
    pub(crate) const ALL: [Self; 5] =
        [Self::Edge, Self::Web0, Self::Web1, Self::Quiet, Self::Spare];

    /// Those that live through the outage.
    const LIVING: [Self; 3] = [Self::Edge, Self::Web0, Self::Quiet];

    const fn workload(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Web0 | Self::Web1 => "web",
            Self::Quiet => "quiet",
            Self::Spare => "spare",
        }
    }

    fn instance(self) -> String {
        let number = u8::from(self == Self::Web1);
        format!("{}-{number}", self.workload())
    }

    const fn calls(self) -> &'static [&'static str] {
        match self {
            Self::Edge => &["web", "quiet"],
            Self::Spare => &["web"],
            Self::Web0 | Self::Web1 | Self::Quiet => &[],
        }
    }
}

/// A port that nobody else is given while we have it.
struct Place {
    address: SocketAddr,
    _held: rustix::fd::OwnedFd,
}

impl Place {
    /// Binds without listening: whoever is to listen there may, and after it somebody else.
    fn take() -> Result<Self> {
        let held = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&held, true)?;
        bind(&held, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = SocketAddr::try_from(getsockname(&held)?).context("an IP address")?;
        Ok(Self {
            address,
            _held: held,
        })
    }
}

/// A proxy and its addresses.
struct Proxy {
    stand: Stand,
    admin: Place,
    listeners: Vec<(&'static str, Place)>,
    child: Option<Child>,
}

/// See the module.
pub(crate) struct Field {
    folder: TempDir,
    binaries: PathBuf,
    http: Place,
    grpc: Place,
    server: Option<Child>,
    proxies: Vec<Proxy>,
}

/// What became of the rows of some proxies.
#[derive(Default)]
pub(crate) struct Accounts {
    pub(crate) rows: f64,
    pub(crate) acknowledged: f64,
    pub(crate) discarded: f64,
    buffered: f64,
    /// Requests without a row that was counted.
    unrecorded: f64,
}

impl Accounts {
    /// Returns what nobody knows the fate of.
    pub(crate) fn missing(&self) -> f64 {
        let rows = self.rows - self.acknowledged - self.discarded - self.buffered;
        rows.abs() + self.unrecorded.abs()
    }
}

impl Field {
    /// Writes all configurations; nothing runs yet.
    pub(crate) fn build(application: SocketAddr) -> Result<Self> {
        let own = std::env::current_exe().context("path of this program")?;
        let folder = tempfile::Builder::new()
            .prefix("whodunit-outage-")
            .tempdir();
        let folder = folder.context("a temporary folder")?;
        let proxy = |stand: Stand| -> Result<Proxy> {
            let inbound = stand.calls().is_empty().then_some("in");
            let names = inbound.into_iter().chain(stand.calls().iter().copied());
            let listeners = names.map(|name| Ok((name, Place::take()?)));
            Ok(Proxy {
                stand,
                admin: Place::take()?,
                listeners: listeners.collect::<Result<_>>()?,
                child: None,
            })
        };
        let field = Self {
            binaries: own.parent().context("folder of this program")?.to_owned(),
            http: Place::take()?,
            grpc: Place::take()?,
            server: None,
            proxies: Stand::ALL.into_iter().map(proxy).collect::<Result<_>>()?,
            folder,
        };
        field.write(application)?;
        Ok(field)
    }

    /// Leaves configurations and logs in place; returns where.
    pub(crate) fn keep(&mut self) -> &std::path::Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, application: SocketAddr) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let identity = self.path("data").join("identity");
        fs::create_dir_all(self.path("data"))?;
        let authority = Authority::open(
            &identity,
            LOCAL_TRUST_DOMAIN,
            Lifetimes::default(),
            i64::try_from(now.as_secs())?,
        )?;
        for proxy in &self.proxies {
            let (workload, instance) = (proxy.stand.workload(), proxy.stand.instance());
            let token = authority.token_key().issue(&Subject {
                namespace: "field".to_owned(),
                account: workload.to_owned(),
                instance: instance.clone(),
            });
            let token_file = self.path(&format!("{instance}.token"));
            write_private(&token_file, token.as_bytes())?;
            let server = self.grpc.address;
            let mut text = format!(
                "[workload]\nnamespace = \"field\"\nname = \"{workload}\"\n\
                 instance = \"{instance}\"\n[admin]\nlisten = \"{}\"\n\
                 [control]\nserver = \"{server}\"\nsnapshot = \"{}\"\n\
                 [record]\nserver = \"{server}\"\n\
                 [identity]\ntrust_anchors = \"{}\"\nserver = \"{server}\"\n\
                 token_file = \"{}\"\nstate_file = \"{}\"\n",
                proxy.admin.address,
                self.path(&format!("{instance}.snapshot")).display(),
                authority.anchors_file().display(),
                token_file.display(),
                self.path(&format!("{instance}.pem")).display(),
            );
            if proxy.stand.calls().is_empty() {
                text += "[policy]\ndefault = \"deny\"\nwatch = true\n";
            }
            for (name, place) in &proxy.listeners {
                let target = if *name == "in" {
                    format!("direction = \"inbound\"\nforward = \"{application}\"")
                } else {
                    format!("direction = \"outbound\"\nservice = \"{name}\"")
                };
                text += &format!(
                    "[[listener]]\nname = \"{name}\"\nlisten = \"{}\"\nprotocol = \"http1\"\n\
                     {target}\n",
                    place.address
                );
            }
            fs::write(self.path(&format!("{instance}.toml")), text)?;
        }
        let services = ["web", "quiet"].map(|name| self.service(name));
        let topology = format!("{{\"services\":[{}]}}", services.join(","));
        fs::write(self.path("topology.json"), topology)?;
        Ok(())
    }

    fn service(&self, name: &str) -> String {
        let before = |proxy: &&Proxy| proxy.stand.workload() == name;
        let endpoint = |proxy: &Proxy| {
            format!(
                "{{\"address\":\"{}\",\"instance\":\"{}\",\"meshed\":true,\"ready\":true,\
                 \"identity\":\"spiffe://{LOCAL_TRUST_DOMAIN}/ns/field/sa/{name}\"}}",
                self.listener(proxy.stand, "in"),
                proxy.stand.instance()
            )
        };
        let endpoints = self.proxies.iter().filter(before).map(endpoint);
        format!(
            "{{\"namespace\":\"field\",\"name\":\"{name}\",\"workload\":\"{name}\",\
             \"protocol\":\"http1\",\"policy\":{{\"default\":\"allow\"}},\"endpoints\":[{}]}}",
            endpoints.collect::<Vec<_>>().join(",")
        )
    }

    /// Starts the server, on the data that it may have left.
    pub(crate) fn start_server(&mut self) -> Result<()> {
        let mut command = Command::new(self.binaries.join("whodunit"));
        command
            .arg("serve")
            .arg("--data")
            .arg(self.path("data"))
            .arg("--topology")
            .arg(self.path("topology.json"))
            .args(["--listen", &self.http.address.to_string()])
            .args(["--grpc-listen", &self.grpc.address.to_string()]);
        self.server = Some(self.run(command, "server")?);
        Ok(())
    }

    /// Ends the server with no chance to say so.
    pub(crate) fn kill_server(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the server runs")?;
        server.kill().context("kill the server")?;
        server.wait().context("the server's end")?;
        Ok(())
    }

    /// Starts a proxy.
    pub(crate) fn start(&mut self, stand: Stand) -> Result<()> {
        let instance = stand.instance();
        let mut command = Command::new(self.binaries.join("whodunit-proxy"));
        command
            .arg("--config")
            .arg(self.path(&format!("{instance}.toml")));
        let child = self.run(command, &instance)?;
        self.proxy_mut(stand)?.child = Some(child);
        Ok(())
    }

    /// Ends a proxy with no chance to say so.
    pub(crate) fn kill(&mut self, stand: Stand) -> Result<()> {
        let child = self.proxy_mut(stand)?.child.take();
        let mut child = child.context("the proxy runs")?;
        child.kill().context("kill a proxy")?;
        child.wait().context("the end of a proxy")?;
        Ok(())
    }

    /// Starts a proxy, and returns how long its first answer took from then.
    pub(crate) async fn restart(
        &mut self,
        stand: Stand,
        listener: &str,
        patience: Duration,
    ) -> Result<Duration> {
        let began = Instant::now();
        self.start(stand)?;
        crate::first_answer(self.listener(stand, listener), patience).await?;
        Ok(began.elapsed())
    }

    fn run(&self, mut command: Command, name: &str) -> Result<Child> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))?;
        let program = command.get_program().to_owned();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", PathBuf::from(program).display()))
    }

    fn proxy(&self, stand: Stand) -> Option<&Proxy> {
        self.proxies.iter().find(|proxy| proxy.stand == stand)
    }

    fn proxy_mut(&mut self, stand: Stand) -> Result<&mut Proxy> {
        let mut proxies = self.proxies.iter_mut();
        let found = proxies.find(|proxy| proxy.stand == stand);
        found.context("a proxy of each kind")
    }

    /// Returns where a listener is, port 0 if there is none.
    pub(crate) fn listener(&self, stand: Stand, name: &str) -> SocketAddr {
        let listeners = self.proxy(stand).map(|proxy| proxy.listeners.iter());
        let found = listeners.and_then(|mut all| all.find(|(known, _)| *known == name));
        found.map_or_else(
            || (Ipv4Addr::LOCALHOST, 0).into(),
            |(_, place)| place.address,
        )
    }

    /// Waits until every proxy has kept what it needs for a start on its own.
    pub(crate) async fn wait_for_snapshots(&self, patience: Duration) -> Result<()> {
        let began = Instant::now();
        for proxy in &self.proxies {
            let instance = proxy.stand.instance();
            let has = |what: &str| {
                let text = fs::read(self.path(&format!("{instance}.snapshot")));
                let text = String::from_utf8(text.unwrap_or_default());
                text.is_ok_and(|text| text.contains(what))
            };
            let whole = || {
                let calls = proxy.stand.calls();
                let services = calls.iter().all(|name| has(&format!("{name}-0")));
                let policy = !calls.is_empty() || has("\"policy\":");
                let certificate = self.path(&format!("{instance}.pem"));
                services && policy && certificate.exists()
            };
            while !whole() {
                if began.elapsed() > patience {
                    bail!("{instance} never kept what the server says");
                }
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Waits until the server is heard by every proxy that lives, and nothing that was kept
    /// is left; false if that took too long. What is recorded meanwhile does not count.
    pub(crate) async fn wait_for_delivery(&self, patience: Duration) -> Result<bool> {
        let began = Instant::now();
        for stand in Stand::LIVING {
            let now = self.metrics(stand).await.unwrap_or_default();
            let rows = value(&now, "whodunit_recorder_rows_total");
            loop {
                let now = self.metrics(stand).await.unwrap_or_default();
                let settled = value(&now, "whodunit_recorder_acknowledged_rows_total")
                    + value(&now, "whodunit_recorder_discarded_rows_total");
                let connected = now.contains("whodunit_discovery_age_seconds")
                    && value(&now, "whodunit_discovery_age_seconds") == 0.0;
                let discovers = self
                    .proxy(stand)
                    .is_some_and(|p| !p.stand.calls().is_empty());
                if settled >= rows && settled > 0.0 && (connected || !discovers) {
                    break;
                }
                if began.elapsed() > patience {
                    return Ok(false);
                }
                sleep(LOOK).await;
            }
        }
        Ok(true)
    }

    /// Returns the accounts of the proxies that live, once nothing moves.
    pub(crate) async fn accounts(&self, patience: Duration) -> Result<Accounts> {
        let began = Instant::now();
        loop {
            let mut all = Accounts::default();
            for stand in Stand::LIVING {
                let now = self.metrics(stand).await?;
                let value = |name: &str| value(&now, &format!("whodunit_recorder_{name}"));
                all.rows += value("rows_total");
                all.acknowledged += value("acknowledged_rows_total");
                all.discarded += value("discarded_rows_total");
                all.buffered += value("buffered_rows");
                all.unrecorded += value("started_total")
                    - value("recorded_total")
                    - value("in_flight")
                    - value("dropped_total");
            }
            if all.buffered == 0.0 && all.missing() == 0.0 || began.elapsed() > patience {
                return Ok(all);
            }
            sleep(LOOK).await;
        }
    }

    async fn metrics(&self, stand: Stand) -> Result<String> {
        let admin = self.proxy(stand).context("a proxy of each kind")?;
        let admin = admin.admin.address;
        let ask = async {
            let mut stream = TcpStream::connect(admin).await?;
            let request =
                format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let text = timeout(Duration::from_secs(10), ask).await;
        text.context("the admin address does not answer")?
            .with_context(|| format!("read metrics of {}", stand.instance()))
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        let proxies = self.proxies.iter_mut().map(|proxy| &mut proxy.child);
        for child in proxies.chain([&mut self.server]).flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns the sum of all series of a name.
fn value(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix('{').map_or(rest, |labels| {
            labels.rsplit_once('}').map_or("", |(_, value)| value)
        });
        rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_name_are_summed_and_others_left_out() {
        let text = "# HELP a b\na{x=\"1\"} 2\na{x=\"}\"} 3\na_total 9\nb 4\na 1\n";
        assert_eq!((value(text, "a"), value(text, "b")), (6.0, 4.0));
        assert_eq!(value(text, "c"), 0.0);
    }
}
