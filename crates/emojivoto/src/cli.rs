//! Command line and environment of every subcommand.
//!
//! The environment variables are the original's; each has a flag of the same meaning,
//! and the flag wins. An empty variable counts as unset.

mod faults;

use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum as _};

use crate::bot::{self, BotOptions};
use crate::catalog::Era;
use crate::control;
use crate::emoji::EmojiService;
use crate::faults::{FaultSwitch, default_of, find};
use crate::log::Log;
use crate::random::Random;
use crate::rpc::{self, SelfCheck};
use crate::serve::{self, Stop};
use crate::voting::{VotingOptions, VotingService};
use crate::web::{self, Web};

/// Where we listen unless told otherwise: on this machine only.
const LISTEN_HOST: &str = "127.0.0.1";

/// Vote for your favorite emoji: a demo application with one broken vote.
///
/// Four workloads in one binary. Start emoji and voting, then web, then vote-bot. Flags win
/// over environment variables. SIGTERM or Ctrl-C stops each within a second.
#[derive(Debug, Parser)]
#[command(name = "emojivoto", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the pages and the REST API over HTTP/1.1
    #[command(
        after_help = "Probes: GET /healthz, GET /readyz (green while votes fail).\n\
        Example: WEB_PORT=8080 EMOJISVC_HOST=127.0.0.1:8081 VOTINGSVC_HOST=127.0.0.1:8082 \
        emojivoto web"
    )]
    Web(WebArgs),
    /// Serve the list of emoji over gRPC
    #[command(
        after_help = "Probes: grpc.health.v1.Health/Check; on PROM_PORT GET /healthz, \
        GET /readyz.\nExample: GRPC_PORT=8081 PROM_PORT=8801 emojivoto emoji"
    )]
    Emoji(EmojiArgs),
    /// Count votes over gRPC
    #[command(
        after_help = "Probes: grpc.health.v1.Health/Check; on PROM_PORT GET /healthz, \
        GET /readyz (green while votes fail).\n\
        Faults: on PROM_PORT, from this machine only, GET /faults and PUT /faults/NAME.\n\
        Example: GRPC_PORT=8082 PROM_PORT=8802 emojivoto voting --fault poop"
    )]
    Voting(VotingArgs),
    /// Vote over and over, never minding the answer
    #[command(after_help = "Example: WEB_HOST=127.0.0.1:8080 emojivoto vote-bot --rate 5 --seed 1")]
    VoteBot(BotArgs),
    /// List the faults, or switch the fault of a running voting service
    Faults(faults::FaultsArgs),
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Address to listen on; 0.0.0.0 opens the application to the network
    #[arg(
        long = "listen",
        env = "LISTEN_HOST",
        value_name = "HOST",
        default_value = LISTEN_HOST,
        value_parser = listen_host
    )]
    listen_host: String,

    #[command(flatten)]
    tracing: TracingArgs,
}

#[derive(Debug, Args)]
struct TracingArgs {
    /// Accepted because the original has it, and ignored: no traces are exported
    #[arg(long, env = "OC_AGENT_HOST", value_name = "HOST:PORT")]
    oc_agent_host: Option<String>,
}

#[derive(Debug, Args)]
struct WebArgs {
    /// Port of the pages and the API (mandatory)
    #[arg(long, env = "WEB_PORT", value_name = "PORT")]
    web_port: Option<String>,

    /// Where the emoji service listens (mandatory)
    #[arg(long, env = "EMOJISVC_HOST", value_name = "HOST:PORT")]
    emojisvc_host: Option<String>,

    /// Where the voting service listens (mandatory)
    #[arg(long, env = "VOTINGSVC_HOST", value_name = "HOST:PORT")]
    votingsvc_host: Option<String>,

    /// Script to serve at /js instead of the built-in one
    #[arg(long, env = "INDEX_BUNDLE", value_name = "FILE")]
    index_bundle: Option<String>,

    /// Server that has the script while it is being developed, such as http://127.0.0.1:8083:
    /// the page loads its /dist/index_bundle.js instead of our /js
    #[arg(long, env = "WEBPACK_DEV_SERVER", value_name = "URL")]
    webpack_dev_server: Option<String>,

