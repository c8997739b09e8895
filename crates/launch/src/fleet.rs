//! Brings a mesh up, stays with it, and takes it down.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use whodunit_control::mesh_file::{Mesh, Restart};
use whodunit_identity::authority::write_private;
use whodunit_identity::name::LOCAL_TRUST_DOMAIN;
use whodunit_identity::{Authority, Lifetimes};

use crate::error::LaunchError;
use crate::event::{Event, Events};
use crate::isolate::{Doors, Isolation, Network, Room};
use crate::layout::Layout;
use crate::options::Options;
use crate::plan::{self, Given, Instance, Plan, Proxy};
use crate::ports::{Claims, Picker, local};
use crate::probe::Question;
use crate::process::Spec;
use crate::state::{self, LocalState};
use crate::stop::{Stop, Wish};
use crate::supervise::{Kept, Probe, Shared, Status, Unit};
use crate::topology::TopologyFile;
use crate::watchdog::Watchdog;

/// Name of the server among the instances.
const SERVER: &str = "server";

/// Where the server listens if nobody says otherwise: HTTP and gRPC.
const SERVER_PORTS: (u16, u16) = (7_070, 7_071);

/// How long the server may take to be ready: it reads its log first.
const SERVER_START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the server may take to end: it writes its last records out.
const SERVER_STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a proxy may take to listen.
const PROXY_START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a proxy may take to end: its grace, and then its last records.
const PROXY_STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Pause before the first restart of a process of ours.
const OWN_BACKOFF: Duration = Duration::from_millis(100);

/// Longest pause before a restart of a process of ours: the mesh is blind without it.
const OWN_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How a mesh came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Events that were lost because nobody took them in time.
    pub events_lost: u64,
}

/// Runs a mesh until it is asked to stop; then nothing of it is left. Must be
/// called inside a Tokio runtime with time and I/O.
///
/// # Errors
/// When the mesh cannot be brought up; what was started already is stopped.
pub async fn run(
    mesh: Mesh,
    options: Options,
    events: mpsc::Sender<Event>,
    mut stop: Stop,
) -> Result<Ended, LaunchError> {
    let events = Events::new(events);
    let prepared = tokio::select! {
        prepared = prepare(&mesh, &options, &events) => prepared?,
        () = stop.at_least(Wish::InOrder) => return Ok(Ended { events_lost: events.lost() }),
    };
    let mut fleet = Fleet::new(prepared);
    let outcome = tokio::select! {
        outcome = fleet.bring_up(&options) => outcome,
        () = stop.at_least(Wish::InOrder) => Ok(()),
    };
    if outcome.is_ok() {
        stop.at_least(Wish::InOrder).await;
    }
    fleet.take_down(stop).await;
    outcome.map(|()| Ended {
        events_lost: events.lost(),
    })
}

/// All that is needed to start, with nothing of the mesh started yet.
struct Prepared {
    shared: Arc<Shared>,
    layout: Layout,
    plan: Plan,
    server: Unit,
    proxy: PathBuf,
    state: LocalState,
    state_file: PathBuf,
    isolated: Option<Isolated>,
    _claims: Claims,
}

