//! From a mesh file to what exactly is started: ports, texts, folders.
//!
//! Everything that can go wrong without starting anything goes wrong here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use whodunit_control::mesh_file::{
    Check, Command, External, Location, Mesh, RenderError, Scope, Service, Syntax, Template, Values,
};
use whodunit_identity::token::Subject;
use whodunit_identity::{Authority, MeshName};
use whodunit_model::policy::{Action, Mode};
use whodunit_model::topology::ServiceName;
use whodunit_model::{Endpoint, Service as Target};

use crate::error::LaunchError;
use crate::event::{Event, Listening};
use crate::find;
use crate::isolate::{Isolation, Opening, Room};
use crate::layout::Layout;
use crate::order;
use crate::ports::{Picker, local};
use crate::probe::Question;
use crate::process::Spec;
use crate::proxy_config::{
    self, Admin, Capture, Control, Identity, Listener, ProxyConfig, Record, Shutdown, Workload,
};
use crate::supervise::{Probe, Unit};
use crate::topology::Place;

/// Largest template file that is read, in bytes.
const TEMPLATE_BYTES_MAX: u64 = 1024 * 1024;

/// How long requests that are open in a proxy may go on when the mesh stops.
const PROXY_GRACE_MS: u64 = 3_000;

/// Longest pause before a restart of an application.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What discovery tells; nothing is ready yet.
    pub(crate) targets: Vec<Target>,
    /// Instances in steps: those of one step start together.
    pub(crate) steps: Vec<Vec<Instance>>,
    /// Address of the first service that has a port of its own.
    pub(crate) front_door: Option<SocketAddr>,
    /// Where instances can be reached.
    pub(crate) listening: Vec<Listening>,
    /// Ports that were not to be had.
    pub(crate) replaced: Vec<Event>,
    /// Ways to isolated instances from here.
    pub(crate) openings: Vec<Opening>,
}

impl Plan {
    /// Returns the networks of instances, by their numbers.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = &Room> {
        let instances = self.steps.iter().flatten();
        instances.filter_map(|instance| instance.room.as_ref())
    }
}

/// One instance: an application and, if anything passes through it, a proxy.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) app: Unit,
    pub(crate) proxy: Option<Proxy>,
    /// Its own network, if it is isolated.
    pub(crate) room: Option<Room>,
    /// The instance's own folder.
    pub(crate) data: PathBuf,
    /// Files to write before the start.
    pub(crate) files: Vec<(PathBuf, String)>,
}

/// The proxy beside an instance.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) config: ProxyConfig,
    /// Where to write the configuration.
    pub(crate) path: PathBuf,
    /// What proves to the server whom it stands beside.
    pub(crate) token: Option<String>,
}

/// What a plan depends on besides the mesh file.
pub(crate) struct Given<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) program_dirs: &'a [PathBuf],
    pub(crate) grpc: SocketAddr,
    /// Addresses of the externals, in the order of the file.
    pub(crate) externals: Vec<Vec<SocketAddr>>,
    pub(crate) key_file: PathBuf,
    /// What certifies proxies; none leaves them in plain text.
    pub(crate) authority: Option<Authority>,
    /// How instances are isolated; none: they share the network of this machine.
    pub(crate) isolation: Option<Isolation>,
}

/// Keeps the ports that services ask for from being given to anyone else.
pub(crate) fn hold_ports(mesh: &Mesh, picker: &mut Picker) {
    for service in &mesh.services {
        let declared = [service.port, service.app_port];
        for port in declared
            .into_iter()
            .flatten()
            .chain(service.ports.values().copied())
        {
            picker.hold(port);
        }
    }
}

/// Works out what to start.
pub(crate) fn plan(
    mesh: &Mesh,
    given: &Given<'_>,
    picker: &mut Picker,
) -> Result<Plan, LaunchError> {
    let mut planner = Planner {
        mesh,
        given,
        picker,
        plan: Plan {
            targets: Vec::new(),
            steps: Vec::new(),
            front_door: None,
            listening: Vec::new(),
            replaced: Vec::new(),
            openings: Vec::new(),
        },
        rooms: 0,
    };
    let mut by_service = Vec::new();
    for service in &mesh.services {
        by_service.push(planner.service(service)?);
    }
    let mut plan = planner.plan;
    for (external, addresses) in mesh.externals.iter().zip(&given.externals) {
        plan.targets.push(external_target(
            mesh,
            external,
            addresses,
            given.isolation.as_ref(),
        ));
    }
    for step in order::steps(&mesh.services) {
        let instances = step
            .into_iter()
            .flat_map(|service| std::mem::take(&mut by_service[service]));
        plan.steps.push(instances.collect());
    }
    Ok(plan)
}