    /// Text to show above the ballot
    #[arg(long, env = "MESSAGE_OF_THE_DAY", value_name = "TEXT")]
    message_of_the_day: Option<String>,

    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct GrpcArgs {
    /// Port of the gRPC service (mandatory)
    #[arg(long, env = "GRPC_PORT", value_name = "PORT")]
    grpc_port: Option<String>,

    /// Port of /metrics, /healthz and /readyz; none of them without it
    #[arg(long, env = "PROM_PORT", value_name = "PORT")]
    prom_port: Option<String>,

    /// Year whose application is played, 2018 or 2019
    #[arg(
        long,
        env = "EMOJIVOTO_ERA",
        value_name = "YEAR",
        default_value = "2018",
        value_parser = era
    )]
    era: Era,

    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct EmojiArgs {
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Debug, Args)]
struct VotingArgs {
    #[command(flatten)]
    grpc: GrpcArgs,

    /// What to break; see `emojivoto faults` [default: poop in 2018, doughnut in 2019]
    #[arg(long, env = "EMOJIVOTO_FAULT", value_name = "NAME")]
    fault: Option<String>,

    /// Number of this instance, or a name that ends in it, such as voting-1; the fault
    /// env-only breaks number 0 [default: 0]
    #[arg(long, env = "INSTANCE", value_name = "NUMBER")]
    instance: Option<String>,

    /// Start of the random numbers, for repeatable faults
    #[arg(long, env = "EMOJIVOTO_SEED", value_name = "NUMBER")]
    seed: Option<String>,

    /// Share of doughnut votes that fail, 0.0 to 1.0, whatever the fault [default: 0]
    #[arg(long, env = "FAILURE_RATE", value_name = "SHARE")]
    failure_rate: Option<String>,

    /// Wait before each successful vote, such as 300ms or 1.5s [default: 0]
    #[arg(long, env = "ARTIFICIAL_DELAY", value_name = "DURATION")]
    artificial_delay: Option<String>,
}

#[derive(Debug, Args)]
struct BotArgs {
    /// Where web listens (mandatory)
    #[arg(long, env = "WEB_HOST", value_name = "HOST:PORT")]
    web_host: Option<String>,

    /// Votes per second, at most; may be a fraction [default: 1]
    #[arg(long, env = "REQUEST_RATE", value_name = "RATE")]
    rate: Option<String>,

    /// End, successfully, after this many seconds [default: never]
    #[arg(long, env = "TTL", value_name = "SECONDS")]
    ttl: Option<String>,

    /// Host header to send instead of WEB_HOST
    #[arg(long, env = "HOST_OVERRIDE", value_name = "HOST")]
    host_override: Option<String>,

    /// Start of the random numbers: same seed, same votes [default: differs each time]
    #[arg(long, env = "EMOJIVOTO_SEED", value_name = "NUMBER")]
    seed: Option<String>,

    /// Year whose bot votes: 2018 15 % doughnut, 20 % poop, else any; 2019 15 % doughnut,
    /// else any
    #[arg(
        long,
        env = "EMOJIVOTO_ERA",
        value_name = "YEAR",
        default_value = "2018",
        value_parser = era
    )]
    era: Era,

    #[command(flatten)]
    tracing: TracingArgs,
}

/// Runs the command line of this process and returns its exit code: 0 when it ended as
/// asked, 1 when it failed, 2 when it was called wrongly.
pub fn run() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do when the standard error is closed.
            let _best_effort = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        match command {
            Command::Web(args) => serve_web(args).await,
            Command::Emoji(args) => serve_emoji(args).await,
            Command::Voting(args) => serve_voting(args).await,
            Command::VoteBot(args) => vote(args).await,
            Command::Faults(args) => faults::run(args).await,
        }
    });
    // Connections that linger must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(50));
    result
}

async fn serve_web(args: WebArgs) -> anyhow::Result<()> {
    let port = port(
        "WEB_PORT",
        &mandatory("WEB_PORT", "--web-port", args.web_port)?,
    )?;
    let emoji = mandatory("EMOJISVC_HOST", "--emojisvc-host", args.emojisvc_host)?;
    let voting = mandatory("VOTINGSVC_HOST", "--votingsvc-host", args.votingsvc_host)?;
    let index_bundle = given(args.index_bundle).map(PathBuf::from);
    if let Some(path) = &index_bundle {
        std::fs::read_to_string(path)
            .with_context(|| format!("read INDEX_BUNDLE {}", path.display()))?;
    }
    let log = Log::stderr();
    ignore(&args.common.tracing, &log);
    let message_of_the_day = args.message_of_the_day.unwrap_or_default();
    let web = Arc::new(Web {
        emoji: backend("EMOJISVC_HOST", &emoji)?,
        voting: backend("VOTINGSVC_HOST", &voting)?,
        index_bundle,
        webpack_dev_server: given(args.webpack_dev_server),
        message_of_the_day: message_of_the_day.clone(),
        log: log.clone(),
    });
    let stop = Stop::on_signal()?;
    let listener = serve::listen(&args.common.listen_host, port, "WEB_PORT").await?;
    let addr = listener
        .local_addr()
        .context("read the address of WEB_PORT")?;
    log.line(format_args!(
        "web serves HTTP on {addr}, WEB_PORT=[{port}], MESSAGE_OF_THE_DAY=[{message_of_the_day}]"
    ));
    serve::http(listener, web::routes(web), stop).await
}

