//! From the text of `proxy.toml` to [`Config`].

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use whodunit_flight::Mode;
use whodunit_model::Party;
use whodunit_model::policy::{Mode as PolicyMode, Policy};
use whodunit_model::record::Side;
use whodunit_model::redact::Redaction;
use whodunit_model::topology::ServiceName;

use super::policy::{self, PolicyTable};
use super::route::{self, RouteTable};
use super::{
    Config, ConfigError, Declared, ForwardProtocol, Identity, Listener, Proof, Record, Target,
};
use crate::limits::Limit;

/// Most worker threads; more than any machine of today has use for.
const WORKERS_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workers: Option<Spanned<usize>>,
    workload: Workload,
    admin: Option<Admin>,
    #[serde(default)]
    listener: Vec<Spanned<ListenerTable>>,
    control: Option<Control>,
    record: Option<Spanned<RecordTable>>,
    capture: Option<Capture>,
    shutdown: Option<Shutdown>,
    policy: Option<PolicyTable>,
    identity: Option<Spanned<IdentityTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Workload {
    namespace: Spanned<String>,
    name: Spanned<String>,
    instance: Spanned<String>,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Admin {
    listen: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerTable {
    name: Spanned<String>,
    listen: Spanned<String>,
    port: Option<Spanned<u16>>,
    direction: Spanned<String>,
    protocol: Option<Spanned<String>>,
    forward: Option<Spanned<String>>,
    forward_protocol: Option<Spanned<String>>,
    service: Option<Spanned<String>>,
    namespace: Option<Spanned<String>>,
    policy: Option<Spanned<String>>,
    server_identity: Option<Spanned<String>>,
    adaptive_limit: Option<Spanned<bool>>,
    #[serde(default)]
    route: Vec<Spanned<RouteTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    server: Spanned<String>,
    #[serde(default)]
    routes: bool,
    snapshot: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordTable {
    mode: Option<Spanned<String>>,
    server: Option<Spanned<String>>,
    buffer_bytes: Option<Spanned<usize>>,
    queue_rows: Option<Spanned<usize>>,
    key_file: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capture {
    #[serde(default)]
    query: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shutdown {
    grace_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityTable {
    trust_anchors: PathBuf,
    certificate: Option<PathBuf>,
    private_key: Option<PathBuf>,
    server: Option<Spanned<String>>,
    token_file: Option<PathBuf>,
    state_file: Option<PathBuf>,
}

/// Turns positions of the text into errors.
pub(super) struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Source<'_> {
    fn error(&self, offset: usize, what: String) -> ConfigError {
        let before = self.text.get(..offset).unwrap_or(self.text);
        ConfigError::Invalid {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            what,
        }
    }

    pub(super) fn at<T>(&self, value: &Spanned<T>, what: String) -> ConfigError {
        self.error(value.span().start, what)
    }

    fn address(&self, key: &str, value: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
        value.get_ref().parse().map_err(|_| {
            self.at(
                value,
                format!(
                    "`{key}` is `{}`: write an IP address and port such as 127.0.0.1:4191",
                    value.get_ref()
                ),
            )
        })
    }

    pub(super) fn name(&self, key: &str, value: &Spanned<String>) -> Result<String, ConfigError> {
        let name = value.get_ref();
        let plain = !name.is_empty()
            && name.len() <= 253
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if plain {
            return Ok(name.clone());
        }
        Err(self.at(
            value,
            format!("`{key}` is `{name}`: use 1 to 253 letters, digits, `-`, `_` or `.`"),
        ))
    }

    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        value: &Spanned<String>,
        choices: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let found = choices.iter().find(|(name, _)| name == value.get_ref());
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.at(
                value,
                format!(
                    "`{key}` is `{}`: use one of {}",
                    value.get_ref(),
                    names.join(", ")
                ),
            )
        })
    }
}

/// Reads and checks a whole file.
pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let source = Source { text, path };
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line_text = line_at(text, start);
        let shown = if line_text.is_empty() {
            String::new()
        } else {
            format!(" (in `{line_text}`)")
        };
        source.error(start, format!("{}{shown}", error.message()))
    })?;
    let namespace = source.name("workload.namespace", &file.workload.namespace)?;
    let workload = Party {
        namespace: namespace.as_str().into(),
        workload: source.name("workload.name", &file.workload.name)?.into(),
        instance: source
            .name("workload.instance", &file.workload.instance)?
            .into(),
        version: file.workload.version.into(),
    };
    let identity = identity(&source, file.identity.as_ref())?;
    let admin = admin(&source, file.admin.as_ref())?;
    let control = match &file.control {
        Some(control) => Some(source.address("control.server", &control.server)?),
        None => None,
    };
    let mut listeners = listeners(&source, &file.listener, &namespace, control.is_some())?;
    let own = own_modes(&source, &file.listener, &listeners)?;
    let proves = identity.is_some();
    let watch = file
        .policy
        .as_ref()
        .and_then(|policy| policy.watch.as_ref());
    let policy_watch = watch.is_some_and(|watch| *watch.get_ref());
    if let Some(watch) = watch.filter(|_| policy_watch && control.is_none()) {
        let what = "`policy.watch` asks the server, and there is no `[control]`: add \
                    `[control] server = \"ADDRESS\"`";
        return Err(source.at(watch, what.to_owned()));
    }
    policy::apply(&source, file.policy.as_ref(), &own, &mut listeners, proves)?;
    if identity.is_none()
        && let Some(listener) = file
            .listener
            .iter()
            .find(|l| l.get_ref().server_identity.is_some())
    {
        let what = "`server_identity` needs `[identity]`: add a certificate of the proxy's own";
        return Err(source.at(listener, what.to_owned()));
    }
    let (record, key) = record(&source, file.record.as_ref())?;
    let capture = file.capture.unwrap_or(Capture {
        query: vec![],
        headers: vec![],
    });
    let workers = match &file.workers {
        Some(workers) if !(1..=WORKERS_MAX).contains(workers.get_ref()) => {
            let what = format!("`workers` is {}: use 1 to {WORKERS_MAX}", workers.get_ref());
            return Err(source.at(workers, what));
        }
        Some(workers) => *workers.get_ref(),
        None => 1,
    };
    Ok(Config {
        workload,
        admin,
        listeners,
        policy_watch,
        control,
        routes_watch: file.control.as_ref().is_some_and(|control| control.routes),
        snapshot: file.control.and_then(|control| control.snapshot),
        record,
        redaction: Redaction {
            key,
            query: capture.query,
            headers: capture
                .headers
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
        },
        shutdown_grace: file.shutdown.map_or(Limit::ShutdownTime.time(), |s| {
            Duration::from_millis(s.grace_ms)
        }),
        workers,
        identity,
    })
}

