//! The mesh file: what to run, who calls whom, and how each service is kept alive.
//!
//! A text goes in and a [`Mesh`] comes out whose every name, number and
//! placeholder has been checked, or one [`MeshFileError`] that says where the
//! mistake is and how to mend it. Starting things is not done here; apart from
//! [`load`], nothing here touches a file. The reference for those who write
//! such files is `docs/mesh-toml.md`; a test compares it with [`SECTIONS`].

mod error;
mod policy;
mod read;
mod route;
mod service;
mod template;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use whodunit_model::policy::{Mode, Policy};
use whodunit_model::{Protocol, RouteRule};

use error::list;
pub use error::{Location, MeshFileError};
use read::{Found, Source, Table, bytes};
pub use template::{PlaceholderError, RenderError, Scope, Syntax, Template, Values};

/// Largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Most instances that one service may have.
pub const INSTANCES_MAX: u16 = 100;

/// Most services and externals in one file.
pub const SERVICES_MAX: usize = 500;

/// All tables of a mesh file with all their keys.
pub const SECTIONS: &[(&str, &[&str])] = &[
    ("the file", TOP_KEYS),
    ("[service.NAME]", service::SERVICE_KEYS),
    ("ready, live", service::CHECK_KEYS),
    ("[[service.NAME.files]]", service::FILE_KEYS),
    ("capture", service::CAPTURE_KEYS),
    ("[external.NAME]", EXTERNAL_KEYS),
    ("[policy]", policy::POLICY_KEYS),
    ("[policy.rule.NAME]", policy::RULE_KEYS),
    ("[route.\"SERVICE …\"]", route::ROUTE_KEYS),
    ("[record]", RECORD_KEYS),
    ("[server]", SERVER_KEYS),
];

const TOP_KEYS: &[&str] = &[
    "namespace",
    "service",
    "external",
    "policy",
    "route",
    "record",
    "server",
];
const EXTERNAL_KEYS: &[&str] = &["address", "protocol"];
const RECORD_KEYS: &[&str] = &["buffer"];
const SERVER_KEYS: &[&str] = &["listen", "grpc_listen"];

/// What a mesh file says, checked.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// The file, for messages.
    pub file: PathBuf,
    /// Folder that relative paths start from.
    pub folder: PathBuf,
    /// Namespace of all services.
    pub namespace: String,
    /// Services in the order of the file, at least one.
    pub services: Vec<Service>,
    /// What is called but not started.
    pub externals: Vec<External>,
    /// Memory that a proxy may use for records not yet durable, in bytes; none
    /// means the proxy's own default.
    pub record_buffer_bytes: Option<u64>,
    /// Where the server's HTTP API should listen.
    pub server_listen: Option<SocketAddr>,
    /// Where the server's gRPC should listen.
    pub server_grpc_listen: Option<SocketAddr>,
}

/// A program of which one or several instances run.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name of service and workload.
    pub name: String,
    /// Program and arguments, or one text for `sh -c`.
    pub command: Command,
    /// Where in the file the command stands.
    pub command_at: Location,
    /// Version of the application, empty if not given.
    pub version: String,
    /// Where callers connect; none or 0: any free port.
    pub port: Option<u16>,
    /// Port on which the application listens whatever it is told.
    pub app_port: Option<u16>,
    /// Further ports of the application by name; 0: any free port.
    pub ports: BTreeMap<String, u16>,
    /// Whether the instances are called, so that each needs an inbound proxy.
    pub inbound: bool,
    /// Number of instances, at least 1.
    pub instances: u16,
    /// Services and externals that it calls.
    pub calls: Vec<String>,
    /// Environment on top of the launcher's own.
    pub env: BTreeMap<String, Template>,
    /// Files to write before the start.
    pub files: Vec<FileTemplate>,
    /// Folder to start in; none means the mesh file's.
    pub working_dir: Option<Template>,
    /// What to do when it ends.
    pub restart: Restart,
    /// Pause before the first restart; doubles with each further one.
    pub backoff: Duration,
    /// How long an instance may take to become ready for the first time.
    pub start_timeout: Duration,
    /// How long an instance may take to end before it is killed.
    pub stop_timeout: Duration,
    /// Says when an instance may get requests.
    pub ready: Option<Check>,
    /// Says when an instance must be restarted.
    pub live: Option<Check>,
    /// The protocol if it is declared; none means detect.
    pub protocol: Option<Protocol>,
    /// What becomes of requests that no rule is about, if the service has a word of its own.
    pub default_policy: Option<Mode>,
    /// Who may ask it for what; none if the file has no policy.
    pub policy: Option<Policy>,
    /// What holds for which requests to it.
    pub routes: Vec<RouteRule>,
    /// Query parameters whose values may be recorded.
    pub capture_query: Vec<String>,
    /// Request headers whose values may be recorded, in lower case.
    pub capture_headers: Vec<String>,
}

