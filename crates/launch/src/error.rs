//! Why a mesh could not be started, said so that the reader can fix it.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use whodunit_control::identity::AuthorityError;
use whodunit_control::mesh_file::{Location, RenderError};

use crate::ports::NoFreePort;
use crate::state::LocalState;

/// Why a mesh was not started or did not stay up. When it is returned nothing
/// of the mesh is running any more.
///
/// `Display` is the whole text, with what to do about it; there is no source
/// to print below it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Another launcher uses the data directory.
    #[error("{}", already_running(.data, .state.as_deref()))]
    AlreadyRunning {
        /// The data directory.
        data: PathBuf,
        /// The mesh that runs, if it can be told.
        state: Option<Box<LocalState>>,
    },
    /// A file or folder cannot be used.
    #[error("cannot {what} {}: {why}", .path.display())]
    File {
        /// What was tried, such as "write".
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The authority that certifies proxies cannot be opened or made.
    #[error("cannot certify proxies: {0}")]
    Identity(#[from] AuthorityError),
    /// The data directory cannot be used.
    #[error(
        "cannot create the folder {}: {why}\nhelp: choose a data directory that you may write \
         to with --data DIR", .path.display()
    )]
    DataFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// A program of ours is missing.
    #[error("there is no {name}{}: {fix}", in_folders(.searched))]
    NoTool {
        /// The program.
        name: &'static str,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
        /// What to do.
        fix: &'static str,
    },
    /// The program of a service is missing.
    #[error(
        "{}:{}:{}: service `{service}`: there is no program `{program}`{}\n\
         help: install it, or write its whole path into `command`",
        .file.display(), .at.line, .at.column, in_folders(.searched)
    )]
    NoProgram {
        /// The service.
        service: String,
        /// The mesh file.
        file: PathBuf,
        /// Where the command stands.
        at: Location,
        /// The program.
        program: String,
        /// Where it was looked for, besides the folders of PATH.
        searched: Vec<PathBuf>,
    },
    /// The program of a service is there but cannot be started.
    #[error(
        "{}:{}:{}: service `{service}`: {} is not an executable file\n\
         help: `chmod +x` it, or put its interpreter before it in `command`",
        .file.display(), .at.line, .at.column, .path.display()
    )]
    NotExecutable {
        /// The service.
        service: String,
        /// The mesh file.
        file: PathBuf,
        /// Where the command stands.
        at: Location,
        /// What the command names.
        path: PathBuf,
    },
    /// The folder that a program is to be started in cannot be used.
    #[error(
        "{}: `working_dir` of service `{service}`: cannot use the folder {}: {why}\n\
         help: create it, or correct `working_dir`; a relative path starts from the mesh file's \
         folder", .file.display(), .path.display()
    )]
    WorkingDir {
        /// The service.
        service: String,
        /// The mesh file.
        file: PathBuf,
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The port that an application has hard-wired is taken.
    #[error(
        "service `{service}`: port {port} of the application (`app_port`) is taken by another \
         process\nhelp: end that process (`ss -ltnp 'sport = :{port}'` names it), or tell the \
         application its port with {{port}} and leave `app_port` out"
    )]
    AppPortTaken {
        /// The service.
        service: String,
        /// Its port.
        port: u16,
    },
    /// No port is free.
    #[error(transparent)]
    NoFreePort(#[from] NoFreePort),
    /// A placeholder has no value.
    #[error("{}: service `{service}`, `{key}`: {why}", .file.display())]
    Placeholder {
        /// The mesh file or template.
        file: PathBuf,
        /// The service.
        service: String,
        /// Where the placeholder is used.
        key: String,
        /// What is missing.
        why: RenderError,
    },
    /// A template file says something that makes no sense.
    #[error("{}:{}:{}: {message}\nhelp: {help}", .file.display(), .at.line, .at.column)]
    Template {
        /// The template.
        file: PathBuf,
        /// Where in it.
        at: Location,
        /// What is wrong.
        message: String,
        /// What to write.
        help: String,
    },
    /// A check has no address that could be asked.
    #[error(
        "{}: `{key}` of service `{service}` asks \"{url}\", which has no address: write an IP \
         address or localhost, and a port", .file.display()
    )]
    Check {
        /// The mesh file.
        file: PathBuf,
        /// The service.
        service: String,
        /// `ready` or `live`.
        key: &'static str,
        /// What would be asked.
        url: String,
    },
    /// The address of an external service cannot be found.
    #[error(
        "{}:{}:{}: cannot find the address of external `{external}`, \"{address}\": {why}",
        .file.display(), .at.line, .at.column
    )]
    Resolve {
        /// The mesh file.
        file: PathBuf,
        /// Where the address stands.
        at: Location,
        /// The external service.
        external: String,
        /// Its address.
        address: String,
        /// What the system said.
        why: io::Error,
    },
    /// The process that clears away after us cannot be started.
    #[error("cannot start the watchdog ({} {}): {why}", .program.display(), crate::WATCHDOG_COMMAND)]
    Watchdog {
        /// The executable.
        program: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// Instances cannot have networks of their own.
    #[error("cannot isolate instances: {what}\nhelp: {fix}")]
    Isolate {
        /// What is missing or refused.
        what: String,
        /// What to do.
        fix: String,
    },
    /// An instance did not come up.
    #[error("{}", did_not_start(.instance, .how, .last_lines, .log))]
    DidNotStart {
        /// The instance; "server" is the server, a proxy is `INSTANCE.proxy`.
        instance: String,
        /// How it ended.
        how: String,
        /// The last lines it printed.
        last_lines: Vec<String>,
        /// All it printed.
        log: PathBuf,
    },
    /// A server that should run already does not answer.
    #[error("the server at {address} is not ready: {why}")]
    NoServer {
        /// Its API address.
        address: std::net::SocketAddr,
        /// What is wrong.
        why: String,
    },
}

fn already_running(data: &std::path::Path, state: Option<&LocalState>) -> String {
    let Some(state) = state else {
        return format!(
            "another launcher uses {} and does not say which\nhelp: end it, or use another data \
             directory with --data",
            data.display()
        );
    };
    let mut text = format!("{} runs already (pid {})", state.name, state.pid);
    if let Some(app) = &state.app {
        let _infallible = write!(text, "\n  application  {app}");
    }
    let _infallible = write!(
        text,
        "\n  API          http://{}\n  data         {}\n\
         help: ask it with `whodunit --addr {}`, end it with `kill {}`, or start another one with \
         --data DIR",
        state.api,
        state.data.display(),
        state.api,
        state.pid
    );
    text
}

fn in_folders(folders: &[PathBuf]) -> String {
    if folders.is_empty() {
        return String::new();
    }
    let folders: Vec<String> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    format!(" in {}", folders.join(", "))
}

fn did_not_start(
    instance: &str,
    how: &str,
    last_lines: &[String],
    log: &std::path::Path,
) -> String {
    let mut text = format!("{instance} did not start: {how}");
    if how == "exit code 0" {
        text.push_str(" (a program must stay in the foreground, or have `restart = \"never\"`)");
    }
    for line in last_lines {
        let _infallible = write!(text, "\n  | {line}");
    }
    let _infallible = write!(text, "\nhelp: all it printed is in {}", log.display());
    text
}
