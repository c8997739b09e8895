//! Starts other programs, and says which before it does.

use std::{
    env,
    ffi::OsStr,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Prints one line of our own, apart from the output of the programs we start.
pub(crate) fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("print to standard output")
}

/// Returns the cargo that started us, so that both use one toolchain.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Says the command line, runs it to its end, and fails if it failed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    say(&format!("$ {line}"))?;
    let status = command
        .status()
        .with_context(|| format!("start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed; its standard error passes through.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = command_line(command);
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}", output.status);
    }
    Ok(output.stdout)
}

/// Finds a program by name: in `PATH`, then where Debian keeps servers, which
/// is not in the `PATH` of an ordinary user.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The command as a person would type it: names instead of full paths of programs.
fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$`\\".contains(c)) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_names_the_program_and_quotes_what_a_shell_would_split() {
        let mut command = Command::new("/usr/local/bin/cargo");
        command.args(["test", "two words", "it's", "", "-p=x"]);
        assert_eq!(
            command_line(&command),
            r"cargo test 'two words' 'it'\''s' '' -p=x"
        );
    }

    #[test]
    fn a_program_that_fails_is_an_error_that_names_it() {
        let error = run(Command::new("false").arg("now"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("`false now` ended with exit status: 1"),
            "{error}"
        );
    }

    #[test]
    fn find_knows_what_is_there_and_what_is_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-by-this-name").is_none());
    }
}
