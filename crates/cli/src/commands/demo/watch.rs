//! Asks for the verdict again and again, until somebody did it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use whodunit_api::Range;
use whodunit_api::culprit::{Culprit, CulpritQuery};
use whodunit_api::edges::EdgeRow;
use whodunit_model::time::{SECOND_US, format_utc};

use super::super::culprit::{calls, names_somebody};
use crate::client::Client;
use crate::clock::Clock;
use crate::failure::Failure;
use crate::source::Source;

/// Between two questions: a verdict is printed within a second of being possible.
const ASK: Duration = Duration::from_secs(1);

/// The window of a verdict, at most.
const WINDOW_US: i64 = 600 * SECOND_US;

/// After this long without a verdict it is said that nothing stands out.
const QUIET: Duration = Duration::from_secs(30);

/// What is worth printing.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    /// Somebody did it, at least probably.
    Verdict(Culprit, Vec<EdgeRow>),
    /// Nothing stands out so far.
    Quiet(Culprit),
}

/// Watches in the background; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Watcher {
    said: mpsc::Receiver<Said>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Starts watching the server at this address. Only what is recorded from now on counts,
    /// so that the history of an earlier demo cannot speak for this one.
    ///
    /// # Errors
    /// When the address is not one.
    pub(crate) fn start(api: &str) -> Result<Self, Failure> {
        let source = Source::Server(Client::new(api)?);
        let (sender, said) = mpsc::channel(4);
        let begun_us = Clock::system(true).now_us();
        let task = tokio::spawn(async move {
            let mut memory = Memory::default();
            loop {
                let now_us = Clock::system(true).now_us();
                if let Ok(verdict) = source.culprit(&query(begun_us, now_us)).await {
                    let elapsed_us = u64::try_from(now_us - begun_us).unwrap_or(0);
                    let elapsed = Duration::from_micros(elapsed_us);
                    let said = match memory.judge(&verdict, elapsed) {
                        Judged::Known => None,
                        Judged::Quiet => Some(Said::Quiet(verdict)),
                        Judged::Verdict => {
                            let calls = calls(&source, &verdict).await;
                            Some(Said::Verdict(verdict, calls))
                        }
                    };
                    if let Some(said) = said
                        && sender.send(said).await.is_err()
                    {
                        return;
                    }
                }
                // A server that is away comes back: the launcher restarts it.
                if memory.is_done() {
                    return;
                }
                tokio::time::sleep(ASK).await;
            }
        });
        Ok(Self { said, task })
    }

    /// Waits for the next thing to print; never returns once there is none.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        match self.said.recv().await {
            Some(said) => Some(said),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn query(begun_us: i64, now_us: i64) -> CulpritQuery {
    CulpritQuery {
        range: Range {
            since: Some(format_utc(begun_us.max(now_us - WINDOW_US))),
            until: None,
        },
        ..CulpritQuery::default()
    }
}

/// What is to be said about a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Verdict,
    Quiet,
    Known,
}

/// What was said already.
#[derive(Debug, Default)]
struct Memory {
    probably: bool,
    culprit: bool,
    quiet: bool,
}

impl Memory {
    /// Says whether the verdict is worth printing: the first one that names somebody,
    /// once more when it is certain, and once that there is none.
    fn judge(&mut self, verdict: &Culprit, elapsed: Duration) -> Judged {
        if verdict.verdict == "culprit" && !self.culprit {
            self.culprit = true;
            return Judged::Verdict;
        }
        if names_somebody(verdict) && !self.probably {
            self.probably = true;
            return Judged::Verdict;
        }
        let silent = !self.probably && !self.culprit && !self.quiet;
        if silent && elapsed >= QUIET && verdict.checked.requests > 0 {
            self.quiet = true;
            return Judged::Quiet;
        }
        Judged::Known
    }

    /// The last word has been said.
    const fn is_done(&self) -> bool {
        self.culprit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whodunit_api::culprit::Checked;

    #[test]
    fn each_verdict_is_printed_once() {
        let mut memory = Memory::default();
        let mut judge = |verdict: &str, seconds| {
            let verdict = Culprit {
                verdict: verdict.to_owned(),
                checked: Checked {
                    requests: 10,
                    ..Checked::default()
                },
                ..Culprit::default()
            };
            memory.judge(&verdict, Duration::from_secs(seconds))
        };
        assert_eq!(judge("nothing", 1), Judged::Known);
        assert_eq!(judge("leads", 29), Judged::Known);
        assert_eq!(judge("nothing", 30), Judged::Quiet);
        assert_eq!(judge("nothing", 31), Judged::Known);
        assert_eq!(judge("probably", 32), Judged::Verdict);
        assert_eq!(judge("probably", 33), Judged::Known);
        assert_eq!(judge("culprit", 34), Judged::Verdict);
        assert_eq!(judge("culprit", 35), Judged::Known);
        assert!(memory.is_done());
    }

    #[test]
    fn earlier_demos_do_not_speak_for_this_one() {
        let begun_us = 1_769_868_151 * SECOND_US;
        let since = |after_s| query(begun_us, begun_us + after_s * SECOND_US).range.since;
        assert_eq!(since(5).as_deref(), Some("2026-01-31T14:02:31.000Z"));
        assert_eq!(since(601).as_deref(), Some("2026-01-31T14:02:32.000Z"));
    }
}