struct Planner<'a> {
    mesh: &'a Mesh,
    given: &'a Given<'a>,
    picker: &'a mut Picker,
    plan: Plan,
    /// Instances with a network of their own, so far.
    rooms: usize,
}

/// How one instance is reached.
#[derive(Default)]
struct Ways {
    /// Port of the application.
    port: Option<u16>,
    /// Where callers connect.
    itself: Option<SocketAddr>,
    /// Where the proxy listens for them.
    listen: Option<SocketAddr>,
    /// Where this machine reaches it.
    here: Option<SocketAddr>,
    /// What the application is told about where its callees are.
    callees: BTreeMap<String, SocketAddr>,
    /// Where the proxy listens for each of them.
    listeners: BTreeMap<String, SocketAddr>,
}

impl Planner<'_> {
    fn service(&mut self, service: &Service) -> Result<Vec<Instance>, LaunchError> {
        let number = self.plan.targets.len();
        self.plan.targets.push(Target {
            name: ServiceName {
                namespace: self.mesh.namespace.clone(),
                name: service.name.clone(),
            },
            workload: service.name.clone(),
            protocol: service.protocol,
            external: false,
            policy: service.policy.clone(),
            routes: service.routes.clone(),
            address: self.service_address(&service.name),
            endpoints: Vec::new(),
        });
        (0..service.instances)
            .map(|index| self.instance(service, number, index))
            .collect()
    }

    fn instance(
        &mut self,
        service: &Service,
        number: usize,
        index: u16,
    ) -> Result<Instance, LaunchError> {
        let name = format!("{}-{index}", service.name);
        let data = self.given.layout.instance(&name);
        let mut ports = BTreeMap::new();
        for (port_name, wanted) in &service.ports {
            let what = format!("service `{}` (`ports.{port_name}`)", service.name);
            ports.insert(port_name.clone(), self.port(*wanted, index, what)?);
        }
        let mut room = self.room(&name);
        let mut ways = Ways::default();
        for callee in &service.calls {
            let listener = local(self.picker.free()?);
            let named = self.service_address(callee).unwrap_or(listener);
            ways.callees.insert(callee.clone(), named);
            ways.listeners.insert(callee.clone(), listener);
        }
        let templates = self.templates(service, &ports, &ways.callees, &name, index, &data)?;
        let inbound = service.inbound || templates.iter().any(|(_, template)| needs_port(template));
        if inbound {
            self.ways_in(service, room.as_ref(), index, &mut ways)?;
        }
        if let Some(room) = &mut room {
            self.redirect(room, &ways, &ports);
        }
        let (port, itself) = (ways.port, ways.itself);
        let env = |name: &str| std::env::var(name).ok();
        let values = Values {
            port,
            ports: &ports,
            itself,
            callees: &ways.callees,
            instance: &name,
            index,
            data: &data,
            folder: &self.mesh.folder,
            env: &env,
        };
        let rendering = Rendering {
            mesh: self.mesh,
            service,
            values: &values,
        };
        let files = templates
            .iter()
            .zip(&service.files)
            .map(|((file, template), asked)| {
                let text = template
                    .render(&values)
                    .map_err(|why| LaunchError::Placeholder {
                        file: file.clone(),
                        service: service.name.clone(),
                        key: "files".to_owned(),
                        why,
                    })?;
                Ok((
                    data.join(rendering.render("files.path", &asked.path)?),
                    text,
                ))
            })
            .collect::<Result<_, LaunchError>>()?;
        let mut app = self.app(&rendering, index, port, number)?;
        let proxy = self.proxy(service, &name, &ways, room.as_ref())?;
        if let (Some(address), Some(here)) = (itself, ways.here) {
            self.publish(service, number, &name, (address, here));
        }
        if let (Some(isolation), Some(_)) = (&self.given.isolation, &room) {
            isolation.put_into(&name, &mut app.spec, false);
            let by = isolation.namespaces(&name);
            for probe in [&mut app.ready, &mut app.live].into_iter().flatten() {
                probe.by = Some(Arc::clone(&by));
            }
        }
        Ok(Instance {
            app,
            proxy,
            room,
            data,
            files,
        })
    }

    /// Returns the network of the next instance, if it gets one of its own.
    fn room(&mut self, name: &str) -> Option<Room> {
        let room = self.given.isolation.as_ref()?.room(name, self.rooms);
        self.rooms += 1;
        Some(room)
    }

    /// Returns where a service or external is found, if that is not up to each caller's proxy.
    fn service_address(&self, name: &str) -> Option<SocketAddr> {
        self.given.isolation.as_ref()?.service(name)
    }

    /// Works out how an instance is reached by its callers.
    fn ways_in(
        &mut self,
        service: &Service,
        room: Option<&Room>,
        index: u16,
        ways: &mut Ways,
    ) -> Result<(), LaunchError> {
        let inside = room.zip(self.service_address(&service.name));
        if inside.is_none() {
            ways.port = Some(self.app_port(service)?);
        }
        let what = format!("service `{}`", service.name);
        let here = local(self.port(service.port.unwrap_or_default(), index, what)?);
        ways.here = Some(here);
        match inside {
            None => (ways.itself, ways.listen) = (Some(here), Some(here)),
            // Every instance has all ports to itself.
            Some((room, address)) => {
                let declared = service.port.filter(|port| *port > 0);
                ways.port = Some(match service.app_port.or(declared) {
                    Some(port) => port,
                    None => self.picker.free()?,
                });
                ways.itself = Some((room.address, address.port()).into());
                ways.listen = Some((Ipv4Addr::UNSPECIFIED, self.picker.free()?).into());
            }
        }
        Ok(())
    }

    /// Leads connections in the room of an instance to its proxy, and this machine to it.
    fn redirect(&mut self, room: &mut Room, ways: &Ways, ports: &BTreeMap<String, u16>) {
        let Some(isolation) = &self.given.isolation else {
            return;
        };
        let by = isolation.namespaces(&room.instance);
        for (callee, listener) in &ways.listeners {
            let named = ways.callees.get(callee).copied().unwrap_or(*listener);
            let outbound = &mut room.redirect.outbound_listeners;
            outbound.push((named, listener.port()));
        }
        if let (Some(itself), Some(listen), Some(here)) = (ways.itself, ways.listen, ways.here) {
            let inbound = &mut room.redirect.inbound_listeners;
            inbound.push((itself.port(), listen.port()));
            self.plan.openings.push(Opening {
                here,
                inside: itself,
                by: Arc::clone(&by),
            });
        }
        for port in ports.values() {
            self.plan.openings.push(Opening {
                here: local(*port),
                inside: local(*port),
                by: Arc::clone(&by),
            });
        }
    }

    /// Makes it known where the instance can be reached: by others of the mesh, and from here.
    fn publish(
        &mut self,
        service: &Service,
        number: usize,
        name: &str,
        (address, here): (SocketAddr, SocketAddr),
    ) {
        if service.port.is_some_and(|port| port > 0) && self.plan.front_door.is_none() {
            self.plan.front_door = Some(here);
        }
        self.plan.listening.push(Listening {
            service: service.name.clone(),
            instance: name.to_owned(),
            address: here,
        });
        let names = self.names(service);
        let (identity, server_name) = names.map_or_else(Default::default, |names| {
            let server_name = names.dns.unwrap_or_default();
            (names.spiffe.to_string(), server_name)
        });
        self.plan.targets[number].endpoints.push(Endpoint {
            address,
            instance: name.to_owned(),
            version: service.version.clone(),
            meshed: true,
            ready: false,
            identity,
            server_name,
        });
    }

    /// Returns whom the proxies of a service prove to be; none in plain text, which is also
    /// all there is for a name that no certificate can have.
    fn names(&self, service: &Service) -> Option<MeshName> {
        let authority = self.given.authority.as_ref()?;
        MeshName::new(
            authority.trust_domain(),
            &self.mesh.namespace,
            &service.name,
        )
        .ok()
    }

    /// Returns the port that was asked for if the first instance can have it, else a free one.
    fn port(&mut self, wanted: u16, index: u16, what: String) -> Result<u16, LaunchError> {
        if wanted > 0 && index == 0 && self.picker.claim(local(wanted)) {
            return Ok(wanted);
        }
        let used = self.picker.free()?;
        if wanted > 0 && index == 0 {
            self.plan
                .replaced
                .push(Event::PortReplaced { what, wanted, used });
        }
        Ok(used)
    }

    fn app_port(&mut self, service: &Service) -> Result<u16, LaunchError> {
        match service.app_port {
            Some(port) if self.picker.claim(local(port)) => Ok(port),
            Some(port) => Err(LaunchError::AppPortTaken {
                service: service.name.clone(),
                port,
            }),
            None => Ok(self.picker.free()?),
        }
    }

    fn app(
        &self,
        rendering: &Rendering<'_>,
        index: u16,
        port: Option<u16>,
        number: usize,
    ) -> Result<Unit, LaunchError> {
        let service = rendering.service;
        let working_dir = match &service.working_dir {
            Some(folder) => self
                .mesh
                .folder
                .join(rendering.render("working_dir", folder)?),
            None => self.mesh.folder.clone(),
        };
        let words = match &service.command {
            Command::Words(words) => words
                .iter()
                .map(|word| rendering.render("command", word))
                .collect::<Result<Vec<_>, _>>()?,
            Command::Shell(text) => {
                vec![
                    "/bin/sh".to_owned(),
                    "-c".to_owned(),
                    rendering.render("command", text)?,
                ]
            }
        };
        let [program, arguments @ ..] = words.as_slice() else {
            return Err(self.no_program(service, "", &working_dir));
        };
        // A folder inside `{data}` may be made by the files that are written before the start.
        if !working_dir.starts_with(rendering.values.data) {
            usable_folder(&working_dir).map_err(|why| LaunchError::WorkingDir {
                service: service.name.clone(),
                file: self.mesh.file.clone(),
                path: working_dir.clone(),
                why,
            })?;
        }
        let found = find::program(program, self.given.program_dirs, &working_dir)
            .ok_or_else(|| self.no_program(service, program, &working_dir))?;
        let mut env = Vec::new();
        for (name, value) in &service.env {
            env.push((
                name.clone(),
                rendering.render(&format!("env.{name}"), value)?,
            ));
        }
        let instance = rendering.values.instance.to_owned();
        let ready = match (rendering.probe("ready", service.ready.as_ref())?, port) {
            (None, Some(port)) => Some(default_probe(port)),
            (probe, _) => probe,
        };
        Ok(Unit {
            spec: Spec {
                log: self.given.layout.log(&instance),
                instance,
                program: found,
                arguments: arguments.to_vec(),
                env,
                working_dir,
            },
            restart: service.restart,
            backoff: service.backoff,
            backoff_max: BACKOFF_MAX,
            start_timeout: service.start_timeout,
            stop_timeout: service.stop_timeout,
            ready,
            live: rendering.probe("live", service.live.as_ref())?,
            place: port.map(|_| Place {
                service: number,
                endpoint: usize::from(index),
            }),
            quiet: false,
        })
    }

    fn no_program(&self, service: &Service, program: &str, working_dir: &Path) -> LaunchError {
        let path = working_dir.join(program);
        if program.contains('/') && path.exists() {
            return LaunchError::NotExecutable {
                service: service.name.clone(),
                file: self.mesh.file.clone(),
                at: service.command_at,
                path,
            };
        }
        LaunchError::NoProgram {
            service: service.name.clone(),
            file: self.mesh.file.clone(),
            at: service.command_at,
            searched: if program.contains('/') {
                Vec::new()
            } else {
                self.given
                    .program_dirs
                    .iter()
                    .cloned()
                    .chain([PathBuf::from("PATH")])
                    .collect()
            },
            program: program.to_owned(),
        }
    }

    fn proxy(
        &mut self,
        service: &Service,
        instance: &str,
        ways: &Ways,
        room: Option<&Room>,
    ) -> Result<Option<Proxy>, LaunchError> {
        let mut listener = Vec::new();
        if let (Some(app), Some(listen), Some(itself)) = (ways.port, ways.listen, ways.itself) {
            let name = format!("{}-in", service.name);
            let inbound = Listener::inbound(name, listen, service.protocol, local(app));
            listener.push(match room {
                None => inbound,
                Some(_) => inbound.known_as(itself.port()),
            });
        }
        let mut query: BTreeSet<&String> = service.capture_query.iter().collect();
        let mut headers: BTreeSet<&String> = service.capture_headers.iter().collect();
        for (callee, listen) in &ways.listeners {
            let own = self
                .mesh
                .services
                .iter()
                .find(|other| other.name == *callee);
            let external = self
                .mesh
                .externals
                .iter()
                .find(|other| other.name == *callee);
            let protocol = own
                .and_then(|own| own.protocol)
                .or_else(|| external.and_then(|external| external.protocol));
            // A call leaves two records, and both may show what the callee allows.
            query.extend(own.into_iter().flat_map(|own| &own.capture_query));
            headers.extend(own.into_iter().flat_map(|own| &own.capture_headers));
            let name = format!("to-{callee}");
            let routes = own.map(|own| own.routes.as_slice());
            let routes = routes.or_else(|| external.map(|external| external.routes.as_slice()));
            listener.push(Listener::outbound(
                name,
                *listen,
                protocol,
                callee.clone(),
                routes.unwrap_or_default(),
            ));
        }
        if let Some(room) = room {
            let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let redirect = &room.redirect;
            listener.push(Listener::redirected("inbound", any(redirect.inbound_port)));
            listener.push(Listener::redirected(
                "outbound",
                local(redirect.outbound_port),
            ));
        }
        if listener.is_empty() {
            return Ok(None);
        }
        let isolation = self.given.isolation.as_ref();
        let server = isolation.map_or(self.given.grpc, |isolation| {
            isolation.seen_from_inside(self.given.grpc)
        });
        let authority = self.given.authority.as_ref();
        let authority = authority.filter(|_| self.names(service).is_some());
        let layout = self.given.layout;
        let identity = authority.map(|authority| Identity {
            server,
            token_file: layout.token(instance),
            state_file: layout.certificate(instance),
            trust_anchors: authority.anchors_file(),
        });
        let token = authority.map(|authority| {
            authority.token_key().issue(&Subject {
                namespace: self.mesh.namespace.clone(),
                account: service.name.clone(),
                instance: instance.to_owned(),
            })
        });
        let config = ProxyConfig {
            identity,
            workload: Workload {
                namespace: self.mesh.namespace.clone(),
                name: service.name.clone(),
                instance: instance.to_owned(),
                version: service.version.clone(),
            },
            admin: Admin {
                listen: local(self.picker.free()?),
            },
            control: Control {
                server,
                routes: true,
                snapshot: self.given.layout.snapshot(instance),
            },
            record: Record {
                mode: "send",
                server,
                buffer_bytes: self.mesh.record_buffer_bytes,
                key_file: self.given.key_file.clone(),
            },
            capture: Capture {
                query: query.into_iter().cloned().collect(),
                headers: headers.into_iter().cloned().collect(),
            },
            listener,
            shutdown: Shutdown {
                grace_ms: PROXY_GRACE_MS,
            },
            policy: policy(service),
        };
        Ok(Some(Proxy {
            config,
            path: self.given.layout.proxy_config(instance),
            token,
        }))
    }

    /// Reads the template files of a service.
    fn templates(
        &self,
        service: &Service,
        ports: &BTreeMap<String, u16>,
        callees: &BTreeMap<String, SocketAddr>,
        instance: &str,
        index: u16,
        data: &Path,
    ) -> Result<Vec<(PathBuf, Template)>, LaunchError> {
        let known: Vec<String> = self
            .mesh
            .services
            .iter()
            .map(|service| service.name.clone())
            .chain(
                self.mesh
                    .externals
                    .iter()
                    .map(|external| external.name.clone()),
            )
            .collect();
        let scope = Scope {
            calls: &service.calls,
            ports,
            known: &known,
        };
        let env = |name: &str| std::env::var(name).ok();
        // The path of a template may depend on anything but what it may itself decide.
        let values = Values {
            port: None,
            ports,
            itself: None,
            callees,
            instance,
            index,
            data,
            folder: &self.mesh.folder,
            env: &env,
        };
        let rendering = Rendering {
            mesh: self.mesh,
            service,
            values: &values,
        };
        service
            .files
            .iter()
            .map(|file| {
                let path = rendering.render("files.template", &file.template)?;
                let path = self.mesh.folder.join(path);
                let text = read_bounded(&path).map_err(|why| LaunchError::File {
                    what: "read the template",
                    path: path.clone(),
                    why,
                })?;
                let template =
                    Template::parse(&text, Syntax::DoubleBraces, scope).map_err(|error| {
                        LaunchError::Template {
                            file: path.clone(),
                            at: Location::of(&text, error.span.start),
                            message: error.message,
                            help: error.help,
                        }
                    })?;
                Ok((path, template))
            })
            .collect()
    }
}