async fn prepare(mesh: &Mesh, options: &Options, events: &Events) -> Result<Prepared, LaunchError> {
    let data = std::path::absolute(&options.data).map_err(file("find", &options.data))?;
    let layout = Layout::new(data);
    for folder in [layout.data().to_owned(), layout.run(), layout.logs()] {
        private_folder(&folder)?;
    }
    let lock = take_lock(&layout).await?;
    let whodunit = options.whodunit()?;
    let proxy = options.proxy()?;

    let seed = random()?;
    let mut picker = Picker::new(u64::from_be_bytes(first_eight(&seed)));
    plan::hold_ports(mesh, &mut picker);
    let (api, grpc) = server_addresses(mesh, options, &mut picker, events)?;
    let externals = resolve(mesh).await?;
    let isolation = options
        .isolate
        .then(|| Isolation::new(mesh, &externals, &layout, &whodunit, &mut picker));
    let given = Given {
        layout: &layout,
        program_dirs: &options.program_dirs,
        grpc,
        externals,
        key_file: key(&layout)?,
        authority: authority(&layout, options)?,
        isolation: isolation.transpose()?,
    };
    let mut plan = plan::plan(mesh, &given, &mut picker)?;
    for replaced in std::mem::take(&mut plan.replaced) {
        events.send(replaced);
    }
    for instance in plan.steps.iter().flatten() {
        write_files(instance)?;
    }
    let path = layout.topology();
    let topology = TopologyFile::create(path.clone(), std::mem::take(&mut plan.targets))
        .map_err(file("write", &path))?;
    let mark = hexadecimal(&seed);
    let watchdog = Watchdog::start(&whodunit, lock, mark, options.isolate).map_err(|why| {
        LaunchError::Watchdog {
            program: whodunit.clone(),
            why,
        }
    })?;
    let isolated = match given.isolation {
        None => None,
        Some(isolation) => Some(isolate(isolation, mesh, &plan, events).await?),
    };
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Prepared {
        server: server(&layout, whodunit, api, grpc, options),
        shared: Arc::new(Shared {
            watchdog: Arc::new(watchdog),
            events: events.clone(),
            topology,
        }),
        proxy,
        state: LocalState {
            pid: std::process::id(),
            name: options.name.clone(),
            api,
            grpc,
            app: plan.front_door.map(|address| format!("http://{address}")),
            data: layout.data().to_owned(),
            started_us: i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX),
        },
        state_file: options.state_file.clone(),
        isolated,
        _claims: picker.into_claims(),
        layout,
        plan,
    })
}

/// Makes the networks of instances, and opens the doors to them.
async fn isolate(
    isolation: Isolation,
    mesh: &Mesh,
    plan: &Plan,
    events: &Events,
) -> Result<Isolated, LaunchError> {
    let rooms: Vec<&Room> = plan.rooms().collect();
    let (network, lacks) = Network::make(&isolation, mesh, &rooms)?;
    for what in lacks {
        events.send(Event::Warning { what });
    }
    isolation.check().await?;
    let doors = Doors::open(&plan.openings).await;
    let doors = doors.map_err(|(address, why)| LaunchError::Isolate {
        what: format!("cannot listen on {address} for those inside: {why}"),
        fix: "end what listens there, and start again".to_owned(),
    })?;
    Ok(Isolated {
        isolation,
        _doors: doors,
        _network: network,
    })
}

/// The networks of instances, removed when this is dropped.
struct Isolated {
    isolation: Isolation,
    _doors: Doors,
    _network: Network,
}

async fn take_lock(layout: &Layout) -> Result<File, LaunchError> {
    let path = layout.lock();
    let holder = || state::read(&layout.state());
    match state::lock(&path, holder)
        .await
        .map_err(file("lock", &path))?
    {
        Some(lock) => Ok(lock),
        None => Err(LaunchError::AlreadyRunning {
            data: layout.data().to_owned(),
            state: holder().map(Box::new),
        }),
    }
}

fn server_addresses(
    mesh: &Mesh,
    options: &Options,
    picker: &mut Picker,
    events: &Events,
) -> Result<(SocketAddr, SocketAddr), LaunchError> {
    if let Some(server) = options.server {
        return Ok((server.api, server.grpc));
    }
    let mut pick = |wanted: SocketAddr, what: &str| {
        let used = picker.wanted_or_free(wanted)?;
        if used != wanted && wanted.port() > 0 {
            let what = what.to_owned();
            let (wanted, used) = (wanted.port(), used.port());
            events.send(Event::PortReplaced { what, wanted, used });
        }
        Ok::<_, LaunchError>(used)
    };
    let api = options
        .api
        .or(mesh.server_listen)
        .unwrap_or(local(SERVER_PORTS.0));
    let grpc = options
        .grpc
        .or(mesh.server_grpc_listen)
        .unwrap_or(local(SERVER_PORTS.1));
    Ok((
        pick(api, "the server's API")?,
        pick(grpc, "the server's gRPC")?,
    ))
}

