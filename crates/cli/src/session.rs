//! What every command needs: the global flags, the view, and who answers.

use serde::Serialize;
use whodunit_api::{Range, Trust};
use whodunit_launch::state;

use crate::args::Global;
use crate::client::Client;
use crate::clock::Clock;
use crate::failure::Failure;
use crate::output::{self, Format, Stop};
use crate::source::Source;
use crate::trust;
use crate::view::{ColorChoice, View};

/// Where a server listens unless told otherwise.
const DEFAULT_ADDR: &str = "127.0.0.1:7070";

/// One run of a command.
#[derive(Debug)]
pub(crate) struct Session {
    /// The global flags.
    pub(crate) global: Global,
    /// How answers look.
    pub(crate) view: View,
}

impl Session {
    /// Looks at the flags, the environment and the terminal.
    pub(crate) fn new(global: Global) -> Self {
        let choice = if global.no_color {
            ColorChoice::Never
        } else {
            global.color
        };
        let mut view = View::of_stdout(choice, Clock::system(global.utc));
        view.wide = global.output == Format::Wide;
        view.namespaces = global.all_namespaces;
        Self { global, view }
    }

    /// Returns who answers: `--data`, then `--addr`, then what runs on this machine.
    ///
    /// With `--data`, windows end at its newest record from here on.
    ///
    /// # Errors
    /// When the data cannot be read, or the address is not one.
    pub(crate) fn connect(&mut self) -> Result<Source, Failure> {
        if let Some(path) = &self.global.data {
            let (source, newest_us) = Source::open(path)?;
            if let Some(newest_us) = newest_us {
                self.view.clock.count_back_from(newest_us + 1);
            }
            return Ok(source.at(self.view.clock.now_us()));
        }
        let addr = match &self.global.addr {
            Some(addr) => addr.clone(),
            None => state::read(&state::default_path())
                .map_or_else(|| DEFAULT_ADDR.to_owned(), |local| local.api.to_string()),
        };
        Client::new(&addr).map(Source::Server)
    }

    /// Says whether the user named who is to answer.
    pub(crate) const fn source_is_named(&self) -> bool {
        self.global.addr.is_some() || self.global.data.is_some()
    }

    /// Returns `--since` and `--until` in the API's form.
    ///
    /// # Errors
    /// When they do not name a range.
    pub(crate) fn range(&self) -> Result<Range, Failure> {
        let global = &self.global;
        Ok(self
            .view
            .clock
            .range(global.since.as_deref(), global.until.as_deref())?)
    }

    /// Prints an answer as data, or as the text that `render` makes of it.
    ///
    /// # Errors
    /// When nothing can be written.
    pub(crate) fn show<Answer: Serialize>(
        &self,
        answer: &Answer,
        render: impl FnOnce(&View) -> String,
    ) -> Result<(), Stop> {
        if self.global.output.is_data() {
            output::write(&output::data(answer, self.global.output)?)
        } else {
            output::write(&render(&self.view))
        }
    }

    /// Prints the trust lines: under the table on a terminal, else on standard error,
    /// so that a pipe gets rows only.
    ///
    /// # Errors
    /// When nothing can be written.
    pub(crate) fn show_footer(&self, trust: &Trust, requests: Option<u64>) -> Result<(), Stop> {
        if self.global.output.is_data() {
            return Ok(());
        }
        if self.view.terminal {
            return output::write(&trust::footer(trust, requests, &self.view));
        }
        output::note(&trust::footer(trust, requests, &self.view));
        Ok(())
    }
}