fn identity(
    source: &Source<'_>,
    table: Option<&Spanned<IdentityTable>>,
) -> Result<Option<Identity>, ConfigError> {
    let Some(spanned) = table else {
        return Ok(None);
    };
    let table = spanned.get_ref();
    let files = (&table.certificate, &table.private_key);
    let asked = (&table.server, &table.token_file, &table.state_file);
    let proof = match (files, asked) {
        ((Some(certificate), Some(private_key)), (None, None, None)) => Proof::Files {
            certificate: certificate.clone(),
            private_key: private_key.clone(),
        },
        ((None, None), (Some(server), Some(token_file), state_file)) => Proof::Server {
            server: source.address("identity.server", server)?,
            token_file: token_file.clone(),
            state_file: state_file.clone(),
        },
        _ => {
            let what = "`identity` needs either `certificate` and `private_key`, both PEM files, \
                        or `server` and `token_file`";
            return Err(source.at(spanned, what.to_owned()));
        }
    };
    Ok(Some(Identity {
        trust_anchors: table.trust_anchors.clone(),
        proof,
    }))
}

fn line_at(text: &str, offset: usize) -> &str {
    let offset = offset.min(text.len());
    let start = text
        .get(..offset)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |i| i + 1);
    text.get(start..)
        .and_then(|rest| rest.lines().next())
        .unwrap_or_default()
        .trim()
}

fn admin(source: &Source<'_>, admin: Option<&Admin>) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(admin) = admin else { return Ok(None) };
    let address = source.address("admin.listen", &admin.listen)?;
    if !address.ip().is_loopback() {
        let what =
            format!("`admin.listen` is {address}: use a loopback address, 127.0.0.1 or [::1]");
        return Err(source.at(&admin.listen, what));
    }
    Ok(Some(address))
}

