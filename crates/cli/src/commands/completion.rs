//! `whodunit completion SHELL`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Exit;
use crate::output::{self, Stop};

/// Flags of `completion`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(whodunit completion bash)
  whodunit completion zsh > ~/.zfunc/_whodunit
  whodunit completion fish > ~/.config/fish/completions/whodunit.fish")]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints the completion script.
pub(crate) fn run(args: &CompletionArgs) -> Result<Exit, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "whodunit", &mut script);
    output::write(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