async fn resolve(mesh: &Mesh) -> Result<Vec<Vec<SocketAddr>>, LaunchError> {
    let mut all = Vec::new();
    for external in &mesh.externals {
        let failed = |why| LaunchError::Resolve {
            file: mesh.file.clone(),
            at: external.at,
            external: external.name.clone(),
            address: external.address.clone(),
            why,
        };
        let found = tokio::net::lookup_host(&external.address)
            .await
            .map_err(failed)?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(failed(io::Error::other("the name has no address")));
        }
        all.push(found);
    }
    Ok(all)
}

fn write_files(instance: &Instance) -> Result<(), LaunchError> {
    private_folder(&instance.data)?;
    for (path, text) in &instance.files {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(file("create", folder))?;
        }
        fs::write(path, text).map_err(file("write", path))?;
    }
    if let Some(Proxy {
        config,
        path,
        token,
    }) = &instance.proxy
    {
        if let (Some(token), Some(identity)) = (token, &config.identity) {
            let path = &identity.token_file;
            write_private(path, token.as_bytes()).map_err(file("write", path))?;
        }
        // One of another run knows other ports; the server of this one is there.
        match fs::remove_file(&config.control.snapshot) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                return Err(file("remove", &config.control.snapshot)(why));
            }
            _ => {}
        }
        let text = config.to_text().map_err(|error| LaunchError::File {
            what: "write",
            path: path.clone(),
            why: io::Error::other(error),
        })?;
        state::replace(path, text.as_bytes()).map_err(file("write", path))?;
    }
    Ok(())
}

/// Opens what certifies the proxies. A server that was not started here has an authority of
/// its own, in a directory that is not known: its proxies speak plain text.
fn authority(layout: &Layout, options: &Options) -> Result<Option<Authority>, LaunchError> {
    if options.server.is_some() {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let authority = Authority::open(
        &layout.identity(),
        LOCAL_TRUST_DOMAIN,
        Lifetimes::default(),
        now_s,
    )?;
    Ok(Some(authority))
}

/// Returns the key file, which is made on the first run.
fn key(layout: &Layout) -> Result<PathBuf, LaunchError> {
    let path = layout.key();
    let usable = fs::read_to_string(&path).is_ok_and(|text| {
        let digits = text.trim();
        digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    });
    if !usable {
        let text = format!("{}\n", hexadecimal(&random()?));
        state::replace(&path, text.as_bytes()).map_err(file("write", &path))?;
    }
    Ok(path)
}

fn server(
    layout: &Layout,
    whodunit: PathBuf,
    api: SocketAddr,
    grpc: SocketAddr,
    options: &Options,
) -> Unit {
    let text = |path: &Path| path.display().to_string();
    let arguments = [
        "serve".to_owned(),
        "--data".to_owned(),
        text(layout.data()),
        "--listen".to_owned(),
        api.to_string(),
        "--grpc-listen".to_owned(),
        grpc.to_string(),
        "--topology".to_owned(),
        text(&layout.topology()),
    ];
    let further = options
        .server_args
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned());
    Unit {
        spec: Spec {
            instance: SERVER.to_owned(),
            program: whodunit,
            arguments: arguments.into_iter().chain(further).collect(),
            env: Vec::new(),
            working_dir: layout.data().to_owned(),
            log: layout.log(SERVER),
        },
        ready: Some(own_probe(api, "/ready")),
        start_timeout: SERVER_START_TIMEOUT,
        stop_timeout: SERVER_STOP_TIMEOUT,
        ..own_unit()
    }
}