fn listeners(
    source: &Source<'_>,
    tables: &[Spanned<ListenerTable>],
    namespace: &str,
    discovers: bool,
) -> Result<Vec<Listener>, ConfigError> {
    let mut names = HashSet::new();
    let mut addresses = HashSet::new();
    let mut listeners: Vec<Listener> = Vec::with_capacity(tables.len());
    for spanned in tables {
        let table = spanned.get_ref();
        let name = source.name("listener.name", &table.name)?;
        if !names.insert(name.clone()) {
            let what = format!("`listener.name` `{name}` is used twice: give each its own name");
            return Err(source.at(&table.name, what));
        }
        let listen = source.address("listener.listen", &table.listen)?;
        if listen.port() != 0 && !addresses.insert(listen) {
            let what = format!("`listener.listen` {listen} is used twice: give each its own port");
            return Err(source.at(&table.listen, what));
        }
        let directions = [("inbound", Side::Inbound), ("outbound", Side::Outbound)];
        let direction = source.choice("listener.direction", &table.direction, &directions)?;
        let protocols = [
            ("detect", Declared::Detect),
            ("http1", Declared::Http1),
            ("http2", Declared::Http2),
            ("grpc", Declared::Grpc),
            ("opaque", Declared::Opaque),
        ];
        let protocol = match &table.protocol {
            Some(protocol) => source.choice("listener.protocol", protocol, &protocols)?,
            None => Declared::Detect,
        };
        let target = target(source, spanned, &name, direction, namespace)?;
        if matches!(target, Target::Service(_)) && !discovers {
            let what = format!(
                "listener `{name}` has `service` but there is no `[control]`: \
                 add `[control] server = \"ADDRESS\"` or use `forward`"
            );
            return Err(source.at(spanned, what));
        }
        let discovered = match &target {
            Target::Service(service) => Some(service.namespace.as_str()),
            Target::Forward(_) | Target::OriginalDst => None,
        };
        let server_identity = server_identity(source, table, direction)?;
        let routes = route::rules(source, &table.route, discovered)?;
        let forward_protocol = forward_protocol(source, table, &name, protocol)?;
        listeners.push(Listener {
            name,
            forward_protocol,
            server_identity,
            adaptive_limit: adaptive_limit(source, table, direction)?,
            routes,
            policy: Policy::plain(PolicyMode::Allow),
            listen,
            port: client_port(source, table, direction)?,
            direction,
            protocol,
            target,
        });
    }
    refuse_loops(source, tables, &listeners)?;
    if listeners.is_empty() {
        let what = "there is no `[[listener]]`: add at least one".to_owned();
        return Err(source.error(0, what));
    }
    Ok(listeners)
}

/// Reads the port by which clients know a listener that connections are redirected to.
fn client_port(
    source: &Source<'_>,
    table: &ListenerTable,
    direction: Side,
) -> Result<Option<u16>, ConfigError> {
    let Some(port) = &table.port else {
        return Ok(None);
    };
    let forwards = table.forward.as_ref();
    let redirected = forwards.is_some_and(|forward| forward.get_ref() == "original-dst");
    if direction == Side::Outbound || redirected || *port.get_ref() == 0 {
        let what = "`listener.port` is for inbound listeners that forward to an address: the port \
                    that clients connect to, 1 to 65535"
            .to_owned();
        return Err(source.at(port, what));
    }
    Ok(Some(*port.get_ref()))
}

/// Reads the policy that listeners have of their own.
fn own_modes(
    source: &Source<'_>,
    tables: &[Spanned<ListenerTable>],
    listeners: &[Listener],
) -> Result<Vec<Option<PolicyMode>>, ConfigError> {
    let own = |(table, listener): (&Spanned<ListenerTable>, &Listener)| {
        let Some(value) = &table.get_ref().policy else {
            return Ok(None);
        };
        if listener.direction == Side::Outbound {
            let what = format!(
                "listener `{}` is outbound: `policy` is about what comes in; remove it",
                listener.name
            );
            return Err(source.at(value, what));
        }
        policy::mode(source, "listener.policy", value).map(Some)
    };
    tables.iter().zip(listeners).map(own).collect()
}

