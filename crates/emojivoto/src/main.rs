//! The `emojivoto` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    emojivoto::cli::run()
}
