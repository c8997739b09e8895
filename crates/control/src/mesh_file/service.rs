//! Reads `[service.NAME]`.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::error::{MeshFileError, list, nearest};
use super::policy;
use super::read::{Entries, Found, Source, Table, number};
use super::template::{Scope, Syntax, Template};
use super::words::{self, WordsError};
use super::{Check, Command, FileTemplate, INSTANCES_MAX, Restart, Service, protocol, table_of};

pub(super) const SERVICE_KEYS: &[&str] = &[
    "command",
    "shell",
    "version",
    "port",
    "app_port",
    "ports",
    "instances",
    "calls",
    "env",
    "files",
    "working_dir",
    "restart",
    "backoff",
    "start_timeout",
    "stop_timeout",
    "ready",
    "live",
    "protocol",
    "policy",
    "capture",
];
pub(super) const CHECK_KEYS: &[&str] = &["url", "interval", "timeout", "threshold"];
pub(super) const FILE_KEYS: &[&str] = &["template", "path"];
pub(super) const CAPTURE_KEYS: &[&str] = &["query", "headers"];

const COMMAND_TAKES: &str =
    "a command such as \"program argument\", or an array of program and arguments";
const PORTS_TAKES: &str = "names and numbers, such as { metrics = 9090 }; 0 picks a free port";
const CHECK_TAKES: &str = "\"http://{self}/path\", \"http://127.0.0.1:{port}/path\" or \
                           \"tcp://127.0.0.1:{port}\", or a table with `url`";

/// Most files, ports, callees, captured names or variables of one service.
const ENTRIES_MAX: usize = 1_000;

/// Reads one service; `known` has the names of all services and externals.
pub(super) fn read(
    source: Source<'_>,
    name: &Found<&str>,
    value: &Spanned<DeValue<'_>>,
    known: &[String],
) -> Result<Service, MeshFileError> {
    let owner = format!("service `{}`", name.value);
    let table = table_of(source, &owner, name, value)?;
    let table = Table::new(source, owner.clone(), SERVICE_KEYS, table)?;
    let reader = Reader {
        source,
        table,
        owner,
        known,
    };
    reader.service(name)
}

struct Reader<'a> {
    source: Source<'a>,
    table: Table<'a>,
    owner: String,
    known: &'a [String],
}

impl<'a> Reader<'a> {
    fn service(&self, name: &Found<&str>) -> Result<Service, MeshFileError> {
        let table = &self.table;
        let calls = self.calls()?;
        let ports = self.ports()?;
        let scope = Scope {
            calls: &calls,
            ports: &ports,
            known: self.known,
        };
        let (command, command_at) = self.command(name, scope)?;
        let instances = format!("a number from 1 to {INSTANCES_MAX}");
        let instances = table.number("instances", 1..=INSTANCES_MAX, &instances)?;
        let port_takes = "a number from 0 to 65535; 0 picks a free port";
        let port = table.number("port", 0..=u16::MAX, port_takes)?;
        let app_port_takes = "a number from 1 to 65535, or leave it out and use {port}";
        let app_port = table.number("app_port", 1..=u16::MAX, app_port_takes)?;
        if let (Some(app_port), Some(instances)) = (&app_port, &instances)
            && instances.value > 1
        {
            let message = format!(
                "{} instances of {} cannot all listen on `app_port` {}",
                instances.value, self.owner, app_port.value
            );
            return Err(self.source.error(app_port.span.clone(), message).help(
                "tell the application its port with {port} and leave `app_port` out, \
                 or run one instance",
            ));
        }
        let version_takes = "a text of at most 100 characters, such as \"v1\"";
        let version = table.read("version", version_takes, |value| {
            value
                .as_str()
                .filter(|text| text.len() <= 100 && !text.contains(char::is_control))
        })?;
        let restart_takes = "one of \"always\", \"on-failure\" and \"never\"";
        let restart = table.read("restart", restart_takes, |value| {
            let all = [Restart::Always, Restart::OnFailure, Restart::Never];
            all.into_iter()
                .find(|restart| value.as_str() == Some(restart.as_str()))
        })?;
        let (capture_query, capture_headers) = self.capture()?;
        let mut service = Service {
            name: name.value.to_owned(),
            command,
            command_at,
            version: version.map_or("", |found| found.value).to_owned(),
            port: port.map(|found| found.value),
            app_port: app_port.map(|found| found.value),
            inbound: false,
            instances: instances.map_or(1, |found| found.value),
            env: self.env(scope)?,
            files: self.files(scope)?,
            working_dir: self.template("working_dir", "a folder", scope)?,
            restart: restart.map_or(Restart::Always, |found| found.value),
            backoff: table.duration("backoff", Duration::from_millis(250))?,
            start_timeout: table.duration("start_timeout", Duration::from_secs(60))?,
            stop_timeout: table.duration("stop_timeout", Duration::from_secs(5))?,
            ready: self.check("ready", scope)?,
            live: self.check("live", scope)?,
            protocol: protocol(table)?,
            default_policy: policy::of_service(table)?,
            policy: None,
            routes: Vec::new(),
            capture_query,
            capture_headers,
            calls: Vec::new(),
            ports: BTreeMap::new(),
        };
        service.inbound = service.port.is_some()
            || service.app_port.is_some()
            || service
                .templates()
                .any(|template| template.uses_port() || template.uses_itself());
        service.calls = calls;
        service.ports = ports;
        Ok(service)
    }

