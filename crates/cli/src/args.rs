//! The command line: global flags and the list of commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::output::Format;
use crate::view::ColorChoice;

/// What every help page ends with.
const EXIT_CODES: &str = "\
Examples:
  whodunit demo                     Start Emojivoto with a mesh around it
  whodunit                          Who did it, in the last ten minutes
  whodunit stat deploy              Golden signals of every workload
  whodunit tap deploy/web --failed  The failed requests of web
  whodunit stat deploy --since 14:02 --until 14:10
                                    Any command answers for any past window

Exit codes:
  0 ok, 1 failed, 2 usage, 4 server not reachable, 10 culprit found (with --exit-code),
  130 interrupted

Environment:
  WHODUNIT_ADDR   Server to ask, like --addr
  WHODUNIT_LOG    Log filter of serve, run and demo, for example debug or whodunit_observe=trace
  WHODUNIT_PROXY_BIN
                  The whodunit-proxy that run and demo start, if not the one beside this program
  XDG_DATA_HOME, XDG_RUNTIME_DIR
                  Where records lie by default, and where commands find the mesh that runs
  NO_COLOR, CLICOLOR_FORCE, TERM=dumb
                  As everywhere; --color wins";

/// A forensic service mesh: records every request, and names who did it.
///
/// Without a command: the verdict on the last ten minutes.
#[derive(Debug, Parser)]
#[command(name = "whodunit", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Server to ask [default: the one that runs on this machine]
    #[arg(long, global = true, env = "WHODUNIT_ADDR", value_name = "HOST:PORT")]
    pub(crate) addr: Option<String>,

    /// Data directory. Queries read it without a server (a single Parquet file will do), and
    /// windows end at its newest record; demo, run and serve keep their records there
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,

    /// Only this namespace [default: all]
    #[arg(short, long, global = true, conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<String>,

    /// All namespaces, with a NAMESPACE column
    #[arg(short = 'A', long, global = true)]
    pub(crate) all_namespaces: bool,

    /// Output format; json and yaml are the API's own answers
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_default_value = true
    )]
    pub(crate) output: Format,

    /// Beginning of the window: 15m (ago), 14:02, 14:02:31 or RFC 3339
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// End of the window, written like --since [default: now]
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) until: Option<String>,

    /// When to color
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_default_value = true
    )]
    pub(crate) color: ColorChoice,

    /// Same as --color never
    #[arg(long, global = true, conflicts_with = "color")]
    pub(crate) no_color: bool,

    /// Read and print times in UTC instead of local time
    #[arg(long, global = true)]
    pub(crate) utc: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Name who did it: symptom, culprit, evidence
    Culprit(commands::culprit::CulpritArgs),
    /// Golden signals of workloads, instances, services, namespaces or routes
    Stat(commands::stat::StatArgs),
    /// Golden signals per route
    Routes(commands::routes::RoutesArgs),
    /// Who calls whom, and is it secured
    Edges(commands::edges::EdgesArgs),
    /// What is going on right now, refreshed in place
    Top(commands::top::TopArgs),
    /// The requests themselves, past or live
    Tap(Box<commands::tap::TapArgs>),
    /// One request: both sides, each decision, the calls it made
    Explain(commands::explain::ExplainArgs),
    /// Is the mesh itself well?
    Check(commands::check::CheckArgs),
    /// Start Emojivoto with a mesh around it, and watch the verdict come
    Demo(Box<commands::demo::DemoArgs>),
    /// Run a mesh.toml on this machine: server, services and proxies
    Run(Box<commands::run::RunArgs>),
    /// Run the server alone
    Serve(commands::serve::ServeArgs),
    /// Version of this program and of the server
    Version(commands::version::VersionArgs),
    /// Completion for a shell
    Completion(commands::completion::CompletionArgs),
}
