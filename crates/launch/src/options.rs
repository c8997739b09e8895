//! How a mesh is run, apart from what its file says.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::error::LaunchError;
use crate::{find, state};

/// Where the `whodunit` executable is, if not here: for tests and packagers.
const WHODUNIT_VARIABLE: &str = "WHODUNIT_BIN";

/// Where the `whodunit-proxy` executable is, if not beside this one or in PATH.
const PROXY_VARIABLE: &str = "WHODUNIT_PROXY_BIN";

/// How to run a mesh.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the mesh, for people.
    pub name: String,
    /// The data directory; made if it is not there.
    pub data: PathBuf,
    /// Where the server's HTTP API should listen; none: what the mesh file
    /// says, else port 7070. A free port is used when it is taken.
    pub api: Option<SocketAddr>,
    /// Where the server's gRPC should listen; none: what the mesh file says,
    /// else port 7071. A free port is used when it is taken.
    pub grpc: Option<SocketAddr>,
    /// The `whodunit` executable; none: `$WHODUNIT_BIN`, else this one.
    pub whodunit: Option<PathBuf>,
    /// The `whodunit-proxy` executable; none: `$WHODUNIT_PROXY_BIN`, else the
    /// one beside this executable, else the one in PATH.
    pub proxy: Option<PathBuf>,
    /// Folders where the programs of services are looked for before PATH.
    pub program_dirs: Vec<PathBuf>,
    /// Further arguments for `whodunit serve`.
    pub server_args: Vec<OsString>,
    /// A server that runs already; none: one is started. It must have been
    /// started with `--topology DATA/run/topology.json`, or it will not know
    /// where the services of this mesh live.
    pub server: Option<RunningServer>,
    /// Whether each instance gets a network namespace of its own, from which all connections
    /// are redirected to its proxy. It takes root, and Linux.
    pub isolate: bool,
    /// The file that tells commands which mesh runs on this machine.
    pub state_file: PathBuf,
}

/// A server that was not started by the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningServer {
    /// Its HTTP API.
    pub api: SocketAddr,
    /// Its gRPC address.
    pub grpc: SocketAddr,
}

impl Options {
    /// Returns the defaults for a mesh of this name.
    ///
    /// # Errors
    /// When the path of this executable is not known.
    pub fn new(name: &str, data: PathBuf) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        Ok(Self {
            name: name.to_owned(),
            data,
            api: None,
            grpc: None,
            whodunit: None,
            proxy: None,
            program_dirs: own.parent().map(Path::to_owned).into_iter().collect(),
            server_args: Vec::new(),
            server: None,
            isolate: false,
            state_file: state::default_path(),
        })
    }

    pub(crate) fn whodunit(&self) -> Result<PathBuf, LaunchError> {
        let chosen = self
            .whodunit
            .clone()
            .or_else(|| variable(WHODUNIT_VARIABLE));
        match chosen {
            Some(path) => Ok(path),
            None => std::env::current_exe().map_err(|why| LaunchError::File {
                what: "find",
                path: PathBuf::from("the running executable"),
                why,
            }),
        }
    }

    pub(crate) fn proxy(&self) -> Result<PathBuf, LaunchError> {
        if let Some(path) = self.proxy.clone().or_else(|| variable(PROXY_VARIABLE)) {
            return Ok(path);
        }
        let beside: Vec<PathBuf> = std::env::current_exe()
            .ok()
            .and_then(|own| own.parent().map(Path::to_owned))
            .into_iter()
            .collect();
        find::program("whodunit-proxy", &beside, Path::new("/")).ok_or(LaunchError::NoTool {
            name: "whodunit-proxy",
            searched: beside,
            fix: "install it beside whodunit (from the source: `cargo build -p whodunit-proxy`), \
                  or say with WHODUNIT_PROXY_BIN where it is",
        })
    }
}

/// Returns where a mesh of this name keeps its data by default:
/// `$XDG_DATA_HOME/whodunit/NAME` or `~/.local/share/whodunit/NAME`; none
/// without a home.
#[must_use]
pub fn default_data_dir(name: &str) -> Option<PathBuf> {
    let base = variable("XDG_DATA_HOME").filter(|folder| folder.is_absolute());
    let base = base.or_else(|| Some(variable("HOME")?.join(".local/share")))?;
    Some(base.join("whodunit").join(name))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