    fn calls(&self) -> Result<Vec<String>, MeshFileError> {
        let takes = "an array of names, such as [\"emoji\", \"voting\"]";
        let calls = self.table.strings("calls", takes)?;
        for callee in &calls {
            if !self.known.iter().any(|known| known == callee.value) {
                let known = || self.known.iter().map(String::as_str);
                let meant = nearest(callee.value, known());
                let meant = meant.map(|meant| format!("did you mean `{meant}`? "));
                let message = format!(
                    "{} calls `{}`, which is not in this file",
                    self.owner, callee.value
                );
                return Err(self
                    .source
                    .error(callee.span.clone(), message)
                    .help(format!(
                        "{}there are {}; what is not started here is declared as [external.{}]",
                        meant.unwrap_or_default(),
                        list(known()),
                        callee.value,
                    )));
            }
        }
        Ok(calls
            .into_iter()
            .map(|callee| callee.value.to_owned())
            .collect())
    }

    fn ports(&self) -> Result<BTreeMap<String, u16>, MeshFileError> {
        let mut ports = BTreeMap::new();
        for (name, value) in self.table.entries("ports", PORTS_TAKES)? {
            if !super::is_name(name.value) {
                let message = format!("{:?} cannot be the name of a port", name.value);
                return Err(self
                    .source
                    .error(name.span, message)
                    .help(format!("it takes {}", super::NAME_TAKES)));
            }
            let port = number(value.get_ref())
                .ok_or_else(|| self.table.refused("ports", value, PORTS_TAKES))?;
            ports.insert(name.value.to_owned(), port);
        }
        Ok(ports)
    }

    fn command(
        &self,
        name: &Found<&str>,
        scope: Scope<'_>,
    ) -> Result<(Command, super::Location), MeshFileError> {
        let Some(value) = self.table.value("command") else {
            return Err(self
                .source
                .error(
                    name.span.clone(),
                    format!("{} has no `command`", self.owner),
                )
                .help(format!("`command` takes {COMMAND_TAKES}")));
        };
        let refused = |value| self.table.refused("command", value, COMMAND_TAKES);
        let at = self.source.location(&value.span());
        let shell = self.table.boolean("shell")?;
        let words = match value.get_ref() {
            DeValue::String(text) if shell => {
                let template = self.parse(text, &value.span(), scope)?;
                if text.trim().is_empty() {
                    return Err(refused(value));
                }
                return Ok((Command::Shell(template), at));
            }
            _ if shell => {
                return Err(self.table.refused(
                    "command",
                    value,
                    "one text when `shell = true`, as a shell would read it",
                ));
            }
            DeValue::String(text) => {
                let words = words::split(text).map_err(|error| self.words_error(value, &error))?;
                let parse = |word: String| self.parse(&word, &value.span(), scope);
                words
                    .into_iter()
                    .map(parse)
                    .collect::<Result<Vec<_>, _>>()?
            }
            DeValue::Array(array) => {
                let mut words = Vec::new();
                for item in array.iter() {
                    let text = item.get_ref().as_str().ok_or_else(|| refused(item))?;
                    words.push(self.parse(text, &item.span(), scope)?);
                }
                words
            }
            _ => return Err(refused(value)),
        };
        if words.first().is_none_or(Template::is_empty) {
            let message = format!("`command` of {} names no program", self.owner);
            return Err(self
                .source
                .error(value.span(), message)
                .help(format!("it takes {COMMAND_TAKES}")));
        }
        Ok((Command::Words(words), at))
    }

