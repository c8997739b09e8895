//! Stands in for the programs that the launcher starts, so that it can be
//! tested without them: a server that is always ready, a proxy that passes
//! bytes on, and an application that can be made to misbehave.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use serde::Deserialize;
use whodunit_control::mesh_file;
use whodunit_launch::{Event, Options, Stop, enter_main, run, watchdog_main};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["__watchdog"] => return watchdog_main(),
        ["__enter", ..] => return enter_main(),
        ["serve", "--data", _, "--listen", api, ..] => serve(api, |_| Answer::ok("server")),
        ["--config", config] => proxy(Path::new(config)),
        ["app", name, port] => app(name, port),
        ["launch", mesh, data, state] => launch(Path::new(mesh), Path::new(data), Path::new(state)),
        _ => Err(io::Error::other(format!("called as {words:?}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_listens = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn ok(body: &str) -> Self {
        Self {
            status: 200,
            body: body.to_owned(),
        }
    }
}

/// Answers each connection once; `answer` sees the path.
fn serve(listen: &str, answer: impl Fn(&str) -> Answer) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut line = String::new();
        BufReader::new((&mut stream).take(4_096)).read_line(&mut line)?;
        let Some(path) = line.split(' ').nth(1) else {
            continue;
        };
        let Answer { status, body } = answer(path);
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
        let _peer_gone = stream.write_all(head.as_bytes());
    }
}

/// An application. Files in its own folder, `$DATA`, make it misbehave:
/// `unwell` makes its check fail, `die` makes it end with code 3.
fn app(name: &str, port: &str) -> io::Result<()> {
    let data = PathBuf::from(std::env::var("DATA").map_err(io::Error::other)?);
    writeln!(io::stderr(), "{name} starts")?;
    serve(&format!("127.0.0.1:{port}"), |path| {
        if fs::remove_file(data.join("die")).is_ok() {
            let _nobody_listens = writeln!(io::stderr(), "{name} was told to die");
            std::process::exit(3);
        }
        match (path, std::env::var("CALLEE")) {
            ("/health", _) if data.join("unwell").exists() => Answer {
                status: 503,
                body: "unwell".to_owned(),
            },
            ("/via", Ok(callee)) => match get(&callee) {
                Ok(said) => Answer::ok(&format!("{name} via {said}")),
                Err(error) => Answer {
                    status: 502,
                    body: error.to_string(),
                },
            },
            _ => Answer::ok(name),
        }
    })
}

fn get(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said.rsplit("\r\n").next().unwrap_or_default().to_owned())
}

#[derive(Deserialize)]
struct ProxyFile {
    admin: Admin,
    listener: Vec<Listener>,
}

#[derive(Deserialize)]
struct Admin {
    listen: String,
}

#[derive(Clone, Deserialize)]
struct Listener {
    listen: String,
    forward: Option<SocketAddr>,
    service: Option<String>,
}

#[derive(Deserialize)]
struct Topology {
    services: Vec<whodunit_model::Service>,
}

/// A proxy that looks up where to go for each connection.
fn proxy(config: &Path) -> io::Result<()> {
    let text = fs::read_to_string(config)?;
    let file: ProxyFile = toml::from_str(&text).map_err(io::Error::other)?;
    let topology = config.with_file_name("topology.json");
    for listener in file.listener {
        let bound = TcpListener::bind(&listener.listen)?;
        let topology = topology.clone();
        thread::spawn(move || {
            for stream in bound.incoming().flatten() {
                let target = listener.forward.or_else(|| look_up(&topology, &listener));
                if let Some(there) = target.and_then(|target| TcpStream::connect(target).ok()) {
                    relay(stream, there);
                }
            }
        });
    }
    serve(&file.admin.listen, |_| Answer::ok("proxy"))
}

fn look_up(topology: &Path, listener: &Listener) -> Option<SocketAddr> {
    let topology: Topology = serde_json::from_str(&fs::read_to_string(topology).ok()?).ok()?;
    let services: BTreeMap<_, _> = topology
        .services
        .into_iter()
        .map(|service| (service.name.name.clone(), service))
        .collect();
    let service = services.get(listener.service.as_ref()?)?;
    service
        .endpoints
        .iter()
        .find(|endpoint| endpoint.ready)
        .map(|endpoint| endpoint.address)
}

fn relay(here: TcpStream, there: TcpStream) {
    let (Ok(mut from), Ok(mut to)) = (here.try_clone(), there.try_clone()) else {
        return;
    };
    thread::spawn(move || {
        let _ended = io::copy(&mut from, &mut to);
        let _gone = to.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let (mut from, mut to) = (there, here);
        let _ended = io::copy(&mut from, &mut to);
        let _gone = to.shutdown(Shutdown::Write);
    });
}

/// A launcher, in a process that a test can kill.
#[tokio::main]
async fn launch(mesh: &Path, data: &Path, state: &Path) -> io::Result<()> {
    let mesh = mesh_file::load(mesh).map_err(io::Error::other)?;
    let own = std::env::current_exe()?;
    let options = Options {
        whodunit: Some(own.clone()),
        proxy: Some(own),
        state_file: state.to_owned(),
        api: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        grpc: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..Options::new("test", data.to_owned())?
    };
    let (sender, mut events) = tokio::sync::mpsc::channel::<Event>(256);
    let told = tokio::task::spawn_blocking(move || {
        while let Some(event) = events.blocking_recv() {
            let _nobody_listens = writeln!(io::stdout(), "{event}");
        }
    });
    let ended = run(mesh, options, sender, Stop::on_signals()?).await;
    told.await.map_err(io::Error::other)?;
    ended.map(drop).map_err(io::Error::other)
}