/// How a program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Program and arguments.
    Words(Vec<Template>),
    /// One text that a shell interprets.
    Shell(Template),
}

/// A file that is made from a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTemplate {
    /// The template; relative to the mesh file's folder.
    pub template: Template,
    /// The file to write; relative to the instance's data folder.
    pub path: Template,
    /// Where in the mesh file it is asked for.
    pub at: Location,
}

/// When an ended instance is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Always,
    /// Unless it ended with exit code 0.
    OnFailure,
    /// Never.
    Never,
}

/// A question that is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `http://HOST:PORT/PATH` (answered by a status of 200 to 399) or
    /// `tcp://HOST:PORT` (answered by a connection).
    pub url: Template,
    /// Time from one question to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Failures in a row that count.
    pub threshold: u16,
}

/// Something that is called but not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Name that callers use.
    pub name: String,
    /// `HOST:PORT`; the host is an address or a name to look up.
    pub address: String,
    /// Where in the file the address stands.
    pub at: Location,
    /// The protocol if it is declared; none means detect.
    pub protocol: Option<Protocol>,
    /// What holds for which requests to it.
    pub routes: Vec<RouteRule>,
}

/// Reads a mesh file.
pub fn load(path: &Path) -> Result<Mesh, MeshFileError> {
    let unreadable = |error| MeshFileError::unreadable(path, &error);
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_BYTES_MAX {
        let message = format!("it has {length} bytes, more than the {FILE_BYTES_MAX} allowed");
        return Err(unreadable(std::io::Error::other(message)));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| MeshFileError::not_utf8(path, &error))?;
    let mut mesh = parse(&text, path)?;
    mesh.folder = std::path::absolute(&mesh.folder).map_err(unreadable)?;
    Ok(mesh)
}