    fn words_error(&self, value: &Spanned<DeValue<'_>>, error: &WordsError) -> MeshFileError {
        let (message, help) = match error {
            WordsError::Unclosed(quote) => (
                format!(
                    "`command` of {} opens a quote {quote} and does not close it",
                    self.owner
                ),
                "close the quote, or write the command as an array of words".to_owned(),
            ),
            WordsError::Operator(word) => (
                format!(
                    "`{word}` in `command` of {} means something to a shell only",
                    self.owner
                ),
                "set `shell = true` to have a shell run the command, or quote the word".to_owned(),
            ),
        };
        self.source.error(value.span(), message).help(help)
    }

    fn env(&self, scope: Scope<'_>) -> Result<BTreeMap<String, Template>, MeshFileError> {
        let takes = "names and texts, such as { PORT = \"{port}\" }";
        let mut env = BTreeMap::new();
        for (name, value) in self.table.entries("env", takes)? {
            if name.value.is_empty() || name.value.contains(['=', '\0']) {
                let message = format!(
                    "{:?} cannot be the name of an environment variable",
                    name.value
                );
                return Err(self
                    .source
                    .error(name.span, message)
                    .help("it takes a name without `=`, such as WEB_PORT"));
            }
            let text = value.get_ref().as_str().ok_or_else(|| {
                self.table
                    .refused(&format!("env.{}", name.value), value, "a text, in quotes")
            })?;
            env.insert(
                name.value.to_owned(),
                self.parse(text, &value.span(), scope)?,
            );
        }
        self.bounded("env", env.len())?;
        Ok(env)
    }

    fn files(&self, scope: Scope<'_>) -> Result<Vec<FileTemplate>, MeshFileError> {
        let takes = "tables with `template` and `path`";
        let Some(value) = self.table.value("files") else {
            return Ok(Vec::new());
        };
        let refused = |value| self.table.refused("files", value, takes);
        let array = value.get_ref().as_array().ok_or_else(|| refused(value))?;
        let mut files = Vec::new();
        for item in array.iter() {
            let entries = item.get_ref().as_table().ok_or_else(|| refused(item))?;
            let owner = format!("`files` of {}", self.owner);
            let table = Table::new(self.source, owner, FILE_KEYS, entries)?;
            let read = |key, takes| {
                let found = table.string(key, takes)?.ok_or_else(|| {
                    let message = format!("a table in `files` of {} has no `{key}`", self.owner);
                    self.source
                        .error(item.span(), message)
                        .help(format!("`{key}` takes {takes}"))
                })?;
                if found.value.is_empty() {
                    return Err(self.source.error(found.span, format!("`{key}` is empty")));
                }
                self.parse(found.value, &found.span, scope)
            };
            files.push(FileTemplate {
                template: read("template", "a file, relative to the mesh file")?,
                path: read("path", "the file to write, such as \"{data}/nginx.conf\"")?,
                at: self.source.location(&item.span()),
            });
        }
        self.bounded("files", files.len())?;
        Ok(files)
    }