async fn serve_emoji(args: EmojiArgs) -> anyhow::Result<()> {
    let log = Log::stderr();
    let service = Arc::new(EmojiService::new(args.grpc.era));
    let metrics = service.metrics();
    serve_grpc("emoji", &args.grpc, service, log, |ready| {
        control::routes(metrics, ready, None)
    })
    .await
}

async fn serve_voting(args: VotingArgs) -> anyhow::Result<()> {
    let log = Log::stderr();
    let fault = match given(args.fault) {
        Some(name) => find(&name).context("EMOJIVOTO_FAULT or --fault is not valid")?,
        None => default_of(args.grpc.era),
    };
    let instance = given(args.instance).map_or(Ok(0), |text| instance(&text))?;
    let failure_rate = match given(args.failure_rate) {
        Some(text) => share("FAILURE_RATE", &text)?,
        None => 0.0,
    };
    let artificial_delay = match given(args.artificial_delay) {
        Some(text) => crate::go::parse_duration(&text).context("ARTIFICIAL_DELAY is not valid")?,
        None => Duration::ZERO,
    };
    let random = Random::seeded(seed(args.seed)?);
    let switch = Arc::new(FaultSwitch::new(fault, instance));
    let options = VotingOptions {
        failure_rate,
        artificial_delay,
        random,
    };
    let service = Arc::new(VotingService::new(
        options,
        Arc::clone(&switch),
        log.clone(),
    ));
    let metrics = service.metrics();
    log.line(format_args!(
        "voting is instance {instance}, its fault is [{}]",
        fault.name
    ));
    serve_grpc("voting", &args.grpc, service, log, |ready| {
        control::routes(metrics, ready, Some(switch))
    })
    .await
}

/// Serves gRPC on GRPC_PORT and, when PROM_PORT is set, the side door.
async fn serve_grpc<M: rpc::Methods>(
    name: &str,
    args: &GrpcArgs,
    methods: Arc<M>,
    log: Log,
    side_door: impl FnOnce(SelfCheck) -> axum::Router,
) -> anyhow::Result<()> {
    let grpc_port = mandatory("GRPC_PORT", "--grpc-port", args.grpc_port.clone())?;
    let grpc_port = port("GRPC_PORT", &grpc_port)?;
    let prom_port = match given(args.prom_port.clone()) {
        Some(text) => Some(port("PROM_PORT", &text)?),
        None => None,
    };
    ignore(&args.common.tracing, &log);
    let host = &args.common.listen_host;
    let stop = Stop::on_signal()?;
    let listener = serve::listen(host, grpc_port, "GRPC_PORT").await?;
    let addr = listener
        .local_addr()
        .context("read the address of GRPC_PORT")?;
    log.line(format_args!(
        "{name} serves gRPC on {addr}, GRPC_PORT=[{grpc_port}]"
    ));
    let grpc = rpc::serve(listener, methods, stop.clone());
    let Some(prom_port) = prom_port else {
        return grpc.await;
    };
    let side = serve::listen(host, prom_port, "PROM_PORT").await?;
    let side_addr = side.local_addr().context("read the address of PROM_PORT")?;
    log.line(format_args!(
        "{name} serves metrics and probes on {side_addr}"
    ));
    let routes = side_door(SelfCheck::new(addr)?);
    tokio::try_join!(grpc, serve::http(side, routes, stop)).map(|_| ())
}

