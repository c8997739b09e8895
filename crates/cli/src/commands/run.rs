//! `whodunit run`: runs a mesh.toml on this machine.

mod supervise;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use whodunit_control::mesh_file;
use whodunit_launch::{Options, RunningServer};

pub(crate) use supervise::{Story, supervise};

use crate::client::Client;
use crate::commands::serve::RetentionArgs;
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::output::Stop;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  whodunit run                         The mesh.toml of this folder
  whodunit run -f shop/mesh.toml       Another one
  whodunit run --data /tmp/shop        With its records elsewhere
  whodunit run --server 127.0.0.1:7070 With a server that runs already
  sudo whodunit run --isolate          With a network namespace for each instance

Starts the server, every service, and one proxy beside each instance; restarts what dies.
Ctrl-C stops all in order, a second Ctrl-C at once. docs/mesh-toml.md describes the file.";

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// The mesh file
    #[arg(short, long, value_name = "FILE", default_value = "mesh.toml")]
    file: PathBuf,
    /// Give each instance a network of its own, where all its connections pass its proxy,
    /// whatever it knows of it. Linux, as root, with the programs ip and nft
    #[arg(long)]
    isolate: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// How the server of a mesh runs.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServerArgs {
    /// Where the server answers HTTP; a taken port is replaced by a free one
    /// [default: 127.0.0.1:7070]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where the server answers gRPC [default: 127.0.0.1:7071]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) grpc_listen: Option<SocketAddr>,
    /// Use the server that runs at this HTTP address, and start none. It has to be started with
    /// --topology DATA/run/topology.json
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["listen", "grpc_listen"])]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) retention: RetentionArgs,
}

/// Runs the mesh until it is told to stop.
pub(crate) async fn run(args: &RunArgs, session: &Session) -> Result<Exit, Stop> {
    logging::start("warn")?;
    let mesh = mesh_file::load(&args.file).map_err(|error| mesh_failure(&args.file, &error))?;
    let name = mesh.default_name();
    let mut options = options(&name, &args.server, session).await?;
    options.isolate = args.isolate;
    supervise(mesh, options, &Story::Mesh(name), session).await
}

/// An error of a mesh file is a whole text: the first line says what, the rest where and how.
fn mesh_failure(file: &std::path::Path, error: &mesh_file::MeshFileError) -> Failure {
    Failure::failed(format!("cannot use {}", file.display()), error).text(error.to_string())
}

/// Returns how a mesh of this name is to be run.
pub(crate) async fn options(
    name: &str,
    args: &ServerArgs,
    session: &Session,
) -> Result<Options, Failure> {
    let data = session
        .global
        .data
        .clone()
        .or_else(|| whodunit_launch::default_data_dir(name))
        .ok_or_else(|| {
            Failure::usage("there is no home directory for the data").fix("--data DIR")
        })?;
    let mut options = Options::new(name, data)
        .map_err(|error| Failure::chain("cannot find this program itself", &error))?;
    options.api = args.listen;
    options.grpc = args.grpc_listen;
    if let Some(bytes) = args.retention.retention_bytes {
        options.server_args.push("--retention-bytes".into());
        options.server_args.push(bytes.to_string().into());
    }
    if let Some(age) = args.retention.retention_age {
        options.server_args.push("--retention-age".into());
        options.server_args.push(format!("{}s", age.seconds).into());
    }
    if let Some(addr) = &args.server {
        options.server = Some(running_server(addr).await?);
    }
    Ok(options)
}

/// Asks a running server where its proxies are to connect.
async fn running_server(addr: &str) -> Result<RunningServer, Failure> {
    let client = Client::new(addr)?;
    let status: whodunit_api::status::Status = client.get("/status", &()).await?;
    let no_address = |what: &str, text: &str| {
        Failure::failed(
            format!("cannot use the server at {addr}"),
            format!("`{text}` is not the {what} address of a server, IP:PORT"),
        )
        .fix("write --server as IP:PORT")
    };
    let api = client.addr();
    Ok(RunningServer {
        api: api.parse().map_err(|_| no_address("HTTP", api))?,
        grpc: status
            .grpc
            .parse()
            .map_err(|_| no_address("gRPC", &status.grpc))?,
    })
}
