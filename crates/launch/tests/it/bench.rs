//! A mesh under test: its folders, its events, and ways to look at it.

use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use whodunit_control::mesh_file;
use whodunit_launch::{Ended, Event, LaunchError, Options, Stop, StopHandle, run};

/// The program that plays everything but the launcher.
pub(crate) const STAND_IN: &str = env!("CARGO_BIN_EXE_whodunit-launch-stand-in");

/// Long enough for two busy cores; only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running mesh.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) stop: StopHandle,
    events: mpsc::Receiver<Event>,
    seen: Vec<Event>,
    task: JoinHandle<Result<Ended, LaunchError>>,
}

/// Returns the definition of a service that the stand-in plays.
pub(crate) fn app(name: &str, more: &str) -> String {
    format!(
        "[service.{name}]\ncommand = ['{STAND_IN}', 'app', '{{instance}}', '{{port}}']\n\
         env.DATA = '{{data}}'\nbackoff = '10ms'\n{more}\n"
    )
}

pub(crate) fn options(folder: &Path) -> Options {
    Options {
        whodunit: Some(STAND_IN.into()),
        proxy: Some(STAND_IN.into()),
        state_file: folder.join("state/local.json"),
        api: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        grpc: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..Options::new("test", folder.join("data")).unwrap()
    }
}

impl Bench {
    pub(crate) fn start(mesh: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), mesh)
    }

    pub(crate) fn start_in(folder: TempDir, mesh: &str) -> Self {
        let mesh = mesh_file::parse(mesh, &folder.path().join("mesh.toml"))
            .unwrap_or_else(|error| panic!("{error}"));
        let (stop, stopped) = Stop::manual();
        let (sender, events) = mpsc::channel(1_024);
        let task = tokio::spawn(run(mesh, options(folder.path()), sender, stopped));
        Self {
            folder,
            stop,
            events,
            seen: Vec::new(),
            task,
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A file in an instance's own folder.
    pub(crate) fn own(&self, instance: &str, name: &str) -> PathBuf {
        self.data().join("apps").join(instance).join(name)
    }

    /// Waits for an event that `wanted` likes, and returns what it makes of it.
    pub(crate) async fn event<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            match next {
                Ok(Some(event)) => {
                    let found = wanted(&event);
                    self.seen.push(event);
                    if let Some(found) = found {
                        return found;
                    }
                }
                Ok(None) => panic!("the mesh ended; events: {:#?}", self.seen),
                Err(_) => panic!(
                    "no such event within {PATIENCE:?}; events: {:#?}",
                    self.seen
                ),
            }
        }
    }

    pub(crate) async fn all_ready(&mut self) {
        self.event(|event| matches!(event, Event::AllReady { .. }).then_some(()))
            .await;
    }

    /// Waits for an instance to be started; returns its process id.
    pub(crate) async fn starting(&mut self, name: &str) -> u32 {
        self.event(|event| match event {
            Event::Starting { instance, pid } if instance == name => Some(*pid),
            _ => None,
        })
        .await
    }

    pub(crate) async fn ready(&mut self, name: &str) {
        self.event(|event| match event {
            Event::Ready { instance, .. } if instance == name => Some(()),
            _ => None,
        })
        .await;
    }

    /// Returns all events so far, one a line, without ids and times.
    pub(crate) fn seen(&self) -> Vec<String> {
        let name = |event: &Event| match event {
            Event::Starting { instance, .. } => format!("starting {instance}"),
            Event::Ready { instance, .. } => format!("ready {instance}"),
            Event::Stopped { instance, .. } => format!("stopped {instance}"),
            Event::AllReady { .. } => "all ready".to_owned(),
            Event::ServerReady { .. } => "server ready".to_owned(),
            other => other.to_string(),
        };
        self.seen.iter().map(name).collect()
    }

    /// Where an instance can be reached, as the topology file says.
    pub(crate) fn endpoint(&self, wanted: &str) -> (SocketAddr, bool) {
        let text = fs::read_to_string(self.data().join("run/topology.json")).unwrap();
        let topology: serde_json::Value = serde_json::from_str(&text).unwrap();
        let endpoints = topology["services"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|service| service["endpoints"].as_array().unwrap());
        for endpoint in endpoints {
            if endpoint["instance"] == wanted {
                let address = endpoint["address"].as_str().unwrap().parse().unwrap();
                return (address, endpoint["ready"].as_bool().unwrap());
            }
        }
        panic!("no endpoint {wanted} in {text}");
    }

    /// Waits for the end of the mesh; returns how it ended and all further events.
    pub(crate) async fn ended(mut self) -> (Result<Ended, LaunchError>, Remains) {
        while let Some(event) = tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .unwrap_or_else(|_| panic!("the mesh does not end; events: {:#?}", self.seen))
        {
            self.seen.push(event);
        }
        let seen = self.seen();
        let outcome = self.task.await.unwrap();
        (
            outcome,
            Remains {
                folder: self.folder,
                seen,
                events: self.seen,
            },
        )
    }

    pub(crate) async fn stopped(self) -> Remains {
        self.stop.stop();
        let (outcome, after) = self.ended().await;
        assert_eq!(outcome.unwrap(), Ended { events_lost: 0 });
        after
    }
}

/// What is left of a mesh that ended.
pub(crate) struct Remains {
    pub(crate) folder: TempDir,
    pub(crate) seen: Vec<String>,
    pub(crate) events: Vec<Event>,
}

/// Asks for a path; returns status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    Ok((status.unwrap_or_default(), body.unwrap_or_default()))
}

/// Whether a process is there and not a mere corpse that nobody reaped.
pub(crate) fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.trim_start().chars().next());
        !matches!(state, Some('Z' | 'X') | None)
    })
}

/// Returns the mark that a process of the mesh bears in its environment.
pub(crate) fn mark(pid: u32) -> Vec<u8> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mark = environment
        .split(|byte| *byte == 0)
        .find(|pair| pair.starts_with(b"WHODUNIT_LAUNCH="))
        .unwrap_or_else(|| panic!("process {pid} bears no mark"));
    mark.to_vec()
}

/// Returns the living processes that bear a mark.
pub(crate) fn marked(mark: &[u8]) -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    .any(|pair| pair == mark)
            }) && lives(*pid)
        })
        .collect()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        pause().await;
    }
}

fn pause() -> impl Future<Output = ()> {
    tokio::time::sleep(Duration::from_millis(10))
}
