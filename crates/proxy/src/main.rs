//! The proxy's binary: reads `proxy.toml`, runs until it is told to end.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use whodunit_proxy::{Config, Proxy, VERSION, log};

/// Takes less time than the system's for the small pieces that a request is made of. Huge
/// pages are off: they would make every connection resident many times over.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
Forwards requests and records each of them.

Usage: whodunit-proxy --config FILE [--check-config]
       whodunit-proxy --version

Options:
      --config FILE    The configuration, see docs/proxy-toml.md
      --check-config   Read the configuration, say whether it is valid, and end
  -V, --version        Print the version
  -h, --help           Print this help

Environment:
  WHODUNIT_LOG         What is logged to standard error, for example debug or
                       whodunit_proxy=debug (default: warn,whodunit_proxy=info)

Signals:
  SIGTERM, SIGINT      End in order: finish open requests, send the last records
";

/// What the command line asks for.
enum Command {
    Run(PathBuf),
    Check(PathBuf),
    Print(String),
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut config, mut check) = (None, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-h" | "--help" => return Ok(Command::Print(USAGE.to_owned())),
            "-V" | "--version" => return Ok(Command::Print(format!("whodunit-proxy {VERSION}\n"))),
            "--check-config" => check = true,
            "--config" => {
                config = Some(
                    arguments
                        .next()
                        .ok_or("--config needs the path of a file")?,
                );
            }
            other => match other.strip_prefix("--config=") {
                Some(path) => config = Some(path.to_owned()),
                None => return Err(format!("unknown argument `{other}`; see --help")),
            },
        }
    }
    let config = PathBuf::from(config.ok_or("say where the configuration is: --config FILE")?);
    Ok(if check {
        Command::Check(config)
    } else {
        Command::Run(config)
    })
}

fn main() -> ExitCode {
    let command = match parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(why) => {
            complain(&why);
            return ExitCode::from(2);
        }
    };
    match perform(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// There is nowhere to go with an error of standard error.
fn complain(why: &str) {
    let _ = writeln!(std::io::stderr(), "whodunit-proxy: {why}");
}

fn perform(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Print(text) => std::io::stdout()
            .write_all(text.as_bytes())
            .context("write to standard output"),
        Command::Check(path) => {
            let config = Config::load(&path)?;
            let checked = config.check_files();
            checked.map_err(|why| anyhow::anyhow!("{}: `identity`: {why}", path.display()))?;
            let text = format!(
                "{}: valid, {} listeners\n",
                path.display(),
                config.listeners.len()
            );
            std::io::stdout()
                .write_all(text.as_bytes())
                .context("write to standard output")
        }
        Command::Run(path) => run(Config::load(&path)?),
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    log::init();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        let terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
        anyhow::Ok((terminate, interrupt))
    })?;
    let running = Proxy::start(config)?;
    for (name, address) in running.listeners() {
        tracing::info!(listener = name, %address, "listening");
    }
    if let Some(address) = running.admin() {
        tracing::info!(%address, "admin");
    }
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    tracing::info!("ending");
    running.shutdown();
    Ok(())
}

/// Each connection takes a file descriptor, and the usual limit is 1,024.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