/// Fills in texts of one service.
struct Rendering<'a> {
    mesh: &'a Mesh,
    service: &'a Service,
    values: &'a Values<'a>,
}

impl Rendering<'_> {
    fn render(&self, key: &str, template: &Template) -> Result<String, LaunchError> {
        template
            .render(self.values)
            .map_err(|why: RenderError| LaunchError::Placeholder {
                file: self.mesh.file.clone(),
                service: self.service.name.clone(),
                key: key.to_owned(),
                why,
            })
    }

    fn probe(
        &self,
        key: &'static str,
        check: Option<&Check>,
    ) -> Result<Option<Probe>, LaunchError> {
        let Some(check) = check else { return Ok(None) };
        let url = self.render(key, &check.url)?;
        let question = Question::parse(&url).ok_or_else(|| LaunchError::Check {
            file: self.mesh.file.clone(),
            service: self.service.name.clone(),
            key,
            url,
        })?;
        Ok(Some(Probe {
            question,
            by: None,
            interval: check.interval,
            timeout: check.timeout,
            threshold: check.threshold,
        }))
    }
}

fn usable_folder(path: &Path) -> std::io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        Ok(())
    } else {
        Err(std::io::ErrorKind::NotADirectory.into())
    }
}

fn needs_port(template: &Template) -> bool {
    template.uses_port() || template.uses_itself()
}