/// Checks the text of a mesh file; `file` is for messages and for the folder
/// that relative paths start from.
pub fn parse(text: &str, file: &Path) -> Result<Mesh, MeshFileError> {
    let source = Source { file, text };
    let document = DeTable::parse(text).map_err(|error| syntax(source, &error))?;
    let top = Table::new(source, "", TOP_KEYS, document.get_ref())?;

    let name_takes = "a table for each service, such as [service.web]";
    let service_entries = top.entries("service", name_takes)?;
    let external_takes = "a table for each external service, such as [external.db]";
    let external_entries = top.entries("external", external_takes)?;
    let mut known: Vec<String> = Vec::new();
    for (name, _) in service_entries.iter().chain(&external_entries) {
        check_name(source, name)?;
        if known.iter().any(|known| known == name.value) {
            return Err(source
                .error(
                    name.span.clone(),
                    format!("`{}` is a service and an external", name.value),
                )
                .help("callers could not tell the two apart: rename one of them"));
        }
        known.push(name.value.to_owned());
    }
    if known.len() > SERVICES_MAX {
        let message = format!("there are {} services and externals in it", known.len());
        return Err(source
            .error(0..0, message)
            .help(format!("it may have {SERVICES_MAX}")));
    }
    let mut services = Vec::new();
    for (name, value) in &service_entries {
        services.push(service::read(source, name, value, &known)?);
    }
    if services.is_empty() {
        return Err(source
            .error(0..0, "there is no service in it")
            .help("add one: [service.web] with command = \"PROGRAM ARGUMENT …\""));
    }
    service::check_callees(source, &mut services, &service_entries)?;
    service::check_ports(source, &services, &service_entries)?;
    let mut externals = external_entries
        .iter()
        .map(|(name, value)| external(source, name, value))
        .collect::<Result<Vec<_>, _>>()?;

    let namespace = top.read("namespace", NAME_TAKES, |value| {
        value.as_str().filter(|name| is_name(name))
    })?;
    let namespace = namespace.map_or("default", |found| found.value);
    policy::read(&top, namespace, &mut services)?;
    for route in route::read(&top, namespace, &known)? {
        let service = services.iter_mut().find(|s| s.name == route.service);
        match service {
            Some(service) => service.routes.push(route.rule),
            None => {
                let external = externals.iter_mut().find(|e| e.name == route.service);
                external
                    .into_iter()
                    .for_each(|e| e.routes.push(route.rule.clone()));
            }
        }
    }
    let mut mesh = Mesh {
        file: file.to_owned(),
        folder: folder(file),
        namespace: namespace.to_owned(),
        services,
        externals,
        record_buffer_bytes: None,
        server_listen: None,
        server_grpc_listen: None,
    };
    if let Some(record) = sub_table(&top, "record", "[record]", RECORD_KEYS)? {
        let takes = "a size such as \"6MiB\", from 64KiB to 1GiB";
        let allowed = (64 << 10)..=(1 << 30);
        let buffer = record.read("buffer", takes, |value| {
            bytes(value).filter(|size| allowed.contains(size))
        })?;
        mesh.record_buffer_bytes = buffer.map(|found| found.value);
    }
    if let Some(server) = sub_table(&top, "server", "[server]", SERVER_KEYS)? {
        mesh.server_listen = loopback(&server, "listen")?;
        mesh.server_grpc_listen = loopback(&server, "grpc_listen")?;
    }
    Ok(mesh)
}

impl Mesh {
    /// Returns a name for the mesh: the folder of a file called `mesh.toml`,
    /// the file's own name without ending otherwise.
    #[must_use]
    pub fn default_name(&self) -> String {
        let stem = self
            .file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or("mesh");
        let folder = self.folder.file_name().and_then(|folder| folder.to_str());
        let name = if stem == "mesh" {
            folder.unwrap_or(stem)
        } else {
            stem
        };
        let safe = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let name: String = name.chars().map(safe).collect();
        let name = name.trim_matches('-');
        if name.is_empty() {
            "mesh".to_owned()
        } else {
            name.to_owned()
        }
    }

    /// Returns the service of this name.
    pub fn service_mut(&mut self, name: &str) -> Option<&mut Service> {
        self.services
            .iter_mut()
            .find(|service| service.name == name)
    }
}

impl Service {
    /// Sets an environment variable to a text without placeholders.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.env.insert(key.to_owned(), Template::literal(value));
    }
}

impl Restart {
    /// Returns the word for it in the mesh file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on-failure",
            Self::Never => "never",
        }
    }
}

const NAME_TAKES: &str = "a name of lower-case letters, digits and `-`, at most 63 long";

fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn check_name(source: Source<'_>, name: &Found<&str>) -> Result<(), MeshFileError> {
    if template::RESERVED.contains(&name.value) {
        return Err(source
            .error(
                name.span.clone(),
                format!("`{}` cannot be the name of a service", name.value),
            )
            .help(format!(
                "`{{{}}}` is a placeholder already; placeholders have {}",
                name.value,
                list(template::RESERVED)
            )));
    }
    if !is_name(name.value) {
        return Err(source
            .error(
                name.span.clone(),
                format!("{:?} cannot be the name of a service", name.value),
            )
            .help(format!("it takes {NAME_TAKES}")));
    }
    Ok(())
}