    fn check(&self, key: &'static str, scope: Scope<'_>) -> Result<Option<Check>, MeshFileError> {
        let Some(value) = self.table.value(key) else {
            return Ok(None);
        };
        let default = Check {
            url: Template::default(),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            threshold: 3,
        };
        let (url, mut check) = match value.get_ref() {
            DeValue::String(_) => (value, default),
            DeValue::Table(entries) => {
                let owner = format!("`{key}` of {}", self.owner);
                let table = Table::new(self.source, owner.clone(), CHECK_KEYS, entries)?;
                let takes = "a number from 1 to 1000";
                let threshold = table.number("threshold", 1..=1_000, takes)?;
                let check = Check {
                    url: Template::default(),
                    interval: table.duration("interval", default.interval)?,
                    timeout: table.duration("timeout", default.timeout)?,
                    threshold: threshold.map_or(default.threshold, |found| found.value),
                };
                let url = table.value("url").ok_or_else(|| {
                    self.source
                        .error(value.span(), format!("{owner} has no `url`"))
                        .help("`url` takes \"http://{self}/path\" or \"tcp://127.0.0.1:{port}\"")
                })?;
                (url, check)
            }
            _ => return Err(self.table.refused(key, value, CHECK_TAKES)),
        };
        let refused = || self.table.refused(key, url, CHECK_TAKES);
        let text = url.get_ref().as_str().ok_or_else(refused)?;
        let rest = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("tcp://"));
        let host = rest
            .and_then(|rest| rest.split('/').next())
            .unwrap_or_default();
        let plain = !text.contains(|c: char| c.is_whitespace() || c.is_control());
        if host.is_empty() || !plain {
            return Err(refused());
        }
        check.url = self.parse(text, &url.span(), scope)?;
        Ok(Some(check))
    }

    fn capture(&self) -> Result<(Vec<String>, Vec<String>), MeshFileError> {
        let takes = "a table, such as { query = [\"choice\"], headers = [\"x-tenant\"] }";
        let Some(found) = self.table.read("capture", takes, DeValue::as_table)? else {
            return Ok((Vec::new(), Vec::new()));
        };
        let owner = format!("`capture` of {}", self.owner);
        let table = Table::new(self.source, owner, CAPTURE_KEYS, found.value)?;
        let texts = |key, takes| -> Result<Vec<String>, MeshFileError> {
            let found = table.strings(key, takes)?;
            self.bounded(key, found.len())?;
            if let Some(empty) = found.iter().find(|found| found.value.is_empty()) {
                return Err(self
                    .source
                    .error(empty.span.clone(), format!("a name in `{key}` is empty"))
                    .help(format!("it takes {takes}")));
            }
            Ok(found
                .into_iter()
                .map(|found| found.value.to_owned())
                .collect())
        };
        let query = texts("query", "an array of query parameters")?;
        let headers = texts("headers", "an array of request headers")?;
        Ok((
            query,
            headers
                .into_iter()
                .map(|header| header.to_ascii_lowercase())
                .collect(),
        ))
    }

    fn template(
        &self,
        key: &'static str,
        takes: &str,
        scope: Scope<'_>,
    ) -> Result<Option<Template>, MeshFileError> {
        let read = |value: &'a DeValue<'a>| value.as_str().filter(|text| !text.is_empty());
        match self.table.read(key, takes, read)? {
            Some(found) => self.parse(found.value, &found.span, scope).map(Some),
            None => Ok(None),
        }
    }

    fn parse(
        &self,
        text: &str,
        span: &std::ops::Range<usize>,
        scope: Scope<'_>,
    ) -> Result<Template, MeshFileError> {
        if text.contains('\0') {
            return Err(self
                .source
                .error(
                    span.clone(),
                    format!("a text of {} contains a NUL", self.owner),
                )
                .help("no program can be given one: remove it"));
        }
        Template::parse(text, Syntax::Braces, scope).map_err(|error| {
            // The placeholder itself, where the text stands in the file as it is.
            let within = self.source.text.get(span.clone()).unwrap_or_default();
            let wrong = &text[error.span.clone()];
            let exact = within
                .match_indices(wrong)
                .map(|(at, _)| at)
                .collect::<Vec<_>>();
            let span = match exact.as_slice() {
                [at] => span.start + at..span.start + at + wrong.len(),
                _ => span.clone(),
            };
            let message = format!("{}: {}", self.owner, error.message);
            self.source.error(span, message).help(error.help)
        })
    }

    fn bounded(&self, key: &str, count: usize) -> Result<(), MeshFileError> {
        if count <= ENTRIES_MAX {
            return Ok(());
        }
        let message = format!("`{key}` of {} has {count} entries", self.owner);
        Err(self
            .source
            .error(0..0, message)
            .help(format!("it takes at most {ENTRIES_MAX}")))
    }
}