/// Whoever accepts connections is taken to be ready if nothing else is declared.
fn default_probe(port: u16) -> Probe {
    Probe {
        question: Question::Tcp(local(port)),
        by: None,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        threshold: 3,
    }
}

/// Until its proxy has heard who may ask a service for what, nobody may, unless everybody
/// may what no rule forbids and no rule forbids anything.
fn policy(service: &Service) -> Option<proxy_config::Policy> {
    let policy = service.policy.as_ref()?;
    let lenient = matches!(policy.default, Mode::Allow | Mode::Audit);
    let forbids = policy.rules.iter().any(|rule| rule.action == Action::Deny);
    let default = if lenient && !forbids { "allow" } else { "deny" };
    Some(proxy_config::Policy {
        default,
        watch: true,
    })
}

fn external_target(
    mesh: &Mesh,
    external: &External,
    addresses: &[SocketAddr],
    isolation: Option<&Isolation>,
) -> Target {
    let seen = |address| isolation.map_or(address, |isolation| isolation.seen_from_inside(address));
    let endpoint = |address: &SocketAddr| Endpoint {
        address: seen(*address),
        instance: address.to_string(),
        version: String::new(),
        meshed: false,
        ready: true,
        identity: String::new(),
        server_name: String::new(),
    };
    Target {
        name: ServiceName {
            namespace: mesh.namespace.clone(),
            name: external.name.clone(),
        },
        workload: external.name.clone(),
        protocol: external.protocol,
        external: true,
        policy: None,
        routes: external.routes.clone(),
        address: isolation.and_then(|isolation| isolation.service(&external.name)),
        endpoints: addresses.iter().map(endpoint).collect(),
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > TEMPLATE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "it has {length} bytes, more than the {TEMPLATE_BYTES_MAX} allowed"
        )));
    }
    std::fs::read_to_string(path)
}
