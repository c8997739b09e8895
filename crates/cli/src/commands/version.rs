//! `whodunit version`.

use clap::Args;
use serde::Serialize;

use crate::failure::Exit;
use crate::output::{self, Format, Stop};
use crate::session::Session;

/// Flags of `version`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  whodunit version              Client and server
  whodunit version --client     Client only
  whodunit version -o short     The number alone")]
pub(crate) struct VersionArgs {
    /// Do not ask the server
    #[arg(long)]
    client: bool,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    server: Option<String>,
}

/// Asks and prints. A server that does not answer is no failure.
pub(crate) async fn run(args: &VersionArgs, session: &mut Session) -> Result<Exit, Stop> {
    let client = env!("CARGO_PKG_VERSION");
    if session.global.output == Format::Short {
        output::write(&format!("{client}\n"))?;
        return Ok(Exit::Ok);
    }
    let server = if args.client {
        None
    } else {
        let status = session.connect()?.status().await;
        status.ok().map(|status| status.version)
    };
    let versions = Versions { client, server };
    session.show(&versions, |_| {
        let mut text = format!("Client version: {client}\n");
        if !args.client {
            let server = versions.server.as_deref().unwrap_or("not reachable");
            text.push_str(&format!("Server version: {}\n", crate::text::safe(server)));
        }
        text
    })?;
    Ok(Exit::Ok)
}