fn proxy_unit(layout: &Layout, program: &Path, instance: &str, proxy: &Proxy) -> Unit {
    let name = format!("{instance}.proxy");
    Unit {
        spec: Spec {
            log: layout.log(&name),
            instance: name,
            program: program.to_owned(),
            arguments: vec!["--config".to_owned(), proxy.path.display().to_string()],
            env: Vec::new(),
            working_dir: layout.run(),
        },
        ready: Some(own_probe(proxy.config.admin.listen, "/live")),
        start_timeout: PROXY_START_TIMEOUT,
        stop_timeout: PROXY_STOP_TIMEOUT,
        ..own_unit()
    }
}

/// What all processes of ours have in common.
fn own_unit() -> Unit {
    Unit {
        spec: Spec {
            instance: String::new(),
            program: PathBuf::new(),
            arguments: Vec::new(),
            env: Vec::new(),
            working_dir: PathBuf::new(),
            log: PathBuf::new(),
        },
        restart: Restart::Always,
        backoff: OWN_BACKOFF,
        backoff_max: OWN_BACKOFF_MAX,
        start_timeout: Duration::ZERO,
        stop_timeout: Duration::ZERO,
        ready: None,
        live: None,
        place: None,
        quiet: true,
    }
}

fn own_probe(address: SocketAddr, path: &str) -> Probe {
    Probe {
        by: None,
        question: Question::Http {
            address,
            host: address.to_string(),
            path: path.to_owned(),
        },
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        threshold: 3,
    }
}

/// What runs.
struct Fleet {
    prepared: Prepared,
    server: Option<Kept>,
    /// Proxies and applications by step of the plan.
    proxies: Vec<Vec<Kept>>,
    apps: Vec<Vec<Kept>>,
}

impl Fleet {
    fn new(prepared: Prepared) -> Self {
        Self {
            prepared,
            server: None,
            proxies: Vec::new(),
            apps: Vec::new(),
        }
    }

    /// Starts everything, and waits until all of it is ready.
    async fn bring_up(&mut self, options: &Options) -> Result<(), LaunchError> {
        let shared = Arc::clone(&self.prepared.shared);
        let (api, grpc) = (self.prepared.state.api, self.prepared.state.grpc);
        if options.server.is_some() {
            let probe = own_probe(api, "/ready");
            let answer = probe.ask().await;
            answer.map_err(|why| LaunchError::NoServer { address: api, why })?;
        } else {
            let server = Kept::start(self.prepared.server.clone(), Arc::clone(&shared));
            let server = self.server.insert(server);
            all_started(&self.prepared.layout, [&*server]).await?;
        }
        shared.events.send(Event::ServerReady { api, grpc });
        self.announce();

        // All proxies first: an application may call as soon as it starts.
        for step in &self.prepared.plan.steps {
            let start = |instance: &Instance| {
                let proxy = instance.proxy.as_ref()?;
                let name = &instance.app.spec.instance;
                let prepared = &self.prepared;
                let mut unit = proxy_unit(&prepared.layout, &prepared.proxy, name, proxy);
                if let Some(Isolated { isolation, .. }) = &prepared.isolated {
                    isolation.put_into(name, &mut unit.spec, true);
                    if let Some(probe) = &mut unit.ready {
                        probe.by = Some(isolation.namespaces(name));
                    }
                }
                Some(Kept::start(unit, Arc::clone(&shared)))
            };
            self.proxies.push(step.iter().filter_map(start).collect());
        }
        all_started(&self.prepared.layout, self.proxies.iter().flatten()).await?;
        for step in &self.prepared.plan.steps {
            let start =
                |instance: &Instance| Kept::start(instance.app.clone(), Arc::clone(&shared));
            self.apps.push(step.iter().map(start).collect());
            all_started(&self.prepared.layout, self.apps.iter().flatten()).await?;
        }
        shared.events.send(Event::AllReady {
            app: self.prepared.state.app.clone(),
            api: format!("http://{api}"),
            listening: self.prepared.plan.listening.clone(),
        });
        Ok(())
    }