/// Reads what the endpoints of a listener are spoken to in.
fn forward_protocol(
    source: &Source<'_>,
    table: &ListenerTable,
    name: &str,
    declared: Declared,
) -> Result<ForwardProtocol, ConfigError> {
    let Some(value) = &table.forward_protocol else {
        return Ok(ForwardProtocol::Auto);
    };
    let protocols = [
        ("auto", ForwardProtocol::Auto),
        ("http1", ForwardProtocol::Http1),
        ("http2", ForwardProtocol::Http2),
    ];
    let protocol = source.choice("listener.forward_protocol", value, &protocols)?;
    let what = match (declared, protocol) {
        (Declared::Opaque, _) => format!(
            "listener `{name}` is opaque: its bytes are not looked at, so `forward_protocol` means \
             nothing; remove it"
        ),
        (Declared::Grpc, ForwardProtocol::Http1) => format!(
            "listener `{name}` carries gRPC, which needs HTTP/2: use `forward_protocol` auto or \
             http2"
        ),
        _ => return Ok(protocol),
    };
    Err(source.at(value, what))
}

/// Says whether an inbound listener limits what its application has to do at once.
fn adaptive_limit(
    source: &Source<'_>,
    table: &ListenerTable,
    direction: Side,
) -> Result<bool, ConfigError> {
    match &table.adaptive_limit {
        Some(limit) if direction == Side::Outbound => {
            let what = "`adaptive_limit` belongs to an inbound listener: remove it here";
            Err(source.at(limit, what.to_owned()))
        }
        Some(limit) => Ok(*limit.get_ref()),
        None => Ok(direction == Side::Inbound),
    }
}

/// Reads whom an outbound listener expects at its fixed address.
fn server_identity(
    source: &Source<'_>,
    table: &ListenerTable,
    direction: Side,
) -> Result<Option<String>, ConfigError> {
    let Some(expected) = &table.server_identity else {
        return Ok(None);
    };
    let fixed = table.forward.as_ref();
    let fixed = fixed.is_some_and(|forward| forward.get_ref() != "original-dst");
    if direction == Side::Inbound || !fixed {
        let what = "`server_identity` belongs to an outbound listener with `forward` \
                    to an address: discovery knows the identities of services";
        return Err(source.at(expected, what.to_owned()));
    }
    let identity = whodunit_identity::name::identity(expected.get_ref());
    identity.map(Some).map_err(|why| {
        let what = format!(
            "`server_identity` is `{}`: {why}; write spiffe://TRUST-DOMAIN/PATH or a host name",
            expected.get_ref()
        );
        source.at(expected, what)
    })
}

/// Refuses to forward into a listener of the same proxy, but from the outbound to the
/// inbound side: an application may call itself.
fn refuse_loops(
    source: &Source<'_>,
    tables: &[Spanned<ListenerTable>],
    listeners: &[Listener],
) -> Result<(), ConfigError> {
    for (table, listener) in tables.iter().zip(listeners) {
        let Target::Forward(forward) = &listener.target else {
            continue;
        };
        let loops = |other: &&Listener| {
            let calls_itself =
                listener.direction == Side::Outbound && other.direction == Side::Inbound;
            other.listen == *forward && !calls_itself
        };
        if let Some(other) = listeners.iter().find(loops) {
            let what = format!(
                "listener `{}` forwards to {forward}, where listener `{}` of this proxy listens: \
                 that is a loop; forward to the application's own port",
                listener.name, other.name
            );
            return Err(source.at(table, what));
        }
    }
    Ok(())
}