fn external(
    source: Source<'_>,
    name: &Found<&str>,
    value: &toml::Spanned<DeValue<'_>>,
) -> Result<External, MeshFileError> {
    let owner = format!("external `{}`", name.value);
    let table = table_of(source, &owner, name, value)?;
    let table = Table::new(source, owner.clone(), EXTERNAL_KEYS, table)?;
    let takes = "HOST:PORT, such as \"127.0.0.1:5432\" or \"db.example.com:5432\"";
    let address = table
        .read("address", takes, |value| {
            value.as_str().filter(|text| is_host_and_port(text))
        })?
        .ok_or_else(|| {
            source
                .error(name.span.clone(), format!("{owner} has no `address`"))
                .help(format!("`address` takes {takes}"))
        })?;
    Ok(External {
        name: name.value.to_owned(),
        address: address.value.to_owned(),
        at: source.location(&address.span),
        protocol: protocol(&table)?,
        routes: Vec::new(),
    })
}

fn is_host_and_port(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() > 0;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && host.chars().all(plain)
            && port.bytes().all(|digit| digit.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn protocol(table: &Table<'_>) -> Result<Option<Protocol>, MeshFileError> {
    let takes = "one of \"detect\", \"http1\", \"http2\", \"grpc\" and \"opaque\"";
    let found = table.read("protocol", takes, |value| match value.as_str()? {
        "detect" => Some(None),
        "http1" => Some(Some(Protocol::Http1)),
        "http2" => Some(Some(Protocol::Http2)),
        "grpc" => Some(Some(Protocol::Grpc)),
        "opaque" => Some(Some(Protocol::Tcp)),
        _ => None,
    })?;
    Ok(found.and_then(|found| found.value))
}

fn loopback(table: &Table<'_>, key: &'static str) -> Result<Option<SocketAddr>, MeshFileError> {
    let takes = "an address of this machine only, such as \"127.0.0.1:7070\"";
    let found = table.read(key, takes, |value| {
        let address: SocketAddr = value.as_str()?.parse().ok()?;
        address.ip().is_loopback().then_some(address)
    })?;
    Ok(found.map(|found| found.value))
}

fn sub_table<'a>(
    top: &Table<'a>,
    key: &'static str,
    owner: &str,
    keys: &'static [&'static str],
) -> Result<Option<Table<'a>>, MeshFileError> {
    match top.read(key, "a table", DeValue::as_table)? {
        Some(found) => Table::new(top.source, owner, keys, found.value).map(Some),
        None => Ok(None),
    }
}

fn table_of<'a>(
    source: Source<'_>,
    owner: &str,
    name: &Found<&str>,
    value: &'a toml::Spanned<DeValue<'a>>,
) -> Result<&'a DeTable<'a>, MeshFileError> {
    value.get_ref().as_table().ok_or_else(|| {
        let kind = owner.split(' ').next().unwrap_or_default();
        source
            .error(value.span(), format!("{owner} is not a table"))
            .help(format!("write [{kind}.{}] and its keys below", name.value))
    })
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Says what is wrong with a text that is not TOML.
fn syntax(source: Source<'_>, error: &toml::de::Error) -> MeshFileError {
    let end = source.text.len();
    let span = error.span().unwrap_or(end..end);
    let message = error.message().trim();
    let word = source.text.get(span.clone()).unwrap_or_default();
    if message.starts_with("duplicate key") && !word.is_empty() {
        return source
            .error(span, format!("`{word}` is there twice"))
            .help("remove or rename one of them");
    }
    let mut lines = message.lines();
    let first = lines.next().unwrap_or("not a TOML file");
    let error = source.error(span, format!("this is not TOML: {first}"));
    match lines.collect::<Vec<_>>().join(", ") {
        rest if rest.is_empty() => error,
        rest => error.help(rest),
    }
}