async fn vote(args: BotArgs) -> anyhow::Result<()> {
    let errors = Log::stderr();
    ignore(&args.tracing, &errors);
    let rate = match given(args.rate) {
        Some(text) => text.parse().with_context(|| {
            format!("REQUEST_RATE `{text}` is not a number of votes per second")
        })?,
        None => 1.0,
    };
    let ttl = match given(args.ttl) {
        Some(text) => {
            Some(Duration::from_secs(text.parse().with_context(|| {
                format!("TTL `{text}` is not a number of seconds")
            })?))
        }
        None => None,
    };
    let options = BotOptions {
        web_host: mandatory("WEB_HOST", "--web-host", args.web_host)?,
        host_override: given(args.host_override),
        rate,
        ttl,
        era: args.era,
        seed: seed(args.seed)?,
    };
    bot::run(options, Log::stdout(), errors, Stop::on_signal()?).await
}

/// The year of a flag or variable; an empty one counts as unset.
fn era(text: &str) -> Result<Era, String> {
    if text.is_empty() {
        return Ok(Era::Y2018);
    }
    Era::from_str(text, false).map_err(|_| "EMOJIVOTO_ERA or --era is 2018 or 2019".to_owned())
}

/// The address of a flag or variable; an empty one counts as unset.
fn listen_host(text: &str) -> Result<String, Infallible> {
    Ok(if text.is_empty() { LISTEN_HOST } else { text }.to_owned())
}

fn given(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

fn mandatory(variable: &str, flag: &str, value: Option<String>) -> anyhow::Result<String> {
    given(value).with_context(|| {
        format!("{variable} is not set; set the environment variable or pass {flag}")
    })
}

fn port(variable: &str, text: &str) -> anyhow::Result<u16> {
    text.parse()
        .with_context(|| format!("{variable} `{text}` is not a port from 0 to 65535"))
}

fn seed(text: Option<String>) -> anyhow::Result<Option<u64>> {
    given(text)
        .map(|text| {
            text.parse()
                .with_context(|| format!("EMOJIVOTO_SEED or --seed `{text}` is not a number"))
        })
        .transpose()
}

fn share(variable: &str, text: &str) -> anyhow::Result<f64> {
    let share: f64 = text
        .parse()
        .with_context(|| format!("{variable} `{text}` is not a number from 0.0 to 1.0"))?;
    ensure!(
        (0.0..=1.0).contains(&share),
        "{variable} `{text}` is not a number from 0.0 to 1.0"
    );
    Ok(share)
}

/// The number of an instance: `1` and `voting-1` are both number 1.
fn instance(text: &str) -> anyhow::Result<u32> {
    let start = text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    match text[start..].parse() {
        Ok(number) => Ok(number),
        Err(_) => bail!("INSTANCE `{text}` is not a number and does not end in one"),
    }
}

fn backend(variable: &str, host: &str) -> anyhow::Result<tonic::transport::Channel> {
    let authority: Result<http::uri::Authority, _> = host.parse();
    ensure!(authority.is_ok(), "{variable} `{host}` is not HOST:PORT");
    rpc::channel(host).with_context(|| format!("{variable} `{host}` is not HOST:PORT"))
}

fn ignore(tracing: &TracingArgs, log: &Log) {
    if tracing
        .oc_agent_host
        .as_ref()
        .is_some_and(|host| !host.is_empty())
    {
        log.line(format_args!(
            "OC_AGENT_HOST is ignored: no traces are exported"
        ));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_instance_is_a_number_or_ends_in_one() {
        for (text, expected) in [("0", 0), ("7", 7), ("voting-12", 12), ("v2-3", 3)] {
            assert_eq!(instance(text).unwrap(), expected, "{text}");
        }
        for text in ["voting", "voting-", "99999999999"] {
            assert!(
                instance(text).unwrap_err().to_string().contains(text),
                "{text}"
            );
        }
    }

    #[test]
    fn empty_variables_count_as_unset() {
        let error = mandatory("WEB_PORT", "--web-port", Some(String::new())).unwrap_err();
        assert!(
            error.to_string().starts_with("WEB_PORT is not set"),
            "{error}"
        );
    }

    #[test]
    fn wrong_values_are_named() {
        for error in [
            port("GRPC_PORT", "70000").unwrap_err(),
            share("FAILURE_RATE", "1.5").unwrap_err(),
            share("FAILURE_RATE", "NaN").unwrap_err(),
            seed(Some("x".to_owned())).unwrap_err(),
            backend("VOTINGSVC_HOST", "a b").unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains('`') && text.contains("is not"), "{text}");
        }
    }
}
