//! The command line of Whodunit.
//!
//! It asks the server and prints the answer; it computes nothing that the
//! server could have said. Exit codes and machine-readable output are contracts.

mod args;
mod client;
mod clock;
mod commands;
mod failure;
mod figures;
mod filter;
mod logging;
mod output;
mod session;
mod source;
mod sse;
mod table;
mod target;
mod text;
mod trust;
mod view;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use commands::{
    check, completion, culprit, demo, edges, explain, routes, serve, stat, tap, top, version,
};
use failure::{Exit, Failure};
use output::{Format, Stop};
use session::Session;
use whodunit_launch::{ENTER_COMMAND, WATCHDOG_COMMAND, enter_main, watchdog_main};

fn main() -> ExitCode {
    // The launcher starts this program once more to clean up after it, and to go into the
    // network of an instance, before anything else.
    match std::env::args_os().nth(1) {
        Some(first) if first == WATCHDOG_COMMAND => return watchdog_main(),
        Some(first) if first == ENTER_COMMAND => return enter_main(),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads to its end is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut session = Session::new(cli.global);
    let result = run(cli.command, &mut session).or_else(Stop::end);
    let exit = result.unwrap_or_else(|failure| {
        output::note(&failure.render(&session.view));
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn run(command: Option<Command>, session: &mut Session) -> Result<Exit, Stop> {
    let with_short = matches!(
        command,
        None | Some(Command::Culprit(_) | Command::Check(_) | Command::Version(_))
    );
    if session.global.output == Format::Short && !with_short {
        return Err(Failure::usage("this command has no short output")
            .fix("-o short is for culprit, check and version")
            .into());
    }
    let runtime = runtime(command.as_ref())?;
    runtime.block_on(async {
        match command {
            None => verdict_or_help(session).await,
            Some(Command::Culprit(args)) => culprit::run(&args, session).await,
            Some(Command::Stat(args)) => stat::run(&args, session).await,
            Some(Command::Routes(args)) => routes::run(&args, session).await,
            Some(Command::Edges(args)) => edges::run(&args, session).await,
            Some(Command::Top(args)) => top::run(&args, session).await,
            Some(Command::Tap(args)) => tap::run(&args, session).await,
            Some(Command::Explain(args)) => explain::run(&args, session).await,
            Some(Command::Check(args)) => check::run(&args, session).await,
            Some(Command::Demo(args)) => demo::run(&args, session).await,
            Some(Command::Run(args)) => commands::run::run(&args, session).await,
            Some(Command::Serve(args)) => serve::run(&args, session).await,
            Some(Command::Version(args)) => version::run(&args, session).await,
            Some(Command::Completion(args)) => completion::run(&args),
        }
    })
}

/// One thread for a question; all cores for what runs long.
fn runtime(command: Option<&Command>) -> Result<tokio::runtime::Runtime, Failure> {
    let runs_long = matches!(
        command,
        Some(Command::Demo(_) | Command::Run(_) | Command::Serve(_))
    );
    let mut builder = if runs_long {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("cannot start", error))
}

/// Without a command: the verdict, or help where there is nobody to give one.
async fn verdict_or_help(session: &mut Session) -> Result<Exit, Stop> {
    match culprit::run(&culprit::CulpritArgs::default(), session).await {
        Err(Stop::Failed(failure))
            if failure.exit == Exit::Unreachable && !session.source_is_named() =>
        {
            let help = Cli::command().render_long_help();
            let help = if session.view.color {
                help.ansi().to_string()
            } else {
                help.to_string()
            };
            output::write(&help)?;
            output::write("\nNo mesh runs on this machine. `whodunit demo` starts one.\n")?;
            Ok(Exit::Ok)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_explains_itself_with_examples() {
        let mut command = Cli::command();
        command.build();
        for command in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(help.contains("Examples:"), "{name}");
            assert!(help.contains(&format!("whodunit {name}")), "{name}");
            assert!(command.get_about().is_some(), "{name}");
        }
    }

    #[test]
    fn commands_that_verdicts_cite_are_understood() {
        let window = [
            "--since",
            "2026-01-31T14:02:00.050Z",
            "--until",
            "2026-01-31T14:12:00Z",
        ];
        for cited in [
            &[
                "tap",
                "workload/voting",
                "-n",
                "shop",
                "--route",
                "GET /api/vote",
                "--failed",
            ][..],
            &[
                "tap",
                "workload/voting",
                "--min-latency",
                "250ms",
                "--cause",
                "reset",
            ],
            &["routes", "voting", "-n", "shop"],
            &["stat", "instance", "--to", "voting", "-n", "shop"],
            &["explain", "0649af88985058-0000000000000007-192"],
        ] {
            let words = [&["whodunit"], cited, &window].concat();
            let parsed = Cli::try_parse_from(&words);
            assert!(parsed.is_ok(), "{words:?}: {:?}", parsed.err());
        }
    }
}
