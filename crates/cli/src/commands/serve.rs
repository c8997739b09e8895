//! `whodunit serve`: the server alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use whodunit_model::time::parse_duration;
use whodunit_observe::{Options, Server};

use crate::failure::{Exit, Failure};
use crate::logging;
use crate::output::Stop;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  whodunit serve                                   Data under ~/.local/share/whodunit/server
  whodunit serve --data /var/lib/whodunit --retention-bytes 100GiB --retention-age 30d
  whodunit serve --listen 127.0.0.1:0              On a free port, which the log names
  WHODUNIT_LOG=debug whodunit serve

The server listens on loopback addresses only: there is no authentication yet. SIGTERM or
Ctrl-C stops it in order. Its log goes to standard error.";

/// Flags of `serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Where HTTP is answered; port 0 is any free port
    #[arg(long, value_name = "IP:PORT", default_value_t = loopback(7070))]
    listen: SocketAddr,
    /// Where gRPC is answered: records and discovery
    #[arg(long, alias = "grpc", value_name = "IP:PORT", default_value_t = loopback(7071))]
    grpc_listen: SocketAddr,
    /// File that says where services live, written by `whodunit run`
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
    #[command(flatten)]
    retention: RetentionArgs,
}

/// How long records are kept.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RetentionArgs {
    /// Most bytes of records on disk, such as 500MiB; over it the oldest hours go
    /// [default: 10GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) retention_bytes: Option<u64>,
    /// Age at which records go, such as 12h or 30d [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = parse_age)]
    pub(crate) retention_age: Option<Age>,
}

/// An age in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age {
    /// Seconds.
    pub(crate) seconds: u64,
}

/// A loopback address.
pub(crate) const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as 500MiB, 10GiB or 1000000");
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "ki" => 1 << 10,
        "mib" | "mi" => 1 << 20,
        "gib" | "gi" => 1 << 30,
        "tib" | "ti" => 1_u64 << 40,
        "kb" | "k" => 1_000,
        "mb" | "m" => 1_000_000,
        "gb" | "g" => 1_000_000_000,
        "tb" | "t" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

fn parse_age(text: &str) -> Result<Age, String> {
    let us = parse_duration(text).map_err(|error| error.to_string())?;
    match u64::try_from(us / 1_000_000) {
        Ok(seconds) if seconds > 0 => Ok(Age { seconds }),
        _ => Err("records have to be kept for a second at least".to_owned()),
    }
}

/// Runs the server until it is told to stop.
pub(crate) async fn run(args: &ServeArgs, session: &Session) -> Result<Exit, Stop> {
    logging::start("info")?;
    let data = session
        .global
        .data
        .clone()
        .or_else(|| whodunit_launch::default_data_dir("server"))
        .ok_or_else(|| {
            Failure::usage("there is no home directory for the data").fix("--data DIR")
        })?;
    let mut options = Options::new(data);
    options.http = args.listen;
    options.grpc = args.grpc_listen;
    options.topology.clone_from(&args.topology);
    if let Some(bytes) = args.retention.retention_bytes {
        options.store.retention_bytes = bytes;
    }
    if let Some(age) = args.retention.retention_age {
        options.store.retention_age_s = age.seconds;
    }
    let no_signals = |error| Failure::failed("cannot listen for signals", error);
    let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;

    let server = Server::start(options)
        .await
        .map_err(|error| Failure::chain("cannot start the server", &error))?;
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    tracing::info!("stopping");
    tokio::select! {
        () = server.shutdown() => Ok(Exit::Ok),
        _ = interrupted.recv() => Ok(Exit::Interrupted),
        _ = terminated.recv() => Ok(Exit::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_as_people_type_them() {
        assert_eq!(parse_bytes("500MiB"), Ok(500 << 20));
        assert_eq!(parse_bytes("10gb"), Ok(10_000_000_000));
        assert_eq!(parse_bytes("17"), Ok(17));
        for wrong in ["", "MiB", "1.5GiB", "5 apples", "99999999999TiB", "-1"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            parse_age("30d"),
            Ok(Age {
                seconds: 30 * 86_400
            })
        );
        assert!(parse_age("0s").is_err());
        assert!(parse_age("soon").is_err());
    }
}