    /// Lets commands find the mesh.
    fn announce(&self) {
        let Prepared {
            shared,
            state,
            state_file,
            layout,
            ..
        } = &self.prepared;
        let own = layout.state();
        let mut paths = vec![&own];
        match state::read(state_file) {
            Some(other) if other.pid != state.pid => {
                let path = state_file.clone();
                shared.events.send(Event::StateFileHeld {
                    path,
                    pid: other.pid,
                });
            }
            _ => paths.push(state_file),
        }
        for path in paths {
            if let Err(error) = state::write(path, state) {
                let path = path.display();
                let what = format!("cannot write {path}, commands need --addr: {error}");
                shared.events.send(Event::Warning { what });
            }
        }
    }

    /// Stops everything: callers before what they call, each application
    /// before its proxy, and the server last, so that it gets all records.
    async fn take_down(mut self, mut stop: Stop) {
        let events = self.prepared.shared.events.clone();
        let mut at_once = stop.wish() == Wish::AtOnce;
        if !at_once {
            events.send(Event::Stopping { at_once });
            tokio::select! {
                () = self.in_order() => {}
                () = stop.at_least(Wish::AtOnce) => at_once = true,
            }
        }
        if at_once {
            events.send(Event::Stopping { at_once });
            for kept in self.all() {
                kept.wish(Wish::AtOnce);
            }
            for kept in self.all() {
                kept.gone().await;
            }
        }
        let Prepared {
            state,
            state_file,
            layout,
            shared,
            ..
        } = &self.prepared;
        for path in [state_file, &layout.state()] {
            if state::read(path).is_some_and(|found| found.pid == state.pid) {
                let _already_gone = fs::remove_file(path);
            }
        }
        let watchdog = Arc::clone(&shared.watchdog);
        let finished = tokio::task::spawn_blocking(move || watchdog.finish()).await;
        if !matches!(finished, Ok(Ok(()))) {
            let what = "the watchdog was lost, something may be left running".to_owned();
            events.send(Event::Warning { what });
        }
    }

    async fn in_order(&mut self) {
        // Steps whose applications were never started still have proxies.
        let steps = self.apps.len().max(self.proxies.len());
        for step in (0..steps).rev() {
            end(self.apps.get_mut(step)).await;
            end(self.proxies.get_mut(step)).await;
        }
        if let Some(server) = &mut self.server {
            server.wish(Wish::InOrder);
            server.gone().await;
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Kept> {
        let processes = self.apps.iter_mut().chain(&mut self.proxies).flatten();
        processes.chain(&mut self.server)
    }
}

async fn end(processes: Option<&mut Vec<Kept>>) {
    let Some(processes) = processes else { return };
    for kept in processes.iter() {
        kept.wish(Wish::InOrder);
    }
    for kept in processes {
        kept.gone().await;
    }
}

/// Waits until all are up, or returns why the first was given up.
async fn all_started(
    layout: &Layout,
    processes: impl IntoIterator<Item = &Kept>,
) -> Result<(), LaunchError> {
    let mut waiting = JoinSet::new();
    for kept in processes {
        let (instance, started) = (kept.instance.clone(), kept.started());
        waiting.spawn(async move { (instance, started.await) });
    }
    while let Some(done) = waiting.join_next().await {
        if let Ok((instance, Status::Failed { how, last_lines })) = done {
            let log = layout.log(&instance);
            return Err(LaunchError::DidNotStart {
                instance,
                how,
                last_lines,
                log,
            });
        }
    }
    Ok(())
}

fn private_folder(path: &Path) -> Result<(), LaunchError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|why| LaunchError::DataFolder {
        path: path.to_owned(),
        why,
    })
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.to_owned();
    move |why| LaunchError::File { what, path, why }
}

fn random() -> Result<[u8; 16], LaunchError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| LaunchError::File {
        what: "read",
        path: PathBuf::from("the system's random numbers"),
        why: io::Error::other(error),
    })?;
    Ok(bytes)
}

fn first_eight(bytes: &[u8; 16]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    first
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