impl Service {
    /// Returns all texts that may name ports and addresses.
    fn templates(&self) -> impl Iterator<Item = &Template> {
        let checks = self.ready.iter().chain(&self.live).map(|check| &check.url);
        self.telling().chain(checks)
    }

    /// Returns the texts that the application gets to see.
    fn telling(&self) -> impl Iterator<Item = &Template> {
        let words = match &self.command {
            Command::Words(words) => words.as_slice(),
            Command::Shell(text) => std::slice::from_ref(text),
        };
        words.iter().chain(self.env.values())
    }

    /// Whether the application can know the port that it should listen on.
    fn knows_its_port(&self) -> bool {
        // What a template file says is seen only when it is read.
        self.app_port.is_some() || !self.files.is_empty() || self.telling().any(Template::uses_port)
    }
}

/// Refuses two services that want one port, and a proxy that wants its application's.
pub(super) fn check_ports(
    source: Source<'_>,
    services: &[Service],
    entries: &Entries<'_>,
) -> Result<(), MeshFileError> {
    let mut holders: BTreeMap<u16, (&str, String)> = BTreeMap::new();
    for (service, (name, _)) in services.iter().zip(entries) {
        let own = [("port", service.port), ("app_port", service.app_port)];
        let own = own
            .into_iter()
            .filter_map(|(key, port)| Some((key.to_owned(), port?)));
        let further = service
            .ports
            .iter()
            .map(|(name, port)| (format!("ports.{name}"), *port));
        for (key, port) in own.chain(further).filter(|(_, port)| *port > 0) {
            let Some((holder, held)) = holders.get(&port) else {
                holders.insert(port, (&service.name, key));
                continue;
            };
            let message = format!(
                "`{key}` of service `{}` is {port}, and so is `{held}` of service `{holder}`",
                service.name
            );
            let help = if key == "app_port" && *holder == service.name {
                "callers connect to `port`, the application listens on `app_port`: \
                 the two must differ"
            } else {
                "give each its own port, or 0 for any free one"
            };
            return Err(source.error(name.span.clone(), message).help(help));
        }
    }
    Ok(())
}

/// Marks the services that are called, and refuses those that could not know
/// where to listen.
pub(super) fn check_callees(
    source: Source<'_>,
    services: &mut [Service],
    entries: &Entries<'_>,
) -> Result<(), MeshFileError> {
    let called: Vec<(String, String)> = services
        .iter()
        .flat_map(|service| {
            service
                .calls
                .iter()
                .map(|to| (to.clone(), service.name.clone()))
        })
        .collect();
    for (service, (name, _)) in services.iter_mut().zip(entries) {
        let caller = called.iter().find(|(to, _)| *to == service.name);
        service.inbound |= caller.is_some();
        if service.inbound && !service.knows_its_port() {
            let why = match caller {
                Some((_, caller)) => format!("`{caller}` calls it"),
                None => "callers are to reach it".to_owned(),
            };
            let message = format!(
                "service `{}` cannot know which port to listen on, and {why}",
                service.name
            );
            return Err(source.error(name.span.clone(), message).help(
                "put {port} into its `command` or `env`; \
                 if its port is hard-wired, say which with `app_port`",
            ));
        }
    }
    Ok(())
}
