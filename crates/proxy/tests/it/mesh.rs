//! Starts proxies and collects what they record.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use whodunit_model::RequestRecord;
use whodunit_model::record::{Kind, Side};
use whodunit_model::topology::Endpoint;
use whodunit_proxy::{Config, Proxy, Running};

use crate::server::Server;

/// Longest wait for anything in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Waits until `found` returns something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, found: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    wait(what.to_owned(), caller, found)
}

async fn wait<T>(
    what: String,
    caller: &'static std::panic::Location<'static>,
    mut found: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "{caller}: waited in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A proxy's configuration, in the words of the file.
pub(crate) struct Setup {
    text: String,
}

impl Setup {
    /// A proxy beside `name`, with an admin address, that talks to `server`.
    pub(crate) fn new(name: &str, server: &Server) -> Self {
        Self::with_servers(name, &server.address.to_string(), "")
    }

    /// As [`Setup::new`], with further lines for `[record]`.
    pub(crate) fn with_servers(name: &str, server: &str, record: &str) -> Self {
        let text = format!(
            "[workload]\nnamespace = \"test\"\nname = \"{name}\"\ninstance = \"{name}-0\"\n\
             version = \"v1\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [control]\nserver = \"{server}\"\n\
             [record]\nserver = \"{server}\"\n{record}\n\
             [capture]\nquery = [\"choice\"]\nheaders = [\"x-tenant\"]\n\
             [shutdown]\ngrace_ms = 500\n"
        );
        Self { text }
    }

    /// Adds an inbound listener `in`.
    pub(crate) fn inbound(self, protocol: &str, app: SocketAddr) -> Self {
        self.listener("in", "inbound", protocol, &format!("forward = \"{app}\""))
    }

    /// Adds an outbound listener named as the service.
    pub(crate) fn outbound(self, protocol: &str, service: &str) -> Self {
        self.listener(
            service,
            "outbound",
            protocol,
            &format!("service = \"{service}\""),
        )
    }

    /// Adds a listener.
    pub(crate) fn listener(
        mut self,
        name: &str,
        direction: &str,
        protocol: &str,
        target: &str,
    ) -> Self {
        self.text.push_str(&format!(
            "[[listener]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\n\
             direction = \"{direction}\"\nprotocol = \"{protocol}\"\n{target}\n"
        ));
        self
    }

    /// Adds tables at the end.
    pub(crate) fn table(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self.text.push('\n');
        self
    }

    /// Puts a line before all tables.
    pub(crate) fn top(mut self, line: &str) -> Self {
        self.text.insert_str(0, &format!("{line}\n"));
        self
    }

    /// Gives open requests this long to end.
    pub(crate) fn grace_ms(mut self, grace_ms: u32) -> Self {
        self.text = self
            .text
            .replace("grace_ms = 500", &format!("grace_ms = {grace_ms}"));
        self
    }

    /// Lets open requests go on for long after a shutdown began.
    pub(crate) fn patient(mut self) -> Self {
        self.text = self.text.replace("grace_ms = 500\n", "grace_ms = 15000\n");
        assert!(self.text.contains("grace_ms = 15000"));
        self
    }

    /// Keeps what the server says in a file.
    pub(crate) fn snapshot(mut self, file: &Path) -> Self {
        let table = format!("[control]\nsnapshot = \"{}\"\n", file.display());
        self.text = self.text.replace("[control]\n", &table);
        self
    }

    /// Follows the routes of the server.
    pub(crate) fn routes(mut self) -> Self {
        self.text = self
            .text
            .replace("[control]\n", "[control]\nroutes = true\n");
        self
    }

    /// Returns the text of the file.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Starts the proxy.
    pub(crate) fn start(self) -> Running {
        let config = Config::parse(&self.text, Path::new("proxy.toml")).expect(&self.text);
        Proxy::start(config).expect("start")
    }
}

/// Returns the bound address of a listener.
pub(crate) fn at(proxy: &Running, listener: &str) -> SocketAddr {
    proxy.listener(listener).expect(listener)
}

/// Ends a proxy without blocking the runtime of the test.
pub(crate) async fn end(proxy: Running) {
    tokio::task::spawn_blocking(move || proxy.shutdown())
        .await
        .expect("ends");
}

/// Returns an endpoint as discovery tells it.
pub(crate) fn endpoint(address: SocketAddr, instance: &str, meshed: bool) -> Endpoint {
    Endpoint {
        address,
        instance: instance.to_owned(),
        version: "v1".to_owned(),
        meshed,
        ready: true,
        identity: String::new(),
        server_name: String::new(),
    }
}

/// Waits for the final record of one side, by path.
pub(crate) async fn record(server: &Server, side: Side, path: &str) -> RequestRecord {
    record_where(server, |row| {
        row.side == side && &*row.path == path && row.kind == Kind::Request
    })
    .await
}

/// Waits for a record.
pub(crate) async fn record_where(
    server: &Server,
    wanted: impl Fn(&RequestRecord) -> bool,
) -> RequestRecord {
    let found = wait_for("a record", || server.records().into_iter().find(&wanted));
    found.await
}

/// A caller and a callee, each with a proxy, around one application.
pub(crate) struct Pair {
    pub(crate) server: Server,
    pub(crate) callee: Running,
    pub(crate) caller: Running,
}

impl Pair {
    /// Starts both proxies; `app` is the application of `callee`.
    pub(crate) async fn start(protocol: &str, app: SocketAddr) -> Self {
        let server = Server::start().await;
        let callee = Setup::new("callee", &server).inbound(protocol, app).start();
        server.discover("callee", &[endpoint(at(&callee, "in"), "callee-0", true)]);
        let caller = Setup::new("caller", &server)
            .outbound(protocol, "callee")
            .start();
        Self {
            server,
            callee,
            caller,
        }
    }

    /// Where the caller's application connects.
    pub(crate) fn address(&self) -> SocketAddr {
        at(&self.caller, "callee")
    }

    /// Ends both proxies, and checks the accounts of both.
    pub(crate) async fn end(self) {
        for proxy in [self.caller, self.callee] {
            crate::sending::conserved(&proxy).await;
            end(proxy).await;
        }
    }
}