fn target(
    source: &Source<'_>,
    table: &Spanned<ListenerTable>,
    name: &str,
    direction: Side,
    namespace: &str,
) -> Result<Target, ConfigError> {
    let ListenerTable {
        forward,
        service,
        namespace: other,
        ..
    } = table.get_ref();
    match (forward, service) {
        (Some(forward), None) => {
            if let Some(namespace) = other {
                let what =
                    format!("listener `{name}`: `namespace` belongs to `service`; remove it");
                return Err(source.at(namespace, what));
            }
            if forward.get_ref() == "original-dst" {
                if cfg!(target_os = "linux") {
                    return Ok(Target::OriginalDst);
                }
                let what = format!(
                    "listener `{name}`: only Linux tells where a redirected connection was \
                     going; write an address such as 127.0.0.1:9101"
                );
                return Err(source.at(forward, what));
            }
            let address = source.address("listener.forward", forward)?;
            if address.port() == 0 {
                let what = format!("listener `{name}`: `forward` needs a port other than 0");
                return Err(source.at(forward, what));
            }
            Ok(Target::Forward(address))
        }
        (None, Some(service)) if direction == Side::Outbound => {
            let namespace = match other {
                Some(namespace) => source.name("listener.namespace", namespace)?,
                None => namespace.to_owned(),
            };
            let name = source.name("listener.service", service)?;
            Ok(Target::Service(ServiceName { namespace, name }))
        }
        (None, Some(service)) => {
            let what = format!(
                "listener `{name}` is inbound: use `forward` with the application's address, \
                 not `service`"
            );
            Err(source.at(service, what))
        }
        (Some(_), Some(service)) => {
            let what = format!("listener `{name}` has both `forward` and `service`: keep one");
            Err(source.at(service, what))
        }
        (None, None) => {
            let what = format!("listener `{name}` has nowhere to go: add `forward` or `service`");
            Err(source.at(table, what))
        }
    }
}

fn record(
    source: &Source<'_>,
    table: Option<&Spanned<RecordTable>>,
) -> Result<(Record, [u8; 16]), ConfigError> {
    let defaults = whodunit_flight::Config::new(whodunit_model::BootId(0));
    let mut record = Record {
        mode: Mode::Drop,
        server: None,
        buffer_bytes: defaults.buffer_bytes,
        queue_rows: defaults.queue_rows,
    };
    let Some(spanned) = table else {
        return Ok((record, random_key(source)?));
    };
    let table = spanned.get_ref();
    if let Some(server) = &table.server {
        record.server = Some(source.address("record.server", server)?);
        record.mode = Mode::Send;
    }
    if let Some(mode) = &table.mode {
        let modes = [
            ("off", Mode::Off),
            ("drop", Mode::Drop),
            ("send", Mode::Send),
        ];
        record.mode = source.choice("record.mode", mode, &modes)?;
    }
    if record.mode == Mode::Send && record.server.is_none() {
        let what = "`record.mode` is `send` but there is no `record.server`: add its address, \
                    or use mode off or drop";
        return Err(source.at(spanned, what.to_owned()));
    }
    let bounded = |key: &str, value: &Option<Spanned<usize>>, default, min, max| match value {
        None => Ok(default),
        Some(value) if (min..=max).contains(value.get_ref()) => Ok(*value.get_ref()),
        Some(value) => {
            let what = format!("`{key}` is {}: use {min} to {max}", value.get_ref());
            Err(source.at(value, what))
        }
    };
    record.buffer_bytes = bounded(
        "record.buffer_bytes",
        &table.buffer_bytes,
        record.buffer_bytes,
        64 << 10,
        1 << 30,
    )?;
    record.queue_rows = bounded(
        "record.queue_rows",
        &table.queue_rows,
        record.queue_rows,
        1,
        1 << 20,
    )?;
    let key = match &table.key_file {
        Some(path) => key_from(source, path)?,
        None => random_key(source)?,
    };
    Ok((record, key))
}

/// Without a key file equal secrets cannot be recognized across proxies or boots, which is
/// the safe side to err on.
fn random_key(source: &Source<'_>) -> Result<[u8; 16], ConfigError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key)
        .map_err(|error| source.error(0, format!("draw a random redaction key: {error}")))?;
    Ok(key)
}

fn key_from(source: &Source<'_>, path: &Spanned<PathBuf>) -> Result<[u8; 16], ConfigError> {
    let shown = path.get_ref().display();
    let text = std::fs::read_to_string(path.get_ref())
        .map_err(|error| source.at(path, format!("`record.key_file`: read {shown}: {error}")))?;
    let digits = text.trim();
    let wrong = || {
        let what = format!("`record.key_file`: {shown} must hold 32 hexadecimal digits");
        source.at(path, what)
    };
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let key = u128::from_str_radix(digits, 16).map_err(|_| wrong())?;
    Ok(key.to_be_bytes())
}
