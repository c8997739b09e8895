//! What is said when a command cannot do what it was asked, and the exit codes.

use std::fmt::Write as _;

use whodunit_api::error::{ErrorBody, ErrorDetail};

use crate::clock::RangeError;
use crate::text;
use crate::view::{Tone, View};

/// How a command ended. The numbers are a contract, listed in `whodunit --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// The operation or the check failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The server cannot be reached.
    Unreachable = 4,
    /// `culprit --exit-code` named one.
    CulpritFound = 10,
    /// Ctrl-C.
    Interrupted = 130,
}

/// What failed, why, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What failed.
    pub(crate) what: String,
    /// Why; may be empty.
    pub(crate) why: String,
    /// How to fix it; may be empty.
    pub(crate) fix: String,
    /// A text of several lines that says all of this by itself; may be empty.
    pub(crate) text: String,
}

impl Failure {
    /// The operation failed.
    pub(crate) fn failed(what: impl Into<String>, why: impl ToString) -> Self {
        Self {
            exit: Exit::Failed,
            what: what.into(),
            why: why.to_string(),
            fix: String::new(),
            text: String::new(),
        }
    }

    /// The command line is wrong.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            what: what.into(),
            why: String::new(),
            fix: String::new(),
            text: String::new(),
        }
    }

    /// The server cannot be reached.
    pub(crate) fn unreachable(addr: &str, why: impl ToString) -> Self {
        Self {
            exit: Exit::Unreachable,
            what: format!("cannot reach the server at {addr}"),
            why: why.to_string(),
            fix: "start one with `whodunit demo` or `whodunit run -f mesh.toml`, or name \
                  another with --addr HOST:PORT"
                .to_owned(),
            text: String::new(),
        }
    }

    /// The server answered that it cannot answer.
    pub(crate) fn answered(addr: &str, status: u16, body: &[u8]) -> Self {
        let Ok(body) = serde_json::from_slice::<ErrorBody>(body) else {
            return Self::failed(
                format!("the server at {addr} answered {status}"),
                "the answer is not one of a whodunit server",
            )
            .fix("check that --addr names the HTTP address of `whodunit serve`");
        };
        Self::detail(body.error)
    }

    /// There is no answer to the question.
    pub(crate) fn detail(error: ErrorDetail) -> Self {
        Self {
            exit: if error.code == "bad_request" {
                Exit::Usage
            } else {
                Exit::Failed
            },
            what: error.message,
            why: String::new(),
            fix: error.hint,
            text: String::new(),
        }
    }

    /// The operation failed; the whole chain of the error says why.
    pub(crate) fn chain(what: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let said = error.to_string();
            if !why.contains(&said) {
                why.push_str(": ");
                why.push_str(&said);
            }
            source = error.source();
        }
        Self::failed(what, why)
    }

    /// Says how to fix it.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Says why.
    pub(crate) fn why(mut self, why: impl ToString) -> Self {
        self.why = why.to_string();
        self
    }

    /// Says it in a text that was written elsewhere, such as an excerpt of a file.
    pub(crate) fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// Prints it for standard error.
    pub(crate) fn render(&self, view: &View) -> String {
        let mut out = String::new();
        let label = view.paint(Tone::Bad, "error:");
        // Writing into a String cannot fail.
        if !self.text.is_empty() {
            for (i, line) in self.text.trim_end().lines().enumerate() {
                let lead = if i == 0 {
                    format!("{label} ")
                } else {
                    String::new()
                };
                let _ = writeln!(out, "{lead}{}", text::safe(line));
            }
            return out;
        }
        let _ = writeln!(out, "{label} {}", text::safe(&self.what));
        for (label, said) in [("why", &self.why), ("fix", &self.fix)] {
            if !said.is_empty() {
                let label = view.paint(Tone::Strong, &format!("{label}:"));
                let _ = writeln!(out, "  {label} {}", text::safe(said));
            }
        }
        out
    }
}

impl From<RangeError> for Failure {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Moment { flag, source } => {
                let message = source.to_string();
                Self::usage(format!("wrong value of {flag}")).why(message)
            }
            RangeError::Empty { since, until } => Self::usage("--since and --until name no range")
                .why(format!("{until} is not after {since}"))
                .fix("`--since 15m --until 5m` is the ten minutes that ended five minutes ago"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_failure_says_what_why_and_how_to_fix_it() {
        let failure = Failure::unreachable("127.0.0.1:7070", "connection refused");
        assert_eq!(failure.exit, Exit::Unreachable);
        expect![[r#"
            error: cannot reach the server at 127.0.0.1:7070
              why: connection refused
              fix: start one with `whodunit demo` or `whodunit run -f mesh.toml`, or name another with --addr HOST:PORT
        "#]]
        .assert_eq(&failure.render(&View::plain()));
    }

    #[test]
    fn errors_of_the_server_keep_their_hint() {
        let body =
            br#"{"error":{"code":"bad_request","message":"no kind `dog`","hint":"say workload"}}"#;
        let failure = Failure::answered("a:1", 400, body);
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.what, "no kind `dog`");
        assert_eq!(failure.fix, "say workload");

        let failure = Failure::answered("a:1", 502, b"<html>");
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.what.contains("502"), "{failure:?}");
    }
}
